//! Where reactors begin: a place that is stored before anybody relies on it, and never moves.
//!
//! It is a progress of its own, beside that of the reactor: a log that was empty leaves no other
//! trace of a start, and who comes later must not take what came meanwhile for old.

use backstory_event::{Checkpoint, EventStoreExt as _, Position};

use super::{
    error::{ProjectorError, ProjectorErrorKind, chain},
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
            Err(BatchError::Failed(error) | BatchError::Guilty { error, .. }) => {
                let reason = chain(&*error);
                let kind = ProjectorErrorKind::Store { reason };
                Err(ProjectorError::with_source(kind, Some(error)))
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
        let name = format!("{}~{mark}", self.worker.name());
        let stored = self.checkpoints.load_progress(&name).await?;
        if stored.checkpoint.position > Position::START || stored.epoch > 0 {
            return Ok(stored.checkpoint);
        }
        self.worker.mark(&stored, at).await?;
        Ok(at)
    }
}
