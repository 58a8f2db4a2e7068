//! Which stores can run which projections.

use std::error::Error;

use async_trait::async_trait;
use backstory_event::StoreError;

use crate::{
    CommitError, LetterWrite, Progress, Target, Turn,
    inline::{Enlisted, InlineProjection, unsupported},
};

/// A store that can run projections with the context `Cx`: `Documents`, or its
/// own SQL connection. Read model and checkpoint commit together.
#[diagnostic::on_unimplemented(
    message = "this store cannot run a projection with the context `{Cx}`",
    label = "no `Host<{Cx}>`",
    note = "every store runs `Projection<Documents>`; `PostgresStore` also runs `Projection<PgConnection>`, `SqliteStore` `Projection<SqliteConnection>`"
)]
#[async_trait]
pub trait Host<Cx: Send>: Send + Sync + 'static {
    /// Begins a batch of a projection that stands at `from`.
    ///
    /// # Errors
    /// When the store is away.
    async fn begin(&self, from: Progress) -> Result<Box<dyn Unit<Cx>>, StoreError>;

    /// Changes which read model is the live one, with its progress and its letters, in one
    /// transaction. Says the progress of the live one afterwards.
    ///
    /// # Errors
    /// `Fenced` when the projection is not at `turn.from` any more, `Refused` when it cannot be:
    /// always, for a store that keeps only one read model with this context, as this does if it is
    /// not implemented.
    async fn turn(&self, turn: &Turn) -> Result<Progress, CommitError> {
        Err(CommitError::Refused {
            projection: turn.from.projection.clone(),
            reason: "this store cannot build a read model of this kind beside the live one: reset \
                     the projection"
                .to_owned(),
        })
    }

    /// Runs a projection inside the appends of this store's handles, until the answer is dropped.
    ///
    /// # Errors
    /// `Config` when the store cannot, as by default.
    fn enlist(&self, projection: InlineProjection<Cx>) -> Result<Enlisted, StoreError> {
        Err(unsupported(projection.terms().name()).into())
    }
}

/// One batch of a projection: dropped without [`Unit::commit`] it leaves nothing behind.
#[async_trait]
pub trait Unit<Cx: Send>: Send {
    /// What the projection works with.
    fn context(&mut self) -> &mut Cx;

    /// True when the store itself can empty the read model at a reset: documents.
    fn resets_itself(&self) -> bool {
        false
    }

    /// True when an error of the projection's code means that the store is away or busy, so that no
    /// event is to blame. Errors that are or hold a [`StoreError`] are judged without it.
    fn is_outage(&self, error: &(dyn Error + 'static)) -> bool {
        let _ = error;
        false
    }

    /// Stores the read model, the projection's new checkpoint and these changes of its letters, all
    /// or none.
    ///
    /// # Errors
    /// `Fenced` when the projection was moved by somebody else since the batch began.
    async fn commit(
        self: Box<Self>,
        to: Target,
        letters: Vec<LetterWrite>,
    ) -> Result<(), CommitError>;
}
