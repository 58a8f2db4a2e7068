//! The log, the stream rows and the values.

use std::collections::{BTreeMap, HashMap};

use backstory_event::{
    Append, Appended, Direction, EventFilter, EventId, EventQuery, Page, Position, RecordedEvent,
    StoreError, StreamCursor, StreamId, StreamPage, StreamQuery, StreamState, StreamVersion,
};
use backstory_store_kit::{
    ConditionHit, Decision, Facts, Needs, Scan, StoredEvent, StreamRow, decide, scrub,
};
use chrono::{DateTime, Utc};

use crate::values::Values;

#[derive(Default)]
pub(crate) struct Log {
    events: Vec<RecordedEvent>,
    ids: HashMap<EventId, Position>,
    streams: BTreeMap<StreamId, StreamRow>,
    // The positions of each stream's events, ascending.
    places: HashMap<StreamId, Vec<Position>>,
    values: Values,
}

impl Log {
    fn head(&self) -> Position {
        self.events
            .last()
            .map_or(Position::START, RecordedEvent::position)
    }

    fn at(&self, position: Position) -> Option<&RecordedEvent> {
        let index = usize::try_from(position.get()).ok()?.checked_sub(1)?;
        self.events.get(index)
    }

    pub(crate) fn decide(&self, append: &Append, now: DateTime<Utc>) -> Decision {
        decide([append], self.facts(append), now)
    }

    /// The answer, and the streams whose documents and snapshots go.
    pub(crate) fn apply(
        &mut self,
        decision: Decision,
    ) -> (Result<Appended, StoreError>, Vec<StreamId>) {
        for stream in &decision.erased {
            self.erase(stream, decision.recorded_at);
        }
        for row in decision.events {
            let event = RecordedEvent::new(row.recorded);
            self.ids.insert(event.id(), event.position());
            self.places
                .entry(event.stream().clone())
                .or_default()
                .push(event.position());
            self.events.push(event);
        }
        self.streams.extend(decision.streams);
        self.values.apply(decision.values);
        // One append has one outcome.
        let outcome = decision
            .outcomes
            .into_iter()
            .next()
            .unwrap_or_else(|| Ok(Appended::nothing(backstory_event::Checkpoint::START)));
        (outcome.map_err(StoreError::new), decision.erased)
    }

    pub(crate) fn values(&self) -> &Values {
        &self.values
    }

    fn facts(&self, append: &Append) -> Facts {
        let needs = Needs::of([append]);
        let event = |id: EventId| {
            let event = self.at(*self.ids.get(&id)?)?;
            let stored = StoredEvent {
                position: event.position(),
                stream: event.stream().clone(),
                version: event.version(),
                name: event.name().into(),
            };
            Some((id, stored))
        };
        let streams = needs.streams.into_iter();
        let claims = needs.claims.into_iter();
        let proofs = needs.proofs.into_iter();
        Facts {
            head: self.head(),
            recorded_at: self.events.last().map(RecordedEvent::recorded_at),
            streams: streams
                .filter_map(|stream| self.streams.get(&stream).cloned().map(|row| (stream, row)))
                .collect(),
            events: needs.event_ids.into_iter().filter_map(event).collect(),
            claims: claims
                .filter_map(|key| self.values.holder(&key).cloned().map(|owner| (key, owner)))
                .collect(),
            proofs: proofs
                .filter_map(|at| Some((at, self.at(at)?.id())))
                .collect(),
            hits: append
                .conditions
                .iter()
                .enumerate()
                .filter_map(|(index, condition)| {
                    let hit = self.first(&condition.fail_if, condition.after.position)?;
                    Some(((0, index), hit))
                })
                .collect(),
        }
    }

    fn first(&self, filter: &EventFilter, after: Position) -> Option<ConditionHit> {
        let from = usize::try_from(after.get()).ok()?;
        let event = self
            .events
            .get(from..)?
            .iter()
            .find(|event| filter.matches(event))?;
        Some(ConditionHit {
            position: event.position(),
            name: event.name().into(),
            event_id: event.id(),
        })
    }

    fn erase(&mut self, stream: &StreamId, erased_at: DateTime<Utc>) {
        for position in self.places.get(stream).into_iter().flatten() {
            let index = usize::try_from(position.get() - 1).ok();
            if let Some(event) = index.and_then(|index| self.events.get_mut(index))
                && !event.is_erased()
            {
                let mut recorded = event.recorded().clone();
                scrub(&mut recorded, erased_at);
                *event = RecordedEvent::new(recorded);
            }
        }
        self.values.erase(stream);
    }

    /// True when the content of the stream is gone and it was not revived.
    pub(crate) fn is_erased(&self, stream: &StreamId) -> bool {
        let row = self.streams.get(stream);
        row.is_some_and(|row| row.state == StreamState::Erased)
    }

    /// True when the event of this number is erased, so that no state may be kept that contains it.
    pub(crate) fn is_erased_at(&self, stream: &StreamId, version: StreamVersion) -> bool {
        let index = usize::try_from(version.get() - 1).ok();
        let places = self.places.get(stream);
        let position = index.and_then(|index| places?.get(index));
        position
            .and_then(|position| self.at(*position))
            .is_some_and(RecordedEvent::is_erased)
    }

    /// True when the event there is erased.
    pub(crate) fn is_erased_event(&self, position: Position) -> bool {
        self.at(position).is_some_and(RecordedEvent::is_erased)
    }

    pub(crate) fn read(&self, query: &EventQuery, page: usize) -> Result<Page, StoreError> {
        let scan = Scan::plan(query, self.head(), i64::MAX, page);
        let rows = match streams_only(&query.filter) {
            Some(streams) => {
                let mut places: Vec<_> = streams
                    .filter_map(|stream| self.places.get(stream))
                    .flat_map(|places| {
                        let from = places.partition_point(|position| *position < scan.low);
                        let to = places.partition_point(|position| *position <= scan.high);
                        places.get(from..to).unwrap_or_default()
                    })
                    .copied()
                    .chain([scan.low, scan.high])
                    .collect();
                places.sort_unstable();
                places.dedup();
                self.rows(query, &scan, places.into_iter())
            }
            None => self.rows(
                query,
                &scan,
                (scan.low.get()..=scan.high.get()).map(Position::new),
            ),
        };
        scan.page(query, rows)
    }

    /// The rows of a scan among these ascending positions.
    fn rows(
        &self,
        query: &EventQuery,
        scan: &Scan,
        places: impl DoubleEndedIterator<Item = Position>,
    ) -> Vec<RecordedEvent> {
        let pick = |places: &mut dyn Iterator<Item = Position>| {
            let mut rows = Vec::new();
            for event in places.filter_map(|position| self.at(position)) {
                let is_end = [scan.low, scan.high].contains(&event.position());
                if is_end || query.matches(event) {
                    rows.push(event.clone());
                }
                if rows.len() >= scan.rows() {
                    break;
                }
            }
            rows
        };
        match query.direction {
            Direction::Forward => pick(&mut { places }),
            Direction::Backward => pick(&mut places.rev()),
        }
    }

    pub(crate) fn streams(&self, query: &StreamQuery) -> StreamPage {
        let after = query.after.as_ref().map(|cursor| cursor.stream().clone());
        let size = query.page_size();
        let mut streams: Vec<_> = self
            .streams
            .iter()
            .filter(|(stream, _)| after.as_ref().is_none_or(|after| *stream > after))
            .map(|(stream, row)| row.info(stream.clone()))
            .filter(|info| query.matches(info))
            .take(size + 1)
            .collect();
        let more = streams.len() > size;
        streams.truncate(size);
        let last = streams.last().filter(|_| more);
        let next = last.map(|info| StreamCursor::behind(info.stream.clone()));
        StreamPage { streams, next }
    }
}

/// The streams of a filter that means nothing but streams.
fn streams_only(filter: &EventFilter) -> Option<impl Iterator<Item = &StreamId>> {
    let only = !filter.items().is_empty()
        && filter
            .items()
            .iter()
            .all(|item| item.get_categories().is_empty() && !item.get_streams().is_empty());
    only.then(|| filter.items().iter().flat_map(|item| item.get_streams()))
}
