//! What can go wrong at a store, said so that the caller knows what to do.

use std::{fmt, time::Duration};

use crate::{Checkpoint, Conflict, EventId, Position, StreamId};

/// Any error, boxed.
pub type BoxError = Box<dyn std::error::Error + Send + Sync + 'static>;

/// An input that no store accepts. Nothing was stored.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the {what} {value:?} is refused: {reason}")]
pub struct Invalid {
    what: &'static str,
    value: String,
    reason: String,
}

impl Invalid {
    /// Names the input, quotes the beginning of its value, and says why it is refused.
    pub fn new(what: &'static str, value: &str, reason: impl Into<String>) -> Self {
        let mut value: String = value.chars().take(80).collect();
        value.shrink_to_fit();
        Self {
            what,
            value,
            reason: reason.into(),
        }
    }

    /// What was refused: `tag`, `event name`, `payload` …
    pub fn what(&self) -> &'static str {
        self.what
    }

    /// Why.
    pub fn reason(&self) -> &str {
        &self.reason
    }
}

/// A stored event that a program knows by name but cannot read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("event `{name}` v{version} (id {event_id}, position {position}) does not decode: {reason}")]
pub struct DecodeError {
    /// Where it is.
    pub position: Position,
    /// Which event.
    pub event_id: EventId,
    /// Its stored name.
    pub name: String,
    /// Its stored schema version.
    pub version: u32,
    /// What is wrong with it.
    pub reason: String,
}

/// Why a store did not do what was asked. See [`StoreErrorKind`].
#[derive(Debug)]
pub struct StoreError {
    kind: Box<StoreErrorKind>,
    source: Option<BoxError>,
}

/// The cases of a [`StoreError`].
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum StoreErrorKind {
    /// Somebody else was first. Load again and decide again. Nothing was stored.
    #[error(transparent)]
    Conflict(#[from] Conflict),
    /// The stream is deleted; only restore and erase are possible. Nothing was stored.
    #[error("stream {stream} is deleted: restore it before appending")]
    StreamDeleted {
        /// The stream.
        stream: StreamId,
    },
    /// The stream was erased; only a revival is possible. Nothing was stored.
    #[error("stream {stream} was erased: revive it before appending")]
    StreamErased {
        /// The stream.
        stream: StreamId,
    },
    /// An event id of the append is already stored, but not as this same append. Nothing was stored.
    #[error(
        "event id {event_id} is already stored in another append: make a new id for a new event"
    )]
    EventIdReused {
        /// The id.
        event_id: EventId,
    },
    /// The input is refused by every store. Nothing was stored.
    #[error(transparent)]
    Invalid(#[from] Invalid),
    /// The log is not the one that was read before: a failover lost its tail, or a backup was restored.
    #[error(
        "the log diverged: position {position} held event {expected} and now holds {}; \
         rebuild what was derived from it",
        found.map_or_else(|| "nothing".to_owned(), |id| id.to_string())
    )]
    Diverged {
        /// Where.
        position: Position,
        /// The event seen before.
        expected: EventId,
        /// The event found now.
        found: Option<EventId>,
    },
    /// The append was not stored and never will be.
    #[error("the append was not stored: {reason}")]
    NotStored {
        /// Why.
        reason: String,
    },
    /// Nobody can tell whether the append was stored. Send the same events with the same ids again.
    #[error(
        "whether the append was stored is unknown ({} events): send the same events with the same ids again",
        event_ids.len()
    )]
    OutcomeUnknown {
        /// The ids of the append's events.
        event_ids: Vec<EventId>,
    },
    /// A projection that runs inside appends failed on these events: mend it, or the events. Nothing
    /// was stored.
    #[error("the append was not stored, because inline projection `{projection}` failed: {reason}")]
    ProjectionFailed {
        /// The projection.
        projection: String,
        /// Its error and the causes.
        reason: String,
    },
    /// A projection that runs inside appends lacks too many earlier events. Its own task catches up:
    /// try again later. Nothing was stored.
    #[error(
        "the append was not stored, because inline projection `{projection}` is only at position \
         {after} of {head}: let its projector catch up and try again"
    )]
    ProjectionBehind {
        /// The projection.
        projection: String,
        /// Up to where it got.
        after: Position,
        /// Where the log ends.
        head: Position,
    },
    /// The database cannot be reached or is busy. Nothing was stored; try again later.
    #[error("the store is unavailable: {reason}")]
    Unavailable {
        /// What is known about the cause.
        reason: String,
    },
    /// What was waited for did not come in time. Whoever waits again from `read_to` misses nothing.
    #[error(
        "no such event within {timeout:?}, up to position {} of the log: wait again from there",
        read_to.position
    )]
    TimedOut {
        /// How long was waited.
        timeout: Duration,
        /// Up to where the log was looked at.
        read_to: Checkpoint,
    },
    /// The store was shut down, or the runtime it was opened in has ended. Open it again.
    #[error("the store is closed: open it again in a running runtime")]
    Closed,
    /// A wrong password or missing rights.
    #[error("the database denies access: {reason}")]
    Denied {
        /// What is missing.
        reason: String,
    },
    /// The database is read-only or its disk is full. Nothing was stored.
    #[error("the database cannot be written: {reason}")]
    NotWritable {
        /// Why.
        reason: String,
    },
    /// The URL or the options cannot be used.
    #[error("the configuration cannot be used: {reason}")]
    Config {
        /// What to change.
        reason: String,
    },
    /// The database holds a schema that this program cannot work with.
    #[error("the schema of the database does not fit: {reason}")]
    Schema {
        /// What to do.
        reason: String,
    },
    /// What is stored cannot be read.
    #[error("the stored data is damaged: {reason}")]
    Corrupt {
        /// Which data.
        reason: String,
    },
    /// The payload of a stored event is in a form that this program does not know.
    #[error(
        "the payload of the event at position {position} (id {event_id}) is stored as `{transform}`, \
         which this program does not know: update it"
    )]
    UnknownTransform {
        /// Where it is.
        position: Position,
        /// Which event.
        event_id: EventId,
        /// The name of the form.
        transform: String,
    },
    /// A stored event does not decode.
    #[error(transparent)]
    Decode(#[from] DecodeError),
    /// The database refused a statement of ours: a defect of the store, or a changed schema.
    #[error("the database refused: {reason}")]
    Database {
        /// What it said, without values.
        reason: String,
    },
}

impl StoreError {
    /// An error of this kind.
    pub fn new(kind: impl Into<StoreErrorKind>) -> Self {
        Self {
            kind: Box::new(kind.into()),
            source: None,
        }
    }

    /// The same with its cause.
    pub fn with_source(mut self, source: impl Into<BoxError>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// The case.
    pub fn kind(&self) -> &StoreErrorKind {
        &self.kind
    }

    /// The case, by value.
    pub fn into_kind(self) -> StoreErrorKind {
        *self.kind
    }

    /// The conflict, if it is one.
    pub fn conflict(&self) -> Option<&Conflict> {
        match self.kind() {
            StoreErrorKind::Conflict(conflict) => Some(conflict),
            _ => None,
        }
    }

    /// True when somebody else was first.
    pub fn is_conflict(&self) -> bool {
        self.conflict().is_some()
    }

    /// True when the same call may succeed later without a change.
    pub fn is_transient(&self) -> bool {
        matches!(
            self.kind(),
            StoreErrorKind::Unavailable { .. }
                | StoreErrorKind::NotStored { .. }
                | StoreErrorKind::TimedOut { .. }
                | StoreErrorKind::ProjectionBehind { .. }
        )
    }

    /// True when what was waited for did not come in time.
    pub fn is_timed_out(&self) -> bool {
        matches!(self.kind(), StoreErrorKind::TimedOut { .. })
    }

    /// True when nobody can tell whether the append was stored.
    pub fn is_outcome_unknown(&self) -> bool {
        matches!(self.kind(), StoreErrorKind::OutcomeUnknown { .. })
    }

    /// True when the log is another one than before.
    pub fn is_diverged(&self) -> bool {
        matches!(self.kind(), StoreErrorKind::Diverged { .. })
    }

    /// True when the input was refused.
    pub fn is_invalid(&self) -> bool {
        matches!(self.kind(), StoreErrorKind::Invalid(_))
    }

    /// True when the store was shut down.
    pub fn is_closed(&self) -> bool {
        matches!(self.kind(), StoreErrorKind::Closed)
    }
}

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.kind, f)
    }
}

impl std::error::Error for StoreError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_deref().map(|source| source as _)
    }
}

impl From<StoreErrorKind> for StoreError {
    fn from(kind: StoreErrorKind) -> Self {
        Self::new(kind)
    }
}

impl From<Invalid> for StoreError {
    fn from(invalid: Invalid) -> Self {
        Self::new(invalid)
    }
}

impl From<Conflict> for StoreError {
    fn from(conflict: Conflict) -> Self {
        Self::new(conflict)
    }
}

impl From<DecodeError> for StoreError {
    fn from(error: DecodeError) -> Self {
        Self::new(error)
    }
}
