//! What can go wrong with running projections.

use std::{error::Error, fmt, sync::Arc, time::Duration};

use backstory_event::{Invalid, Position, StoreError};

use crate::DeadLetter;

/// An error that several waiters get.
pub(crate) type SharedError = Arc<dyn Error + Send + Sync>;

/// Why a projector did not do what was asked. See [`ProjectorErrorKind`].
#[derive(Debug, Clone)]
pub struct ProjectorError {
    kind: Box<ProjectorErrorKind>,
    source: Option<SharedError>,
}

/// The cases of a [`ProjectorError`].
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum ProjectorErrorKind {
    /// Two projections of a projector have the same name, and so the same checkpoint.
    #[error("two projections are called `{projection}`: rename one")]
    DuplicateName {
        /// The name.
        projection: String,
    },
    /// A projection's name is no name.
    #[error(transparent)]
    InvalidName(#[from] Invalid),
    /// The projector has no projection of this name.
    #[error("there is no projection `{projection}`; there are: {}", known.join(", "))]
    UnknownProjection {
        /// The name.
        projection: String,
        /// The names that there are.
        known: Vec<String>,
    },
    /// The projector was started outside a tokio runtime.
    #[error("the projector needs a tokio runtime: start it in one")]
    NoRuntime,
    /// The projection fails, or its store is away. It tries again, later and later.
    #[error(
        "projection `{projection}` fails behind position {after} (attempt {attempts}): {reason}"
    )]
    Failing {
        /// The projection.
        projection: String,
        /// Up to where it got.
        after: Position,
        /// How often it failed since it last got on.
        attempts: u32,
        /// The error and its causes.
        reason: String,
    },
    /// The projection is paused: resume it.
    #[error("projection `{projection}` is paused at position {after}: resume it")]
    Paused {
        /// The projection.
        projection: String,
        /// Up to where it got.
        after: Position,
    },
    /// The projection was to run once, and has run: trigger it, or start it again.
    #[error("projection `{projection}` has run once, up to position {after}: trigger it")]
    Finished {
        /// The projection.
        projection: String,
        /// Up to where it got.
        after: Position,
    },
    /// The projection shall begin where the log does not reach yet.
    #[error(
        "projection `{projection}` shall begin behind position {start}, and the log ends at \
         {end}: take a position that is in the log"
    )]
    StartBeyondTheEnd {
        /// The projection.
        projection: String,
        /// Where it shall begin.
        start: Position,
        /// Where the log ends.
        end: Position,
    },
    /// It is a job or a reactor, which runs in one part.
    #[error("`{projection}` is a job or a reactor and runs in one part: leave `partitions` out")]
    NotInParts {
        /// The job or reactor.
        projection: String,
    },
    /// The projection has run in another number of parts.
    #[error(
        "projection `{projection}` has run in {stored} partitions and shall run in {partitions}: \
         keep the number, or give it another name"
    )]
    OtherPartitions {
        /// The projection.
        projection: String,
        /// In how many it has run.
        stored: u32,
        /// In how many it shall run.
        partitions: u32,
    },
    /// The projection has stopped: by an error that time does not heal, or by a shutdown.
    #[error("projection `{projection}` stopped at position {after}: {reason}")]
    Stopped {
        /// The projection.
        projection: String,
        /// Up to where it got.
        after: Position,
        /// The error and its causes.
        reason: String,
    },
    /// The projection did not get there in time.
    #[error(
        "projection `{projection}` did not reach position {awaited} within {deadline:?}: it is at \
         position {after}"
    )]
    TimedOut {
        /// The projection.
        projection: String,
        /// What was waited for.
        awaited: Position,
        /// Up to where it got.
        after: Position,
        /// How long was waited.
        deadline: Duration,
    },
    /// The process that leads the projection did not answer in time: it is busy or gone, and no
    /// other one has taken over yet.
    #[error(
        "projection `{projection}`: the order to {order} it was not answered within {deadline:?}: \
         look at what leads it now, and try again"
    )]
    Unanswered {
        /// The projection.
        projection: String,
        /// What was wanted.
        order: &'static str,
        /// How long was waited.
        deadline: Duration,
    },
    /// The projection left an event out, and its key waits until somebody replays or discards it.
    #[error(
        "projection `{projection}` left the event at position {position} out, and key {key:?} is \
         parked: replay or discard its dead letters ({reason})"
    )]
    Parked {
        /// The projection.
        projection: String,
        /// The event's key.
        key: String,
        /// Where the event is.
        position: Position,
        /// Why it is left out.
        reason: String,
    },
    /// The projection left an event out.
    #[error(
        "projection `{projection}` skipped the event at position {position}: replay or discard its \
         dead letter ({reason})"
    )]
    Skipped {
        /// The projection.
        projection: String,
        /// Where the event is.
        position: Position,
        /// Why it is left out.
        reason: String,
    },
    /// Dead letters could not be replayed or discarded, all or in part. What was done until then is
    /// stored; the others are there still.
    #[error("the dead letters of projection `{projection}` were not all changed: {reason}")]
    LettersNotChanged {
        /// The projection.
        projection: String,
        /// The error and its causes.
        reason: String,
    },
    /// A job did not run again on all that was asked for.
    #[error("projection `{projection}` ran again up to position {up_to} only: {reason}")]
    NotRerun {
        /// The job.
        projection: String,
        /// Up to here it ran again: go on behind it.
        up_to: Position,
        /// The error and its causes.
        reason: String,
    },
    /// The read model could not be emptied. Nothing was changed.
    #[error("projection `{projection}` was not reset: {reason}")]
    NotReset {
        /// The projection.
        projection: String,
        /// The error and its causes.
        reason: String,
    },
    /// The projection could not do what was wanted of it. Nothing was changed.
    #[error("projection `{projection}` could not do what was wanted ({order}): {reason}")]
    Refused {
        /// The projection.
        projection: String,
        /// What was wanted.
        order: &'static str,
        /// Why not.
        reason: String,
    },
    /// The grace of a shutdown ended before these projections had finished. What is left is
    /// projected after the next start.
    #[error("the grace of the shutdown ended before these had finished: {}", projections.join(", "))]
    Unfinished {
        /// The projections.
        projections: Vec<String>,
    },
    /// The store failed.
    #[error("the store failed: {reason}")]
    Store {
        /// The error.
        reason: String,
    },
}

impl ProjectorErrorKind {
    /// The error of somebody who waits for an event that was left out.
    pub(super) fn left_out(letter: DeadLetter) -> Self {
        let DeadLetter {
            projection,
            position,
            key,
            reason,
            ..
        } = letter;
        match letter.parked {
            true => Self::Parked {
                projection,
                key,
                position,
                reason,
            },
            false => Self::Skipped {
                projection,
                position,
                reason,
            },
        }
    }
}

impl ProjectorError {
    pub(crate) fn new(kind: ProjectorErrorKind) -> Self {
        Self {
            kind: Box::new(kind),
            source: None,
        }
    }

    pub(crate) fn with_source(kind: ProjectorErrorKind, source: Option<SharedError>) -> Self {
        Self {
            kind: Box::new(kind),
            source,
        }
    }

    /// The case.
    pub fn kind(&self) -> &ProjectorErrorKind {
        &self.kind
    }

    /// True when a projection fails and will try again.
    pub fn is_failing(&self) -> bool {
        matches!(self.kind(), ProjectorErrorKind::Failing { .. })
    }

    /// True when a projection is paused.
    pub fn is_paused(&self) -> bool {
        matches!(self.kind(), ProjectorErrorKind::Paused { .. })
    }

    /// True when a projection was to run once, and has run.
    pub fn is_finished(&self) -> bool {
        matches!(self.kind(), ProjectorErrorKind::Finished { .. })
    }

    /// True when a projection has stopped.
    pub fn is_stopped(&self) -> bool {
        matches!(self.kind(), ProjectorErrorKind::Stopped { .. })
    }

    /// True when a projection left the event out that was waited for: it skipped it, or parked its
    /// key.
    pub fn is_left_out(&self) -> bool {
        matches!(
            self.kind(),
            ProjectorErrorKind::Parked { .. } | ProjectorErrorKind::Skipped { .. }
        )
    }

    /// True when a deadline passed: trying again may help.
    pub fn is_timed_out(&self) -> bool {
        matches!(self.kind(), ProjectorErrorKind::TimedOut { .. })
    }

    /// True when the log is another one than before: reset what was derived from it.
    pub fn is_diverged(&self) -> bool {
        self.store_error().is_some_and(StoreError::is_diverged)
    }

    /// The error of the store that is the cause, if it is.
    pub fn store_error(&self) -> Option<&StoreError> {
        self.source.as_ref()?.downcast_ref()
    }
}

impl fmt::Display for ProjectorError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.kind, f)
    }
}

impl Error for ProjectorError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.source.as_deref().map(|source| source as _)
    }
}

impl From<StoreError> for ProjectorError {
    fn from(error: StoreError) -> Self {
        let reason = chain(&error);
        Self::with_source(ProjectorErrorKind::Store { reason }, Some(Arc::new(error)))
    }
}

/// A projection's code panicked.
#[derive(Debug, thiserror::Error)]
#[error("it panicked: {0}")]
pub(crate) struct Panicked(pub(crate) String);

/// A projection fails in the process that leads it.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Elsewhere(pub(crate) String);

/// An error and its causes in one line.
pub(crate) fn chain(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        // Transparent errors repeat the text of their cause.
        if !text.ends_with(&more) {
            text.push_str(": ");
            text.push_str(&more);
        }
        cause = error.source();
    }
    text
}
