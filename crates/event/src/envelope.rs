//! Events on their way in, as stored, and decoded.

use std::{
    fmt::{self, Display},
    str::FromStr,
    sync::Arc,
};

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::{
    Aggregate, Checkpoint, DecodeEvent, Decoded, Event, Lifecycle, Metadata, Payload, Position,
    StreamId, StreamVersion, Tag,
    error::{DecodeError, Invalid},
};

/// The identity of an event, a uuid v7. It is made once, before the first attempt to store the
/// event, and makes repeated attempts harmless. It is never an order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct EventId(Uuid);

impl EventId {
    /// The id of no event.
    pub const NIL: Self = Self(Uuid::nil());

    /// A new id.
    #[expect(clippy::new_without_default, reason = "each call gives another id")]
    pub fn new() -> Self {
        Self(Uuid::now_v7())
    }

    /// An id from elsewhere.
    pub const fn from_uuid(id: Uuid) -> Self {
        Self(id)
    }

    /// The uuid.
    pub const fn as_uuid(self) -> Uuid {
        self.0
    }

    /// True for [`EventId::NIL`].
    pub const fn is_nil(self) -> bool {
        self.0.is_nil()
    }
}

impl Display for EventId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Display::fmt(&self.0, f)
    }
}

impl FromStr for EventId {
    type Err = uuid::Error;

    fn from_str(text: &str) -> Result<Self, uuid::Error> {
        Uuid::from_str(text).map(Self)
    }
}

/// An event to be stored.
#[derive(Debug, Clone, PartialEq)]
pub struct NewEvent {
    /// Its identity.
    pub id: EventId,
    /// Its name on disk.
    pub name: String,
    /// The schema version of its payload, from 1.
    pub version: u32,
    /// Its payload.
    pub payload: Payload,
    /// Its circumstances.
    pub metadata: Metadata,
    /// Its labels.
    pub tags: Vec<Tag>,
}

impl NewEvent {
    /// An event from a typed one, with a new id.
    ///
    /// # Errors
    /// [`Invalid`] when the payload or a tag cannot be stored.
    pub fn of<E: Event>(event: &E) -> Result<Self, Invalid> {
        let mut new = Self::raw(event.name(), event.encode()?);
        new.version = event.version();
        new.tags = event.tags()?;
        Ok(new)
    }

    /// An event from its name and payload, with a new id and schema version 1.
    pub fn raw(name: impl Into<String>, payload: Payload) -> Self {
        Self {
            id: EventId::new(),
            name: name.into(),
            version: 1,
            payload,
            metadata: Metadata::default(),
            tags: Vec::new(),
        }
    }

    /// With this id.
    #[must_use]
    pub fn with_id(mut self, id: EventId) -> Self {
        self.id = id;
        self
    }

    /// With this metadata.
    #[must_use]
    pub fn with_metadata(mut self, metadata: Metadata) -> Self {
        self.metadata = metadata;
        self
    }

    /// With one more tag.
    #[must_use]
    pub fn with_tag(mut self, tag: Tag) -> Self {
        self.tags.push(tag);
        self
    }
}

/// What a store keeps of an event.
#[derive(Debug, Clone, PartialEq)]
pub struct Recorded {
    /// The place in the global order.
    pub position: Position,
    /// The stream.
    pub stream: StreamId,
    /// The number within the stream.
    pub version: StreamVersion,
    /// The identity.
    pub id: EventId,
    /// The name on disk.
    pub name: Arc<str>,
    /// The schema version of the payload.
    pub schema_version: u32,
    /// The payload, not decoded.
    pub payload: Payload,
    /// The circumstances.
    pub metadata: Metadata,
    /// The labels.
    pub tags: Vec<Tag>,
    /// When the store wrote it, in microseconds, never decreasing along the position.
    pub recorded_at: DateTime<Utc>,
    /// When payload, metadata and tags were erased.
    pub erased_at: Option<DateTime<Utc>>,
}

/// An event as stored, its payload still raw. Cheap to clone.
#[derive(Clone, PartialEq)]
pub struct RecordedEvent(Arc<Recorded>);

impl RecordedEvent {
    /// Wraps what a store has read.
    pub fn new(recorded: Recorded) -> Self {
        Self(Arc::new(recorded))
    }

    /// The place in the global order.
    pub fn position(&self) -> Position {
        self.0.position
    }

    /// The stream.
    pub fn stream(&self) -> &StreamId {
        &self.0.stream
    }

    /// The number within the stream.
    pub fn version(&self) -> StreamVersion {
        self.0.version
    }

    /// The identity.
    pub fn id(&self) -> EventId {
        self.0.id
    }

    /// The name on disk.
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// The schema version of the payload.
    pub fn schema_version(&self) -> u32 {
        self.0.schema_version
    }

    /// The payload, not decoded.
    pub fn payload(&self) -> &Payload {
        &self.0.payload
    }

    /// The circumstances.
    pub fn metadata(&self) -> &Metadata {
        &self.0.metadata
    }

    /// The labels.
    pub fn tags(&self) -> &[Tag] {
        &self.0.tags
    }

    /// When the store wrote it.
    pub fn recorded_at(&self) -> DateTime<Utc> {
        self.0.recorded_at
    }

    /// When it was erased.
    pub fn erased_at(&self) -> Option<DateTime<Utc>> {
        self.0.erased_at
    }

    /// True when payload, metadata and tags are gone.
    pub fn is_erased(&self) -> bool {
        self.0.erased_at.is_some()
    }

    /// Position and id.
    pub fn checkpoint(&self) -> Checkpoint {
        Checkpoint {
            position: self.0.position,
            event_id: self.0.id,
        }
    }

    /// The framework event that this is, if it is one.
    pub fn lifecycle(&self) -> Option<Lifecycle> {
        Lifecycle::parse(&self.0.name)
    }

    /// All fields.
    pub fn recorded(&self) -> &Recorded {
        &self.0
    }

    /// Decodes the event: nothing when it is erased, a framework event, or not of this type.
    ///
    /// # Errors
    /// [`DecodeError`] when the name is known and the payload does not fit.
    pub fn decode<E: DecodeEvent>(&self) -> Result<Decoded<Envelope<E>>, DecodeError> {
        if self.is_erased() {
            return Ok(Decoded::Parts(Vec::new()));
        }
        let decoded = E::decode_stored(self.name(), self.schema_version(), self.payload())
            .map_err(|reason| self.decode_error(reason))?;
        let mut part = 0;
        Ok(decoded.map(|event| {
            part += 1;
            Envelope {
                recorded: self.clone(),
                part: part - 1,
                event,
            }
        }))
    }

    /// The error that this event does not decode.
    pub fn decode_error(&self, reason: impl Into<String>) -> DecodeError {
        DecodeError {
            position: self.position(),
            event_id: self.id(),
            name: self.name().to_owned(),
            version: self.schema_version(),
            reason: reason.into(),
        }
    }
}

impl fmt::Debug for RecordedEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

/// A stored event, decoded.
#[derive(Debug, Clone, PartialEq)]
pub struct Envelope<E> {
    recorded: RecordedEvent,
    part: u32,
    /// The decoded event.
    pub event: E,
}

impl<E> Envelope<E> {
    /// An envelope from its parts; `part` is 0 unless an upcaster split the stored event.
    pub fn new(recorded: RecordedEvent, part: u32, event: E) -> Self {
        Self {
            recorded,
            part,
            event,
        }
    }

    /// The typed id of the aggregate that the event belongs to.
    ///
    /// # Errors
    /// [`Invalid`] when the event belongs to another category than `A`, or the key does not parse.
    pub fn id<A: Aggregate>(&self) -> Result<A::Id, Invalid> {
        let stream = self.stream();
        if stream.category() != A::CATEGORY {
            return Err(Invalid::new(
                "stream category",
                stream.category(),
                format!(
                    "the event belongs to another aggregate than `{}`",
                    A::CATEGORY
                ),
            ));
        }
        A::Id::from_str(stream.key()).map_err(|_| {
            Invalid::new(
                "stream key",
                stream.key(),
                format!("it is no id of `{}`", A::CATEGORY),
            )
        })
    }

    /// The stored event.
    pub fn recorded(&self) -> &RecordedEvent {
        &self.recorded
    }

    /// Which part this is of a stored event that an upcaster split; 0 otherwise.
    pub fn part(&self) -> u32 {
        self.part
    }

    /// The place in the global order.
    pub fn position(&self) -> Position {
        self.recorded.position()
    }

    /// The stream.
    pub fn stream(&self) -> &StreamId {
        self.recorded.stream()
    }

    /// The number within the stream.
    pub fn version(&self) -> StreamVersion {
        self.recorded.version()
    }

    /// The identity of the stored event.
    pub fn event_id(&self) -> EventId {
        self.recorded.id()
    }

    /// The circumstances.
    pub fn metadata(&self) -> &Metadata {
        self.recorded.metadata()
    }

    /// When the store wrote it.
    pub fn recorded_at(&self) -> DateTime<Utc> {
        self.recorded.recorded_at()
    }
}
