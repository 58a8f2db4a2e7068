//! Which stores can run which projections.

use async_trait::async_trait;
use backstory_event::StoreError;

use crate::{CommitError, Progress, Target};

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

    /// Stores the read model and the projection's new checkpoint, both or none.
    ///
    /// # Errors
    /// `Fenced` when the projection was moved by somebody else since the batch began.
    async fn commit(self: Box<Self>, to: Target) -> Result<(), CommitError>;
}
