//! What can go wrong between an aggregate and its stream.

use std::fmt;

use backstory_event::{
    BoxError, Conflict, DecodeError, EventId, Invalid, Position, StoreError, StoreErrorKind,
    StreamId, StreamVersion,
};

/// Why a repository did not do what was asked. See [`RepositoryErrorKind`].
#[derive(Debug)]
pub struct RepositoryError {
    kind: Box<RepositoryErrorKind>,
    source: Option<BoxError>,
}

/// The cases of a [`RepositoryError`].
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RepositoryErrorKind {
    /// There are no events of this aggregate. Said only where one is needed: delete, erase, tag …
    #[error("{stream} does not exist")]
    NotFound {
        /// Its stream.
        stream: StreamId,
    },
    /// The aggregate is deleted; it can be restored or erased.
    #[error("{stream} is deleted: restore it first")]
    Deleted {
        /// Its stream.
        stream: StreamId,
    },
    /// The aggregate was erased; its id can be used again only after a revival.
    #[error("{stream} was erased: revive its id first")]
    Erased {
        /// Its stream.
        stream: StreamId,
    },
    /// The stream holds an event that the aggregate does not know; a decision without it could be
    /// wrong.
    #[error(
        "{stream} holds the unknown event `{name}` at position {position}: \
         update the program, or list the name as ignored by the event type"
    )]
    UnknownEvent {
        /// The stream.
        stream: StreamId,
        /// The event's name.
        name: String,
        /// Where it is.
        position: Position,
    },
    /// A known event does not decode.
    #[error(transparent)]
    Decode(DecodeError),
    /// The aggregate has fewer events than the version that was asked for.
    #[error("{stream} has no version {wanted} yet, it is at version {actual}")]
    VersionNotReached {
        /// Its stream.
        stream: StreamId,
        /// What was asked for.
        wanted: StreamVersion,
        /// What is there.
        actual: StreamVersion,
    },
    /// A hook refused the save. Nothing was stored; the hook's error is the source.
    #[error("saving {stream} was refused: {reason}")]
    Vetoed {
        /// The stream.
        stream: StreamId,
        /// What the hook said.
        reason: String,
    },
    /// The deadline ended before anything was sent. Nothing was stored.
    #[error("the deadline ended before {stream} was saved; nothing was stored")]
    TimedOut {
        /// The stream.
        stream: StreamId,
    },
    /// The store's own answer: a conflict, an input that it refuses, an outage …
    #[error(transparent)]
    Store(StoreError),
}

impl RepositoryError {
    pub(crate) fn new(kind: RepositoryErrorKind) -> Self {
        Self {
            kind: Box::new(kind),
            source: None,
        }
    }

    pub(crate) fn with_source(mut self, source: BoxError) -> Self {
        self.source = Some(source);
        self
    }

    /// The case.
    pub fn kind(&self) -> &RepositoryErrorKind {
        &self.kind
    }

    /// The case, by value.
    pub fn into_kind(self) -> RepositoryErrorKind {
        *self.kind
    }

    /// The store's error, if it is one.
    pub fn store(&self) -> Option<&StoreError> {
        match self.kind() {
            RepositoryErrorKind::Store(error) => Some(error),
            _ => None,
        }
    }

    /// The conflict, if it is one: what was expected and what was found.
    pub fn conflict(&self) -> Option<&Conflict> {
        self.store().and_then(StoreError::conflict)
    }

    /// True when somebody else was first.
    pub fn is_conflict(&self) -> bool {
        self.conflict().is_some()
    }

    /// True when the same call may succeed later without a change.
    pub fn is_transient(&self) -> bool {
        self.store().is_some_and(StoreError::is_transient)
    }

    /// True when nobody can tell whether the events were stored. Save the same loaded aggregate
    /// again: it sends the same events with the same ids.
    pub fn is_outcome_unknown(&self) -> bool {
        self.unknown_ids().is_some()
    }

    /// True when the input was refused.
    pub fn is_invalid(&self) -> bool {
        self.store().is_some_and(StoreError::is_invalid)
    }

    /// True when there are no events of the aggregate.
    pub fn is_not_found(&self) -> bool {
        matches!(self.kind(), RepositoryErrorKind::NotFound { .. })
    }

    /// True when the aggregate is deleted.
    pub fn is_deleted(&self) -> bool {
        matches!(self.kind(), RepositoryErrorKind::Deleted { .. })
    }

    /// True when the aggregate was erased.
    pub fn is_erased(&self) -> bool {
        matches!(self.kind(), RepositoryErrorKind::Erased { .. })
    }

    /// True when a hook refused the save.
    pub fn is_vetoed(&self) -> bool {
        matches!(self.kind(), RepositoryErrorKind::Vetoed { .. })
    }

    /// True when the deadline ended before anything was sent.
    pub fn is_timed_out(&self) -> bool {
        matches!(self.kind(), RepositoryErrorKind::TimedOut { .. })
    }

    /// The ids of the events of which nobody can tell whether they were stored.
    pub fn unknown_ids(&self) -> Option<&[EventId]> {
        match self.store()?.kind() {
            StoreErrorKind::OutcomeUnknown { event_ids } => Some(event_ids),
            _ => None,
        }
    }

    /// True when another writer was first on this aggregate, so that a fresh load may help.
    pub(crate) fn is_version_conflict(&self) -> bool {
        matches!(self.conflict(), Some(Conflict::Version { .. }))
    }

    /// True when another state of the aggregate might have been saved.
    pub(crate) fn is_about_state(&self) -> bool {
        self.is_conflict() || self.is_vetoed() || self.is_deleted() || self.is_erased()
    }
}

impl fmt::Display for RepositoryError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.kind, f)
    }
}

impl std::error::Error for RepositoryError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self.kind() {
            RepositoryErrorKind::Store(error) => std::error::Error::source(error),
            _ => self.source.as_deref().map(|source| source as _),
        }
    }
}

impl From<RepositoryErrorKind> for RepositoryError {
    fn from(kind: RepositoryErrorKind) -> Self {
        Self::new(kind)
    }
}

impl From<StoreError> for RepositoryError {
    fn from(error: StoreError) -> Self {
        Self::new(match error.kind() {
            StoreErrorKind::StreamDeleted { stream } => RepositoryErrorKind::Deleted {
                stream: stream.clone(),
            },
            StoreErrorKind::StreamErased { stream } => RepositoryErrorKind::Erased {
                stream: stream.clone(),
            },
            StoreErrorKind::Decode(decode) => RepositoryErrorKind::Decode(decode.clone()),
            _ => RepositoryErrorKind::Store(error),
        })
    }
}

impl From<Invalid> for RepositoryError {
    fn from(invalid: Invalid) -> Self {
        StoreError::from(invalid).into()
    }
}

/// Why [`crate::Repository::update`] changed nothing, or cannot tell.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum UpdateError<E> {
    /// The closure said no. Nothing was stored.
    #[error("{0}")]
    Rejected(E),
    /// Loading or saving failed.
    #[error(transparent)]
    Repository(#[from] RepositoryError),
}

impl<E> UpdateError<E> {
    /// What the closure said.
    pub fn rejection(&self) -> Option<&E> {
        match self {
            Self::Rejected(error) => Some(error),
            Self::Repository(_) => None,
        }
    }

    /// The repository's error.
    pub fn repository(&self) -> Option<&RepositoryError> {
        match self {
            Self::Rejected(_) => None,
            Self::Repository(error) => Some(error),
        }
    }

    /// True when somebody else was first, each time.
    pub fn is_conflict(&self) -> bool {
        self.repository().is_some_and(RepositoryError::is_conflict)
    }
}
