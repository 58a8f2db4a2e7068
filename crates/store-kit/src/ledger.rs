//! The rules of an append, pure: a batch equals its appends one after another.
//!
//! A store reads the [`Facts`] that a batch [`Needs`](crate::Needs) under its lock, lets [`decide`] decide, and
//! writes the [`Decision`] in the same transaction.

use backstory_event::{
    Append, AppendCondition, Appended, Checkpoint, Conflict, Lifecycle, Metadata, NewEvent,
    Payload, Position, Recorded, RecordedEvent, StoreErrorKind, StreamId, StreamPart, StreamState,
    StreamVersion, Tag, TagChange,
};
use chrono::{DateTime, Utc};

use crate::{
    facts::{ConditionHit, Decision, EventRow, Facts, StoredEvent, StreamRow},
    holdings::Holdings,
};

impl StreamRow {
    /// Takes in what the stream's next event does to its state and tags.
    pub fn follow(&mut self, name: &str, payload: &Payload) {
        self.state = next_state(self.state, name).unwrap_or(self.state);
        match Lifecycle::parse(name) {
            Some(Lifecycle::Tagged) => change_tags(&mut self.tags, payload),
            Some(Lifecycle::Erased) => self.tags.clear(),
            _ => {}
        }
    }

    /// Takes in the stream's next event.
    ///
    /// # Errors
    /// The state that refuses it; the row stays as it was.
    pub fn record(
        &mut self,
        position: Position,
        name: &str,
        payload: &Payload,
    ) -> Result<(), StreamState> {
        next_state(self.state, name)?;
        if self.version == StreamVersion::EMPTY {
            self.first_position = position;
        }
        self.version = self.version.next();
        self.last_position = position;
        self.follow(name, payload);
        Ok(())
    }
}

/// Decides a batch. The result is that of its appends one after another, unless a condition
/// follows on an erasure: what that takes away is still among the facts. [`Writer`](crate::Writer)
/// makes no such batch.
pub fn decide<'a>(
    appends: impl IntoIterator<Item = &'a Append>,
    mut facts: Facts,
    now: DateTime<Utc>,
) -> Decision {
    let recorded_at = facts.recorded_at.map_or(now, |last| last.max(now));
    let mut ledger = Ledger {
        holdings: Holdings::new(std::mem::take(&mut facts.claims)),
        facts,
        decision: Decision {
            recorded_at,
            ..Decision::default()
        },
        recorded: Vec::new(),
    };
    for (index, append) in appends.into_iter().enumerate() {
        let outcome = ledger.append(index, append);
        ledger.decision.outcomes.push(outcome);
    }
    Decision {
        values: ledger.holdings.into_changes(),
        ..ledger.decision
    }
}

struct Ledger {
    facts: Facts,
    holdings: Holdings,
    decision: Decision,
    // The events of the batch as far as a condition has looked at them.
    recorded: Vec<RecordedEvent>,
}

impl Ledger {
    fn append(&mut self, index: usize, append: &Append) -> Result<Appended, StoreErrorKind> {
        if let Some(receipt) = self.stored_before(append)? {
            return Ok(receipt);
        }
        for part in &append.parts {
            self.check_part(part)?;
        }
        for (number, condition) in append.conditions.iter().enumerate() {
            self.check_condition(index, number, condition)?;
        }
        self.holdings.check(&append.companions)?;
        let rows = self.rows(append)?;
        Ok(self.apply(append, rows))
    }

    /// The receipt of the same append, when it was stored before.
    fn stored_before(&self, append: &Append) -> Result<Option<Appended>, StoreErrorKind> {
        let reused = |event_id| Err(StoreErrorKind::EventIdReused { event_id });
        let Some(known) = append
            .events()
            .find(|event| self.facts.events.contains_key(&event.id))
        else {
            return Ok(None);
        };
        let mut receipt = Appended::nothing(Checkpoint::START);
        let mut previous: Option<Position> = None;
        for part in &append.parts {
            for event in &part.events {
                let Some(stored) = self.facts.events.get(&event.id) else {
                    return reused(known.id);
                };
                let follows = previous.is_none_or(|position| position.next() == stored.position);
                if stored.stream != part.stream || *stored.name != *event.name || !follows {
                    return reused(event.id);
                }
                previous = Some(stored.position);
                note(
                    &mut receipt,
                    stored.position,
                    event,
                    &part.stream,
                    stored.version,
                );
            }
        }
        Ok(Some(receipt))
    }

    fn row(&self, stream: &StreamId) -> StreamRow {
        self.facts
            .streams
            .get(stream)
            .cloned()
            .unwrap_or_else(StreamRow::empty)
    }

    fn check_part(&self, part: &StreamPart) -> Result<(), StoreErrorKind> {
        let row = self.row(&part.stream);
        let mut state = row.state;
        for event in &part.events {
            state = next_state(state, &event.name)
                .map_err(|state| refusal(state, part.stream.clone()))?;
        }
        if part.expected.accepts(row.version) {
            return Ok(());
        }
        Err(Conflict::Version {
            stream: part.stream.clone(),
            expected: part.expected,
            actual: row.version,
        }
        .into())
    }

    fn check_condition(
        &mut self,
        append: usize,
        index: usize,
        condition: &AppendCondition,
    ) -> Result<(), StoreErrorKind> {
        let Checkpoint { position, event_id } = condition.after;
        if !event_id.is_nil() {
            let found = self.facts.proofs.get(&position).copied();
            if found != Some(event_id) {
                return Err(StoreErrorKind::Diverged {
                    position,
                    expected: event_id,
                    found,
                });
            }
        } else if position > self.facts.head {
            return Err(backstory_event::Invalid::new(
                "condition",
                &position.to_string(),
                format!("it begins behind the newest position {}", self.facts.head),
            )
            .into());
        }
        let hit = self.facts.hits.get(&(append, index)).cloned();
        let hit = hit.or_else(|| {
            let news = self.decision.events.iter().skip(self.recorded.len());
            self.recorded
                .extend(news.map(|row| RecordedEvent::new(row.recorded.clone())));
            let mut behind = self.recorded.iter();
            let hit = behind
                .find(|event| event.position() > position && condition.fail_if.matches(event));
            hit.map(ConditionHit::from)
        });
        match hit {
            None => Ok(()),
            Some(ConditionHit {
                position,
                name,
                event_id,
            }) => Err(Conflict::Condition {
                index,
                position,
                name,
                event_id,
            }
            .into()),
        }
    }

    /// The events as they will be stored; the only step that can still fail.
    fn rows(&self, append: &Append) -> Result<Vec<EventRow>, StoreErrorKind> {
        let mut position = self.facts.head;
        let mut rows = Vec::new();
        for part in &append.parts {
            let mut version = self.row(&part.stream).version;
            for event in &part.events {
                position = position.next();
                version = version.next();
                rows.push(event_row(
                    event,
                    &part.stream,
                    position,
                    version,
                    self.decision.recorded_at,
                )?);
            }
        }
        Ok(rows)
    }

    fn apply(&mut self, append: &Append, rows: Vec<EventRow>) -> Appended {
        let mut receipt = Appended::nothing(Checkpoint::START);
        let events = append.parts.iter().flat_map(|part| &part.events);
        for (row, event) in rows.into_iter().zip(events) {
            let stream = row.recorded.stream.clone();
            let (position, version) = (row.recorded.position, row.recorded.version);
            note(&mut receipt, position, event, &stream, version);
            self.facts.head = position;
            self.facts.recorded_at = Some(self.decision.recorded_at);
            self.facts.events.insert(
                event.id,
                StoredEvent {
                    position,
                    stream: stream.clone(),
                    version,
                    name: row.recorded.name.clone(),
                },
            );
            self.facts.proofs.insert(position, event.id);
            self.touch_stream(&stream, position, event);
            self.decision.events.push(row);
        }
        self.holdings.apply(&append.companions);
        receipt
    }

    fn touch_stream(&mut self, stream: &StreamId, position: Position, event: &NewEvent) {
        let mut row = self.row(stream);
        // Checked before: it is not refused.
        let _ = row.record(position, &event.name, &event.payload);
        if event.name == Lifecycle::Erased.name() {
            self.erase(stream);
        }
        self.decision.streams.insert(stream.clone(), row.clone());
        self.facts.streams.insert(stream.clone(), row);
    }

    fn erase(&mut self, stream: &StreamId) {
        let erased_at = self.decision.recorded_at;
        for (index, row) in self.decision.events.iter_mut().enumerate() {
            if row.recorded.stream == *stream && row.recorded.erased_at.is_none() {
                scrub(&mut row.recorded, erased_at);
                row.metadata = Payload::empty();
                if let Some(seen) = self.recorded.get_mut(index) {
                    *seen = RecordedEvent::new(row.recorded.clone());
                }
            }
        }
        // The rest is the store's `erased`.
        self.holdings.erase(stream);
        self.decision.erased.push(stream.clone());
    }
}

/// Takes payload, metadata and tags from an event; the skeleton stays.
pub fn scrub(recorded: &mut Recorded, erased_at: DateTime<Utc>) {
    recorded.payload = Payload::empty();
    recorded.metadata = Metadata::default();
    recorded.tags = Vec::new();
    recorded.erased_at = Some(erased_at);
}

/// The state after an event, or the state that refuses it.
fn next_state(state: StreamState, name: &str) -> Result<StreamState, StreamState> {
    match (state, Lifecycle::parse(name)) {
        (_, Some(Lifecycle::Restored)) => Ok(StreamState::Live),
        (_, Some(Lifecycle::Erased)) => Ok(StreamState::Erased),
        (StreamState::Live, Some(Lifecycle::Deleted)) => Ok(StreamState::Deleted),
        (StreamState::Live, _) => Ok(StreamState::Live),
        (refused, _) => Err(refused),
    }
}

/// What a stream answers whose state refuses an event.
pub fn refusal(state: StreamState, stream: StreamId) -> StoreErrorKind {
    match state {
        StreamState::Erased => StoreErrorKind::StreamErased { stream },
        _ => StoreErrorKind::StreamDeleted { stream },
    }
}

fn change_tags(tags: &mut Vec<Tag>, payload: &Payload) {
    // Checked at the edge; a payload that is none changes nothing.
    let Ok(change) = TagChange::parse(payload) else {
        return;
    };
    tags.retain(|tag| !change.remove.contains(tag));
    tags.extend(change.add);
    tags.sort();
    tags.dedup();
}

fn event_row(
    event: &NewEvent,
    stream: &StreamId,
    position: Position,
    version: StreamVersion,
    recorded_at: DateTime<Utc>,
) -> Result<EventRow, StoreErrorKind> {
    let metadata = event.metadata.to_payload()?;
    let stored = if event.metadata == Metadata::default() {
        Metadata::default()
    } else {
        metadata.decode().map_err(|error| {
            backstory_event::Invalid::new("metadata", metadata.as_str(), error.to_string())
        })?
    };
    let mut tags = event.tags.clone();
    tags.sort();
    tags.dedup();
    let recorded = Recorded {
        position,
        stream: stream.clone(),
        version,
        id: event.id,
        name: event.name.as_str().into(),
        schema_version: event.version,
        payload: event.payload.clone(),
        metadata: stored,
        tags,
        recorded_at,
        erased_at: None,
    };
    Ok(EventRow { recorded, metadata })
}

/// Adds an event to a receipt.
fn note(
    receipt: &mut Appended,
    position: Position,
    event: &NewEvent,
    stream: &StreamId,
    version: StreamVersion,
) {
    receipt.checkpoint = Checkpoint {
        position,
        event_id: event.id,
    };
    let first = receipt.positions.map_or(position, |(first, _)| first);
    receipt.positions = Some((first, position));
    match receipt.streams.iter_mut().find(|(id, _)| id == stream) {
        Some((_, newest)) => *newest = version,
        None => receipt.streams.push((stream.clone(), version)),
    }
    if !receipt.names.contains(&event.name) {
        receipt.names.push(event.name.clone());
    }
}
