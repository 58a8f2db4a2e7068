//! The bus: what was stored, delivered to whoever listens in this process. A hint, never the truth.

use std::{fmt::Debug, sync::Arc, time::Duration};

use async_trait::async_trait;
use futures::{Stream, StreamExt, future, stream::BoxStream};
use futures_timer::Delay;

use crate::{
    Checkpoint, EventFilter, EventStore, Position, RecordedEvent, StoreError, Subscription,
};

mod local;

pub use local::LocalBus;

/// What a subscriber of a bus wants to hear of.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Topic {
    /// Everything.
    All,
    /// Events whose name begins so: `todo.`.
    Prefix(String),
    /// What a filter means: names, categories, streams, tags.
    Filter(EventFilter),
}

impl Topic {
    /// The topic of a pattern: `*` for everything, `todo.*` for a prefix, else a name.
    pub fn pattern(pattern: &str) -> Self {
        match pattern.strip_suffix('*') {
            Some("") => Self::All,
            Some(prefix) => Self::Prefix(prefix.to_owned()),
            None => Self::Filter(crate::FilterItem::new().name(pattern).into()),
        }
    }

    /// True when the topic includes the event.
    pub fn matches(&self, event: &RecordedEvent) -> bool {
        match self {
            Self::All => true,
            Self::Prefix(prefix) => event.name().starts_with(prefix.as_str()),
            Self::Filter(filter) => filter.matches(event),
        }
    }
}

impl From<EventFilter> for Topic {
    fn from(filter: EventFilter) -> Self {
        Self::Filter(filter)
    }
}

/// What a subscriber of a bus gets.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Delivery {
    /// An event.
    Event(RecordedEvent),
    /// The subscriber was too slow, its queue was full: read the log in between.
    Missed {
        /// Behind this position …
        after: Position,
        /// … up to this one.
        up_to: Position,
    },
}

/// Why a wait at a bus ended without an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AwaitError {
    /// Nothing matched in time.
    #[error("no matching event within the deadline")]
    TimedOut,
    /// Events were missed; the one that was awaited may be among them: look into the log.
    #[error("the subscriber missed events: look into the log")]
    Missed,
    /// The bus has ended.
    #[error("the bus has ended")]
    Closed,
}

/// A stream of deliveries, in the order of positions. Dropping it ends the subscription.
pub struct BusSubscription(BoxStream<'static, Delivery>);

impl BusSubscription {
    /// A subscription from a stream of deliveries: for implementers of a bus.
    pub fn new(deliveries: impl Stream<Item = Delivery> + Send + 'static) -> Self {
        Self(deliveries.boxed())
    }

    /// Waits for one event.
    ///
    /// # Errors
    /// [`AwaitError`] when it does not come within the deadline.
    pub async fn next_event(&mut self, deadline: Duration) -> Result<RecordedEvent, AwaitError> {
        match future::select(self.0.next(), Delay::new(deadline)).await {
            future::Either::Left((Some(Delivery::Event(event)), _)) => Ok(event),
            future::Either::Left((Some(Delivery::Missed { .. }), _)) => Err(AwaitError::Missed),
            future::Either::Left((None, _)) => Err(AwaitError::Closed),
            future::Either::Right(_) => Err(AwaitError::TimedOut),
        }
    }
}

impl Stream for BusSubscription {
    type Item = Delivery;

    fn poll_next(
        mut self: std::pin::Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Delivery>> {
        self.0.poll_next_unpin(context)
    }
}

impl Debug for BusSubscription {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("BusSubscription")
    }
}

/// Delivers stored events to whoever subscribed. Users subscribe; only the store's tail publishes.
#[async_trait]
pub trait EventBus: Debug + Send + Sync + 'static {
    /// Delivers events that were stored, in the order of positions. Never waits for a subscriber.
    ///
    /// # Errors
    /// When a bus that leaves the process cannot deliver; the caller tries again.
    async fn publish(&self, events: &[RecordedEvent]) -> Result<(), StoreError>;

    /// Listens from now on.
    fn subscribe(&self, topic: Topic) -> BusSubscription;
}

#[async_trait]
impl<T: EventBus + ?Sized> EventBus for Arc<T> {
    async fn publish(&self, events: &[RecordedEvent]) -> Result<(), StoreError> {
        (**self).publish(events).await
    }

    fn subscribe(&self, topic: Topic) -> BusSubscription {
        (**self).subscribe(topic)
    }
}

/// Feeds a bus with what a store holds behind a checkpoint, for ever. Spawn it once per process.
///
/// # Errors
/// What time does not heal: see [`Subscription::next_page`].
pub async fn feed(
    bus: Arc<dyn EventBus>,
    store: Arc<dyn EventStore>,
    from: Checkpoint,
) -> Result<std::convert::Infallible, StoreError> {
    let mut tail = Subscription::new(store, from, EventFilter::all());
    loop {
        let page = tail.next_page().await?;
        while let Err(error) = bus.publish(&page.events).await {
            if !error.is_transient() {
                return Err(error);
            }
            Delay::new(Duration::from_millis(100)).await;
        }
    }
}
