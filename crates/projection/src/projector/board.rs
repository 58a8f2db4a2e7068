//! What a projection's task and those who watch it share.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, Mutex, PoisonError},
};

use backstory_event::{Checkpoint, EventQuery, Position};
use chrono::{DateTime, Utc};
use tokio::sync::{Notify, mpsc, oneshot, watch};

use super::{
    Letters, ReplayReport, RerunReport,
    beats::Pulse,
    error::{ProjectorError, ProjectorErrorKind, SharedError, chain},
};
use crate::{LetterCount, OrderKind, RowState};

/// What a projection is doing.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum ProjectionState {
    /// It runs when its schedule says so.
    Running,
    /// Another process runs it; this one takes over when that one ends or falls silent.
    Standby,
    /// It was paused.
    Paused,
    /// It failed, and will try again.
    Failing {
        /// The error and its causes.
        reason: String,
        /// How often it failed since it last got on.
        attempts: u32,
    },
    /// It was to run [once](crate::Schedule::once), and has run.
    Finished,
    /// It does nothing any more: after an event that it failed on too often, an error that time does
    /// not heal, or a shutdown.
    Stopped {
        /// The error and its causes.
        reason: String,
    },
}

impl fmt::Display for ProjectionState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Running => f.write_str("running"),
            Self::Standby => f.write_str("standing by"),
            Self::Paused => f.write_str("paused"),
            Self::Finished => f.write_str("finished"),
            Self::Failing { reason, attempts } => write!(f, "failing ({attempts}): {reason}"),
            Self::Stopped { reason } => write!(f, "stopped: {reason}"),
        }
    }
}

/// How a projection is doing.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ProjectionStatus {
    /// Its name.
    pub name: String,
    /// The checkpoint that is stored with its read model.
    pub checkpoint: Checkpoint,
    /// Up to here its read model contains the log: at or behind the checkpoint, which is not
    /// written for each event that the projection does not want.
    pub reached: Position,
    /// Where the log ends, as far as is known.
    pub head: Position,
    /// How many events of the log it has not passed yet, wanted or not.
    pub lag: u64,
    /// How many events it has read and not projected yet: they wait for the debounce.
    pub buffered: usize,
    /// What it is doing.
    pub state: ProjectionState,
    /// How many stored events it was given and has stored, since the start of the projector.
    pub events_projected: u64,
    /// How many batches of events it has stored, since the start of the projector.
    pub batches: u64,
    /// How many events it has left out: its dead letters. `None`: it is not known here, because
    /// another process leads it or the store is away.
    pub dead_letters: Option<u64>,
    /// Of how many keys the events are left out until somebody replays or discards their letters.
    pub parked_keys: Option<u64>,
    /// The read model that this process builds beside the live one, if it does.
    pub rebuild: Option<RebuildStatus>,
}

impl ProjectionStatus {
    /// With another part of the same projection: as far as the last of them.
    pub(super) fn add(&mut self, other: Self) {
        if other.checkpoint.position < self.checkpoint.position {
            self.checkpoint = other.checkpoint;
        }
        self.reached = self.reached.min(other.reached);
        self.lag = self.lag.max(other.lag);
        self.buffered += other.buffered;
        self.events_projected += other.events_projected;
        self.batches += other.batches;
        if other.state.rank() < self.state.rank() {
            self.state = other.state;
        }
        // Each part knows of its own letters, if not of all.
        self.dead_letters = self.dead_letters.max(other.dead_letters);
        self.parked_keys = self.parked_keys.max(other.parked_keys);
        self.rebuild = self.rebuild.take().or(other.rebuild);
    }
}

impl ProjectionState {
    /// What somebody should know first.
    fn rank(&self) -> u8 {
        match self {
            Self::Stopped { .. } => 0,
            Self::Failing { .. } => 1,
            Self::Paused => 2,
            Self::Running => 3,
            Self::Standby => 4,
            Self::Finished => 5,
        }
    }
}

/// How a rebuild is doing.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct RebuildStatus {
    /// Up to here the new read model contains the log.
    pub reached: Position,
    /// How many events of the log it has not passed yet, wanted or not.
    pub lag: u64,
    /// What it is doing.
    pub state: ProjectionState,
    /// How many stored events it was given and has stored, since this process began with it.
    pub events_projected: u64,
}

/// The newest that is known of a projection.
#[derive(Debug, Clone)]
pub(crate) struct Snapshot {
    pub(crate) checkpoint: Checkpoint,
    pub(crate) reached: Position,
    pub(crate) scanned: Position,
    pub(crate) buffered: usize,
    pub(crate) attempts: u32,
    pub(crate) mode: Mode,
    /// Another process leads it.
    pub(crate) standby: bool,
    pub(crate) error: Option<SharedError>,
    /// When the event at which it stands was recorded, if it has seen one.
    pub(crate) at: Option<DateTime<Utc>>,
    pub(crate) events: u64,
    pub(crate) batches: u64,
    /// If that is known here.
    pub(crate) left_out: Option<LetterCount>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    Running,
    /// Another process leads it.
    Standby,
    Paused,
    Failing,
    /// It was to run once, and has run.
    Finished,
    Stopped,
    /// By a shutdown.
    Ended,
}

impl Snapshot {
    pub(crate) fn new(checkpoint: Checkpoint) -> Self {
        Self {
            checkpoint,
            reached: checkpoint.position,
            scanned: checkpoint.position,
            buffered: 0,
            attempts: 0,
            mode: Mode::Running,
            standby: false,
            error: None,
            at: None,
            events: 0,
            batches: 0,
            left_out: None,
        }
    }

    pub(crate) fn state(&self) -> ProjectionState {
        let reason = self.reason();
        match self.mode {
            Mode::Running => ProjectionState::Running,
            Mode::Standby => ProjectionState::Standby,
            Mode::Paused => ProjectionState::Paused,
            Mode::Finished => ProjectionState::Finished,
            Mode::Failing => ProjectionState::Failing {
                reason,
                attempts: self.attempts,
            },
            Mode::Stopped | Mode::Ended => ProjectionState::Stopped { reason },
        }
    }

    /// What it is doing, in a word for other processes.
    pub(crate) fn row_state(&self) -> RowState {
        match self.mode {
            Mode::Running | Mode::Standby => RowState::Running,
            Mode::Paused => RowState::Paused,
            Mode::Failing => RowState::Failing,
            Mode::Finished => RowState::Finished,
            Mode::Stopped | Mode::Ended => RowState::Stopped,
        }
    }

    /// Why it will not get on by itself soon, if so.
    pub(crate) fn trouble(&self, projection: &str) -> Option<ProjectorError> {
        let projection = projection.to_owned();
        let (after, reason) = (self.reached, self.reason());
        let kind = match self.mode {
            Mode::Running | Mode::Standby => return None,
            Mode::Paused => ProjectorErrorKind::Paused { projection, after },
            Mode::Finished => ProjectorErrorKind::Finished { projection, after },
            Mode::Failing => ProjectorErrorKind::Failing {
                projection,
                after,
                attempts: self.attempts,
                reason,
            },
            Mode::Stopped | Mode::Ended => ProjectorErrorKind::Stopped {
                projection,
                after,
                reason,
            },
        };
        Some(ProjectorError::with_source(kind, self.error.clone()))
    }

    /// The error and its causes, if there is one.
    pub(crate) fn reason_if_any(&self) -> Option<String> {
        self.error.as_ref().map(|error| chain(&**error))
    }

    fn reason(&self) -> String {
        match &self.error {
            Some(error) => chain(&**error),
            None => "the projector was shut down".to_owned(),
        }
    }

    /// True when nothing changed for those who watch.
    pub(crate) fn same(&self, other: &Self) -> bool {
        let same_error = match (&self.error, &other.error) {
            (Some(one), Some(two)) => Arc::ptr_eq(one, two),
            (one, two) => one.is_none() && two.is_none(),
        };
        let places = |of: &Self| (of.checkpoint, of.reached, of.scanned, of.at);
        let numbers = |of: &Self| (of.buffered, of.attempts, of.events, of.batches);
        same_error
            && self.left_out == other.left_out
            && self.mode == other.mode
            && self.standby == other.standby
            && places(self) == places(other)
            && numbers(self) == numbers(other)
    }
}

/// What was done, in words if there is something to say; or why not.
pub(crate) type Told = Result<Option<String>, String>;

/// What somebody tells a projection's task.
pub(crate) enum Command {
    Trigger(Position),
    Reset(oneshot::Sender<Result<(), ProjectorError>>),
    /// From any process, through the store.
    Order(OrderKind, oneshot::Sender<Told>),
    Replay(
        Letters,
        oneshot::Sender<Result<ReplayReport, ProjectorError>>,
    ),
    Discard(Letters, oneshot::Sender<Result<u64, ProjectorError>>),
    /// From the task beside it: the new read model has caught up. It is the live one now, or the
    /// answer says why not.
    Swap(oneshot::Sender<Result<(), String>>),
    Rerun(
        EventQuery,
        oneshot::Sender<Result<RerunReport, ProjectorError>>,
    ),
}

/// How somebody reaches a projection's task.
pub(crate) struct Remote {
    pub(crate) name: String,
    /// It is a read model that follows the log.
    pub(crate) follows: bool,
    /// It runs once.
    pub(crate) once: bool,
    pub(crate) filter: backstory_event::EventFilter,
    pub(crate) snapshot: watch::Receiver<Snapshot>,
    pub(crate) waiters: Arc<Waiters>,
    pub(crate) commands: mpsc::Sender<Command>,
    /// Of the task that builds a new read model, if this is the first part.
    pub(crate) beside: Option<watch::Receiver<Snapshot>>,
}

/// The positions that somebody waits for.
#[derive(Debug)]
pub(crate) struct Waiters {
    // How many wait for each.
    positions: Mutex<BTreeMap<Position, usize>>,
    changed: Notify,
    pulse: Arc<Pulse>,
}

impl Waiters {
    pub(crate) fn new(pulse: Arc<Pulse>) -> Self {
        Self {
            positions: Mutex::default(),
            changed: Notify::new(),
            pulse,
        }
    }

    /// Waits for a position as long as the guard lives.
    pub(crate) fn register(self: &Arc<Self>, position: Position) -> Waiting {
        self.with(|positions| *positions.entry(position).or_default() += 1);
        self.changed.notify_one();
        self.pulse.look.notify_one();
        Waiting {
            waiters: Arc::clone(self),
            position,
        }
    }

    /// The highest position that somebody waits for; the start when nobody waits.
    pub(crate) fn highest(&self) -> Position {
        self.with(|positions| positions.keys().next_back().copied().unwrap_or_default())
    }

    /// Waits until somebody else waits. For one task only.
    pub(crate) async fn changed(&self) {
        self.changed.notified().await;
    }

    fn with<T>(&self, f: impl FnOnce(&mut BTreeMap<Position, usize>) -> T) -> T {
        f(&mut self
            .positions
            .lock()
            .unwrap_or_else(PoisonError::into_inner))
    }
}

/// Somebody waits for a position.
pub(crate) struct Waiting {
    waiters: Arc<Waiters>,
    position: Position,
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.waiters.with(|positions| {
            if let Some(count) = positions.get_mut(&self.position) {
                *count -= 1;
                if *count == 0 {
                    positions.remove(&self.position);
                }
            }
        });
    }
}
