//! The fast way to store a batch: what it needs to know is taken for granted, decided on, and
//! proved and stored by one call. A wrong guess stores nothing.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use backstory_event::{
    Append, Appended, Conflict, EventId, ExpectedVersion, Lifecycle, Position, StoreErrorKind,
    StreamId, StreamState, StreamVersion,
};
use backstory_store_kit::{
    ConditionHit, Decision, EventRow, Facts, Histogram, ValueChanges, decide,
};
use chrono::Utc;
use serde::Serialize;
use sqlx::{Error, PgConnection, Row, postgres::types::PgInterval, types::Json};

use crate::{
    append::{Look, Outcomes, bind_events, column, known, looks},
    recent::Recent,
    sql::Statements,
};

/// The versions of streams that were written lately. Forgetting and being wrong cost a look.
#[derive(Debug, Default)]
pub(crate) struct Versions {
    young: HashMap<StreamId, StreamVersion>,
    old: HashMap<StreamId, StreamVersion>,
}

impl Versions {
    const YOUNG: usize = 8_192;

    fn get(&self, stream: &StreamId) -> Option<StreamVersion> {
        let known = self.young.get(stream).or_else(|| self.old.get(stream));
        known.copied()
    }

    /// Learns what a decision says of its streams.
    pub(crate) fn learn(&mut self, decision: &Decision) {
        for (stream, row) in &decision.streams {
            self.keep(stream, row.version);
        }
    }

    /// Learns from refusals which versions there really are.
    pub(crate) fn correct(&mut self, outcomes: &Outcomes) {
        for outcome in outcomes {
            if let Err(StoreErrorKind::Conflict(Conflict::Version { stream, actual, .. })) = outcome
            {
                self.keep(stream, *actual);
            }
        }
    }

    fn keep(&mut self, stream: &StreamId, version: StreamVersion) {
        if self.young.len() >= Self::YOUNG {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(stream.clone(), version);
    }

    pub(crate) fn forget(&mut self) {
        self.young.clear();
        self.old.clear();
    }
}

/// How a batch is to be stored.
pub(crate) struct Terms<'a> {
    /// In milliseconds.
    pub(crate) lock_timeout: i64,
    /// Whether the listeners of other processes are told.
    pub(crate) wake: bool,
    /// Counts the wait for the lock, in microseconds.
    pub(crate) waited: &'a Histogram,
}

/// A batch decided on a guess.
pub(crate) struct Guess {
    decision: Decision,
    // What the decision rests on.
    streams: HashMap<StreamId, StreamVersion>,
    proofs: Vec<Proof>,
    head: i64,
    // Conditions that need no look, by append and number, if nothing stands behind this position.
    known: HashSet<(usize, usize)>,
    known_to: Position,
}

impl Guess {
    /// Decides a batch on what is likely; `None` when that is no use: lifecycle events depend on
    /// more than versions. Conditions hold but for what is known of recent events.
    pub(crate) fn of(
        appends: &[Arc<Append>],
        versions: &Versions,
        head: Position,
        recent: Option<&Recent>,
    ) -> Option<Self> {
        let mut streams = HashMap::new();
        let mut proofs = Vec::new();
        let (mut known_conditions, mut known_places) = (HashSet::new(), Vec::new());
        let mut facts = Facts {
            head,
            ..Facts::default()
        };
        for (index, append) in appends.iter().enumerate() {
            if append
                .events()
                .any(|event| Lifecycle::parse(&event.name).is_some())
            {
                return None;
            }
            for part in &append.parts {
                if streams.contains_key(&part.stream) {
                    continue;
                }
                let version = versions.get(&part.stream).or(match part.expected {
                    ExpectedVersion::Exact(version) => Some(version),
                    ExpectedVersion::NoStream | ExpectedVersion::Any => Some(StreamVersion::EMPTY),
                    _ => None,
                })?;
                if version > StreamVersion::EMPTY {
                    let live = known(version, StreamState::Live, Vec::new());
                    facts.streams.insert(part.stream.clone(), live);
                }
                streams.insert(part.stream.clone(), version);
            }
            for (number, condition) in append.conditions.iter().enumerate() {
                let after = condition.after;
                if let Some(mut events) = recent.and_then(|recent| recent.behind(after)) {
                    let hit = events.find(|event| condition.fail_if.matches(event));
                    let hit = hit.map(|event| ((index, number), ConditionHit::from(event)));
                    facts.hits.extend(hit);
                    if !after.event_id.is_nil() {
                        known_places.push((after.position, after.event_id));
                    }
                    known_conditions.insert((index, number));
                    continue;
                }
                facts.head = facts.head.max(after.position);
                if after.event_id.is_nil() {
                    proofs.push(Proof::at(after.position, None));
                } else {
                    facts.proofs.insert(after.position, after.event_id);
                }
            }
        }
        let ids = facts.proofs.iter();
        proofs.extend(ids.map(|(position, id)| Proof::at(*position, Some(*id))));
        facts.proofs.extend(known_places);
        let head = facts.head.get();
        let decision = decide(appends.iter().map(Arc::as_ref), facts, Utc::now());
        Some(Self {
            decision,
            streams,
            proofs,
            head,
            known: known_conditions,
            known_to: recent.map_or(Position::START, Recent::end),
        })
    }

    /// The only event of the batch, if nothing but its id and its version can be in the way.
    pub(crate) fn only_event(&self, appends: &[Arc<Append>]) -> Option<&EventRow> {
        let [append] = appends else {
            return None;
        };
        let plain = append.parts.len() == 1
            && append.conditions.len() == self.known.len()
            && append.companions.is_empty();
        match &*self.decision.events {
            [event] if plain => Some(event),
            _ => None,
        }
    }

    /// Where the log ends once the batch is stored, if nobody else has appended.
    pub(crate) fn end(&self) -> Position {
        let stored = i64::try_from(self.decision.events.len()).unwrap_or(0);
        Position::new(self.head.saturating_add(stored))
    }

    /// What there is to say of the batch once it is stored, so many positions behind its place.
    pub(crate) fn stored(
        self,
        by: i64,
        versions: &mut Versions,
        recent: &mut Recent,
    ) -> (Outcomes, Position) {
        versions.learn(&self.decision);
        let end = Position::new(self.end().get() + by);
        let from = Position::new(self.head);
        let Decision {
            mut outcomes,
            events,
            ..
        } = self.decision;
        if by == 0 {
            recent.follow(from, events);
        } else {
            recent.restart(end);
            let shift = Shift { from, by };
            outcomes
                .iter_mut()
                .for_each(|outcome| shift.outcome(outcome));
        }
        (outcomes, end)
    }

    /// Stores the batch if the guess was right.
    pub(crate) async fn store(
        mut self,
        connection: &mut PgConnection,
        sql: &Statements,
        appends: &[Arc<Append>],
        terms: Terms<'_>,
        versions: &mut Versions,
        recent: &mut Recent,
    ) -> Result<Option<(Outcomes, Position)>, Error> {
        // Streams that begin are not asked for: if one is not new, its first version is taken.
        let mut checked = std::mem::take(&mut self.streams);
        let proofs = std::mem::take(&mut self.proofs);
        let begun = &self.decision.streams;
        checked.retain(|stream, version| {
            *version > StreamVersion::EMPTY || !begun.contains_key(stream)
        });
        let events = &self.decision.events;
        let refused = appends
            .iter()
            .zip(&self.decision.outcomes)
            .filter(|(_, outcome)| outcome.is_err())
            .flat_map(|(append, _)| append.events().map(|event| Refused { id: event.id }));
        let mut looks = looks(appends);
        if !self.known.is_empty() {
            looks.retain(|look| !self.known.contains(&look.condition()));
            looks.push(Look::at_all(self.known_to));
        }
        let rest = Rest {
            values: value_rows(appends, &self.decision),
            refused: refused.collect(),
            proofs,
            looks,
        };

        let call = sql.append.query().bind(terms.lock_timeout).bind(terms.wake);
        let row = bind_events(call, events)
            .bind(column(&checked, |(stream, _)| stream.category()))
            .bind(column(&checked, |(stream, _)| stream.key()))
            .bind(column(&checked, |(_, version)| version.get()))
            .bind(rest.is_any().then_some(Json(rest)))
            .fetch_one(connection)
            .await?;
        let waited: Option<PgInterval> = row.try_get(2)?;
        let waited = waited.and_then(|waited| u64::try_from(waited.microseconds).ok());
        if let Some(waited) = waited {
            terms.waited.record(waited);
        }
        if !row.try_get::<bool, _>(0)? {
            return Ok(None);
        }
        let by = row.try_get::<i64, _>(1)? - self.head;
        Ok(Some(self.stored(by, versions, recent)))
    }
}

/// What few batches have. An empty list is left out.
#[derive(Serialize)]
struct Rest<'a> {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    values: Vec<ValueRow<'a>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    refused: Vec<Refused>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    proofs: Vec<Proof>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    looks: Vec<Look<'a>>,
}

impl Rest<'_> {
    fn is_any(&self) -> bool {
        let Self {
            values,
            refused,
            proofs,
            looks,
        } = self;
        !(values.is_empty() && refused.is_empty() && proofs.is_empty() && looks.is_empty())
    }
}

/// An event of a refused append.
#[derive(Serialize)]
struct Refused {
    id: EventId,
}

/// The event that must be at a position; `None`: any.
#[derive(Serialize)]
struct Proof {
    position: Position,
    id: Option<EventId>,
}

impl Proof {
    fn at(position: Position, id: Option<EventId>) -> Self {
        Self { position, id }
    }
}

/// What a batch asks and does of values, in one list.
#[derive(Serialize)]
struct ValueRow<'a> {
    kind: &'static str,
    scope: &'a str,
    value: Option<&'a str>,
    category: &'a str,
    key: &'a str,
}

/// Claims are guessed to be free. It is as good when they are held by those who name them: taking
/// or giving back what one holds is decided and written alike.
fn value_rows<'a>(appends: &'a [Arc<Append>], decision: &'a Decision) -> Vec<ValueRow<'a>> {
    let row = |kind, scope: &'a str, value: Option<&'a str>, owner: &'a StreamId| ValueRow {
        kind,
        scope,
        value,
        category: owner.category(),
        key: owner.key(),
    };
    let companions = appends.iter().flat_map(|append| &append.companions);
    let asked = companions.filter_map(|companion| {
        let (scope, value) = companion.claim()?;
        Some(row("ask", scope, Some(value), companion.owner()))
    });
    let ValueChanges {
        removed,
        claims,
        entries,
    } = &decision.values;
    let removed = removed
        .iter()
        .map(|gone| row("remove", &gone.scope, gone.value.as_deref(), &gone.owner));
    let claims = claims
        .iter()
        .map(|((scope, value), owner)| row("claim", scope, Some(value), owner));
    let entries = entries
        .iter()
        .map(|entry| row("entry", &entry.scope, Some(&entry.value), &entry.owner));
    asked.chain(removed).chain(claims).chain(entries).collect()
}

/// The log had grown by then: the positions of the batch lie elsewhere.
struct Shift {
    from: Position,
    by: i64,
}

impl Shift {
    fn position(&self, position: &mut Position) {
        if *position > self.from {
            *position = Position::new(position.get() + self.by);
        }
    }

    fn outcome(&self, outcome: &mut Result<Appended, StoreErrorKind>) {
        match outcome {
            Ok(receipt) => {
                self.position(&mut receipt.checkpoint.position);
                if let Some((first, last)) = &mut receipt.positions {
                    self.position(first);
                    self.position(last);
                }
            }
            Err(StoreErrorKind::Conflict(Conflict::Condition { position, .. })) => {
                self.position(position);
            }
            Err(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_of_refused_appends_are_bounded_too() {
        let mut versions = Versions::default();
        for number in 0..3 * Versions::YOUNG {
            let stream = StreamId::new("todo", number).unwrap();
            let expected = ExpectedVersion::NoStream;
            let actual = StreamVersion::new(1);
            let conflict = Conflict::Version {
                stream,
                expected,
                actual,
            };
            versions.correct(&vec![Err(conflict.into())]);
        }
        assert!(versions.young.len() + versions.old.len() <= 2 * Versions::YOUNG);
    }
}
