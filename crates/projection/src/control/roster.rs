//! Leases, states and orders in memory.

use std::collections::BTreeMap;

use chrono::{DateTime, TimeDelta, Utc};
use uuid::Uuid;

use super::{
    Answer, Beat, Leader, Order, OrderKind, OrderOutcome, ProjectionRow, Report, RowState, Seat,
};
use crate::{Progress, Slot, owner, room};

/// How many answered orders are remembered.
const REMEMBERED: usize = 1_000;

/// What a store in memory keeps for [`Control`](super::Control): plain data, under its own lock.
#[derive(Debug, Default)]
pub struct Roster {
    rows: BTreeMap<String, Row>,
    /// Which processes run a projection in parts, and until when they are thought to live.
    replicas: BTreeMap<(String, Uuid), DateTime<Utc>>,
    orders: BTreeMap<i64, Given>,
    last_order: i64,
}

#[derive(Debug, Default)]
struct Row {
    lease: Option<Lease>,
    term: i64,
    paused: bool,
    report: Option<Report>,
    seen_at: Option<DateTime<Utc>>,
}

#[derive(Debug)]
struct Lease {
    owner: Uuid,
    process: String,
    origin: Option<String>,
    until: DateTime<Utc>,
}

#[derive(Debug)]
struct Given {
    projection: String,
    kind: OrderKind,
    outcome: OrderOutcome,
}

impl Roster {
    /// See [`Control::beat`](super::Control::beat). `progress` answers with the progress of a
    /// projection, with its epoch raised first when that is wanted.
    pub fn beat(
        &mut self,
        now: DateTime<Utc>,
        beat: &Beat,
        mut progress: impl FnMut(&str, Raise) -> Progress,
    ) -> Vec<Seat> {
        self.take_answers(&beat.process, &beat.answers);
        let until = now + TimeDelta::from_std(beat.lease).unwrap_or(TimeDelta::MAX);
        let mut seats = Vec::with_capacity(beat.reports.len());
        let mut rooms = self.rooms(now, beat, until);
        for report in &beat.reports {
            let name = &report.projection;
            let row = self.rows.entry(name.clone()).or_default();
            let before = row.lease.as_ref().filter(|lease| lease.until > now);
            let mut leads = before.is_none_or(|lease| lease.owner == beat.owner);
            let is_own = |lease: &Lease| lease.owner == beat.owner;
            if let Some(room) = rooms.get_mut(owner(name))
                && leads
                && !row.lease.as_ref().is_some_and(is_own)
            {
                leads = *room > 0;
                *room -= isize::from(leads);
            }
            let raise = match &row.lease {
                Some(lease) if lease.owner == beat.owner => Raise::No,
                _ if leads => Raise::Yes,
                _ => Raise::No,
            };
            if leads {
                row.term += i64::from(raise == Raise::Yes);
                row.lease = Some(Lease {
                    owner: beat.owner,
                    process: beat.process.clone(),
                    origin: beat.origin.clone(),
                    until,
                });
                row.report = Some(report.clone());
                row.seen_at = Some(now);
            }
            let trouble = row.report.as_ref().filter(|report| {
                !leads && matches!(report.state, RowState::Failing | RowState::Stopped)
            });
            let beside = progress(&Slot::Next.beside(name), Raise::No);
            seats.push(Seat {
                projection: name.clone(),
                rebuild: (beside.epoch > 0).then_some(beside),
                leads,
                leader: row.lease.as_ref().filter(|_| !leads).map(|lease| Leader {
                    owner: lease.owner,
                    origin: lease.origin.clone(),
                }),
                term: row.term,
                progress: progress(name, raise),
                paused: row.paused,
                trouble: trouble.and_then(|report| report.reason.clone()),
                orders: match leads {
                    true => self.pending(name),
                    false => Vec::new(),
                },
            });
        }
        seats
    }

    /// How many more parts the process should lead of each projection that it runs in parts. What it
    /// leads too many of it gives up.
    fn rooms(
        &mut self,
        now: DateTime<Utc>,
        beat: &Beat,
        until: DateTime<Utc>,
    ) -> BTreeMap<String, isize> {
        self.replicas.retain(|_, until| *until > now);
        let names = beat.reports.iter().map(|report| report.projection.as_str());
        let parts: Vec<_> = names.filter(|name| owner(name) != *name).collect();
        let mut rooms = BTreeMap::new();
        for name in &parts {
            let projection = owner(name);
            self.replicas
                .insert((projection.to_owned(), beat.owner), until);
            if rooms.contains_key(projection) {
                continue;
            }
            let own = parts.iter().filter(|part| owner(part) == projection);
            let led: Vec<_> = own
                .clone()
                .filter(|part| {
                    let lease = self.rows.get(**part).and_then(|row| row.lease.as_ref());
                    lease.is_some_and(|lease| lease.owner == beat.owner)
                })
                .collect();
            let processes = self.replicas.keys().filter(|(of, _)| of == projection);
            let room = room(own.count(), processes.count(), led.len());
            for given_up in led.into_iter().rev().take((-room).max(0).unsigned_abs()) {
                if let Some(row) = self.rows.get_mut(*given_up) {
                    row.lease = None;
                }
            }
            rooms.insert(projection.to_owned(), room);
        }
        rooms
    }

    fn take_answers(&mut self, process: &str, answers: &[Answer]) {
        for answer in answers {
            if let Some(given) = self.orders.get_mut(&answer.id) {
                given.outcome = match &answer.outcome {
                    Ok(note) => OrderOutcome::Done {
                        process: process.to_owned(),
                        note: note.clone(),
                    },
                    Err(reason) => OrderOutcome::Failed {
                        reason: reason.clone(),
                    },
                };
            }
        }
    }

    fn pending(&self, projection: &str) -> Vec<Order> {
        self.orders
            .iter()
            .filter(|(_, given)| {
                given.projection == projection && given.outcome == OrderOutcome::Pending
            })
            .map(|(id, given)| Order {
                id: *id,
                kind: given.kind.clone(),
            })
            .collect()
    }

    /// True when the projection is to rest.
    pub fn is_paused(&self, projection: &str) -> bool {
        self.rows.get(projection).is_some_and(|row| row.paused)
    }

    /// See [`Control::leave`](super::Control::leave).
    pub fn leave(&mut self, owner: Uuid) {
        self.replicas.retain(|(_, of), _| *of != owner);
        for row in self.rows.values_mut() {
            if row.lease.as_ref().is_some_and(|lease| lease.owner == owner) {
                row.lease = None;
            }
        }
    }

    /// See [`Control::list_projections`](super::Control::list_projections).
    pub fn rows(
        &self,
        now: DateTime<Utc>,
        mut progress: impl FnMut(&str) -> Progress,
    ) -> Vec<ProjectionRow> {
        self.rows
            .iter()
            .map(|(name, row)| {
                let lease = row.lease.as_ref().filter(|lease| lease.until > now);
                let mut found = ProjectionRow::new(progress(name), RowState::Idle);
                found.paused = row.paused;
                found.seen_at = row.seen_at;
                let [next, previous] = [Slot::Next, Slot::Previous].map(|slot| {
                    let beside = progress(&slot.beside(name));
                    (beside.epoch > 0).then_some(beside)
                });
                let report = row.report.as_ref().filter(|_| lease.is_some());
                let rebuild = report.and_then(|report| report.rebuild.clone());
                let mut found = found.with_beside(next, rebuild, previous);
                if let Some(report) = &row.report {
                    found.reason.clone_from(&report.reason);
                    found.reached = report.reached;
                    found.head = report.head;
                    found.behind_since = report.behind_since;
                    if let Some(lease) = lease {
                        found.state = report.state;
                        found.rate = report.rate;
                        found.process = Some(lease.process.clone());
                    }
                }
                found
            })
            .collect()
    }

    /// See [`Control::order`](super::Control::order).
    pub fn order(&mut self, projection: &str, kind: &OrderKind) -> Option<i64> {
        let row = self.rows.get_mut(projection)?;
        match kind {
            OrderKind::Pause => row.paused = true,
            OrderKind::Resume => row.paused = false,
            _ => {}
        }
        self.last_order += 1;
        let given = Given {
            projection: projection.to_owned(),
            kind: kind.clone(),
            outcome: OrderOutcome::Pending,
        };
        self.orders.insert(self.last_order, given);
        while self.orders.len() > REMEMBERED {
            self.orders.pop_first();
        }
        Some(self.last_order)
    }

    /// See [`Control::order_outcome`](super::Control::order_outcome).
    pub fn outcome(&self, id: i64) -> OrderOutcome {
        match self.orders.get(&id) {
            Some(given) => given.outcome.clone(),
            None => OrderOutcome::Gone,
        }
    }

    /// See [`Control::withdraw_order`](super::Control::withdraw_order).
    pub fn withdraw(&mut self, id: i64) -> OrderOutcome {
        let outcome = self.outcome(id);
        if outcome == OrderOutcome::Pending {
            self.orders.remove(&id);
        }
        outcome
    }
}

/// Whether the epoch of a progress rises: its leader has changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Raise {
    /// It does.
    Yes,
    /// It stays.
    No,
}
