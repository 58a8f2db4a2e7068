//! What a store reads for a batch, and what it writes.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
};

use backstory_event::{
    Append, Appended, Companion, EventId, Payload, Position, Recorded, RecordedEvent,
    StoreErrorKind, StreamId, StreamInfo, StreamState, StreamVersion, Tag,
};
use chrono::{DateTime, Utc};

use crate::holdings::{ClaimKey, ValueChanges};

/// What a store has to look up before it can decide a batch.
#[derive(Debug, Default, Clone)]
pub struct Needs {
    /// The rows of these streams.
    pub streams: HashSet<StreamId>,
    /// Whether events with these ids are stored.
    pub event_ids: HashSet<EventId>,
    /// Who holds these values.
    pub claims: HashSet<ClaimKey>,
    /// The events at these positions: proofs of conditions.
    pub proofs: HashSet<Position>,
}

impl Needs {
    /// What these appends need. Their conditions are looked up one by one, see [`Facts::hits`].
    pub fn of<'a>(appends: impl IntoIterator<Item = &'a Append>) -> Self {
        let mut needs = Self::default();
        for append in appends {
            needs
                .streams
                .extend(append.parts.iter().map(|part| part.stream.clone()));
            needs
                .event_ids
                .extend(append.events().map(|event| event.id));
            let claims = append.companions.iter().filter_map(Companion::claim);
            needs
                .claims
                .extend(claims.map(|(scope, value)| (scope.to_owned(), value.to_owned())));
            let proofs = append.conditions.iter().map(|condition| condition.after);
            needs.proofs.extend(
                proofs
                    .filter(|proof| !proof.event_id.is_nil())
                    .map(|proof| proof.position),
            );
        }
        needs
    }
}

/// A stream as its store keeps it beside the log.
#[derive(Debug, Clone, PartialEq)]
pub struct StreamRow {
    /// How many events it has.
    pub version: StreamVersion,
    /// Live, deleted or erased.
    pub state: StreamState,
    /// Its tags, in byte order.
    pub tags: Vec<Tag>,
    /// Where its first event is.
    pub first_position: Position,
    /// Where its last event is.
    pub last_position: Position,
}

impl StreamRow {
    /// The row of a stream without events.
    pub fn empty() -> Self {
        Self {
            version: StreamVersion::EMPTY,
            state: StreamState::Live,
            tags: Vec::new(),
            first_position: Position::START,
            last_position: Position::START,
        }
    }

    /// The row as readers see it.
    pub fn info(&self, stream: StreamId) -> StreamInfo {
        StreamInfo {
            stream,
            version: self.version,
            state: self.state,
            tags: self.tags.clone(),
            first_position: self.first_position,
            last_position: self.last_position,
        }
    }
}

/// An event that is already stored under an id of the batch.
#[derive(Debug, Clone, PartialEq)]
pub struct StoredEvent {
    /// Where.
    pub position: Position,
    /// Its stream.
    pub stream: StreamId,
    /// Its number within the stream.
    pub version: StreamVersion,
    /// Its name.
    pub name: Arc<str>,
}

/// The first event that a condition excludes.
#[derive(Debug, Clone, PartialEq)]
pub struct ConditionHit {
    /// Where.
    pub position: Position,
    /// Its name.
    pub name: String,
    /// Its id.
    pub event_id: EventId,
}

impl From<&RecordedEvent> for ConditionHit {
    fn from(event: &RecordedEvent) -> Self {
        Self {
            position: event.position(),
            name: event.name().to_owned(),
            event_id: event.id(),
        }
    }
}

/// What is stored, as far as a batch needs it, read under the store's lock.
#[derive(Debug, Default, Clone)]
pub struct Facts {
    /// The newest position.
    pub head: Position,
    /// When the newest event was recorded.
    pub recorded_at: Option<DateTime<Utc>>,
    /// The streams that exist, of those needed.
    pub streams: HashMap<StreamId, StreamRow>,
    /// The events that exist, of those needed.
    pub events: HashMap<EventId, StoredEvent>,
    /// The claims that are held, of those needed.
    pub claims: HashMap<ClaimKey, StreamId>,
    /// The ids of the events at the needed positions.
    pub proofs: HashMap<Position, EventId>,
    /// Per append and condition, the first stored event that it excludes. Keys that are missing
    /// mean none.
    pub hits: HashMap<(usize, usize), ConditionHit>,
}

/// An event to insert.
#[derive(Debug, Clone, PartialEq)]
pub struct EventRow {
    /// Its columns.
    pub recorded: Recorded,
    /// Its metadata as JSON.
    pub metadata: Payload,
}

/// What to write for a batch, and what to answer to each append.
#[derive(Debug, Default)]
pub struct Decision {
    /// The answers, in the order of the appends.
    pub outcomes: Vec<Result<Appended, StoreErrorKind>>,
    /// Events to insert, in the order of positions. Those of streams that the same batch erases
    /// are erased already.
    pub events: Vec<EventRow>,
    /// Stream rows to insert or replace.
    pub streams: BTreeMap<StreamId, StreamRow>,
    /// Streams whose stored events, snapshots, owned documents and values go, with the time.
    pub erased: Vec<StreamId>,
    /// What becomes of claims and entries, after the erasures.
    pub values: ValueChanges,
    /// When the batch was recorded.
    pub recorded_at: DateTime<Utc>,
}
