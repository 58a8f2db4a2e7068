//! What is to be stored, whole or not at all, and the answer.

use std::{collections::HashSet, time::Duration};

use crate::{
    Checkpoint, Companion, EventFilter, EventId, ExpectedVersion, Lifecycle, NewEvent, Payload,
    Position, StreamId, StreamVersion, TagChange, error::Invalid, lifecycle::RESERVED_PREFIX,
    stream::check_name,
};

/// What the largest append may be. Stores refuse what is beyond with [`Invalid`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Limits {
    /// Bytes of one payload: 1 MiB.
    pub payload: usize,
    /// Bytes of the metadata of one event: 64 KiB.
    pub metadata: usize,
    /// Tags of one event: 64.
    pub tags: usize,
    /// Events of one append: 10,000.
    pub events: usize,
    /// Streams of one append: 1,000. The same number bounds conditions and companions.
    pub streams: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            payload: 1 << 20,
            metadata: 64 << 10,
            tags: 64,
            events: 10_000,
            streams: 1_000,
        }
    }
}

impl Limits {
    /// With another limit for payloads, in bytes.
    #[must_use]
    pub fn with_payload(mut self, bytes: usize) -> Self {
        self.payload = bytes;
        self
    }

    /// With another limit for the events of one append.
    #[must_use]
    pub fn with_events(mut self, events: usize) -> Self {
        self.events = events;
        self
    }
}

/// Events for one stream, and what is expected of it.
#[derive(Debug, Clone, PartialEq)]
pub struct StreamPart {
    /// The stream.
    pub stream: StreamId,
    /// What is expected of it.
    pub expected: ExpectedVersion,
    /// The events; none: only the version is checked.
    pub events: Vec<NewEvent>,
}

/// Refuses an append when somebody stored something in the meantime: a dynamic consistency boundary.
#[derive(Debug, Clone, PartialEq)]
pub struct AppendCondition {
    /// Which events would invalidate the decision.
    pub fail_if: EventFilter,
    /// Up to where the decision has seen the log.
    pub after: Checkpoint,
}

impl AppendCondition {
    /// Fails if an event that the filter means stands behind `after`.
    pub fn new(fail_if: EventFilter, after: impl Into<Checkpoint>) -> Self {
        Self {
            fail_if,
            after: after.into(),
        }
    }
}

/// A request to store events: whole, or not at all.
///
/// ```
/// use backstory_event::{Append, ExpectedVersion, NewEvent, Payload, StreamId};
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let todo = StreamId::new("todo", 7)?;
/// let event = NewEvent::raw("todo.added", Payload::parse(r#"{"title":"buy milk"}"#)?);
/// let append = Append::to(todo.clone(), ExpectedVersion::NoStream, [event])
///     .claim("todo.title", "buy milk", todo);
/// # append.validate(&Default::default())?; Ok(()) }
/// ```
#[derive(Debug, Default, Clone, PartialEq)]
#[non_exhaustive]
pub struct Append {
    /// Events and expected versions, a part per stream.
    pub parts: Vec<StreamPart>,
    /// Conditions on the whole log.
    pub conditions: Vec<AppendCondition>,
    /// Rows written with the events, one after another.
    pub companions: Vec<Companion>,
    /// How long to try; `None`: as long as the store's options say, 10 seconds by default.
    pub deadline: Option<Duration>,
}

impl Append {
    /// An empty request.
    pub fn new() -> Self {
        Self::default()
    }

    /// A request for one stream.
    pub fn to(
        stream: StreamId,
        expected: ExpectedVersion,
        events: impl IntoIterator<Item = NewEvent>,
    ) -> Self {
        Self::new().and(stream, expected, events)
    }

    /// Also events for another stream.
    #[must_use]
    pub fn and(
        mut self,
        stream: StreamId,
        expected: ExpectedVersion,
        events: impl IntoIterator<Item = NewEvent>,
    ) -> Self {
        self.parts.push(StreamPart {
            stream,
            expected,
            events: events.into_iter().collect(),
        });
        self
    }

    /// Also checks the version of a stream that gets no events.
    #[must_use]
    pub fn check(self, stream: StreamId, expected: ExpectedVersion) -> Self {
        self.and(stream, expected, [])
    }

    /// Also fails on this condition.
    #[must_use]
    pub fn fail_if(mut self, condition: AppendCondition) -> Self {
        self.conditions.push(condition);
        self
    }

    /// Also takes a unique value. See [`Companion::Claim`].
    #[must_use]
    pub fn claim(
        mut self,
        scope: impl Into<String>,
        value: impl Into<String>,
        owner: StreamId,
    ) -> Self {
        self.companions.push(Companion::Claim {
            scope: scope.into(),
            value: value.into(),
            owner,
        });
        self
    }

    /// Also gives a unique value back. See [`Companion::Release`].
    #[must_use]
    pub fn release(
        mut self,
        scope: impl Into<String>,
        value: impl Into<String>,
        owner: StreamId,
    ) -> Self {
        self.companions.push(Companion::Release {
            scope: scope.into(),
            value: value.into(),
            owner,
        });
        self
    }

    /// Also notes a value of a stream. See [`Companion::Entry`].
    #[must_use]
    pub fn enter(
        mut self,
        scope: impl Into<String>,
        value: impl Into<String>,
        owner: StreamId,
    ) -> Self {
        self.companions.push(Companion::Entry {
            scope: scope.into(),
            value: value.into(),
            owner,
        });
        self
    }

    /// Also takes all values in the scope from a stream. See [`Companion::Clear`].
    #[must_use]
    pub fn clear(mut self, scope: impl Into<String>, owner: StreamId) -> Self {
        self.companions.push(Companion::Clear {
            scope: scope.into(),
            value: None,
            owner,
        });
        self
    }

    /// With a deadline from now.
    #[must_use]
    pub fn with_deadline(mut self, deadline: Duration) -> Self {
        self.deadline = Some(deadline);
        self
    }

    /// All its events, in order.
    pub fn events(&self) -> impl Iterator<Item = &NewEvent> {
        self.parts.iter().flat_map(|part| &part.events)
    }

    /// The ids of all its events, in order.
    pub fn event_ids(&self) -> Vec<EventId> {
        self.events().map(|event| event.id).collect()
    }

    /// About how many bytes it is.
    pub fn size(&self) -> usize {
        self.events()
            .map(|event| event.payload.as_str().len() + event.name.len() + 100)
            .sum()
    }

    /// What every store checks before anything else.
    ///
    /// # Errors
    /// [`Invalid`] names what no store accepts.
    pub fn validate(&self, limits: &Limits) -> Result<(), Invalid> {
        let refuse = |what, value: &str, reason: String| Err(Invalid::new(what, value, reason));
        let events = self.events().count();
        if events == 0 {
            return refuse("append", "", "it has no events: do not append".into());
        }
        if events > limits.events {
            let reason = format!("{events} events are more than {}: split it", limits.events);
            return refuse("append", "", reason);
        }
        for (what, count) in [
            ("streams", self.parts.len()),
            ("conditions", self.conditions.len()),
            ("companions", self.companions.len()),
        ] {
            if count > limits.streams {
                let reason = format!("{count} {what} are more than {}", limits.streams);
                return refuse("append", "", reason);
            }
        }
        let mut streams = HashSet::new();
        let mut ids = HashSet::new();
        for part in &self.parts {
            part.stream.check()?;
            if !streams.insert(&part.stream) {
                let reason = "two parts name it: put its events into one part".into();
                return refuse("stream", &part.stream.to_string(), reason);
            }
            let erases = part
                .events
                .iter()
                .any(|event| event.name == Lifecycle::Erased.name());
            if erases && part.events.len() > 1 {
                let reason = "backstory.erased goes alone".into();
                return refuse("stream part", &part.stream.to_string(), reason);
            }
            for event in &part.events {
                if !ids.insert(event.id) {
                    let reason = "two events of the append have it".into();
                    return refuse("event id", &event.id.to_string(), reason);
                }
                check_event(event, limits)?;
            }
        }
        let mut claims = HashSet::new();
        for companion in &self.companions {
            if let Some(claim) = companion.claim()
                && !claims.insert(claim)
            {
                let reason = "two companions name it: take or release it once".into();
                return refuse("claim value", claim.1, reason);
            }
            companion.validate()?;
        }
        Ok(())
    }
}

impl NewEvent {
    /// What every store checks of one event for a stream, as [`Append::validate`] does.
    /// Returns its metadata as stores keep it.
    ///
    /// # Errors
    /// [`Invalid`] names what no store accepts.
    pub fn validate(&self, stream: &StreamId, limits: &Limits) -> Result<Payload, Invalid> {
        stream.check()?;
        check_event(self, limits)
    }
}

fn check_event(event: &NewEvent, limits: &Limits) -> Result<Payload, Invalid> {
    if event.id.is_nil() {
        return Err(Invalid::new("event id", &event.id.to_string(), "it is nil"));
    }
    check_name("event name", &event.name)?;
    if event.name.contains('*') {
        return Err(Invalid::new(
            "event name",
            &event.name,
            "`*` is the wildcard of subscriptions",
        ));
    }
    if event.version == 0 || i32::try_from(event.version).is_err() {
        return Err(Invalid::new(
            "schema version",
            &event.version.to_string(),
            "it begins at 1",
        ));
    }
    if event.name.starts_with(RESERVED_PREFIX) {
        match Lifecycle::parse(&event.name) {
            Some(Lifecycle::Tagged) => drop(TagChange::parse(&event.payload)?),
            Some(_) => {}
            None => {
                return Err(Invalid::new(
                    "event name",
                    &event.name,
                    "`backstory.` is reserved",
                ));
            }
        }
    }
    let size = event.payload.as_str().len();
    if size > limits.payload {
        let reason = format!(
            "{size} bytes are more than {}: store the large part elsewhere and refer to it",
            limits.payload
        );
        return Err(Invalid::new("payload", &event.name, reason));
    }
    event.payload.check()?;
    let metadata = event.metadata.to_payload()?;
    let size = metadata.as_str().len();
    if size > limits.metadata {
        let reason = format!("{size} bytes are more than {}", limits.metadata);
        return Err(Invalid::new("metadata", &event.name, reason));
    }
    for tag in &event.tags {
        check_name("tag", tag.as_str())?;
    }
    if event.tags.len() > limits.tags {
        let reason = format!("{} tags are more than {}", event.tags.len(), limits.tags);
        return Err(Invalid::new("tags", &event.name, reason));
    }
    Ok(metadata)
}

/// The receipt of an append: where its events are. Waiting for it is reading one's own write.
///
/// Its text form (`receipt.to_string()`) is that of its [`Checkpoint`].
#[derive(Debug, Clone, PartialEq)]
pub struct Appended {
    /// The last event, or the newest one that the decision saw when nothing was appended.
    pub checkpoint: Checkpoint,
    /// The positions of the events, from the first to the last; `None` when nothing was appended.
    pub positions: Option<(Position, Position)>,
    /// The versions of the streams that got events, after the append.
    pub streams: Vec<(StreamId, StreamVersion)>,
    /// The names of the events, without repetition.
    pub names: Vec<String>,
}

impl Appended {
    /// The receipt of a decision that appended nothing and saw the log up to here.
    pub fn nothing(seen: Checkpoint) -> Self {
        Self {
            checkpoint: seen,
            positions: None,
            streams: Vec::new(),
            names: Vec::new(),
        }
    }

    /// The position of the last event.
    pub fn position(&self) -> Position {
        self.checkpoint.position
    }

    /// The version of a stream after the append.
    pub fn version(&self, stream: &StreamId) -> Option<StreamVersion> {
        self.streams
            .iter()
            .find(|(id, _)| id == stream)
            .map(|(_, version)| *version)
    }
}

impl std::fmt::Display for Appended {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.checkpoint.fmt(f)
    }
}
