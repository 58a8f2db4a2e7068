//! The newest events of the log, kept for those who read at its end.

use std::collections::VecDeque;

use backstory_event::{
    Checkpoint, Direction, EventId, EventQuery, Lifecycle, Page, Position, RecordedEvent,
};
use backstory_store_kit::Scan;

/// How much is kept.
const EVENTS: usize = 4_096;
const BYTES: usize = 8 << 20;

/// Consecutive events behind `start`, as one statement after another has read them: each statement
/// began with the last event of the one before.
#[derive(Debug, Default)]
pub(crate) struct Ring {
    start: Checkpoint,
    events: VecDeque<RecordedEvent>,
    bytes: usize,
    head: Position,
    // Without one, nothing is known.
    filled: bool,
}

impl Ring {
    /// Forgets everything.
    pub(crate) fn clear(&mut self) {
        *self = Self::default();
    }

    /// Up to where the log is kept; nothing while nothing is kept.
    pub(crate) fn end(&self) -> Option<Checkpoint> {
        let last = self.events.back().map(RecordedEvent::checkpoint);
        self.filled.then(|| last.unwrap_or(self.start))
    }

    /// True when a reader at this position can go on from here.
    pub(crate) fn reaches(&self, position: Position) -> bool {
        self.filled && position >= self.start.position
    }

    /// Takes what was read behind a checkpoint. What does not go on where the ring ends begins a
    /// new one, and so does an erasure: what was kept before still has its content.
    pub(crate) fn extend(&mut self, from: Checkpoint, page: Page) {
        let erased = |event: &RecordedEvent| event.lifecycle() == Some(Lifecycle::Erased);
        if self.end() != Some(from) || page.events.iter().any(erased) {
            self.clear();
            self.start = from;
            self.filled = true;
        }
        self.head = page.head;
        for event in page.events {
            self.bytes += weight(&event);
            self.events.push_back(event);
        }
        while self.events.len() > EVENTS || self.bytes > BYTES {
            let Some(oldest) = self.events.pop_front() else {
                break;
            };
            self.bytes -= weight(&oldest);
            self.start = oldest.checkpoint();
        }
    }

    /// The page of a query, just as the database would have given it at the last fill; nothing
    /// when that cannot be told.
    pub(crate) fn page(&self, query: &EventQuery, window: i64, page: usize) -> Option<Page> {
        let end = self.end()?.position;
        let proof = query.after;
        let known = self.id_at(proof.position)?;
        let proved = proof.event_id.is_nil() || proof.event_id == known;
        if !answers(query) || self.head != end || !proved {
            return None;
        }
        let scan = Scan::plan(query, self.head, window, page);
        let matching = self
            .behind(proof.position)
            .take_while(|event| event.position() < scan.high)
            .filter(|event| query.matches(event))
            .take(scan.limit);
        let last = self.event_at(scan.high);
        let rows = matching.chain(last).cloned().collect();
        // Proved above: the event of `after` need not be among those that are kept.
        let proved = query.clone().after(proof.position);
        let mut answer = scan.page(&proved, rows).ok()?;
        if answer.checkpoint.position == proof.position {
            answer.checkpoint.event_id = known;
        }
        Some(answer)
    }

    /// The id of the event at a position that is kept.
    fn id_at(&self, position: Position) -> Option<EventId> {
        if position == self.start.position {
            return Some(self.start.event_id);
        }
        self.event_at(position).map(RecordedEvent::id)
    }

    fn event_at(&self, position: Position) -> Option<&RecordedEvent> {
        let index = position.get().checked_sub(self.start.position.get() + 1)?;
        self.events.get(usize::try_from(index).ok()?)
    }

    fn behind(&self, position: Position) -> impl Iterator<Item = &RecordedEvent> {
        let skipped = position.get() - self.start.position.get();
        let skipped = usize::try_from(skipped).unwrap_or(0);
        self.events.range(skipped.min(self.events.len())..)
    }
}

/// True for a query that can be answered from the end of the log.
pub(crate) fn answers(query: &EventQuery) -> bool {
    query.direction == Direction::Forward
        && query.since.is_none()
        && query.until.is_none()
        && query.limit != Some(0)
}

/// About how many bytes an event takes.
pub(crate) fn weight(event: &RecordedEvent) -> usize {
    let recorded = event.recorded();
    let tags: usize = recorded
        .tags
        .iter()
        .map(|tag| tag.as_str().len() + 24)
        .sum();
    let metadata = &recorded.metadata;
    let actor = metadata.actor.as_ref().map_or(0, String::len);
    let extra: usize = metadata
        .extra
        .iter()
        .map(|(key, value)| key.len() + value.to_string().len() + 64)
        .sum();
    320 + recorded.stream.key().len() + recorded.payload.as_str().len() + tags + actor + extra
}
