//! What is done on somebody's order, by the process that leads the projection.

use backstory_event::{Checkpoint, EventStoreExt, Position};

use super::{
    ReplayReport, RerunReport,
    board::Told,
    error::{ProjectorError, ProjectorErrorKind, chain},
    start,
    task::Task,
    worker::BatchError,
};
use crate::{LetterCount, OrderKind, Progress, Start, TurnKind};

/// How often something is tried that others disturb.
pub(super) const ATTEMPTS: usize = 100;
pub(super) const BUSY: &str = "other processes kept moving it: pause it there first";
pub(super) const TAKEN_OVER: &str = "another process has just taken it over: try again";

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
        let name = self.worker.name().to_owned();
        let not_reset = |reason: String, source| {
            let projection = name.clone();
            ProjectorError::with_source(ProjectorErrorKind::NotReset { projection, reason }, source)
        };
        if self.engine.is_standby() {
            return Err(not_reset(TAKEN_OVER.to_owned(), None));
        }
        let head = self.log.head().await?;
        for _ in 0..ATTEMPTS {
            let progress = self.checkpoints.load_progress(&name).await?;
            match self.worker.reset(&progress).await {
                Ok(progress) => {
                    self.moved(progress, Some(LetterCount::default()));
                    let now = self.time.now();
                    self.engine.moved(now, Position::START, head.position);
                    self.now = Some(head);
                    self.find_start();
                    return Ok(());
                }
                Err(BatchError::Fenced) => {}
                Err(BatchError::Failed(error) | BatchError::Guilty { error, .. }) => {
                    return Err(not_reset(chain(&*error), Some(error)));
                }
            }
        }
        Err(not_reset(BUSY.to_owned(), None))
    }

    /// Goes back in the log, and says where it is then.
    async fn go_back(&mut self, to: Start) -> Result<Checkpoint, String> {
        if self.engine.is_standby() {
            return Err(TAKEN_OVER.to_owned());
        }
        let log = &*self.log;
        let found = async {
            let head = log.head().await?;
            let to = start::find(log, to, Some(head)).await?;
            Ok::<_, backstory_event::StoreError>((to, head))
        };
        let (to, head) = found.await.map_err(|error| chain(&error))?;
        for _ in 0..ATTEMPTS {
            let name = self.worker.name();
            let progress = self.checkpoints.load_progress(name).await;
            let progress = progress.map_err(|error| chain(&error))?;
            // The checkpoint is not written for each event that it does not want.
            let come = match progress == self.progress {
                true => self.engine.reached().max(progress.checkpoint.position),
                false => progress.checkpoint.position,
            };
            if to.position > come {
                return Err(format!(
                    "it has come to position {come}, and can only go back: {} is ahead",
                    to.position
                ));
            }
            match self.worker.rewind(&progress, to).await {
                Ok(progress) => {
                    self.moved(progress, None);
                    let now = self.time.now();
                    self.engine.moved(now, to.position, head.position);
                    // When the store is away it is asked again with the next batch.
                    let _ = self.know_letters().await;
                    return Ok(to);
                }
                Err(BatchError::Fenced) => {}
                Err(BatchError::Failed(error) | BatchError::Guilty { error, .. }) => {
                    return Err(chain(&*error));
                }
            }
        }
        Err(BUSY.to_owned())
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
