//! Where reactors begin, and where the history of a schedule with a start-up filter ends: places
//! that are stored before anybody relies on them, and never move.
//!
//! Each is a progress of its own, beside that of the projection: a log that was empty leaves no
//! other trace of a start, and who comes later must not take what came meanwhile for old.

use backstory_event::{Checkpoint, EventStoreExt as _, Position};

use super::{
    error::{ProjectorError, ProjectorErrorKind, SharedError, chain},
    task::Task,
    worker::{BatchError, Nature},
};
use crate::Start;

impl Task {
    /// Stores where a reactor begins, before its projector has started, also one that stands by:
    /// from then on nothing is missed.
    pub(crate) async fn begin_reacting(&mut self) -> Result<(), ProjectorError> {
        let begun = self.progress.checkpoint.position > Position::START;
        if self.worker.nature() != Nature::Reactor || begun {
            return Ok(());
        }
        let begun = match self.marked_now().await {
            Ok(_) if !self.engine.is_standby() => self.begin().await.map(drop),
            marked => marked.map(drop),
        };
        match begun {
            // Its task finds out what others have done.
            Ok(()) | Err(BatchError::Fenced) => Ok(()),
            Err(BatchError::Failed(error) | BatchError::Guilty { error, .. }) => Err(failed(error)),
        }
    }

    /// Where the history ends for a start-up filter: at `now`, if nobody has stored that before.
    pub(crate) async fn end_of_history(
        &mut self,
        now: Checkpoint,
    ) -> Result<Checkpoint, ProjectorError> {
        loop {
            match self.mark("startup", now).await {
                Ok(end) => return Ok(end),
                // Another process was first.
                Err(BatchError::Fenced) => {}
                Err(BatchError::Failed(error) | BatchError::Guilty { error, .. }) => {
                    return Err(failed(error));
                }
            }
        }
    }

    /// Where [`Start::Now`] is.
    pub(super) async fn marked_now(&mut self) -> Result<Option<Checkpoint>, BatchError> {
        match self.worker.nature() {
            Nature::Reactor if self.start == Start::Now => {
                let now = match self.now {
                    Some(now) => now,
                    None => self.log.head().await?,
                };
                self.mark("start", now).await.map(Some)
            }
            _ => Ok(self.now),
        }
    }

    /// The place of this name, which is `at` if there was none.
    async fn mark(&mut self, mark: &str, at: Checkpoint) -> Result<Checkpoint, BatchError> {
        // One for all parts.
        let name = format!("{}~{mark}", self.worker.owner());
        let stored = self.checkpoints.load_progress(&name).await?;
        if stored.checkpoint.position > Position::START || stored.epoch > 0 {
            return Ok(stored.checkpoint);
        }
        self.worker.mark(&stored, at).await?;
        Ok(at)
    }
}

fn failed(error: SharedError) -> ProjectorError {
    let reason = chain(&*error);
    ProjectorError::with_source(ProjectorErrorKind::Store { reason }, Some(error))
}
