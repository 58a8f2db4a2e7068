//! The newest events, as far as this process stored them one behind another on one connection: what a
//! condition excludes among them is known without a look, as long as nobody else appends.

use std::collections::VecDeque;

use backstory_event::{Checkpoint, Metadata, Payload, Position, Recorded, RecordedEvent};
use backstory_store_kit::EventRow;

/// So many are kept, without their content. Conditions that begin further back are moved forward
/// before they queue.
const KEPT: usize = 1_024;

/// What conditions see of the newest events.
#[derive(Debug)]
pub(crate) struct Recent {
    // The place right before them. Its id is nil when it is not known.
    base: Checkpoint,
    events: VecDeque<RecordedEvent>,
    // Nothing is kept for those who never ask.
    wanted: bool,
}

impl Recent {
    pub(crate) fn new() -> Self {
        Self {
            base: Checkpoint::START,
            events: VecDeque::new(),
            wanted: false,
        }
    }

    /// There are conditions: keeps events from now on.
    pub(crate) fn want(&mut self) {
        self.wanted = true;
    }

    /// The last of them.
    pub(crate) fn end(&self) -> Position {
        let last = self.events.back();
        last.map_or(self.base.position, RecordedEvent::position)
    }

    /// These events were stored right behind this position, under the lock.
    pub(crate) fn follow(&mut self, before: Position, rows: Vec<EventRow>) {
        if !self.wanted {
            return;
        }
        if before != self.end() {
            self.restart(before);
        }
        self.events.extend(rows.into_iter().map(without_content));
        while self.events.len() > KEPT
            && let Some(oldest) = self.events.pop_front()
        {
            self.base = oldest.checkpoint();
        }
    }

    /// All that is known is where the log ends.
    pub(crate) fn restart(&mut self, end: Position) {
        self.base = Checkpoint::at(end);
        self.events.clear();
    }

    /// All events behind a place; nothing when they are not all known, or the place is none.
    pub(crate) fn behind(&self, after: Checkpoint) -> Option<impl Iterator<Item = &RecordedEvent>> {
        let distance = after.position.get().checked_sub(self.base.position.get())?;
        let index = usize::try_from(distance).ok()?;
        let id = match index.checked_sub(1) {
            None => self.base.event_id,
            Some(previous) => self.events.get(previous)?.id(),
        };
        let is_there = after.event_id.is_nil() || after.event_id == id;
        is_there.then(|| self.events.range(index..))
    }
}

fn without_content(row: EventRow) -> RecordedEvent {
    RecordedEvent::new(Recorded {
        payload: Payload::empty(),
        metadata: Metadata::default(),
        ..row.recorded
    })
}
