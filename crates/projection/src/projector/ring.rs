//! The newest events, read once for all projections of a projector, and the task that reads them.

use std::{
    collections::VecDeque,
    sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard},
    time::Duration,
};

use backstory_event::{
    Checkpoint, Clock, EventFilter, EventId, EventQuery, EventStore, EventStoreExt, Page, Position,
    RecordedEvent, StoreError,
};
use tokio::sync::watch;

/// Events per page of the shared reader.
const PAGE: usize = 1_000;
/// The most bytes of payload that are kept.
const MAX_BYTES: usize = 16 << 20;
/// How many events a projection looks at per turn while others wait for the ring.
const MAX_LOOK: usize = 4_096;
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// What the shared reader tells everybody.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Tail {
    /// Up to here the log was read.
    pub(crate) end: Position,
    /// Where the log ends, as far as is known.
    pub(crate) head: Position,
    /// How often reading failed since it last succeeded.
    pub(crate) failures: u32,
    /// One more whenever the reader began anew: what was proved before is not proved any more.
    pub(crate) generation: u32,
}

/// The newest events that any projection of the projector wants: all behind `start`, up to `end`.
#[derive(Debug)]
pub(crate) struct Ring {
    kept: RwLock<Kept>,
    tail: watch::Sender<Tail>,
    capacity: usize,
}

#[derive(Debug)]
struct Kept {
    start: Position,
    end: Checkpoint,
    events: VecDeque<RecordedEvent>,
    bytes: usize,
}

/// What a projection takes from the ring.
#[derive(Debug)]
pub(crate) struct Taken {
    pub(crate) events: Vec<RecordedEvent>,
    /// Up to here the ring was looked at.
    pub(crate) to: Checkpoint,
}

impl Ring {
    /// A ring for at most so many events, at the end of the log.
    pub(crate) fn new(capacity: usize, head: Checkpoint) -> Self {
        let tail = Tail {
            end: head.position,
            head: head.position,
            failures: 0,
            generation: 1,
        };
        Self {
            kept: RwLock::new(Kept::at(head)),
            tail: watch::Sender::new(tail),
            capacity,
        }
    }

    /// What the shared reader says, from now on.
    pub(crate) fn watch(&self) -> watch::Receiver<Tail> {
        self.tail.subscribe()
    }

    /// Up to `room` events that the filter means, behind a position; `None` when the ring does not
    /// reach back so far.
    pub(crate) fn take(&self, after: Position, filter: &EventFilter, room: usize) -> Option<Taken> {
        let kept = self.kept();
        if after < kept.start {
            return None;
        }
        let from = kept
            .events
            .partition_point(|event| event.position() <= after);
        let mut events = Vec::new();
        for (at, event) in kept.events.range(from..).enumerate() {
            if filter.matches(event) {
                events.push(event.clone());
            }
            if events.len() >= room || at >= MAX_LOOK {
                let to = event.checkpoint();
                return Some(Taken { events, to });
            }
        }
        Some(Taken {
            events,
            to: kept.end,
        })
    }

    /// The id of the event there, if the ring holds it.
    pub(crate) fn id_at(&self, position: Position) -> Option<EventId> {
        let kept = self.kept();
        if kept.end.position == position && !kept.end.event_id.is_nil() {
            return Some(kept.end.event_id);
        }
        let at = kept
            .events
            .binary_search_by_key(&position, RecordedEvent::position)
            .ok()?;
        kept.events.get(at).map(RecordedEvent::id)
    }

    /// Where the log ends, as far as is known.
    pub(crate) fn head(&self) -> Position {
        self.tail.borrow().head
    }

    fn end(&self) -> Checkpoint {
        self.kept().end
    }

    fn push(&self, page: Page) {
        {
            let mut kept = self.kept_mut();
            kept.end = page.checkpoint;
            for event in page.events {
                kept.bytes += event.payload().as_str().len();
                kept.events.push_back(event);
            }
            while kept.events.len() > self.capacity || kept.bytes > MAX_BYTES {
                let Some(event) = kept.events.pop_front() else {
                    break;
                };
                kept.bytes -= event.payload().as_str().len();
                kept.start = event.position();
            }
        }
        self.tail.send_modify(|tail| {
            tail.end = page.checkpoint.position;
            tail.head = page.head.max(tail.end);
            tail.failures = 0;
        });
    }

    /// Nothing came, but reading works.
    fn works(&self, head: Position) {
        self.tail.send_if_modified(|tail| {
            let worked = tail.failures == 0;
            tail.failures = 0;
            tail.head = head.max(tail.end);
            !worked
        });
    }

    fn fails(&self) {
        self.tail
            .send_modify(|tail| tail.failures = tail.failures.saturating_add(1));
    }

    /// The log is another one now: nothing that was read before holds.
    fn restart(&self, head: Checkpoint) {
        *self.kept_mut() = Kept::at(head);
        self.tail.send_modify(|tail| {
            *tail = Tail {
                end: head.position,
                head: head.position,
                failures: 0,
                generation: tail.generation.wrapping_add(1),
            }
        });
    }

    fn kept(&self) -> RwLockReadGuard<'_, Kept> {
        self.kept.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn kept_mut(&self) -> RwLockWriteGuard<'_, Kept> {
        self.kept.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Kept {
    fn at(head: Checkpoint) -> Self {
        Self {
            start: head.position,
            end: head,
            events: VecDeque::new(),
            bytes: 0,
        }
    }
}

/// Reads the log for a ring, for ever.
pub(crate) async fn read_on(
    log: Arc<dyn EventStore>,
    filter: EventFilter,
    ring: Arc<Ring>,
    clock: Arc<dyn Clock>,
) {
    let mut pause = FIRST_PAUSE;
    loop {
        let Err(error) = read_page(&*log, &filter, &ring).await else {
            pause = FIRST_PAUSE;
            continue;
        };
        tracing::debug!(error = %error, "the shared reader of a projector failed");
        ring.fails();
        if error.is_closed() {
            // Each projection finds out by itself.
            return futures::future::pending().await;
        }
        if error.is_diverged()
            && let Ok(head) = log.head().await
        {
            ring.restart(head);
            continue;
        }
        clock.sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

async fn read_page(
    log: &dyn EventStore,
    filter: &EventFilter,
    ring: &Ring,
) -> Result<(), StoreError> {
    let end = ring.end();
    let query = EventQuery::new(filter.clone()).after(end).limit(PAGE);
    let page = log.read(&query).await?;
    if page.checkpoint.position > end.position {
        ring.push(page);
        return Ok(());
    }
    ring.works(page.head);
    log.changed(end.position).await?;
    Ok(())
}
