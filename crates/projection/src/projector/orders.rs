//! What is done on somebody's order, by the process that leads the projection.

use backstory_event::{Checkpoint, EventStoreExt, Position, StoreError};

use super::{
    ReplayReport, RerunReport,
    board::Told,
    error::{ProjectorError, ProjectorErrorKind, SharedError, chain},
    start,
    task::Task,
    worker::BatchError,
};
use crate::{CommitError, LetterCount, OrderKind, Progress, Start, TurnKind};

/// How often something is tried that others disturb.
pub(super) const ATTEMPTS: usize = 100;
pub(super) const BUSY: &str = "other processes kept moving it: pause it there first";
const TAKEN_OVER: &str = "another process has just taken it over: try again";

/// A change of the whole read model.
#[derive(Debug, Clone, Copy)]
pub(super) enum Change {
    Reset,
    Rewind(Checkpoint),
    Turn(TurnKind),
}

/// Why nothing was changed.
pub(super) enum Unchanged {
    /// It cannot be, or what does it failed.
    Refused(String, Option<SharedError>),
    /// The store was away before.
    Store(StoreError),
}

impl From<String> for Unchanged {
    fn from(reason: String) -> Self {
        Self::Refused(reason, None)
    }
}

impl From<SharedError> for Unchanged {
    fn from(error: SharedError) -> Self {
        let reason = match error.downcast_ref() {
            Some(CommitError::Refused { reason, .. }) => reason.clone(),
            _ => chain(&*error),
        };
        Self::Refused(reason, Some(error))
    }
}

impl From<StoreError> for Unchanged {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl From<Unchanged> for String {
    fn from(unchanged: Unchanged) -> Self {
        match unchanged {
            Unchanged::Refused(reason, _) => reason,
            Unchanged::Store(error) => chain(&error),
        }
    }
}

impl Task {
    pub(super) async fn execute(&mut self, kind: OrderKind) -> Told {
        match kind {
            OrderKind::Pause => self.engine.paused(),
            OrderKind::Resume => {
                self.engine.resumed();
                self.resume_beside();
            }
            OrderKind::Trigger => {
                let head = self.log.head().await.map_err(|error| chain(&error))?;
                self.engine.triggered(head.position);
            }
            OrderKind::Reset => self.reset().await.map_err(|error| match error.kind() {
                ProjectorErrorKind::NotReset { reason, .. } => reason.clone(),
                _ => chain(&error),
            })?,
            OrderKind::Rewind(to) => {
                let to = self.go_back(to).await?;
                return Ok(Some(format!("back at position {}", to.position)));
            }
            OrderKind::Reload => {
                let (progress, left_out) = self.load().await.map_err(|error| chain(&error))?;
                if progress != self.progress {
                    let (stored, head) = (progress.checkpoint.position, self.source.head());
                    self.moved(progress, Some(left_out));
                    self.engine.moved(self.time.now(), stored, head);
                    self.find_start();
                }
            }
            OrderKind::Rebuild => {
                let progress = self.turn(TurnKind::Begin).await?;
                let live = progress.checkpoint.position;
                return Ok(Some(format!(
                    "what is read is at position {live}, and goes on"
                )));
            }
            OrderKind::AbortRebuild => drop(self.turn(TurnKind::Abort).await?),
            OrderKind::RollBack => {
                let progress = self.turn(TurnKind::RollBack).await?;
                let live = progress.checkpoint.position;
                return Ok(Some(format!("what is read goes on at position {live}")));
            }
            OrderKind::DropPrevious => drop(self.turn(TurnKind::DropPrevious).await?),
            OrderKind::Rerun(query) => {
                let report = self.rerun(*query).await.map_err(|error| chain(&error))?;
                let RerunReport {
                    events, left_out, ..
                } = report;
                let end = if report.complete { "" } else { ", ended early" };
                return Ok(Some(format!(
                    "{events} given again, {left_out} left out{end}"
                )));
            }
            OrderKind::Replay(letters) => {
                let report = self.replay(letters).await.map_err(|error| chain(&error))?;
                return Ok(Some(told(&report)));
            }
            OrderKind::Discard(letters) => {
                let gone = self.discard(letters).await.map_err(|error| chain(&error))?;
                return Ok(Some(format!("{gone} discarded")));
            }
        }
        Ok(None)
    }

    pub(super) async fn reset(&mut self) -> Result<(), ProjectorError> {
        let head = self.log.head().await?;
        match self.change(Change::Reset).await {
            Ok((_, progress)) => {
                self.moved(progress, Some(LetterCount::default()));
                let now = self.time.now();
                self.engine.moved(now, Position::START, head.position);
                self.now = Some(head);
                self.find_start();
                Ok(())
            }
            Err(Unchanged::Store(error)) => Err(error.into()),
            Err(Unchanged::Refused(reason, source)) => {
                let projection = self.worker.name().to_owned();
                let kind = ProjectorErrorKind::NotReset { projection, reason };
                Err(ProjectorError::with_source(kind, source))
            }
        }
    }

    /// Goes back in the log, and says where it is then.
    async fn go_back(&mut self, to: Start) -> Result<Checkpoint, Unchanged> {
        let head = self.log.head().await?;
        let to = start::find(&*self.log, to, Some(head)).await?;
        let (_, progress) = self.change(Change::Rewind(to)).await?;
        self.moved(progress, None);
        let now = self.time.now();
        self.engine.moved(now, to.position, head.position);
        // When the store is away it is asked again with the next batch.
        let _ = self.know_letters().await;
        Ok(to)
    }

    /// Changes the progress where the store has it, again when others have moved it meanwhile. Answers
    /// with the progress before and after.
    pub(super) async fn change(
        &mut self,
        change: Change,
    ) -> Result<(Progress, Progress), Unchanged> {
        if self.engine.is_standby() {
            return Err(TAKEN_OVER.to_owned().into());
        }
        for _ in 0..ATTEMPTS {
            let before = self.checkpoints.load_progress(self.worker.name()).await?;
            let changed = match change {
                Change::Reset => self.worker.reset(&before).await,
                Change::Turn(kind) => self.worker.turn(&before, kind).await,
                Change::Rewind(to) => {
                    self.check_back(&before, to.position)?;
                    self.worker.rewind(&before, to).await
                }
            };
            match changed {
                Ok(after) => return Ok((before, after)),
                Err(BatchError::Fenced) => {}
                Err(BatchError::Failed(error) | BatchError::Guilty { error, .. }) => {
                    return Err(error.into());
                }
            }
        }
        Err(BUSY.to_owned().into())
    }

    /// Refuses a place that it has not reached.
    fn check_back(&self, progress: &Progress, to: Position) -> Result<(), Unchanged> {
        // The checkpoint is not written for each event that it does not want.
        let come = match *progress == self.progress {
            true => self.engine.reached().max(progress.checkpoint.position),
            false => progress.checkpoint.position,
        };
        match to > come {
            true => Err(format!(
                "it has come to position {come}, and can only go back: {to} is ahead"
            )
            .into()),
            false => Ok(()),
        }
    }

    /// The progress was changed here, by something else than a batch.
    pub(super) fn moved(&mut self, progress: Progress, left_out: Option<LetterCount>) {
        self.rewind(progress, left_out);
        self.error = None;
        self.blamed = None;
    }
}

fn told(report: &ReplayReport) -> String {
    let counts = [
        (report.replayed, "replayed"),
        (report.failed, "failed again"),
        (report.erased, "erased"),
        (report.waiting, "waiting for earlier ones"),
    ];
    let counts = counts.iter().filter(|(count, _)| *count > 0);
    let mut parts: Vec<_> = counts
        .map(|(count, what)| format!("{count} {what}"))
        .collect();
    if parts.is_empty() {
        parts.push("no letters to replay".to_owned());
    }
    if !report.complete {
        parts.push("ended early".to_owned());
    }
    parts.join(", ")
}
