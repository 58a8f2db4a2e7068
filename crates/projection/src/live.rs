//! A state that follows the log in memory.

use std::{
    fmt,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    time::Duration,
};

use backstory_event::{
    Checkpoint, EventFilter, EventStore, EventStoreExt, Fold, Folded, Position, StoreError,
    Subscription,
};
use tokio::{runtime::Handle, sync::watch, task::AbortHandle, time::timeout};

use crate::projector::panic_message;

/// A state that is folded from the events of a filter, and kept up to date as long as its owner
/// holds it: a read model that is not stored.
///
/// ```no_run
/// # use backstory_event::{EventFilter, EventStore, Fold};
/// # use backstory_projection::{Live, LiveError};
/// # async fn run<Seats: Fold + Clone + Sync + 'static>(store: impl EventStore + Clone)
/// # -> Result<(), LiveError> {
/// let mut seats = Live::<Seats>::start(&store, EventFilter::of::<Seats::Event>()).await?;
/// loop {
///     let now: Seats = seats.get()?;
///     // … show it …
///     seats.changed().await?;
/// }
/// # }
/// ```
///
/// It holds the state and one page of events, reads nothing while the log does not grow, and is
/// folded anew at each start. Clones share it; the last one that is dropped ends it. A store that
/// is away is waited for. What is erased stays in the state until the next start.
pub struct Live<S> {
    value: watch::Receiver<Value<S>>,
    seen: u64,
    _following: Arc<Following>,
}

/// Why a [`Live`] has no state of now.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum LiveError {
    /// It was started outside a tokio runtime.
    #[error("a live state needs a tokio runtime: start it in one")]
    NoRuntime,
    /// It ended by an error that time does not heal: start it again when that is mended.
    #[error("the live state ended: {0}")]
    Store(#[source] Arc<StoreError>),
    /// The fold panicked: mend it.
    #[error("the fold panicked: {reason}")]
    Panicked {
        /// What the panic said.
        reason: String,
    },
    /// The runtime that it was started in has ended.
    #[error("the runtime of the live state has ended: start it again")]
    Ended,
    /// It did not get there in time.
    #[error(
        "the live state did not reach position {awaited} within {timeout:?}: it is at {read_to}"
    )]
    TimedOut {
        /// What was waited for.
        awaited: Position,
        /// Up to where it is.
        read_to: Position,
        /// How long was waited.
        timeout: Duration,
    },
}

impl LiveError {
    /// The error of the store that ended it, if one did.
    pub fn store_error(&self) -> Option<&StoreError> {
        match self {
            Self::Store(error) => Some(error),
            _ => None,
        }
    }
}

impl From<StoreError> for LiveError {
    fn from(error: StoreError) -> Self {
        Self::Store(Arc::new(error))
    }
}

struct Value<S> {
    folded: Folded<S>,
    /// How often events changed it.
    changes: u64,
    /// Why it ended.
    end: Option<LiveError>,
}

/// Ends the task with its last owner.
struct Following(AbortHandle);

impl Drop for Following {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl<S: Fold + Sync + 'static> Live<S> {
    /// Folds what is stored, then follows what comes.
    ///
    /// # Errors
    /// When there is no tokio runtime; as [`EventStoreExt::fold`].
    pub async fn start<T>(store: &T, filter: EventFilter) -> Result<Self, LiveError>
    where
        T: EventStore + Clone,
    {
        let runtime = Handle::try_current().map_err(|_| LiveError::NoRuntime)?;
        let folded = store.fold::<S>(filter).await?;
        let subscription = store.subscribe(folded.read_to, folded.filter.clone());
        let (sender, value) = watch::channel(Value {
            folded,
            changes: 0,
            end: None,
        });
        let task = runtime.spawn(follow(subscription, sender)).abort_handle();
        Ok(Self {
            value,
            seen: 0,
            _following: Arc::new(Following(task)),
        })
    }
}

impl<S> Live<S> {
    /// The state of now.
    ///
    /// # Errors
    /// Why there is none: it ended.
    pub fn get(&self) -> Result<S, LiveError>
    where
        S: Clone,
    {
        self.with(|folded| folded.state.clone())
    }

    /// Looks at the state of now, and at how far the log was read for it. Nothing is folded
    /// meanwhile: be quick.
    ///
    /// # Errors
    /// As [`Self::get`].
    pub fn with<T>(&self, look: impl FnOnce(&Folded<S>) -> T) -> Result<T, LiveError> {
        let value = self.value.borrow();
        match &value.end {
            Some(end) => Err(end.clone()),
            None if self.value.has_changed().is_err() => Err(LiveError::Ended),
            None => Ok(look(&value.folded)),
        }
    }

    /// Waits until events have changed the state since this handle was made, or waited last. May
    /// be dropped at any moment.
    ///
    /// # Errors
    /// As [`Self::get`].
    pub async fn changed(&mut self) -> Result<(), LiveError> {
        let seen = self.seen;
        let news = |value: &Value<S>| value.end.is_some() || value.changes != seen;
        let value = self.value.wait_for(news).await;
        let changes = value.ok().filter(|value| value.end.is_none());
        let changes = changes.map(|value| value.changes);
        self.seen = changes.ok_or_else(|| self.end())?;
        Ok(())
    }

    /// Waits until the state contains the log up to a receipt or checkpoint.
    ///
    /// # Errors
    /// As [`Self::get`]; `TimedOut`.
    pub async fn reached(
        &self,
        checkpoint: impl Into<Checkpoint>,
        deadline: Duration,
    ) -> Result<(), LiveError> {
        let awaited = checkpoint.into().position;
        let mut value = self.value.clone();
        let there =
            |value: &Value<S>| value.end.is_some() || value.folded.read_to.position >= awaited;
        match timeout(deadline, value.wait_for(there)).await {
            Ok(Ok(value)) if value.end.is_none() => Ok(()),
            Ok(_) => Err(self.end()),
            Err(_) => Err(LiveError::TimedOut {
                awaited,
                read_to: self.value.borrow().folded.read_to.position,
                timeout: deadline,
            }),
        }
    }

    /// Why nobody follows the log any more.
    fn end(&self) -> LiveError {
        let end = self.value.borrow().end.clone();
        end.unwrap_or(LiveError::Ended)
    }
}

async fn follow<S: Fold>(mut subscription: Subscription, value: watch::Sender<Value<S>>) {
    let end = loop {
        let page = match subscription.next_page().await {
            Ok(page) => page,
            Err(error) => break error.into(),
        };
        let mut refused = None;
        let fold = || {
            value.send_modify(|value| match value.folded.add(&page) {
                Ok(events) => value.changes += u64::from(events > 0),
                Err(error) => refused = Some(error),
            });
        };
        if let Err(panic) = catch_unwind(AssertUnwindSafe(fold)) {
            let reason = panic_message(&*panic);
            break LiveError::Panicked { reason };
        }
        if let Some(error) = refused {
            break StoreError::from(error).into();
        }
    };
    tracing::warn!(error = %end, "a live state ended");
    value.send_modify(|value| value.end = Some(end));
}

impl<S> Clone for Live<S> {
    fn clone(&self) -> Self {
        Self {
            value: self.value.clone(),
            seen: self.seen,
            _following: Arc::clone(&self._following),
        }
    }
}

impl<S> fmt::Debug for Live<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let value = self.value.borrow();
        f.debug_struct("Live")
            .field("read_to", &value.folded.read_to)
            .field("end", &value.end)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
