//! A store that breaks a promise.

use std::{
    collections::HashMap,
    future,
    sync::{Arc, Mutex},
};

use async_trait::async_trait;
use backstory_aggregate::SnapshotRecord;
use backstory_event::{
    Append, Appended, Checkpoint, Companion, Conflict, Decoded, Direction, EventId, EventQuery,
    EventStore, EventStoreExt, ExpectedVersion, Lifecycle, NewEvent, Page, Payload, Position,
    Recorded, RecordedEvent, StoreError, StoreErrorKind, StreamId, StreamPage, StreamQuery,
    StreamVersion, TagChange,
};
use chrono::Duration;
use serde_json::Value;

use super::Sabotage;
use crate::{CompleteStore, kit, seats::SeatEvent};

/// What the handles of a sabotaged store remember together.
pub(super) type Notes = Arc<Mutex<Memory>>;

#[derive(Debug, Default)]
pub(super) struct Memory {
    receipts: HashMap<EventId, Appended>,
    last_refusal: Option<StoreErrorKind>,
    pub(super) snapshots: HashMap<StreamId, SnapshotRecord>,
}

/// A store that passes everything on, but for the promise that it breaks.
#[derive(Debug, Clone)]
pub struct Saboteur<S> {
    pub(super) inner: S,
    pub(super) sabotage: Option<Sabotage>,
    pub(super) notes: Notes,
}

/// Where the saboteur hides what it stores on its own account.
const HIDDEN: &str = "saboteur";

impl<S: CompleteStore> Saboteur<S> {
    pub(super) fn new(inner: S, sabotage: Option<Sabotage>, notes: &Notes) -> Self {
        Self {
            inner,
            sabotage,
            notes: notes.clone(),
        }
    }

    async fn append_sabotaged(&self, mut append: Append) -> Result<Appended, StoreError> {
        let Some(sabotage) = self.sabotage else {
            return self.inner.append(append).await;
        };
        match sabotage {
            Sabotage::SplitsAppends => return self.split(append).await,
            Sabotage::DropsTheLastEvent => drop_last(&mut append),
            Sabotage::StoresNothing => return self.pretend(&append).await,
            Sabotage::IgnoresClaims => append.companions.clear(),
            Sabotage::IgnoresEntries => append
                .companions
                .retain(|one| !matches!(one, Companion::Entry { .. })),
            Sabotage::KeepsOldValues => append
                .companions
                .retain(|one| !matches!(one, Companion::Clear { .. })),
            Sabotage::ComparesClaimsWithoutCase => fold_case(&mut append),
            Sabotage::IgnoresExpectedVersions => expect_nothing(&mut append),
            Sabotage::IgnoresConditions => append.conditions.clear(),
            Sabotage::ChecksConditionsFromTheStart => {
                append
                    .conditions
                    .iter_mut()
                    .for_each(|condition| condition.after = Checkpoint::START);
            }
            Sabotage::ForgetsIds => self.renew_known_ids(&mut append),
            Sabotage::ChecksVersionsBeforeIds => self.check_versions(&append).await?,
            Sabotage::IgnoresProofs => append
                .conditions
                .iter_mut()
                .for_each(|condition| condition.after.event_id = EventId::NIL),
            Sabotage::ErasesByDeleting => {
                replace(&mut append, Lifecycle::Erased, &Lifecycle::Deleted.event())
            }
            Sabotage::SwallowsDeletes => replace(
                &mut append,
                Lifecycle::Deleted,
                &TagChange::default().event(),
            ),
            Sabotage::LosesTags => each_event(&mut append, |event| event.tags.clear()),
            Sabotage::RoundsNumbers => each_event(&mut append, round_numbers),
            Sabotage::StoresTheRestOfBadInput => keep_the_good(&mut append),
            Sabotage::SpoilsNeighbours => {
                if let Some(kind) = self.notes.lock().unwrap().last_refusal.take() {
                    return Err(StoreError::new(kind));
                }
            }
            _ => {}
        }
        self.answer(sabotage, append).await
    }

    /// Stores an append and bends the answer.
    async fn answer(&self, sabotage: Sabotage, append: Append) -> Result<Appended, StoreError> {
        let outcome = self.inner.append(append.clone()).await;
        match &outcome {
            Ok(receipt) => {
                let mut notes = self.notes.lock().unwrap();
                notes.receipts.extend(
                    append
                        .event_ids()
                        .into_iter()
                        .map(|id| (id, receipt.clone())),
                );
            }
            Err(error) => self.notes.lock().unwrap().last_refusal = Some(error.kind().clone()),
        }
        match (sabotage, outcome) {
            (Sabotage::BurnsPositions, Err(error)) => {
                let hidden = kit::stream(HIDDEN, "burnt");
                self.inner
                    .append(kit::any(&hidden, [kit::event("burnt")]))
                    .await?;
                Err(error)
            }
            (Sabotage::LetsTheFirstIdDecide, Err(error)) => match error.kind() {
                StoreErrorKind::EventIdReused { event_id } => {
                    Ok(self.notes.lock().unwrap().receipts[event_id].clone())
                }
                _ => Err(error),
            },
            (Sabotage::DeniesWhatItStored, Ok(_)) if append.deadline.is_some() => {
                let reason = "the deadline passed".to_owned();
                Err(StoreError::new(StoreErrorKind::NotStored { reason }))
            }
            (_, outcome) => outcome,
        }
    }

    async fn split(&self, append: Append) -> Result<Appended, StoreError> {
        let mut receipt: Option<Appended> = None;
        for part in append.parts {
            if part.events.is_empty() {
                continue;
            }
            let one = Append::to(part.stream, part.expected, part.events);
            let stored = self.inner.append(one).await?;
            receipt = Some(match receipt {
                None => stored,
                Some(before) => Appended {
                    positions: before
                        .positions
                        .zip(stored.positions)
                        .map(|(one, two)| (one.0, two.1)),
                    streams: [before.streams, stored.streams].concat(),
                    names: [before.names, stored.names].concat(),
                    ..stored
                },
            });
        }
        Ok(receipt.unwrap_or_else(|| Appended::nothing(Checkpoint::START)))
    }

    async fn pretend(&self, append: &Append) -> Result<Appended, StoreError> {
        let head = self.inner.head().await?.position.get();
        let count = i64::try_from(append.events().count()).unwrap();
        let mut receipt = Appended::nothing(Checkpoint::at(Position::new(head + count)));
        receipt.positions = Some((Position::new(head + 1), Position::new(head + count)));
        for part in &append.parts {
            let version = StreamVersion::new(i64::try_from(part.events.len()).unwrap());
            receipt.streams.push((part.stream.clone(), version));
        }
        Ok(receipt)
    }

    fn renew_known_ids(&self, append: &mut Append) {
        let notes = self.notes.lock().unwrap();
        each_event(append, |event| {
            if notes.receipts.contains_key(&event.id) {
                event.id = EventId::new();
            }
        });
    }

    async fn check_versions(&self, append: &Append) -> Result<(), StoreError> {
        for part in &append.parts {
            let row = self.inner.stream_info(&part.stream).await?;
            let actual = row.map_or(StreamVersion::EMPTY, |row| row.version);
            if !part.expected.accepts(actual) {
                let (stream, expected) = (part.stream.clone(), part.expected);
                return Err(Conflict::Version {
                    stream,
                    expected,
                    actual,
                }
                .into());
            }
        }
        Ok(())
    }

    async fn read_sabotaged(&self, query: &EventQuery) -> Result<Page, StoreError> {
        let Some(sabotage) = self.sabotage else {
            return self.inner.read(query).await;
        };
        let mut asked = query.clone();
        match sabotage {
            Sabotage::IgnoresTheDirection => asked.direction = Direction::Forward,
            Sabotage::GivesOneMore => {
                asked.limit = asked.limit.map(|limit| limit.saturating_add(1))
            }
            Sabotage::IgnoresProofs => asked.after.event_id = EventId::NIL,
            Sabotage::RepeatsAtPageBoundaries => {
                asked.after = Checkpoint::at(Position::new(asked.after.position.get() - 1));
            }
            _ => {}
        }
        let mut page = self.inner.read(&asked).await?;
        match sabotage {
            Sabotage::AnswersInOnePage => {
                while let Some(next) = page.next {
                    let more = self.inner.read(&next).await?;
                    page.events.extend(more.events);
                    page = Page {
                        events: page.events,
                        ..more
                    };
                }
            }
            Sabotage::BurnsPositions => page
                .events
                .retain(|event| event.stream().category() != HIDDEN),
            Sabotage::SkipsEvents => page.events.retain(|event| event.position().get() % 7 != 0),
            Sabotage::SwapsEvents if page.events.len() > 1 => page.events.swap(0, 1),
            Sabotage::ForgetsProofs => page.checkpoint.event_id = EventId::NIL,
            Sabotage::ErasesRows => page.events.retain(|event| !event.is_erased()),
            Sabotage::DropsWhatItCannotDecode => page.events.retain(|event| {
                !matches!(event.decode::<SeatEvent>(), Err(_) | Ok(Decoded::Unknown))
            }),
            Sabotage::BreaksOnTheUnknown => {
                for event in &page.events {
                    if matches!(event.decode::<SeatEvent>(), Ok(Decoded::Unknown)) {
                        return Err(event.decode_error("it is unknown").into());
                    }
                }
            }
            Sabotage::TurnsTimeBack => restamp(&mut page, |recorded| {
                recorded.recorded_at -= Duration::seconds(2 * recorded.position.get());
            }),
            Sabotage::RecordsNanoseconds => restamp(&mut page, |recorded| {
                recorded.recorded_at += Duration::nanoseconds(1);
            }),
            _ => {}
        }
        Ok(page)
    }
}

fn each_event(append: &mut Append, change: impl FnMut(&mut NewEvent)) {
    append
        .parts
        .iter_mut()
        .flat_map(|part| &mut part.events)
        .for_each(change);
}

fn drop_last(append: &mut Append) {
    if let Some(part) = append.parts.iter_mut().rfind(|part| part.events.len() > 1) {
        part.events.pop();
    }
}

fn expect_nothing(append: &mut Append) {
    append
        .parts
        .iter_mut()
        .for_each(|part| part.expected = ExpectedVersion::Any);
}

fn replace(append: &mut Append, from: Lifecycle, to: &NewEvent) {
    each_event(append, |event| {
        if event.name == from.name() {
            *event = to.clone().with_id(event.id);
        }
    });
}

fn fold_case(append: &mut Append) {
    for companion in &mut append.companions {
        if let Companion::Claim { value, .. } | Companion::Release { value, .. } = companion {
            *value = value.to_lowercase();
        }
    }
}

fn keep_the_good(append: &mut Append) {
    for part in &mut append.parts {
        let stream = part.stream.clone();
        part.events.retain(|event| {
            kit::any(&stream, [event.clone()])
                .validate(&backstory_event::Limits::default())
                .is_ok()
        });
    }
}

fn round_numbers(event: &mut NewEvent) {
    fn round(value: &mut Value) {
        match value {
            Value::Number(number) => *value = number.as_f64().into(),
            Value::Array(items) => items.iter_mut().for_each(round),
            Value::Object(fields) => fields.values_mut().for_each(round),
            _ => {}
        }
    }
    let mut value = event.payload.to_value().unwrap();
    round(&mut value);
    event.payload = Payload::stored(value.to_string());
}

fn restamp(page: &mut Page, change: impl Fn(&mut Recorded)) {
    for event in &mut page.events {
        let mut recorded = event.recorded().clone();
        change(&mut recorded);
        *event = RecordedEvent::new(recorded);
    }
}

#[async_trait]
impl<S: CompleteStore> EventStore for Saboteur<S> {
    async fn append(&self, append: Append) -> Result<Appended, StoreError> {
        self.append_sabotaged(append).await
    }

    async fn read(&self, query: &EventQuery) -> Result<Page, StoreError> {
        self.read_sabotaged(query).await
    }

    async fn streams(&self, query: &StreamQuery) -> Result<StreamPage, StoreError> {
        let mut page = self.inner.streams(query).await?;
        match self.sabotage {
            Some(Sabotage::SortsStreamsBackward) => page.streams.reverse(),
            Some(Sabotage::BurnsPositions) => {
                page.streams.retain(|row| row.stream.category() != HIDDEN)
            }
            _ => {}
        }
        Ok(page)
    }

    async fn changed(&self, after: Position) -> Result<Position, StoreError> {
        match self.sabotage {
            Some(Sabotage::NeverWakes) => future::pending().await,
            Some(Sabotage::PromisesNews) => Ok(after.next()),
            _ => self.inner.changed(after).await,
        }
    }
}
