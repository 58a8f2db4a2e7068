//! The rules of an append once more, as naively as possible: one list of events, looked through
//! from the beginning for every question.

use std::collections::BTreeMap;

use backstory_aggregate::LookupRow;
use backstory_event::{
    Append, AppendCondition, Appended, Checkpoint, Companion, Conflict, EventId, ExpectedVersion,
    Invalid, Metadata, NewEvent, Payload, RecordedEvent, StoreErrorKind, StreamId, StreamInfo,
    StreamPart, StreamState, StreamVersion, Tag, TagChange,
};

use crate::kit::position;

/// A stored event, without the time.
#[derive(Debug, Clone, PartialEq)]
pub struct Stored {
    pub stream: StreamId,
    pub version: usize,
    pub id: EventId,
    pub name: String,
    pub schema_version: u32,
    pub payload: Payload,
    pub metadata: Metadata,
    pub tags: Vec<Tag>,
    pub erased: bool,
}

impl Stored {
    /// The same of an event that a store gave back.
    pub fn of(event: &RecordedEvent) -> Self {
        Self {
            stream: event.stream().clone(),
            version: usize::try_from(event.version().get()).unwrap(),
            id: event.id(),
            name: event.name().to_owned(),
            schema_version: event.schema_version(),
            payload: event.payload().clone(),
            metadata: event.metadata().clone(),
            tags: event.tags().to_vec(),
            erased: event.is_erased(),
        }
    }
}

#[derive(Debug, Default, Clone, PartialEq)]
pub(super) struct Model {
    pub(super) events: Vec<Stored>,
    values: Values,
}

/// Scope, value, owner, and whether it is claimed.
#[derive(Debug, Default, Clone, PartialEq)]
struct Values(Vec<(String, String, StreamId, bool)>);

impl Values {
    fn change(&mut self, companion: &Companion) -> Result<(), StoreErrorKind> {
        let (scope, owner) = (companion.scope(), companion.owner());
        let value = companion.value();
        let mut claims = self.0.iter().filter(|(.., claimed)| *claimed);
        let taken = claims.find(|(other, text, holder, _)| {
            let is_named = companion.claim() == Some((other.as_str(), text.as_str()));
            is_named && holder != owner
        });
        if let Some((scope, value, holder, _)) = taken {
            return Err(Conflict::Claim {
                scope: scope.clone(),
                value: value.clone(),
                owner: holder.clone(),
            }
            .into());
        }
        let row = |claimed| {
            let value = value.unwrap().to_owned();
            (scope.to_owned(), value, owner.clone(), claimed)
        };
        match companion {
            Companion::Claim { .. } if !self.0.contains(&row(true)) => self.0.push(row(true)),
            Companion::Entry { .. } if !self.0.contains(&row(false)) => self.0.push(row(false)),
            Companion::Claim { .. } | Companion::Entry { .. } => {}
            _ => self.0.retain(|(other, text, holder, _)| {
                other != scope || holder != owner || value.is_some_and(|value| value != text)
            }),
        }
        Ok(())
    }
}

type Outcome = Result<Appended, StoreErrorKind>;

impl Model {
    pub(super) fn append(&mut self, append: &Append) -> Outcome {
        if let Some(reason) = invalid(append) {
            return Err(Invalid::new("append", "", reason).into());
        }
        if let Some(outcome) = self.sent_before(append) {
            return outcome;
        }
        for part in &append.parts {
            self.check(part)?;
        }
        for (index, condition) in append.conditions.iter().enumerate() {
            self.check_condition(index, condition)?;
        }
        let mut values = self.values.clone();
        for companion in &append.companions {
            values.change(companion)?;
        }
        for part in &append.parts {
            for event in &part.events {
                self.store(&part.stream, event);
            }
        }
        for companion in &append.companions {
            self.values.change(companion)?;
        }
        Ok(self.receipt(append))
    }

    /// The values of a scope, as a store gives them.
    pub(super) fn rows_of(&self, scope: &str) -> Vec<LookupRow> {
        let own = self.values.0.iter().filter(|(other, ..)| other == scope);
        let mut rows: Vec<_> = own
            .map(|(_, value, owner, claimed)| LookupRow {
                value: value.clone(),
                owner: owner.clone(),
                claimed: *claimed,
            })
            .collect();
        rows.sort();
        rows
    }

    pub(super) fn version(&self, stream: &StreamId) -> usize {
        self.events
            .iter()
            .filter(|event| &event.stream == stream)
            .count()
    }

    pub(super) fn state(&self, stream: &StreamId) -> StreamState {
        let own = self.events.iter().filter(|event| &event.stream == stream);
        let mut last = own.filter_map(|event| match event.name.as_str() {
            "backstory.deleted" => Some(StreamState::Deleted),
            "backstory.restored" => Some(StreamState::Live),
            "backstory.erased" => Some(StreamState::Erased),
            _ => None,
        });
        last.next_back().unwrap_or(StreamState::Live)
    }

    /// The rows of all streams except their tags, in order.
    pub(super) fn rows(&self, tags: impl Fn(&StreamId) -> Vec<Tag>) -> Vec<StreamInfo> {
        let mut streams: Vec<_> = self
            .events
            .iter()
            .map(|event| event.stream.clone())
            .collect();
        streams.sort();
        streams.dedup();
        let place = |index: usize| position(index + 1);
        let row = |stream: StreamId| {
            let is_own = |event: &Stored| event.stream == stream;
            StreamInfo {
                version: StreamVersion::new(i64::try_from(self.version(&stream)).unwrap()),
                state: self.state(&stream),
                tags: tags(&stream),
                first_position: place(self.events.iter().position(is_own).unwrap()),
                last_position: place(self.events.iter().rposition(is_own).unwrap()),
                stream,
            }
        };
        streams.into_iter().map(row).collect()
    }

    fn find(&self, id: EventId) -> Option<usize> {
        self.events.iter().position(|event| event.id == id)
    }

    fn sent_before(&self, append: &Append) -> Option<Outcome> {
        let sent: Vec<(&StreamId, &NewEvent)> = append
            .parts
            .iter()
            .flat_map(|part| part.events.iter().map(|event| (&part.stream, event)))
            .collect();
        let places: Vec<_> = sent.iter().map(|(_, event)| self.find(event.id)).collect();
        let first = places.iter().flatten().next()?;
        let same = sent.iter().enumerate().all(|(offset, (stream, event))| {
            let expected = places[0].map(|first| first + offset);
            places[offset].is_some() && places[offset] == expected && {
                let stored = &self.events[places[offset].unwrap()];
                stored.stream == **stream && stored.name == event.name
            }
        });
        if same {
            return Some(Ok(self.receipt(append)));
        }
        Some(Err(StoreErrorKind::EventIdReused {
            event_id: self.events[*first].id,
        }))
    }

    fn check(&self, part: &StreamPart) -> Result<(), StoreErrorKind> {
        let stream = part.stream.clone();
        let mut state = self.state(&stream);
        for event in &part.events {
            state = match (state, event.name.as_str()) {
                (_, "backstory.restored") => StreamState::Live,
                (_, "backstory.erased") => StreamState::Erased,
                (StreamState::Deleted, _) => return Err(StoreErrorKind::StreamDeleted { stream }),
                (StreamState::Erased, _) => return Err(StoreErrorKind::StreamErased { stream }),
                (StreamState::Live, "backstory.deleted") => StreamState::Deleted,
                (StreamState::Live, _) => StreamState::Live,
            };
        }
        let actual = i64::try_from(self.version(&stream)).unwrap();
        let holds = match part.expected {
            ExpectedVersion::Any => true,
            ExpectedVersion::NoStream => actual == 0,
            ExpectedVersion::StreamExists => actual != 0,
            ExpectedVersion::Exact(version) => actual == version.get(),
        };
        if holds {
            return Ok(());
        }
        let actual = StreamVersion::new(actual);
        Err(Conflict::Version {
            stream,
            expected: part.expected,
            actual,
        }
        .into())
    }

    fn check_condition(
        &self,
        index: usize,
        condition: &AppendCondition,
    ) -> Result<(), StoreErrorKind> {
        let after = usize::try_from(condition.after.position.get()).unwrap();
        let proof = condition.after.event_id;
        if proof.is_nil() {
            if after > self.events.len() {
                return Err(Invalid::new("condition", "", "it is ahead").into());
            }
        } else {
            let there = after
                .checked_sub(1)
                .and_then(|index| self.events.get(index));
            let found = there.map(|event| event.id);
            if found != Some(proof) {
                let position = condition.after.position;
                return Err(StoreErrorKind::Diverged {
                    position,
                    expected: proof,
                    found,
                });
            }
        }
        for (place, event) in self.events.iter().enumerate().skip(after) {
            if condition
                .fail_if
                .matches_parts(&event.name, &event.stream, &event.tags)
            {
                return Err(Conflict::Condition {
                    index,
                    position: position(place + 1),
                    name: event.name.clone(),
                    event_id: event.id,
                }
                .into());
            }
        }
        Ok(())
    }

    fn store(&mut self, stream: &StreamId, event: &NewEvent) {
        if event.name == "backstory.erased" {
            for old in self.events.iter_mut().filter(|old| &old.stream == stream) {
                old.payload = Payload::empty();
                old.metadata = Metadata::default();
                old.tags = Vec::new();
                old.erased = true;
            }
            self.values.0.retain(|(_, _, owner, _)| owner != stream);
        }
        let mut tags = event.tags.clone();
        tags.sort();
        tags.dedup();
        self.events.push(Stored {
            stream: stream.clone(),
            version: self.version(stream) + 1,
            id: event.id,
            name: event.name.clone(),
            schema_version: event.version,
            payload: event.payload.clone(),
            metadata: event.metadata.clone(),
            tags,
            erased: false,
        });
    }

    fn receipt(&self, append: &Append) -> Appended {
        let mut receipt = Appended::nothing(Checkpoint::START);
        let mut places = Vec::new();
        for part in &append.parts {
            for event in &part.events {
                let place = self.find(event.id).unwrap();
                places.push(position(place + 1));
                receipt.checkpoint = Checkpoint {
                    position: position(place + 1),
                    event_id: event.id,
                };
                if !receipt.names.contains(&event.name) {
                    receipt.names.push(event.name.clone());
                }
            }
            if let Some(last) = part.events.last() {
                let version = self.events[self.find(last.id).unwrap()].version;
                let version = StreamVersion::new(i64::try_from(version).unwrap());
                receipt.streams.push((part.stream.clone(), version));
            }
        }
        receipt.positions = Some((places[0], places[places.len() - 1]));
        receipt
    }
}

/// The tags that the tag changes of a log, as they were sent, gave to the streams.
#[derive(Debug, Default, Clone)]
pub(super) struct StreamTags(BTreeMap<StreamId, Vec<Tag>>);

impl StreamTags {
    pub(super) fn stored(&mut self, append: &Append) {
        for part in &append.parts {
            let tags = self.0.entry(part.stream.clone()).or_default();
            for event in &part.events {
                if event.name == "backstory.erased" {
                    tags.clear();
                }
                if event.name == "backstory.tagged" {
                    let change = TagChange::parse(&event.payload).unwrap();
                    tags.retain(|tag| !change.remove.contains(tag));
                    tags.extend(change.add);
                    tags.sort();
                    tags.dedup();
                }
            }
        }
    }

    pub(super) fn of(&self, stream: &StreamId) -> Vec<Tag> {
        self.0.get(stream).cloned().unwrap_or_default()
    }
}

/// The bad input that the generator makes.
fn invalid(append: &Append) -> Option<&'static str> {
    let ids = append.event_ids();
    let bad = |event: &NewEvent| {
        event.name.contains(['*', '\0'])
            || event.name.is_empty()
            || event.version == 0
            || event.id.is_nil()
            || event.payload.as_str().len() > 1 << 20
    };
    if ids.is_empty() {
        return Some("no events");
    }
    if (1..ids.len()).any(|index| ids[..index].contains(&ids[index])) {
        return Some("an id twice");
    }
    let streams: Vec<_> = append.parts.iter().map(|part| &part.stream).collect();
    if (1..streams.len()).any(|index| streams[..index].contains(&streams[index])) {
        return Some("a stream twice");
    }
    let erases = |event: &NewEvent| event.name == "backstory.erased";
    if append
        .parts
        .iter()
        .any(|part| part.events.len() > 1 && part.events.iter().any(erases))
    {
        return Some("an erasure beside other events");
    }
    append.events().any(bad).then_some("a bad event")
}

/// True when a store and the model say the same. Which of several ids is named, and how bad input
/// is described, is left to the store.
pub(super) fn same(store: &Outcome, model: &Outcome) -> bool {
    match (store, model) {
        (Err(StoreErrorKind::Invalid(_)), Err(StoreErrorKind::Invalid(_))) => true,
        (Err(StoreErrorKind::EventIdReused { .. }), Err(StoreErrorKind::EventIdReused { .. })) => {
            true
        }
        _ => store == model,
    }
}
