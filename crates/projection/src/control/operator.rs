//! Asking something of projections, wherever they run.

use std::{sync::Arc, time::Duration};

use backstory_event::StoreError;
use tokio::time::{Instant, sleep};

use super::{Control, OrderKind, OrderOutcome, ProjectionRow, RowState};
use crate::projector::Pulse;

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
/// let process = operator.reset("open_todos").await?;
/// println!("{process} builds it again");
/// # Ok(()) }
/// ```
#[derive(Debug, Clone)]
pub struct Operator {
    control: Arc<dyn Control>,
    patience: Duration,
    // Of the projector that asks.
    pulse: Option<Arc<Pulse>>,
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
    pub async fn pause(&self, projection: &str) -> Result<Option<String>, OperatorError> {
        self.held(projection, OrderKind::Pause).await
    }

    /// Lets a projection go on: one that is paused, has stopped, or waits after a failure. Answers
    /// with the process that does; nothing when none runs it now.
    ///
    /// # Errors
    /// [`OperatorError`] says why not.
    pub async fn resume(&self, projection: &str) -> Result<Option<String>, OperatorError> {
        self.held(projection, OrderKind::Resume).await
    }

    /// Lets a projection run now, whatever its schedule says. Answers with the process that does,
    /// before it has run.
    ///
    /// # Errors
    /// [`OperatorError`] says why not.
    pub async fn trigger(&self, projection: &str) -> Result<String, OperatorError> {
        self.ask(projection, OrderKind::Trigger).await
    }

    /// Empties a projection's read model and builds it again from the start of the log. Answers
    /// with the process that does, when it is empty.
    ///
    /// # Errors
    /// [`OperatorError`] says why not.
    pub async fn reset(&self, projection: &str) -> Result<String, OperatorError> {
        self.ask(projection, OrderKind::Reset).await
    }

    /// What holds whether somebody leads the projection or not.
    async fn held(
        &self,
        projection: &str,
        kind: OrderKind,
    ) -> Result<Option<String>, OperatorError> {
        let answer = self.ask(projection, kind).await;
        match answer {
            Err(OperatorError::Unanswered { .. }) => {
                let rows = self.list().await?;
                let row = rows.iter().find(|row| row.projection == projection);
                match row {
                    Some(row) if row.state == RowState::Idle => Ok(None),
                    _ => answer.map(Some),
                }
            }
            answer => answer.map(Some),
        }
    }

    pub(crate) async fn ask(
        &self,
        projection: &str,
        kind: OrderKind,
    ) -> Result<String, OperatorError> {
        let Some(id) = self.control.order(projection, kind).await? else {
            let known = self.list().await?;
            return Err(OperatorError::Unknown {
                projection: projection.to_owned(),
                known: known.into_iter().map(|row| row.projection).collect(),
            });
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
                OrderOutcome::Done { process } => return Ok(process),
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
