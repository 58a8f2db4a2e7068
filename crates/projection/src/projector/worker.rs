//! One projection without its types: what the projector's task calls.

use std::{any::Any, marker::PhantomData, panic::AssertUnwindSafe, sync::Arc};

use async_trait::async_trait;
use backstory_event::{BoxError, Checkpoint, Decoded, EventFilter, RecordedEvent};
use futures::FutureExt as _;

use super::error::{Panicked, SharedError};
use crate::{CommitError, Host, NotResettable, Progress, Projection, Step, Target};

/// Why a batch was not stored.
#[derive(Debug)]
pub(crate) enum BatchError {
    /// Another process moved the projection meanwhile.
    Fenced,
    /// Anything else.
    Failed(SharedError),
}

impl<E: Into<BoxError>> From<E> for BatchError {
    fn from(error: E) -> Self {
        Self::Failed(Arc::from(error.into()))
    }
}

/// What became of a batch.
#[derive(Debug)]
pub(crate) struct Done {
    /// The progress that is stored now.
    pub(crate) progress: Progress,
    /// How many stored events of the buffer are in the read model now.
    pub(crate) taken: usize,
    /// How many of them the projection was given.
    pub(crate) projected: usize,
}

/// A projection and its host.
#[async_trait]
pub(crate) trait Worker: Send + Sync {
    fn name(&self) -> &'static str;

    fn filter(&self) -> EventFilter;

    /// Projects these events and stores the checkpoint `to`, or the one before the first event
    /// that does not decode.
    async fn run(
        &self,
        from: &Progress,
        events: &[RecordedEvent],
        to: Checkpoint,
    ) -> Result<Done, BatchError>;

    /// Empties the read model and puts the checkpoint at the start.
    async fn reset(&self, from: &Progress) -> Result<Progress, BatchError>;
}

pub(crate) struct Hosted<S, Cx, P> {
    store: S,
    projection: P,
    context: PhantomData<fn() -> Cx>,
}

impl<S, Cx, P> Hosted<S, Cx, P> {
    pub(crate) fn new(store: S, projection: P) -> Self {
        Self {
            store,
            projection,
            context: PhantomData,
        }
    }
}

#[async_trait]
impl<S, Cx, P> Worker for Hosted<S, Cx, P>
where
    Cx: Send + 'static,
    S: Host<Cx>,
    P: Projection<Cx>,
{
    fn name(&self) -> &'static str {
        P::NAME
    }

    fn filter(&self) -> EventFilter {
        self.projection.filter()
    }

    async fn run(
        &self,
        from: &Progress,
        events: &[RecordedEvent],
        mut to: Checkpoint,
    ) -> Result<Done, BatchError> {
        let mut batch = Vec::with_capacity(events.len());
        let mut taken = 0;
        let mut projected = 0;
        for event in events {
            let before = batch.len();
            match event.decode::<P::Event>() {
                Ok(Decoded::Unknown) => {}
                Ok(Decoded::One(envelope)) => batch.push(envelope),
                Ok(Decoded::Parts(parts)) => batch.extend(parts),
                // What comes before the event that does not decode is stored first.
                Err(_) if taken > 0 => break,
                Err(error) => return Err(error.into()),
            }
            taken += 1;
            projected += usize::from(batch.len() > before);
        }
        if let Some(last) = events[..taken].last().filter(|_| taken < events.len()) {
            to = last.checkpoint();
        }

        let mut unit = self.store.begin(from.clone()).await?;
        if !batch.is_empty() {
            let context = unit.context();
            caught(async { self.projection.project(&batch, context).await }).await?;
        }
        let step = Step {
            from: from.clone(),
            to: Target::Advance(to),
        };
        commit(unit.commit(step.to).await)?;
        Ok(Done {
            progress: step.result(),
            taken,
            projected,
        })
    }

    async fn reset(&self, from: &Progress) -> Result<Progress, BatchError> {
        let mut unit = self.store.begin(from.clone()).await?;
        let emptied = {
            let context = unit.context();
            caught(async { self.projection.reset(context).await }).await
        };
        match emptied {
            Err(error) if unit.resets_itself() && error.is::<NotResettable>() => {}
            emptied => emptied?,
        }
        let step = Step {
            from: from.clone(),
            to: Target::Reset,
        };
        commit(unit.commit(step.to).await)?;
        Ok(step.result())
    }
}

fn commit(outcome: Result<(), CommitError>) -> Result<(), BatchError> {
    match outcome {
        Ok(()) => Ok(()),
        Err(CommitError::Fenced { .. }) => Err(BatchError::Fenced),
        Err(CommitError::Store(error)) => Err(error.into()),
    }
}

/// Runs a projection's code; a panic is an error like others. What it may have left half done is
/// dropped with its unit.
async fn caught(code: impl Future<Output = crate::Result>) -> crate::Result {
    AssertUnwindSafe(code)
        .catch_unwind()
        .await
        .unwrap_or_else(|panic| Err(Panicked(message(&*panic)).into()))
}

fn message(panic: &(dyn Any + Send)) -> String {
    match (panic.downcast_ref::<&str>(), panic.downcast_ref::<String>()) {
        (Some(text), _) => (*text).to_owned(),
        (_, Some(text)) => text.clone(),
        _ => "without a message".to_owned(),
    }
}

#[cfg(test)]
mod tests;
