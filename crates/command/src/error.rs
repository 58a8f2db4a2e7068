//! Why a command did not succeed.

use std::fmt;

use backstory_aggregate::{RepositoryError, RepositoryErrorKind};
use backstory_event::{BoxError, Conflict, EventId, Invalid, StoreErrorKind, StreamId};

use crate::{Reject, Taken};

/// Why a command did not succeed. See [`CommandErrorKind`].
#[derive(Debug)]
pub struct CommandError {
    kind: Box<CommandErrorKind>,
    source: Option<BoxError>,
}

/// The cases of a [`CommandError`].
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum CommandErrorKind {
    /// The aggregate said no, or a unique value is [`Taken`]. Nothing was stored.
    /// [`CommandError::rejection`] gives the value.
    #[error("{message}")]
    #[non_exhaustive]
    Rejected {
        /// The stable code: `todo.already_added`.
        code: String,
        /// What to tell a person.
        message: String,
    },
    /// Somebody else was first, in each attempt. Nothing was stored.
    #[error(transparent)]
    Conflict(Conflict),
    /// The aggregate is deleted. Nothing was stored.
    #[error("{stream} is deleted: restore it first")]
    Deleted {
        /// Its stream.
        stream: StreamId,
    },
    /// The aggregate was erased. Nothing was stored.
    #[error("{stream} was erased: revive its id first")]
    Erased {
        /// Its stream.
        stream: StreamId,
    },
    /// The id, an event or its metadata is refused by every store. Nothing was stored.
    #[error(transparent)]
    Invalid(Invalid),
    /// A hook of the repository refused the save. Nothing was stored.
    #[error("refused before it was saved: {reason}")]
    Vetoed {
        /// What the hook said.
        reason: String,
    },
    /// The store cannot be reached, is busy or closed. Nothing was stored; try again later.
    #[error("the store is unavailable: {reason}")]
    Unavailable {
        /// What is known about the cause.
        reason: String,
    },
    /// The deadline ended. Nothing was stored.
    #[error("the deadline ended; nothing was stored")]
    TimedOut,
    /// Nobody can tell whether the events were stored.
    #[error("whether the {} events were stored is unknown", event_ids.len())]
    OutcomeUnknown {
        /// The ids of the events.
        event_ids: Vec<EventId>,
    },
    /// The aggregate cannot be loaded, or the store is broken: nothing that the sender can change.
    #[error("the command failed: {reason}")]
    Failed {
        /// Why.
        reason: String,
    },
}

impl CommandError {
    pub(crate) fn rejected(rejection: impl Reject) -> Self {
        Self {
            kind: Box::new(CommandErrorKind::Rejected {
                code: rejection.code().to_owned(),
                message: rejection.to_string(),
            }),
            source: Some(Box::new(rejection)),
        }
    }

    /// The case.
    pub fn kind(&self) -> &CommandErrorKind {
        &self.kind
    }

    /// What the aggregate said, when it said no with this type of error.
    pub fn rejection<R: Reject>(&self) -> Option<&R> {
        self.source.as_ref()?.downcast_ref()
    }

    /// The stable code of a rejection.
    pub fn code(&self) -> Option<&str> {
        match self.kind() {
            CommandErrorKind::Rejected { code, .. } => Some(code),
            _ => None,
        }
    }

    /// The conflict, if it is one: what was expected and what was found.
    pub fn conflict(&self) -> Option<&Conflict> {
        match self.kind() {
            CommandErrorKind::Conflict(conflict) => Some(conflict),
            _ => None,
        }
    }

    /// True when the aggregate said no, or a unique value is taken.
    pub fn is_rejected(&self) -> bool {
        matches!(self.kind(), CommandErrorKind::Rejected { .. })
    }

    /// True when somebody else was first.
    pub fn is_conflict(&self) -> bool {
        matches!(self.kind(), CommandErrorKind::Conflict(_))
    }

    /// True when the input was refused.
    pub fn is_invalid(&self) -> bool {
        matches!(self.kind(), CommandErrorKind::Invalid(_))
    }

    /// True when nothing was stored and the same command may succeed later.
    pub fn is_transient(&self) -> bool {
        matches!(
            self.kind(),
            CommandErrorKind::Unavailable { .. } | CommandErrorKind::TimedOut
        )
    }

    /// True when nobody can tell whether the events were stored.
    pub fn is_outcome_unknown(&self) -> bool {
        matches!(self.kind(), CommandErrorKind::OutcomeUnknown { .. })
    }
}

impl fmt::Display for CommandError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.kind, f)
    }
}

impl std::error::Error for CommandError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_deref().map(|source| source as _)
    }
}

impl From<CommandErrorKind> for CommandError {
    fn from(kind: CommandErrorKind) -> Self {
        Self {
            kind: Box::new(kind),
            source: None,
        }
    }
}

impl From<RepositoryError> for CommandError {
    fn from(error: RepositoryError) -> Self {
        if let Some(taken) = error.conflict().and_then(Taken::of) {
            return Self::rejected(taken);
        }
        Self {
            kind: Box::new(kind_of(&error)),
            source: Some(Box::new(error)),
        }
    }
}

fn kind_of(error: &RepositoryError) -> CommandErrorKind {
    let reason = error.to_string();
    match error.kind() {
        RepositoryErrorKind::Deleted { stream } => CommandErrorKind::Deleted {
            stream: stream.clone(),
        },
        RepositoryErrorKind::Erased { stream } => CommandErrorKind::Erased {
            stream: stream.clone(),
        },
        RepositoryErrorKind::Vetoed { reason, .. } => CommandErrorKind::Vetoed {
            reason: reason.clone(),
        },
        RepositoryErrorKind::TimedOut { .. } => CommandErrorKind::TimedOut,
        RepositoryErrorKind::Store(error) => match error.kind() {
            StoreErrorKind::Conflict(conflict) => CommandErrorKind::Conflict(conflict.clone()),
            StoreErrorKind::Invalid(invalid) => CommandErrorKind::Invalid(invalid.clone()),
            StoreErrorKind::OutcomeUnknown { event_ids } => CommandErrorKind::OutcomeUnknown {
                event_ids: event_ids.clone(),
            },
            StoreErrorKind::Unavailable { reason } | StoreErrorKind::NotStored { reason } => {
                CommandErrorKind::Unavailable {
                    reason: reason.clone(),
                }
            }
            StoreErrorKind::Closed | StoreErrorKind::ProjectionBehind { .. } => {
                CommandErrorKind::Unavailable { reason }
            }
            _ => CommandErrorKind::Failed { reason },
        },
        _ => CommandErrorKind::Failed { reason },
    }
}
