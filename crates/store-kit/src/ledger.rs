//! The rules of an append, pure: a batch equals its appends one after another.
//!
//! A store reads the [`Facts`] that a batch [`Needs`] under its lock, lets [`decide`] decide, and
//! writes the [`Decision`] in the same transaction.

use std::collections::{BTreeMap, HashMap, HashSet};

use backstory_event::{
    Append, AppendCondition, Appended, Checkpoint, Companion, Conflict, EventId, Lifecycle,
    Metadata, NewEvent, Payload, Position, Recorded, RecordedEvent, StoreErrorKind, StreamId,
    StreamInfo, StreamPart, StreamState, StreamVersion, Tag, TagChange,
};
use chrono::{DateTime, Utc};

/// Scope and value of a unique claim.
pub type ClaimKey = (String, String);

/// What a store has to look up before it can decide a batch.
#[derive(Debug, Default, Clone)]
pub struct Needs {
    /// The rows of these streams.
    pub streams: HashSet<StreamId>,
    /// Whether events with these ids are stored.
    pub event_ids: HashSet<EventId>,
    /// Who holds these values.
    pub claims: HashSet<ClaimKey>,
    /// The events at these positions: proofs of conditions.
    pub proofs: HashSet<Position>,
}

impl Needs {
    /// What these appends need. Their conditions are looked up one by one, see [`Facts::hits`].
    pub fn of<'a>(appends: impl IntoIterator<Item = &'a Append>) -> Self {
        let mut needs = Self::default();
        for append in appends {
            needs
                .streams
                .extend(append.parts.iter().map(|part| part.stream.clone()));
            needs
                .event_ids
                .extend(append.events().map(|event| event.id));
            needs
                .claims
                .extend(append.companions.iter().map(|companion| claim(companion).0));
            let proofs = append.conditions.iter().map(|condition| condition.after);
            needs.proofs.extend(
                proofs
                    .filter(|proof| !proof.event_id.is_nil())
                    .map(|proof| proof.position),
            );
        }
        needs
    }
}

/// A stream as its store keeps it beside the log.
#[derive(Debug, Clone, PartialEq)]
pub struct StreamRow {
    /// How many events it has.
    pub version: StreamVersion,
    /// Live, deleted or erased.
    pub state: StreamState,
    /// Its tags, in byte order.
    pub tags: Vec<Tag>,
    /// Where its first event is.
    pub first_position: Position,
    /// Where its last event is.
    pub last_position: Position,
}

impl StreamRow {
    fn empty() -> Self {
        Self {
            version: StreamVersion::EMPTY,
            state: StreamState::Live,
            tags: Vec::new(),
            first_position: Position::START,
            last_position: Position::START,
        }
    }

    /// The row as readers see it.
    pub fn info(&self, stream: StreamId) -> StreamInfo {
        StreamInfo {
            stream,
            version: self.version,
            state: self.state,
            tags: self.tags.clone(),
            first_position: self.first_position,
            last_position: self.last_position,
        }
    }
}

/// An event that is already stored under an id of the batch.
#[derive(Debug, Clone, PartialEq)]
pub struct StoredEvent {
    /// Where.
    pub position: Position,
    /// Its stream.
    pub stream: StreamId,
    /// Its number within the stream.
    pub version: StreamVersion,
    /// Its name.
    pub name: String,
}

/// The first event that a condition excludes.
#[derive(Debug, Clone, PartialEq)]
pub struct ConditionHit {
    /// Where.
    pub position: Position,
    /// Its name.
    pub name: String,
    /// Its id.
    pub event_id: EventId,
}

/// What is stored, as far as a batch needs it, read under the store's lock.
#[derive(Debug, Default, Clone)]
pub struct Facts {
    /// The newest position.
    pub head: Position,
    /// When the newest event was recorded.
    pub recorded_at: Option<DateTime<Utc>>,
    /// The streams that exist, of those needed.
    pub streams: HashMap<StreamId, StreamRow>,
    /// The events that exist, of those needed.
    pub events: HashMap<EventId, StoredEvent>,
    /// The claims that are held, of those needed.
    pub claims: HashMap<ClaimKey, StreamId>,
    /// The ids of the events at the needed positions.
    pub proofs: HashMap<Position, EventId>,
    /// Per append and condition, the first stored event that it excludes. Keys that are missing
    /// mean none.
    pub hits: HashMap<(usize, usize), ConditionHit>,
}

/// An event to insert.
#[derive(Debug, Clone, PartialEq)]
pub struct EventRow {
    /// Its columns.
    pub recorded: Recorded,
    /// Its metadata as JSON.
    pub metadata: Payload,
}

/// What to write for a batch, and what to answer to each append.
#[derive(Debug, Default)]
pub struct Decision {
    /// The answers, in the order of the appends.
    pub outcomes: Vec<Result<Appended, StoreErrorKind>>,
    /// Events to insert, in the order of positions. Those of streams that the same batch erases
    /// are erased already.
    pub events: Vec<EventRow>,
    /// Stream rows to insert or replace.
    pub streams: BTreeMap<StreamId, StreamRow>,
    /// Claims to set (`Some`) or remove (`None`).
    pub claims: BTreeMap<ClaimKey, Option<StreamId>>,
    /// Streams whose stored events, snapshots, owned documents and claims go, with the time.
    /// Apply this before `claims`.
    pub erased: Vec<StreamId>,
    /// When the batch was recorded.
    pub recorded_at: DateTime<Utc>,
}

/// Decides a batch. The result is that of its appends one after another.
pub fn decide<'a>(
    appends: impl IntoIterator<Item = &'a Append>,
    facts: Facts,
    now: DateTime<Utc>,
) -> Decision {
    let recorded_at = facts.recorded_at.map_or(now, |last| last.max(now));
    let mut ledger = Ledger {
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
    ledger.decision
}

struct Ledger {
    facts: Facts,
    decision: Decision,
    // The events of the batch, for conditions of later appends.
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
        for companion in &append.companions {
            let (key, owner) = claim(companion);
            match self.facts.claims.get(&key) {
                Some(holder) if holder != owner => {
                    let (scope, value) = key;
                    return Err(Conflict::Claim {
                        scope,
                        value,
                        owner: holder.clone(),
                    }
                    .into());
                }
                _ => {}
            }
        }
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
                if stored.stream != part.stream || stored.name != event.name || !follows {
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
            state = next_state(state, &event.name).map_err(|refused| {
                let stream = part.stream.clone();
                match refused {
                    StreamState::Erased => StoreErrorKind::StreamErased { stream },
                    _ => StoreErrorKind::StreamDeleted { stream },
                }
            })?;
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
        &self,
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
        let stored = self.facts.hits.get(&(append, index)).cloned();
        let hit = stored.or_else(|| {
            let event = self
                .recorded
                .iter()
                .find(|event| event.position() > position && condition.fail_if.matches(event))?;
            Some(ConditionHit {
                position: event.position(),
                name: event.name().to_owned(),
                event_id: event.id(),
            })
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
                    name: event.name.clone(),
                },
            );
            self.facts.proofs.insert(position, event.id);
            self.touch_stream(&stream, position, version, event);
            self.recorded.push(RecordedEvent::new(row.recorded.clone()));
            self.decision.events.push(row);
        }
        for companion in &append.companions {
            let (key, owner) = claim(companion);
            let holder = match companion {
                Companion::Claim { .. } => Some(owner.clone()),
                _ => None,
            };
            match &holder {
                Some(owner) => drop(self.facts.claims.insert(key.clone(), owner.clone())),
                None => drop(self.facts.claims.remove(&key)),
            }
            self.decision.claims.insert(key, holder);
        }
        receipt
    }

    fn touch_stream(
        &mut self,
        stream: &StreamId,
        position: Position,
        version: StreamVersion,
        event: &NewEvent,
    ) {
        let mut row = self.row(stream);
        if row.version == StreamVersion::EMPTY {
            row.first_position = position;
        }
        row.version = version;
        row.last_position = position;
        row.state = next_state(row.state, &event.name).unwrap_or(row.state);
        match Lifecycle::parse(&event.name) {
            Some(Lifecycle::Tagged) => change_tags(&mut row.tags, &event.payload),
            Some(Lifecycle::Erased) => {
                row.tags.clear();
                self.erase(stream);
            }
            _ => {}
        }
        self.decision.streams.insert(stream.clone(), row.clone());
        self.facts.streams.insert(stream.clone(), row);
    }

    fn erase(&mut self, stream: &StreamId) {
        let erased_at = self.decision.recorded_at;
        for (row, recorded) in self.decision.events.iter_mut().zip(&mut self.recorded) {
            if row.recorded.stream == *stream && row.recorded.erased_at.is_none() {
                scrub(&mut row.recorded, erased_at);
                row.metadata = Payload::empty();
                *recorded = RecordedEvent::new(row.recorded.clone());
            }
        }
        self.facts.claims.retain(|_, owner| owner != stream);
        // What an earlier append of the batch claimed goes too; the rest is the store's `erased`.
        for holder in self.decision.claims.values_mut() {
            if holder.as_ref() == Some(stream) {
                *holder = None;
            }
        }
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

fn claim(companion: &Companion) -> (ClaimKey, &StreamId) {
    let (scope, value) = companion.claim();
    ((scope.to_owned(), value.to_owned()), companion.owner())
}

fn event_row(
    event: &NewEvent,
    stream: &StreamId,
    position: Position,
    version: StreamVersion,
    recorded_at: DateTime<Utc>,
) -> Result<EventRow, StoreErrorKind> {
    let metadata = event.metadata.to_payload()?;
    let stored = metadata.decode().map_err(|error| {
        backstory_event::Invalid::new("metadata", metadata.as_str(), error.to_string())
    })?;
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
