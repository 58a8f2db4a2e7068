//! The event bus of this process, fed by a store's tail.

use std::sync::Arc;

use backstory_event::{
    BusSubscription, EventBus, EventStore, EventStoreExt, LocalBus, StoreError, Topic, feed,
};
use tokio::task::AbortHandle;

/// The event bus of this process: delivers what any process stores, in the order of positions.
/// Clones share it; it ends when the last one is dropped, or when the store cannot be read any more
/// (closed, or diverged): then its subscriptions end too.
///
/// ```
/// # use backstory::{Bus, Store, Topic};
/// # async fn example(store: Store) -> Result<(), Box<dyn std::error::Error>> {
/// let bus = Bus::start(&store).await?;
/// let mut todos = bus.subscribe(Topic::pattern("todo.*"));
/// let event = todos.next_event(std::time::Duration::from_secs(5)).await?;
/// # Ok(()) }
/// ```
#[derive(Debug, Clone)]
pub struct Bus(Arc<Running>);

#[derive(Debug)]
struct Running {
    bus: LocalBus,
    feed: AbortHandle,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.feed.abort();
    }
}

impl Bus {
    /// Starts a bus that delivers what is stored from now on. Once per process is enough.
    ///
    /// # Errors
    /// When the store is away.
    pub async fn start<S: EventStore + Clone>(store: &S) -> Result<Self, StoreError> {
        let bus = LocalBus::new();
        let from = store.head().await?;
        let fed = feed(Arc::new(bus.clone()), Arc::new(store.clone()), from);
        let end = bus.clone();
        let task = tokio::spawn(async move {
            let Err(error) = fed.await;
            tracing::error!(%error, "the bus of this process ends: start it anew");
            end.close();
        });
        Ok(Self(Arc::new(Running {
            bus,
            feed: task.abort_handle(),
        })))
    }

    /// Listens from now on.
    pub fn subscribe(&self, topic: impl Into<Topic>) -> BusSubscription {
        self.0.bus.subscribe(topic.into())
    }
}
