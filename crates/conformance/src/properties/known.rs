//! What the generator has to know of a log, to make appends of which many are stored.

use std::collections::HashMap;

use backstory_event::{Append, Appended, EventId, Lifecycle, StreamId, StreamState};

use super::model::Model;

/// A log, as far as the generator looks at it.
pub trait Seen {
    fn version(&self, stream: &StreamId) -> usize;
    fn state(&self, stream: &StreamId) -> StreamState;
    fn count(&self) -> usize;
    /// The event at a place, from 0.
    fn id_at(&self, index: usize) -> EventId;
}

impl Seen for Model {
    fn version(&self, stream: &StreamId) -> usize {
        self.version(stream)
    }

    fn state(&self, stream: &StreamId) -> StreamState {
        self.state(stream)
    }

    fn count(&self) -> usize {
        self.events.len()
    }

    fn id_at(&self, index: usize) -> EventId {
        self.events[index].id
    }
}

/// A log by the receipts of a store that somebody else compares: it answers at once, however long
/// the log is.
#[derive(Debug, Default, Clone)]
pub struct Receipts {
    ids: Vec<EventId>,
    streams: HashMap<StreamId, (usize, StreamState)>,
}

impl Receipts {
    /// Takes note of what a store answered. True when the append is new.
    pub fn note(&mut self, append: &Append, receipt: &Appended) -> bool {
        let last = usize::try_from(receipt.position().get()).unwrap();
        if last <= self.ids.len() {
            return false;
        }
        self.ids.extend(append.event_ids());
        for part in &append.parts {
            for event in &part.events {
                let row = self.streams.entry(part.stream.clone());
                let (version, state) = row.or_insert((0, StreamState::Live));
                *version += 1;
                *state = match Lifecycle::parse(&event.name) {
                    Some(Lifecycle::Deleted) => StreamState::Deleted,
                    Some(Lifecycle::Erased) => StreamState::Erased,
                    Some(Lifecycle::Restored) => StreamState::Live,
                    _ => *state,
                };
            }
        }
        true
    }
}

impl Seen for Receipts {
    fn version(&self, stream: &StreamId) -> usize {
        self.streams.get(stream).map_or(0, |(version, _)| *version)
    }

    fn state(&self, stream: &StreamId) -> StreamState {
        self.streams
            .get(stream)
            .map_or(StreamState::Live, |(_, state)| *state)
    }

    fn count(&self) -> usize {
        self.ids.len()
    }

    fn id_at(&self, index: usize) -> EventId {
        self.ids[index]
    }
}
