//! Asking something of projections, wherever they run.

use std::{sync::Arc, time::Duration};

use backstory_event::{EventQuery, StoreError};
use futures::future::{join_all, try_join_all};
use tokio::time::{Instant, sleep};

use super::{Control, OrderKind, OrderOutcome, ProjectionRow, RowState};
use crate::{Letters, Part, Start, owner, projector::Pulse};

const FIRST_LOOK: Duration = Duration::from_millis(10);
const LONGEST_LOOK: Duration = Duration::from_millis(250);

/// Lists projections and tells them what to do, from any process that can reach the store: a
/// command line, a console, an administrator's script.
///
/// ```no_run
/// # use backstory_projection::{Control, Operator};
/// # async fn run(store: impl Control + Clone) -> Result<(), Box<dyn std::error::Error>> {
/// let operator = Operator::new(&store);
/// for row in operator.list().await? {
///     println!("{} {} lag {}", row.projection, row.state.as_str(), row.lag());
/// }
/// let done = operator.reset("open_todos").await?;
/// println!("{} builds it again", done.process);
/// # Ok(()) }
/// ```
#[derive(Debug, Clone)]
pub struct Operator {
    control: Arc<dyn Control>,
    patience: Duration,
    // Of the projector that asks.
    pulse: Option<Arc<Pulse>>,
}

/// Who did what was wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Done {
    /// What people call the process that did it.
    pub process: String,
    /// What came of it, if there is something to say.
    pub note: Option<String>,
}

/// Why an operator's wish was not fulfilled.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OperatorError {
    /// No process has ever started this projection on this store.
    #[error("there is no projection `{projection}`; there are: {}", known.join(", "))]
    Unknown {
        /// The name.
        projection: String,
        /// The names that there are.
        known: Vec<String>,
    },
    /// No process runs the projection now, or the one that does is busy with a batch. The order
    /// was taken back.
    #[error(
        "nobody answered for projection `{projection}` within {patience:?}: start a process that \
         runs it, or look at what it is doing now"
    )]
    Unanswered {
        /// The projection.
        projection: String,
        /// How long was waited.
        patience: Duration,
    },
    /// The process that runs it could not do it.
    #[error("projection `{projection}`: {reason}")]
    Failed {
        /// The projection.
        projection: String,
        /// Why.
        reason: String,
    },
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Operator {
    /// An operator of the projections of a store.
    pub fn new<S: Control + Clone>(store: &S) -> Self {
        Self::over(Arc::new(store.clone()), None)
    }

    pub(crate) fn over(control: Arc<dyn Control>, pulse: Option<Arc<Pulse>>) -> Self {
        Self {
            control,
            pulse,
            patience: Duration::from_secs(10),
        }
    }

    /// With so much time for an answer; 10 seconds by default.
    #[must_use]
    pub fn with_patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    /// All projections that were ever started, by name.
    ///
    /// # Errors
    /// When the store is away.
    pub async fn list(&self) -> Result<Vec<ProjectionRow>, StoreError> {
        self.control.list_projections().await
    }

    /// Pauses a projection, after the batch that it may be at. It stays paused, also when other
    /// processes start, until it is resumed. Answers with the process that paused it; nothing when
    /// none runs it.
    ///
    /// # Errors
    /// [`OperatorError`] says why not.
    pub async fn pause(&self, projection: &str) -> Result<Option<Done>, OperatorError> {
        self.held(projection, &OrderKind::Pause).await
    }

    /// Lets a projection go on: one that is paused, has stopped, or waits after a failure. Answers
    /// with the process that does; nothing when none runs it now.
    ///
    /// # Errors
    /// [`OperatorError`] says why not.
    pub async fn resume(&self, projection: &str) -> Result<Option<Done>, OperatorError> {
        self.held(projection, &OrderKind::Resume).await
    }

    /// Lets a projection run now, whatever its schedule says. Answers with the process that does,
    /// before it has run.
    ///
    /// # Errors
    /// [`OperatorError`] says why not.
    pub async fn trigger(&self, projection: &str) -> Result<Done, OperatorError> {
        self.ask(projection, &OrderKind::Trigger).await
    }

    /// Empties a projection's read model and builds it again from the start of the log. Answers
    /// with the process that does, when it is empty.
    ///
    /// # Errors
    /// [`OperatorError`] says why not.
    pub async fn reset(&self, projection: &str) -> Result<Done, OperatorError> {
        self.ask(projection, &OrderKind::Reset).await
    }

    /// Lets a projection go back to an earlier place of the log, and project again what is behind
    /// it, without emptying the read model: it must bear to see events twice. Letters of events
    /// behind that place are dropped. Answers with the place.
    ///
    /// # Errors
    /// [`OperatorError`] says why not: for instance a place that the projection has not reached.
    pub async fn rewind(&self, projection: &str, to: Start) -> Result<Done, OperatorError> {
        self.ask(projection, &OrderKind::Rewind(to)).await
    }

    /// Builds a new read model beside the live one, from the start of the log, with the code that the
    /// leading process has now. Meanwhile the live one is read and goes on. As soon as the new one
    /// has caught up it takes its place, in one transaction; the old one is kept until the next
    /// rebuild, or until it is [dropped](Self::drop_previous). Answers when the rebuild has begun:
    /// [`Self::rebuilt`] waits for its end.
    ///
    /// # Errors
    /// [`OperatorError`] says why not: for instance that it is being rebuilt already, or is a SQL
    /// projection that does not name its [tables](crate::Projection::tables).
    pub async fn rebuild(&self, projection: &str) -> Result<Done, OperatorError> {
        self.ask(projection, &OrderKind::Rebuild).await
    }

    /// Gives a rebuild up: what was built until now is dropped, the live read model stays.
    ///
    /// # Errors
    /// [`OperatorError`] says why not.
    pub async fn abort_rebuild(&self, projection: &str) -> Result<Done, OperatorError> {
        self.ask(projection, &OrderKind::AbortRebuild).await
    }

    /// Takes the read model back that was the live one before the last rebuild; what is the live one
    /// now is kept in its place. It goes on from where it was left.
    ///
    /// # Errors
    /// [`OperatorError`] says why not.
    pub async fn roll_back(&self, projection: &str) -> Result<Done, OperatorError> {
        self.ask(projection, &OrderKind::RollBack).await
    }

    /// Drops the read model that was the live one before the last rebuild.
    ///
    /// # Errors
    /// [`OperatorError`] says why not.
    pub async fn drop_previous(&self, projection: &str) -> Result<Done, OperatorError> {
        self.ask(projection, &OrderKind::DropPrevious).await
    }

    /// Waits until a rebuild has ended, and calls `seen` with the projection's row again and again
    /// until then, the last time when it has.
    ///
    /// # Errors
    /// When it was aborted, does nothing any more after an error, no process works at it for longer
    /// than the operator's patience, or the store is away.
    pub async fn rebuilt(
        &self,
        projection: &str,
        mut seen: impl FnMut(&ProjectionRow),
    ) -> Result<(), OperatorError> {
        let failed = |reason: String| OperatorError::Failed {
            projection: projection.to_owned(),
            reason,
        };
        let mut alone = Instant::now() + self.patience;
        loop {
            let rows = self.list().await?;
            let first = |row: &&ProjectionRow| {
                let (owner, part) = Part::split(&row.projection);
                owner == projection && part.index == 0
            };
            let found = rows.iter().find(first);
            let Some(row) = found else {
                return Err(unknown(projection, &rows));
            };
            seen(row);
            match &row.rebuild {
                None if row.previous.is_some() => return Ok(()),
                None => return Err(failed("its rebuild was aborted".to_owned())),
                Some(rebuild) if rebuild.state == RowState::Stopped => {
                    let reason = rebuild.reason.clone().unwrap_or_default();
                    return Err(failed(format!("its rebuild stopped: {reason}")));
                }
                Some(rebuild) if rebuild.state != RowState::Idle => {
                    alone = Instant::now() + self.patience;
                }
                Some(_) if Instant::now() >= alone => {
                    return Err(failed("no process goes on with its rebuild".to_owned()));
                }
                Some(_) => {}
            }
            sleep(LONGEST_LOOK).await;
        }
    }

    /// Projects events that the projection left out; see [`RunningProjector::replay`]. Answers with
    /// what became of them.
    ///
    /// # Errors
    /// [`OperatorError`] says why not.
    ///
    /// [`RunningProjector::replay`]: crate::RunningProjector::replay
    pub async fn replay(
        &self,
        projection: &str,
        letters: impl Into<Letters>,
    ) -> Result<Done, OperatorError> {
        let order = OrderKind::Replay(letters.into());
        self.ask(projection, &order).await
    }

    /// Runs a job again on what it has passed; see [`RunningProjector::rerun`]. Answers with how many
    /// events that were. It works as long as the operator is patient, and then goes on.
    ///
    /// # Errors
    /// [`OperatorError`] says why not: for instance that it is no job.
    ///
    /// [`RunningProjector::rerun`]: crate::RunningProjector::rerun
    pub async fn rerun(&self, job: &str, query: EventQuery) -> Result<Done, OperatorError> {
        self.ask(job, &OrderKind::Rerun(Box::new(query))).await
    }

    /// Forgets events that the projection left out. Answers with how many.
    ///
    /// # Errors
    /// [`OperatorError`] says why not.
    pub async fn discard(
        &self,
        projection: &str,
        letters: impl Into<Letters>,
    ) -> Result<Done, OperatorError> {
        let order = OrderKind::Discard(letters.into());
        self.ask(projection, &order).await
    }

    /// Gives any order. A pause and its end hold also when nobody answers: then the answer is
    /// nothing.
    ///
    /// # Errors
    /// [`OperatorError`] says why not.
    pub async fn tell(
        &self,
        projection: &str,
        order: &OrderKind,
    ) -> Result<Option<Done>, OperatorError> {
        match order {
            OrderKind::Pause | OrderKind::Resume => self.held(projection, order).await,
            _ => self.ask(projection, order).await.map(Some),
        }
    }

    /// What holds whether somebody leads the projection or not.
    async fn held(
        &self,
        projection: &str,
        kind: &OrderKind,
    ) -> Result<Option<Done>, OperatorError> {
        let answer = self.ask(projection, kind).await;
        match answer {
            Err(OperatorError::Unanswered { .. }) => {
                let rows = self.list().await?;
                let mut rows = rows
                    .iter()
                    .filter(|row| owner(&row.projection) == projection);
                match rows.all(|row| row.state == RowState::Idle) {
                    true => Ok(None),
                    false => answer.map(Some),
                }
            }
            answer => answer.map(Some),
        }
    }

    pub(crate) async fn ask(
        &self,
        projection: &str,
        kind: &OrderKind,
    ) -> Result<Done, OperatorError> {
        let Some(id) = self.control.order(projection, kind).await? else {
            return self.ask_parts(projection, kind).await;
        };
        let deadline = Instant::now() + self.patience;
        if let Some(pulse) = &self.pulse {
            pulse.now.notify_one();
        }
        let mut pause = FIRST_LOOK;
        let mut last = false;
        loop {
            let outcome = match last {
                true => self.control.withdraw_order(id).await?,
                false => self.control.order_outcome(id).await?,
            };
            match outcome {
                OrderOutcome::Done { process, note } => return Ok(Done { process, note }),
                OrderOutcome::Failed { reason } => {
                    return Err(OperatorError::Failed {
                        projection: projection.to_owned(),
                        reason,
                    });
                }
                OrderOutcome::Pending | OrderOutcome::Gone if last => {
                    return Err(OperatorError::Unanswered {
                        projection: projection.to_owned(),
                        patience: self.patience,
                    });
                }
                OrderOutcome::Pending | OrderOutcome::Gone => {}
            }
            let rest = deadline.saturating_duration_since(Instant::now());
            sleep(pause.min(rest)).await;
            pause = (pause * 2).min(LONGEST_LOOK);
            last = rest.is_zero() || !self.is_led(projection, rest).await?;
        }
    }

    /// A projection in parts: asks the first one for what concerns all of them at once, and else each.
    async fn ask_parts(&self, projection: &str, kind: &OrderKind) -> Result<Done, OperatorError> {
        let rows = self.list().await?;
        let parts = rows.iter().filter(|row| {
            let (owner, part) = Part::split(&row.projection);
            owner == projection && part != Part::WHOLE
        });
        let mut parts: Vec<_> = parts.map(|row| row.projection.as_str()).collect();
        parts.sort_by_key(|name| Part::split(name).1);
        let Some((first, others)) = parts.split_first() else {
            return Err(unknown(projection, &rows));
        };
        if kind.is_for_all() {
            let done = Box::pin(self.ask(first, kind)).await?;
            // Until they know, they take the read model to be where it was. Whoever does not answer
            // looks when it begins.
            let told = others.iter().map(|part| self.ask(part, &OrderKind::Reload));
            join_all(told.map(Box::pin)).await;
            return Ok(done);
        }
        let asked = parts.iter().map(|part| Box::pin(self.ask(part, kind)));
        let done = try_join_all(asked).await?;
        let mut processes: Vec<_> = done.iter().map(|done| done.process.clone()).collect();
        processes.sort();
        processes.dedup();
        let notes: Vec<_> = done.into_iter().filter_map(|done| done.note).collect();
        Ok(Done {
            process: processes.join(", "),
            note: sum(&notes),
        })
    }

    /// False when nobody leads it and nobody will soon: no use in waiting.
    async fn is_led(&self, projection: &str, rest: Duration) -> Result<bool, StoreError> {
        // In the first moments a process may just be starting, or taking over.
        if self.patience.saturating_sub(rest) < Duration::from_secs(2).min(self.patience / 2) {
            return Ok(true);
        }
        let rows = self.list().await?;
        let row = rows.iter().find(|row| row.projection == projection);
        Ok(row.is_some_and(|row| row.state != RowState::Idle))
    }
}

/// What several parts say: `2 replayed` and `3 replayed` are `5 replayed`.
fn sum(notes: &[String]) -> Option<String> {
    let mut counts: Vec<(&str, u64)> = Vec::new();
    for part in notes.iter().flat_map(|note| note.split(", ")) {
        let Some((number, what)) = part.split_once(' ') else {
            continue;
        };
        let Ok(number) = number.parse::<u64>() else {
            continue;
        };
        match counts.iter_mut().find(|(known, _)| *known == what) {
            Some((_, count)) => *count += number,
            None => counts.push((what, number)),
        }
    }
    let counts: Vec<_> = counts
        .iter()
        .map(|(what, count)| format!("{count} {what}"))
        .collect();
    match counts.is_empty() {
        true => notes.first().cloned(),
        false => Some(counts.join(", ")),
    }
}

fn unknown(projection: &str, known: &[ProjectionRow]) -> OperatorError {
    let mut known: Vec<_> = known
        .iter()
        .map(|row| owner(&row.projection).to_owned())
        .collect();
    known.dedup();
    OperatorError::Unknown {
        projection: projection.to_owned(),
        known,
    }
}
