//! Projections, documents, schedules and the projector that runs them.
//!
//! A [`Projection`] turns events into a read model. [`Documents`] is the read model that needs no
//! SQL: keyed JSON documents in collections. A [`Projector`] runs projections, each on its
//! [`Schedule`], and each batch commits together with the projection's checkpoint: every event is
//! in the read model exactly once, also after a crash. [`Live`] is a state in memory that follows
//! the log without being stored.
//!
//! # Tracing
//! | name | kind | fields |
//! |---|---|---|
//! | `backstory.projection.batch` | span, debug | `projection`, `from`, `to` (positions), `events` |
//! | "a projection failed" | event, warn | `projection`, `after`, `attempts`, `stopped`, `error` |
//! | "a projection left events out" | event, warn | `projection`, `letters`, `first` (position), `reason` |
//! | "what a job put off failed" | event, warn | `job`, `key`, `error` |
//! | "another process moved the projection" | event, debug | `projection` |
//! | "the shared reader of a projector failed" | event, debug | `error` |
//! | "a live state ended" | event, warn | `error` |

mod by_key;
mod calendar;
mod checkpoint;
mod control;
mod documents;
mod engine;
mod failure;
mod host;
mod inline;
mod job;
mod letters;
mod live;
mod part;
mod projection;
mod projector;
mod reactor;
mod schedule;
#[cfg(any(test, feature = "test-util"))]
pub mod test_util;
mod ticks;
mod turn;

pub use by_key::by_key;
pub use checkpoint::{Checkpoints, CommitError, Progress, Step, Target};
pub use control::{
    Answer, Beat, Control, Done, Leader, Operator, OperatorError, Order, OrderKind, OrderOutcome,
    ProjectionRow, Raise, Rebuild, RebuildReport, Report, Roster, RowState, Seat, UnknownWord,
};
pub use documents::{
    Collection, Cursor, DocumentError, DocumentErrorKind, DocumentKey, DocumentList, DocumentPage,
    DocumentReader, DocumentRow, DocumentStore, DocumentWrite, Documents, List, MAX_INDEXES,
};
pub use failure::OnFailure;
pub use host::{Host, Unit};
pub use inline::{
    Enlisted, INLINE_ATTEMPTS, InlineError, InlinePlace, InlinePlan, InlineProjection, InlineTerms,
    Inlines, MISSING_POSITIONS,
};
pub use job::{Job, JobError, JobRun, ReadModel};
pub use letters::{DeadLetter, DeadLetters, LetterCount, LetterQuery, LetterWrite};
pub use live::{Live, LiveError};
pub use part::{Part, owner, room};
pub use projection::{NotResettable, Projection, Result};
pub use projector::{
    Awaited, Letters, OneProjection, ProjectionState, ProjectionStatus, Projector, ProjectorError,
    ProjectorErrorKind, ProjectorOptions, RebuildStatus, ReplayReport, RerunReport,
    RunningProjector, ShutdownReport,
};
pub use reactor::{Effect, NeverReplayed, Reactor};
pub use schedule::{Continuous, Cron, Inline, Once, Periodic, Schedule, Start};
pub use turn::{Rename, Slot, Turn, TurnKind, TurnPlan, TurnRefusal};
