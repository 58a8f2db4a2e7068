//! Random appends: sizes, streams, expected versions, conditions, claims, conflicts.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use backstory_event::{
    Append, AppendCondition, Appended, Checkpoint, Conflict, EventFilter, ExpectedVersion,
    NewEvent, Payload, StreamId, StreamVersion, Tag,
};
use fastrand::Rng;
use serde_json::json;
use uuid::Uuid;

use crate::{Result, now};

/// Few streams that all processes write.
const HOT: u64 = 12;
/// More of them.
const WIDE: u64 = 300;

/// Newest versions of the hot streams as far as this process knows.
#[derive(Debug, Default, Clone)]
pub(crate) struct Known(Arc<Mutex<HashMap<StreamId, StreamVersion>>>);

impl Known {
    pub(crate) fn learn(&self, receipt: &Appended) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let hot = |(stream, _): &&(StreamId, StreamVersion)| stream.category() == "hot";
        known.extend(receipt.streams.iter().filter(hot).cloned());
    }

    /// A conflict tells the version that there is.
    pub(crate) fn correct(&self, conflict: &Conflict) {
        if let Conflict::Version { stream, actual, .. } = conflict
            && stream.category() == "hot"
        {
            let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            known.insert(stream.clone(), *actual);
        }
    }

    fn version(&self, stream: &StreamId) -> StreamVersion {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.get(stream).copied().unwrap_or_default()
    }
}

/// How an append is made.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Way {
    Append,
    /// In a transaction of the caller, which ends like this.
    Within(End),
}

#[derive(Debug, Clone, Copy)]
pub(crate) enum End {
    CommitAfter(Duration),
    Rollback,
}

#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) id: Uuid,
    pub(crate) kind: &'static str,
    pub(crate) append: Append,
    pub(crate) way: Way,
}

/// Makes the appends of one writer.
#[derive(Debug)]
pub(crate) struct Planner {
    rng: Rng,
    known: Known,
    incarnation: i32,
}

impl Planner {
    pub(crate) fn new(seed: u64, known: Known, incarnation: i32) -> Self {
        let rng = Rng::with_seed(seed);
        Self {
            rng,
            known,
            incarnation,
        }
    }

    pub(crate) fn next(&mut self) -> Result<Plan> {
        let mut way = Way::Append;
        let (kind, append) = match self.rng.u8(..100) {
            0..28 => {
                let size = self.rng.usize(1..5);
                ("new", self.fresh(size)?)
            }
            28..44 => ("contended", self.contended()?),
            44..58 => {
                let size = self.rng.usize(1..5);
                ("any", self.wide(size, ExpectedVersion::Any)?)
            }
            58..66 => ("streams", self.streams()?),
            66..69 => {
                let size = self.rng.usize(20..150);
                ("many", self.fresh(size)?)
            }
            69..72 => ("large", self.large()?),
            72..81 => ("seat", self.seat()?),
            81..90 => ("claim", self.claim()?),
            90..93 => ("taken", self.hot(ExpectedVersion::NoStream)?),
            93..95 => ("missing", self.missing()?),
            // Few: each of them has the lock of the log for itself.
            _ => {
                way = Way::Within(match self.rng.u8(..10) {
                    0..4 => End::Rollback,
                    4..6 => End::CommitAfter(Duration::from_millis(self.rng.u64(1..120))),
                    _ => End::CommitAfter(Duration::ZERO),
                });
                ("within", self.within()?)
            }
        };
        Ok(Plan {
            id: Uuid::now_v7(),
            kind,
            append,
            way,
        })
    }

    /// An append for a transaction of the caller.
    pub(crate) fn within(&mut self) -> Result<Append> {
        let (stream, event) = (new_stream()?, self.event("within", None)?);
        Ok(Append::to(stream, ExpectedVersion::NoStream, [event]))
    }

    fn event(&mut self, name: &str, expected: Option<StreamVersion>) -> Result<NewEvent> {
        let size = self.rng.usize(..200);
        let filler: String = std::iter::repeat_with(|| self.rng.alphanumeric())
            .take(size)
            .collect();
        let mut payload = json!({ "by": self.incarnation, "filler": filler });
        if let Some(expected) = expected {
            payload["expected"] = json!(expected.get());
        }
        let name = format!("torture.{name}");
        Ok(NewEvent::raw(name, Payload::encode(&payload)?))
    }

    /// So many events; the first tells which version was expected.
    fn events(&mut self, size: usize, expected: ExpectedVersion) -> Result<Vec<NewEvent>> {
        let expected = match expected {
            ExpectedVersion::Exact(version) => Some(version),
            ExpectedVersion::NoStream => Some(StreamVersion::EMPTY),
            ExpectedVersion::Any | ExpectedVersion::StreamExists => None,
        };
        (0..size)
            .map(|number| self.event("added", expected.filter(|_| number == 0)))
            .collect()
    }

    fn fresh(&mut self, size: usize) -> Result<Append> {
        let events = self.events(size, ExpectedVersion::NoStream)?;
        Ok(Append::to(new_stream()?, ExpectedVersion::NoStream, events))
    }

    fn hot(&mut self, expected: ExpectedVersion) -> Result<Append> {
        let stream = StreamId::new("hot", self.rng.u64(..HOT))?;
        Ok(Append::to(stream, expected, self.events(1, expected)?))
    }

    fn contended(&mut self) -> Result<Append> {
        let stream = StreamId::new("hot", self.rng.u64(..HOT))?;
        let expected = ExpectedVersion::Exact(self.known.version(&stream));
        let size = self.rng.usize(1..4);
        Ok(Append::to(stream, expected, self.events(size, expected)?))
    }

    fn wide(&mut self, size: usize, expected: ExpectedVersion) -> Result<Append> {
        let stream = StreamId::new("wide", self.rng.u64(..WIDE))?;
        Ok(Append::to(stream, expected, self.events(size, expected)?))
    }

    /// Several streams; sometimes one of them refuses the whole.
    fn streams(&mut self) -> Result<Append> {
        let mut append = self.fresh(1)?;
        let first = self.rng.u64(..WIDE);
        for number in 0..self.rng.u64(1..4) {
            let stream = StreamId::new("wide", (first + number) % WIDE)?;
            let events = self.events(2, ExpectedVersion::Any)?;
            append = append.and(stream, ExpectedVersion::Any, events);
        }
        Ok(match self.rng.u8(..4) {
            0 => append.check(new_stream()?, ExpectedVersion::StreamExists),
            _ => append.check(new_stream()?, ExpectedVersion::NoStream),
        })
    }

    fn large(&mut self) -> Result<Append> {
        let filler = "x".repeat(self.rng.usize(1_000..40_000));
        let payload = Payload::encode(&json!({ "by": self.incarnation, "filler": filler }))?;
        let event = NewEvent::raw("torture.large", payload);
        Ok(Append::to(new_stream()?, ExpectedVersion::Any, [event]))
    }

    /// A value that several writers want at about the same time.
    fn wanted(&mut self) -> String {
        format!("{}-{}", now() / 2_000_000, self.rng.u8(..12))
    }

    /// Each seat is sold once.
    fn seat(&mut self) -> Result<Append> {
        let seat = Tag::pair("seat", self.wanted())?;
        let event = self.event("seated", None)?.with_tag(seat.clone());
        let free = AppendCondition::new(EventFilter::tag(seat), Checkpoint::START);
        Ok(Append::to(new_stream()?, ExpectedVersion::Any, [event]).fail_if(free))
    }

    /// Each value is held by one stream.
    fn claim(&mut self) -> Result<Append> {
        let (stream, value) = (new_stream()?, self.wanted());
        let payload = Payload::encode(&json!({ "by": self.incarnation, "claim": value }))?;
        let event = NewEvent::raw("torture.claimed", payload);
        let append = Append::to(stream.clone(), ExpectedVersion::Any, [event]);
        Ok(append.claim("torture", value, stream))
    }

    fn missing(&mut self) -> Result<Append> {
        let events = self.events(1, ExpectedVersion::StreamExists)?;
        Ok(Append::to(
            new_stream()?,
            ExpectedVersion::StreamExists,
            events,
        ))
    }
}

fn new_stream() -> Result<StreamId> {
    Ok(StreamId::new("own", Uuid::now_v7())?)
}
