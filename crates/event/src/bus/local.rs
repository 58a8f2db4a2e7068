//! The bus within one process.

use std::{
    collections::VecDeque,
    fmt,
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
};

use async_trait::async_trait;
use futures::{Stream, task::AtomicWaker};

use super::{BusSubscription, Delivery, EventBus, Topic};
use crate::{Position, RecordedEvent, StoreError};

const DEFAULT_CAPACITY: usize = 1_024;

/// A bus within one process: a bounded queue per subscriber, in the order of positions.
///
/// A full queue never blocks the publisher: the subscriber gets what its queue holds, then
/// [`Delivery::Missed`], then goes on. Subscriptions end when the last handle of the bus is dropped.
#[derive(Clone)]
pub struct LocalBus {
    shared: Arc<Shared>,
    capacity: usize,
}

#[derive(Default)]
struct Shared {
    subscribers: Mutex<Vec<Weak<Subscriber>>>,
    closed: AtomicBool,
}

struct Subscriber {
    topic: Topic,
    capacity: usize,
    queue: Mutex<Queue>,
    waker: AtomicWaker,
    closed: AtomicBool,
}

#[derive(Default)]
struct Queue {
    events: VecDeque<RecordedEvent>,
    // The last position that was offered to the subscriber, matching or not.
    seen: Position,
    missed: Option<(Position, Position)>,
}

impl LocalBus {
    /// A bus whose subscribers may each be 1,024 events behind.
    pub fn new() -> Self {
        Self::with_capacity(DEFAULT_CAPACITY)
    }

    /// A bus whose subscribers may each be so many events behind, at least one.
    pub fn with_capacity(capacity: usize) -> Self {
        Self {
            shared: Arc::default(),
            capacity: capacity.max(1),
        }
    }

    /// Ends all subscriptions, once they have delivered what they hold, and those that come later:
    /// when the bus is fed no more.
    pub fn close(&self) {
        self.shared.close();
    }
}

impl Default for LocalBus {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for LocalBus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LocalBus")
            .field("capacity", &self.capacity)
            .finish()
    }
}

impl Shared {
    fn subscribers(&self) -> MutexGuard<'_, Vec<Weak<Subscriber>>> {
        self.subscribers
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn close(&self) {
        let mut subscribers = self.subscribers();
        self.closed.store(true, Ordering::Release);
        for subscriber in subscribers.drain(..).filter_map(|weak| weak.upgrade()) {
            subscriber.closed.store(true, Ordering::Release);
            subscriber.waker.wake();
        }
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.close();
    }
}

#[async_trait]
impl EventBus for LocalBus {
    async fn publish(&self, events: &[RecordedEvent]) -> Result<(), StoreError> {
        let subscribers: Vec<_> = {
            let mut list = self.shared.subscribers();
            list.retain(|subscriber| subscriber.strong_count() > 0);
            list.iter().filter_map(Weak::upgrade).collect()
        };
        for subscriber in subscribers {
            subscriber.offer(events);
        }
        Ok(())
    }

    fn subscribe(&self, topic: Topic) -> BusSubscription {
        let mut subscribers = self.shared.subscribers();
        let subscriber = Arc::new(Subscriber {
            topic,
            capacity: self.capacity,
            queue: Mutex::default(),
            waker: AtomicWaker::new(),
            // Under the lock: a bus that ends now ends this subscription too.
            closed: AtomicBool::new(self.shared.closed.load(Ordering::Acquire)),
        });
        subscribers.push(Arc::downgrade(&subscriber));
        BusSubscription::new(Deliveries(subscriber))
    }
}

impl Subscriber {
    fn offer(&self, events: &[RecordedEvent]) {
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        for event in events {
            let before = std::mem::replace(&mut queue.seen, event.position());
            if !self.topic.matches(event) {
                continue;
            }
            if let Some((_, up_to)) = &mut queue.missed {
                *up_to = event.position();
            } else if queue.events.len() < self.capacity {
                queue.events.push_back(event.clone());
            } else {
                queue.missed = Some((before, event.position()));
            }
        }
        drop(queue);
        self.waker.wake();
    }

    fn take(&self) -> Option<Delivery> {
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(event) = queue.events.pop_front() {
            return Some(Delivery::Event(event));
        }
        queue
            .missed
            .take()
            .map(|(after, up_to)| Delivery::Missed { after, up_to })
    }
}

struct Deliveries(Arc<Subscriber>);

impl Stream for Deliveries {
    type Item = Delivery;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Delivery>> {
        if let Some(delivery) = self.0.take() {
            return Poll::Ready(Some(delivery));
        }
        self.0.waker.register(context.waker());
        // Looked at before the queue: what was published before the bus ended is still delivered.
        let closed = self.0.closed.load(Ordering::Acquire);
        match self.0.take() {
            Some(delivery) => Poll::Ready(Some(delivery)),
            None if closed => Poll::Ready(None),
            None => Poll::Pending,
        }
    }
}
