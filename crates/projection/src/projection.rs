//! What a user writes to turn the log into a read model.

use async_trait::async_trait;
use backstory_event::{BoxError, DecodeEvent, Envelope, EventFilter, RecordedEvent};

use crate::OnFailure;

/// What a projection answers. Any error can be passed on with `?`.
pub type Result<T = (), E = BoxError> = std::result::Result<T, E>;

/// Turns events into a read model.
///
/// `Cx` is what it writes with: `Documents`, or the SQL connection of a store.
/// Whatever it writes there commits together with its checkpoint: each event is seen exactly once.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a projection with the context `{Cx}`",
    label = "not a projection",
    note = "add `#[async_trait] impl Projection<Documents> for {Self}`"
)]
#[async_trait]
pub trait Projection<Cx: Send>: Send + Sync + 'static {
    /// The events that it wants. Others are passed over and never decoded.
    type Event: DecodeEvent;

    /// The name of its checkpoint in the store. It must never change, and no two projections of a
    /// store may share it.
    const NAME: &'static str;

    /// Which events it gets; all that [`Self::Event`] decodes by default.
    fn filter(&self) -> EventFilter {
        EventFilter::of::<Self::Event>()
    }

    /// Brings the read model up to date with events that follow each other in the log.
    ///
    /// # Errors
    /// Any: nothing of the batch is stored, and [`Self::on_failure`] says what becomes of the event
    /// that fails. Pass errors on as they are: one that holds an error of the store, because that
    /// is away, is no failure of an event.
    async fn project(&self, batch: &[Envelope<Self::Event>], cx: &mut Cx) -> Result;

    /// What becomes of an event that this projection fails on: it stops there by default.
    fn on_failure(&self) -> OnFailure {
        OnFailure::default()
    }

    /// What an event is about, as text of 1 to 600 bytes: the stream by default. No event is
    /// projected past another one of its key that is [parked](OnFailure::park), so events that
    /// depend on each other need the same key.
    /// It is asked only about events that fail, and while something is parked.
    fn key(&self, event: &RecordedEvent) -> String {
        event.stream().to_string()
    }

    /// The tables of its SQL read model, without a schema, so that a rebuild can build others beside
    /// them: [`RunningProjector::rebuild`](crate::RunningProjector::rebuild). Its statements must
    /// name them without a schema too. Documents need not be named.
    fn tables(&self) -> &'static [&'static str] {
        &[]
    }

    /// Gives the empty tables of a rebuild, which are copies of the live ones, the shape that this
    /// version of the projection wants. What is named without a schema is them. It may be called
    /// more than once.
    ///
    /// # Errors
    /// Any: the rebuild fails with it, and tries again.
    async fn prepare(&self, cx: &mut Cx) -> Result {
        let _ = cx;
        Ok(())
    }

    /// Empties the read model before it is built again. Documents are emptied without it.
    ///
    /// # Errors
    /// [`NotResettable`] by default.
    async fn reset(&self, cx: &mut Cx) -> Result {
        let _ = cx;
        Err(NotResettable {
            projection: Self::NAME,
        }
        .into())
    }
}

/// A projection with a SQL read model that does not say how to empty it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("projection `{projection}` cannot be reset: implement `Projection::reset` for it")]
pub struct NotResettable {
    /// The projection.
    pub projection: &'static str,
}
