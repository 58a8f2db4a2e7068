//! Which process runs which projection, how it is doing, and what somebody wants of it: kept by the
//! store, so that replicas and operators need no other way to each other.

use std::{fmt::Debug, str::FromStr, sync::Arc, time::Duration};

use async_trait::async_trait;
use backstory_event::{Position, StoreError};
use chrono::{DateTime, Utc};
use uuid::Uuid;

use crate::{Part, Progress};

mod operator;
mod order;
mod query;
mod roster;

pub use operator::{Done, Operator, OperatorError};
pub use order::OrderKind;
pub use roster::{Raise, Roster};

/// What a process says of its projections, again and again.
#[derive(Debug, Clone, PartialEq)]
pub struct Beat {
    /// Who it is: another one each time that a projector is started.
    pub owner: Uuid,
    /// What people call it.
    pub process: String,
    /// Where it runs, for others on the same machine; nothing when that cannot be told.
    pub origin: Option<String>,
    /// How long the leases that it takes or keeps last from now on.
    pub lease: Duration,
    /// Its projections.
    pub reports: Vec<Report>,
    /// What became of the orders that it got.
    pub answers: Vec<Answer>,
}

/// How a projection is doing in one process. It is kept only if that process leads the projection.
#[derive(Debug, Clone, PartialEq)]
pub struct Report {
    /// The projection's name.
    pub projection: String,
    /// What it is doing.
    pub state: RowState,
    /// The error that it fails with.
    pub reason: Option<String>,
    /// Up to here its read model contains the log.
    pub reached: Position,
    /// Where the log ends, as far as the process knows.
    pub head: Position,
    /// When the event at which it stands was recorded; nothing when it is not behind.
    pub behind_since: Option<DateTime<Utc>>,
    /// Events that it was given per second, lately.
    pub rate: f64,
    /// How its rebuild is doing, while there is one.
    pub rebuild: Option<RebuildReport>,
}

/// How a rebuild is doing in the process that leads the projection.
#[derive(Debug, Clone, PartialEq)]
pub struct RebuildReport {
    /// What it is doing.
    pub state: RowState,
    /// The error that it fails with.
    pub reason: Option<String>,
    /// Up to here the new read model contains the log.
    pub reached: Position,
    /// Positions of the log that it passes per second, lately.
    pub rate: f64,
}

/// What a process is told about one of its projections.
#[derive(Debug, Clone, PartialEq)]
pub struct Seat {
    /// The projection's name.
    pub projection: String,
    /// True when the process leads it: the only one to project until its lease ends.
    pub leads: bool,
    /// Who leads it, when it is another process.
    pub leader: Option<Leader>,
    /// How often the leader has changed.
    pub term: i64,
    /// How far it is. Its epoch rises with each term: what an earlier leader still tries to
    /// commit is fenced.
    pub progress: Progress,
    /// How far the read model is that is being built beside the live one, if one is.
    pub rebuild: Option<Progress>,
    /// True when it shall not run.
    pub paused: bool,
    /// The error that the leader's projection fails with.
    pub trouble: Option<String>,
    /// What the leader is to do, in order. They come again until they are answered.
    pub orders: Vec<Order>,
}

/// The process that leads a projection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leader {
    /// Who it is.
    pub owner: Uuid,
    /// Where it runs.
    pub origin: Option<String>,
}

/// What somebody wants of a projection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Order {
    /// Its number.
    pub id: i64,
    /// What to do.
    pub kind: OrderKind,
}

/// What became of an order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The order's number.
    pub id: i64,
    /// What was done, in words if there is something to say; or why not.
    pub outcome: Result<Option<String>, String>,
}

/// What is known of an order.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum OrderOutcome {
    /// Nobody has answered it yet.
    Pending,
    /// This process did it.
    Done {
        /// What people call it.
        process: String,
        /// What came of it, if there is something to say.
        note: Option<String>,
    },
    /// It could not be done.
    Failed {
        /// Why.
        reason: String,
    },
    /// There is no such order any more.
    Gone,
}

impl OrderOutcome {
    /// What the row of an order says: whether it was answered, by which process, and with what.
    pub fn answered(
        answered: bool,
        process: Option<String>,
        failure: Option<String>,
        note: Option<String>,
    ) -> Self {
        match failure {
            _ if !answered => Self::Pending,
            Some(reason) => Self::Failed { reason },
            None => Self::Done {
                process: process.unwrap_or_default(),
                note,
            },
        }
    }
}

/// How a projection is doing, as the store keeps it for everybody to see.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct ProjectionRow {
    /// Its name.
    pub projection: String,
    /// What it is doing; [`RowState::Idle`] when no process leads it.
    pub state: RowState,
    /// The error that it fails with.
    pub reason: Option<String>,
    /// True when it shall not run.
    pub paused: bool,
    /// The checkpoint of its read model.
    pub progress: Progress,
    /// Up to here its read model contains the log, as its leader said last.
    pub reached: Position,
    /// Where the log ended then.
    pub head: Position,
    /// When the event at which it stood then was recorded; nothing when it was not behind.
    pub behind_since: Option<DateTime<Utc>>,
    /// Events per second, lately.
    pub rate: f64,
    /// What people call the process that leads it.
    pub process: Option<String>,
    /// When that process was last heard of.
    pub seen_at: Option<DateTime<Utc>>,
    /// The read model that is being built beside the live one, if one is.
    pub rebuild: Option<Rebuild>,
    /// How far the read model is that was the live one before the last rebuild, if it is kept.
    pub previous: Option<Progress>,
}

/// A read model that is being built beside the live one.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Rebuild {
    /// Its checkpoint.
    pub progress: Progress,
    /// What it is doing; [`RowState::Idle`] when no process leads the projection.
    pub state: RowState,
    /// The error that it fails with.
    pub reason: Option<String>,
    /// Up to here it contains the log, as its leader said last.
    pub reached: Position,
    /// Positions of the log that it passes per second, lately.
    pub rate: f64,
}

impl Rebuild {
    /// A rebuild of which nothing is known but how far it is.
    pub fn new(progress: Progress, state: RowState) -> Self {
        Self {
            state,
            reason: None,
            reached: progress.checkpoint.position,
            rate: 0.0,
            progress,
        }
    }

    /// What its leader says of it.
    #[must_use]
    pub fn reported(mut self, report: RebuildReport) -> Self {
        self.reached = self.reached.max(report.reached);
        self.state = report.state;
        self.reason = report.reason;
        self.rate = report.rate;
        self
    }

    /// How long it takes until it has come to the end of the log, at its rate; nothing when it
    /// stands still.
    pub fn remaining(&self, head: Position) -> Option<Duration> {
        let left = head.get().saturating_sub(self.reached.get()).max(0);
        match left {
            0 => Some(Duration::ZERO),
            _ => Duration::try_from_secs_f64(left as f64 / self.rate).ok(),
        }
    }
}

impl ProjectionRow {
    /// A row that says nothing yet but where the read model is.
    pub fn new(progress: Progress, state: RowState) -> Self {
        Self {
            projection: progress.projection.clone(),
            state,
            reason: None,
            paused: false,
            progress,
            reached: Position::START,
            head: Position::START,
            behind_since: None,
            rate: 0.0,
            process: None,
            seen_at: None,
            rebuild: None,
            previous: None,
        }
    }

    /// With the read models beside the live one: the one that is being built, what its leader says of
    /// it, and the one before. A rebuild is one for all parts, and shown with the first.
    #[must_use]
    pub fn with_beside(
        mut self,
        next: Option<Progress>,
        report: Option<RebuildReport>,
        previous: Option<Progress>,
    ) -> Self {
        let next = next.filter(|_| Part::split(&self.projection).1.index == 0);
        let next = next.map(|next| Rebuild::new(next, RowState::Idle));
        self.rebuild = match (next, report) {
            (Some(next), Some(report)) => Some(next.reported(report)),
            (next, _) => next,
        };
        self.previous = previous;
        self
    }

    /// How many events of the log it has not passed yet, wanted or not.
    pub fn lag(&self) -> u64 {
        self.head.get().saturating_sub(self.reached.get()).max(0) as u64
    }
}

/// What a projection is doing, in one word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum RowState {
    /// No process leads it.
    #[default]
    Idle,
    /// It runs when its schedule says so.
    Running,
    /// It was paused.
    Paused,
    /// It failed, and will try again.
    Failing,
    /// It was to run once, and has run.
    Finished,
    /// It does nothing any more, after an error that time does not heal.
    Stopped,
}

macro_rules! words {
    ($kind:ident, $what:literal: $($value:ident = $word:literal,)*) => {
        impl $kind {
            /// The word for it in a database.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$value => $word,)* }
            }
        }

        impl FromStr for $kind {
            type Err = UnknownWord;

            fn from_str(word: &str) -> Result<Self, UnknownWord> {
                match word {
                    $($word => Ok(Self::$value),)*
                    _ => Err(UnknownWord { what: $what, word: word.to_owned() }),
                }
            }
        }
    };
}

words!(RowState, "state of a projection":
    Idle = "idle", Running = "running", Paused = "paused", Failing = "failing",
    Finished = "finished", Stopped = "stopped",);

/// A word in the database that this program does not know: a newer one wrote it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{word:?} is no {what} that this program knows")]
pub struct UnknownWord {
    what: &'static str,
    word: String,
}

/// Keeps leases, states and orders of projections. A lease says who works; that each event is
/// projected once does not depend on it, but on the [`Progress`] that every commit compares.
#[async_trait]
pub trait Control: Debug + Send + Sync + 'static {
    /// Keeps the leases of a process and takes those that are free or have run out; keeps what it
    /// reports and answers; says what it is to do. Projections that nobody has seen yet are made
    /// known. A lease that changes hands raises the epoch of the progress in the same transaction.
    ///
    /// # Errors
    /// When the store is away.
    async fn beat(&self, beat: &Beat) -> Result<Vec<Seat>, StoreError>;

    /// Gives all leases of a process back.
    ///
    /// # Errors
    /// When the store is away.
    async fn leave(&self, owner: Uuid) -> Result<(), StoreError>;

    /// All projections that were ever started, by name.
    ///
    /// # Errors
    /// When the store is away.
    async fn list_projections(&self) -> Result<Vec<ProjectionRow>, StoreError>;

    /// Gives an order to whoever leads a projection. A pause and its end hold from now on, whether
    /// somebody leads it or not. Nothing when there is no such projection.
    ///
    /// # Errors
    /// When the store is away.
    async fn order(&self, projection: &str, kind: &OrderKind) -> Result<Option<i64>, StoreError>;

    /// What became of an order.
    ///
    /// # Errors
    /// When the store is away.
    async fn order_outcome(&self, id: i64) -> Result<OrderOutcome, StoreError>;

    /// Takes an order back. What has become of it by then is the answer: `Pending` means that nobody
    /// will do it any more, unless somebody is at it.
    ///
    /// # Errors
    /// When the store is away.
    async fn withdraw_order(&self, id: i64) -> Result<OrderOutcome, StoreError>;
}

#[async_trait]
impl<T: Control + ?Sized> Control for Arc<T> {
    async fn beat(&self, beat: &Beat) -> Result<Vec<Seat>, StoreError> {
        (**self).beat(beat).await
    }

    async fn leave(&self, owner: Uuid) -> Result<(), StoreError> {
        (**self).leave(owner).await
    }

    async fn list_projections(&self) -> Result<Vec<ProjectionRow>, StoreError> {
        (**self).list_projections().await
    }

    async fn order(&self, projection: &str, kind: &OrderKind) -> Result<Option<i64>, StoreError> {
        (**self).order(projection, kind).await
    }

    async fn order_outcome(&self, id: i64) -> Result<OrderOutcome, StoreError> {
        (**self).order_outcome(id).await
    }

    async fn withdraw_order(&self, id: i64) -> Result<OrderOutcome, StoreError> {
        (**self).withdraw_order(id).await
    }
}
