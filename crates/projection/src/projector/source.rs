//! Where one projection gets its events from: the shared ring when it is near the end of the log,
//! pages of its own while it catches up.

use std::sync::Arc;

use backstory_event::{Checkpoint, EventFilter, EventQuery, EventStore, RecordedEvent, StoreError};
use tokio::sync::watch;

use super::ring::{Ring, Tail};

pub(crate) struct Source {
    log: Arc<dyn EventStore>,
    filter: EventFilter,
    ring: Arc<Ring>,
    tail: watch::Receiver<Tail>,
    scanned: Checkpoint,
    /// The ring's generation when the log was last seen to hold the event at `scanned`.
    proved: Option<u32>,
}

impl Source {
    pub(crate) fn new(
        log: Arc<dyn EventStore>,
        filter: EventFilter,
        ring: Arc<Ring>,
        from: Checkpoint,
    ) -> Self {
        Self {
            log,
            filter,
            tail: ring.watch(),
            ring,
            scanned: from,
            proved: None,
        }
    }

    /// Up to here it has looked at the log.
    pub(crate) fn scanned(&self) -> Checkpoint {
        self.scanned
    }

    /// Where the log ends, as far as the shared reader has seen.
    pub(crate) fn head(&self) -> backstory_event::Position {
        self.ring.head()
    }

    /// Continues behind another checkpoint.
    pub(crate) fn rewind(&mut self, to: Checkpoint) {
        self.scanned = to;
        self.proved = None;
    }

    /// Trusts nothing that was read before: after a failure.
    pub(crate) fn doubt(&mut self) {
        self.proved = None;
    }

    /// Waits until it has looked at more of the log. What it found may be none, at most `room`.
    /// After a [`Self::doubt`] it returns as soon as a page could be read. Cancel-safe.
    pub(crate) async fn fill(&mut self, room: usize) -> Result<Vec<RecordedEvent>, StoreError> {
        loop {
            let tail = *self.tail.borrow_and_update();
            let proved = self.proved == Some(tail.generation);
            if proved
                && tail.failures == 0
                && let Some(taken) = self.ring.take(self.scanned.position, &self.filter, room)
            {
                if taken.to.position > self.scanned.position {
                    self.scanned = taken.to;
                    return Ok(taken.events);
                }
            } else {
                let query = EventQuery::new(self.filter.clone())
                    .after(self.scanned)
                    .limit(room);
                let page = self.log.read(&query).await?;
                self.proved = Some(tail.generation);
                if page.checkpoint.position > self.scanned.position {
                    self.scanned = page.checkpoint;
                    return Ok(page.events);
                }
                if !proved {
                    return Ok(Vec::new());
                }
            }
            if self.tail.changed().await.is_err() {
                // The reader is gone, and so is this task soon.
                return futures::future::pending().await;
            }
        }
    }
}
