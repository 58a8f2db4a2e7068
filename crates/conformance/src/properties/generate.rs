//! Reproducible random appends and queries.

use backstory_event::{
    Append, AppendCondition, Checkpoint, Companion, EventFilter, EventId, EventQuery,
    ExpectedVersion, FilterItem, Lifecycle, Metadata, NewEvent, Payload, Position, RecordedEvent,
    StreamId, StreamState, StreamVersion, Tag, TagChange,
};
use chrono::Duration;
use serde_json::json;
use uuid::Uuid;

use super::known::Seen;
use crate::kit::{Dice, payload, position, stream, tag};

const CATEGORIES: [&str; 5] = ["todo", "list", "Todo", "to", "user {x}"];
const NAMES: [&str; 8] = [
    "added",
    "done",
    "renamed",
    "Added",
    "add",
    "removed",
    "a,b",
    "moved \"x\"",
];
const TAGS: [&str; 8] = [
    "red",
    "big",
    "Red",
    "{red,big}",
    "list:1",
    "list:2",
    "\"",
    "re",
];

/// Makes the same sequence for the same seed and the same answers.
#[derive(Debug)]
pub struct Generator {
    pub dice: Dice,
    sent: Vec<Append>,
    keys: usize,
}

impl Generator {
    /// `keys`: how many streams each category has; few make many conflicts.
    pub fn new(seed: u64, keys: usize) -> Self {
        Self {
            dice: Dice::new(seed),
            sent: Vec::new(),
            keys,
        }
    }

    pub fn stream(&mut self) -> StreamId {
        let category = *self.dice.pick(&CATEGORIES);
        stream(category, &self.dice.below(self.keys).to_string())
    }

    fn tag(&mut self) -> Tag {
        tag(self.dice.pick::<&str>(&TAGS))
    }

    fn id(&mut self) -> EventId {
        let (high, low) = (self.dice.roll(), self.dice.roll());
        EventId::from_uuid(Uuid::from_u64_pair(high | 1, low))
    }

    pub(super) fn event(&mut self) -> NewEvent {
        let content = payload(json!({
            "number": self.dice.below(1_000),
            "text": *self.dice.pick(&TAGS),
            "list": [self.dice.once_in(2), null, 0.5],
        }));
        let mut event = NewEvent::raw(*self.dice.pick(&NAMES), content).with_id(self.id());
        event.version = u32::try_from(1 + self.dice.below(3)).unwrap();
        for _ in 0..self.dice.below(4) {
            event = event.with_tag(self.tag());
        }
        if self.dice.once_in(3) {
            let actor = *self.dice.pick(&NAMES);
            event = event.with_metadata(Metadata::new().with_actor(actor).with("n", 7));
        }
        event
    }

    fn lifecycle(&mut self) -> NewEvent {
        let id = self.id();
        let event = match self.dice.below(6) {
            0 => Lifecycle::Deleted.event(),
            1 | 2 => Lifecycle::Restored.event(),
            3 => Lifecycle::Erased.event(),
            _ => {
                let (add, remove) = (vec![self.tag(), self.tag()], vec![self.tag()]);
                TagChange { add, remove }.event()
            }
        };
        event.with_id(id)
    }

    /// Events of one part: erasure goes alone.
    fn part(&mut self, most: usize) -> Vec<NewEvent> {
        if self.dice.once_in(8) {
            let event = self.lifecycle();
            if event.name == Lifecycle::Erased.name() {
                return vec![event];
            }
            return vec![self.event(), event];
        }
        (0..=self.dice.below(most)).map(|_| self.event()).collect()
    }

    /// Mostly what holds, sometimes what does not.
    fn expected(&mut self, model: &impl Seen, stream: &StreamId) -> ExpectedVersion {
        let actual = i64::try_from(model.version(stream)).unwrap();
        match self.dice.below(10) {
            0 => ExpectedVersion::NoStream,
            1 => ExpectedVersion::StreamExists,
            2 => ExpectedVersion::Exact(StreamVersion::new(actual + 1)),
            3 => ExpectedVersion::Exact(StreamVersion::new(actual - 1)),
            4..7 => ExpectedVersion::Any,
            _ => ExpectedVersion::Exact(StreamVersion::new(actual)),
        }
    }

    /// An append that stores something, for filling a log.
    pub(super) fn filling(&mut self, most: usize) -> Append {
        let mut append = Append::new();
        for _ in 0..=self.dice.below(3) {
            let stream = self.stream();
            if append.parts.iter().all(|part| part.stream != stream) {
                let events = self.part(most);
                append = append.and(stream, ExpectedVersion::Any, events);
            }
        }
        append
    }

    /// Any append: good, refused, bad, sent before.
    pub fn append(&mut self, model: &impl Seen) -> Append {
        if self.dice.once_in(8) && !self.sent.is_empty() {
            // Also one that was sent just before.
            let recent = self.sent.len().min(12);
            let back = match self.dice.once_in(2) {
                true => self.dice.below(recent),
                false => self.dice.below(self.sent.len()),
            };
            let index = self.sent.len() - 1 - back;
            let mut again = self.sent[index].clone();
            if self.dice.once_in(3) {
                self.spoil_repeat(&mut again);
            }
            return again;
        }
        let mut append = Append::new();
        for _ in 0..=self.dice.below(3) {
            let stream = self.stream();
            if append.parts.iter().any(|part| part.stream == stream) {
                continue;
            }
            let expected = self.expected(model, &stream);
            let events = match self.dice.below(6) {
                0 => Vec::new(),
                1..4 if model.state(&stream) != StreamState::Live => {
                    let restored = Lifecycle::Restored.event().with_id(self.id());
                    vec![restored, self.event()]
                }
                _ => self.part(3),
            };
            append = append.and(stream, expected, events);
        }
        for _ in 0..2 {
            if self.dice.once_in(6) {
                let condition = self.condition(model);
                append = append.fail_if(condition);
            }
        }
        if self.dice.once_in(4) {
            self.values(&mut append);
        }
        if self.dice.once_in(15) {
            self.spoil(&mut append);
        }
        self.sent.push(append.clone());
        append
    }

    /// Takes, gives back, enters and clears values, in any order; no value is claimed twice.
    fn values(&mut self, append: &mut Append) {
        let scope = || "scope".to_owned();
        for _ in 0..self.dice.below(3) {
            let (value, owner) = (self.dice.below(6).to_string(), self.stream());
            append.companions.push(match self.dice.below(4) {
                0 | 1 => Companion::Entry {
                    scope: scope(),
                    value,
                    owner,
                },
                way => Companion::Clear {
                    scope: scope(),
                    value: (way == 2).then_some(value),
                    owner,
                },
            });
        }
        let (value, owner) = (self.dice.below(6).to_string(), self.stream());
        let claim = if self.dice.once_in(3) {
            Companion::Release {
                scope: scope(),
                value,
                owner,
            }
        } else {
            Companion::Claim {
                scope: scope(),
                value,
                owner,
            }
        };
        let place = self.dice.below(append.companions.len() + 1);
        append.companions.insert(place, claim);
    }

    /// Any append whose conditions begin near the end of the log: a store may look through what is
    /// far back before it queues the append, so that others overtake it.
    pub fn ordered(&mut self, model: &impl Seen) -> Append {
        loop {
            let append = self.append(model);
            let near = |condition: &AppendCondition| {
                let after = condition.after.position.get();
                after.saturating_add(100) > i64::try_from(model.count()).unwrap()
            };
            if append.conditions.iter().all(near) {
                return append;
            }
        }
    }

    fn condition(&mut self, model: &impl Seen) -> AppendCondition {
        let count = model.count();
        let after = count.saturating_sub(self.dice.below(12));
        let checkpoint = match self.dice.below(8) {
            0 => Checkpoint::at(position(count + 1 + self.dice.below(3))),
            1 => Checkpoint {
                position: position(after),
                event_id: self.id(),
            },
            2..5 if after > 0 => Checkpoint {
                position: position(after),
                event_id: model.id_at(after - 1),
            },
            _ => Checkpoint::at(position(after)),
        };
        AppendCondition::new(self.filter(2), checkpoint)
    }

    fn spoil(&mut self, append: &mut Append) {
        let bad_name = *self.dice.pick(&["", "*", "a\0"]);
        let (way, id) = (self.dice.below(6), self.id());
        let Some(event) = append
            .parts
            .iter_mut()
            .flat_map(|part| &mut part.events)
            .last()
        else {
            return;
        };
        match way {
            0 | 1 => bad_name.clone_into(&mut event.name),
            2 => event.version = 0,
            3 => event.id = EventId::NIL,
            4 => event.payload = Payload::stored(format!("\"{}\"", "x".repeat(1 << 20))),
            _ => {
                let mut twin = event.clone();
                event.id = id;
                twin.id = id;
                append.parts[0].events.push(twin);
            }
        }
    }

    /// The same ids, but not the same append.
    fn spoil_repeat(&mut self, append: &mut Append) {
        let extra = self.event();
        let other = self.stream();
        let way = self.dice.below(4);
        let Some(part) = append.parts.iter_mut().find(|part| !part.events.is_empty()) else {
            return;
        };
        if part.events[0].name == Lifecycle::Erased.name() {
            return;
        }
        match way {
            0 => part.events.push(extra),
            1 => part.events.reverse(),
            2 => part.events.insert(0, extra),
            _ => part.stream = other,
        }
    }

    fn item(&mut self) -> FilterItem {
        let mut item = FilterItem::new();
        if self.dice.once_in(2) {
            for _ in 0..=self.dice.below(3) {
                item = match self.dice.below(8) {
                    0 => item.name("never"),
                    1 => item.name(Lifecycle::Tagged.name()),
                    2 => item.name(Lifecycle::Deleted.name()),
                    _ => item.name(*self.dice.pick(&NAMES)),
                };
            }
        }
        if self.dice.once_in(3) {
            for _ in 0..=self.dice.below(2) {
                item = item.category(*self.dice.pick(&CATEGORIES));
            }
        }
        if self.dice.once_in(3) {
            for _ in 0..=self.dice.below(3) {
                item = item.stream(self.stream());
            }
        }
        if self.dice.once_in(3) {
            for _ in 0..=self.dice.below(2) {
                item = item.tag(self.tag());
            }
        }
        item
    }

    pub(super) fn filter(&mut self, most: usize) -> EventFilter {
        match self.dice.below(12) {
            0 => EventFilter::all(),
            1 => EventFilter::none(),
            _ => (0..=self.dice.below(most)).map(|_| self.item()).collect(),
        }
    }

    /// Any query of a log.
    pub(super) fn query(&mut self, log: &[RecordedEvent]) -> EventQuery {
        let mut query = EventQuery::new(self.filter(3));
        let some = log[self.dice.below(log.len())].clone();
        query = match self.dice.below(5) {
            0 => query.after(some.checkpoint()),
            1 => query.after(some.position()),
            2 if self.dice.once_in(5) => query.after(position(log.len() + self.dice.below(9))),
            _ => query,
        };
        if self.dice.once_in(4) {
            query = query.up_to(Position::new(
                i64::try_from(self.dice.below(log.len() + 10)).unwrap(),
            ));
        }
        if self.dice.once_in(6) {
            query = query.from_version(some.version());
        }
        if self.dice.once_in(6) {
            let version = i64::try_from(self.dice.below(40)).unwrap();
            query = query.to_version(StreamVersion::new(version));
        }
        let shift = Duration::microseconds(i64::try_from(self.dice.below(3)).unwrap() - 1);
        if self.dice.once_in(6) {
            query = query.since(log[self.dice.below(log.len())].recorded_at() + shift);
        }
        if self.dice.once_in(6) {
            query = query.until(log[self.dice.below(log.len())].recorded_at() + shift);
        }
        if self.dice.once_in(2) {
            query = query.backward();
        }
        match self.dice.below(6) {
            0 => query.limit(self.dice.below(3)),
            1 | 2 => query.limit(self.dice.below(300)),
            _ => query,
        }
    }
}
