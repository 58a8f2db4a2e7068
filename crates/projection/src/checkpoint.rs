//! How far each projection has come, as its store keeps it.

use std::{fmt::Debug, sync::Arc};

use async_trait::async_trait;
use backstory_event::{Checkpoint, StoreError};

use crate::LetterWrite;

/// How far a projection has come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Progress {
    /// The projection's name.
    pub projection: String,
    /// Up to where its read model contains the log.
    pub checkpoint: Checkpoint,
    /// How often something else than a batch changed the read model: a reset, a rewind, replayed or
    /// discarded letters. A batch that began before can no longer commit.
    pub epoch: i64,
}

impl Progress {
    /// The progress of a projection that has never run.
    pub fn start(projection: impl Into<String>) -> Self {
        Self {
            projection: projection.into(),
            checkpoint: Checkpoint::START,
            epoch: 0,
        }
    }
}

/// Where a batch takes a projection. It holds only if the projection still is at `from`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// Where the batch began: name, checkpoint and epoch must still be the stored ones.
    pub from: Progress,
    /// What is stored instead.
    pub to: Target,
    /// What becomes of the projection's dead letters, in the same transaction.
    pub letters: Vec<LetterWrite>,
}

/// The end of a [`Step`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// The read model now contains the log up to here.
    Advance(Checkpoint),
    /// The read model changed behind the checkpoint, which stays: epoch one higher.
    Amend,
    /// The read model stays, but what is behind here is projected once more; the letters of what is
    /// behind are gone. Epoch one higher.
    Rewind(Checkpoint),
    /// The read model is empty again, and no letter is left: checkpoint at the start, epoch one
    /// higher.
    Reset,
}

impl Step {
    /// A step that changes no letters, other than that a reset removes all.
    pub fn new(from: Progress, to: Target) -> Self {
        Self {
            from,
            to,
            letters: Vec::new(),
        }
    }

    /// With these changes of the projection's letters.
    #[must_use]
    pub fn with_letters(mut self, letters: Vec<LetterWrite>) -> Self {
        self.letters = letters;
        self
    }

    /// The progress after the step.
    pub fn result(&self) -> Progress {
        let (checkpoint, epoch) = match self.to {
            Target::Advance(checkpoint) => (checkpoint, self.from.epoch),
            Target::Rewind(checkpoint) => (checkpoint, self.from.epoch + 1),
            Target::Amend => (self.from.checkpoint, self.from.epoch + 1),
            Target::Reset => (Checkpoint::START, self.from.epoch + 1),
        };
        Progress {
            projection: self.from.projection.clone(),
            checkpoint,
            epoch,
        }
    }
}

/// Why a batch was not committed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CommitError {
    /// Somebody else has moved or reset the projection since the batch began. Nothing was stored.
    #[error("projection `{projection}` was moved by another process since the batch began")]
    Fenced {
        /// The projection.
        projection: String,
    },
    /// It cannot be done. Nothing was changed.
    #[error("projection `{projection}`: {reason}")]
    Refused {
        /// The projection.
        projection: String,
        /// Why not.
        reason: String,
    },
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Reads the progress of projections. It is written only together with a read model.
#[async_trait]
pub trait Checkpoints: Debug + Send + Sync + 'static {
    /// The progress of a projection; [`Progress::start`] when it has never run.
    ///
    /// # Errors
    /// When the store is away.
    async fn load_progress(&self, projection: &str) -> Result<Progress, StoreError>;

    /// The progress of all projections that have ever run, by name.
    ///
    /// # Errors
    /// When the store is away.
    async fn list_progress(&self) -> Result<Vec<Progress>, StoreError>;
}

#[async_trait]
impl<T: Checkpoints + ?Sized> Checkpoints for Arc<T> {
    async fn load_progress(&self, projection: &str) -> Result<Progress, StoreError> {
        (**self).load_progress(projection).await
    }

    async fn list_progress(&self) -> Result<Vec<Progress>, StoreError> {
        (**self).list_progress().await
    }
}
