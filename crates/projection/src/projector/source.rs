//! Where one projection gets its events from: the shared ring when it is near the end of the log,
//! pages of its own while it catches up.

use std::sync::Arc;

use backstory_event::{
    Checkpoint, EventFilter, EventQuery, EventStore, Position, RecordedEvent, StoreError,
};
use tokio::sync::watch;

use super::ring::{Ring, Tail};

pub(crate) struct Source {
    log: Arc<dyn EventStore>,
    filter: EventFilter,
    /// What it takes of the log up to there.
    startup: Option<(EventFilter, Position)>,
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
            startup: None,
            tail: ring.watch(),
            ring,
            scanned: from,
            proved: None,
        }
    }

    /// Takes only these events of the log up to there.
    pub(crate) fn only_at_first(&mut self, filter: EventFilter, up_to: Position) {
        self.startup = Some((filter, up_to));
    }

    /// Up to here it has looked at the log.
    pub(crate) fn scanned(&self) -> Checkpoint {
        self.scanned
    }

    /// Where the log ends, as far as the shared reader has seen.
    pub(crate) fn head(&self) -> Position {
        self.ring.head()
    }

    /// Continues behind another checkpoint.
    pub(crate) fn rewind(&mut self, to: Checkpoint) {
        self.scanned = to;
        self.proved = None;
    }

    /// Continues behind an event that is surely in the log, if it was not that far.
    pub(crate) fn skip(&mut self, to: Checkpoint) {
        if to.position > self.scanned.position {
            self.scanned = to;
        }
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
            let at = self.scanned.position;
            let startup = self.startup.as_ref().filter(|(_, up_to)| at < *up_to);
            if proved
                && startup.is_none()
                && tail.failures == 0
                && let Some(taken) = self.ring.take(self.scanned.position, &self.filter, room)
            {
                if taken.to.position > self.scanned.position {
                    self.scanned = taken.to;
                    return Ok(taken.events);
                }
            } else {
                let query = match startup {
                    Some((filter, up_to)) => EventQuery::new(filter.clone()).up_to(*up_to),
                    None => EventQuery::new(self.filter.clone()),
                };
                let query = query.after(self.scanned).limit(room);
                let mut page = self.log.read(&query).await?;
                if startup.is_some() {
                    page.events.retain(|event| self.filter.matches(event));
                }
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
