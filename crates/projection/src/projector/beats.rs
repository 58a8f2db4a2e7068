//! The one task of a projector that speaks with other processes, through the store: it keeps the
//! leases, tells how the projections are doing, and passes on what is wanted of them.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use chrono::{DateTime, Utc};
use tokio::sync::{Notify, mpsc, oneshot, watch};
use uuid::Uuid;

use super::{
    board::{Command, Snapshot, Told, Waiters},
    origin,
    ring::Ring,
    time::Timeline,
};
use crate::{
    Answer, Beat, Control, Order, Progress, RebuildReport, Report, RowState, Seat, Slot,
    engine::Time, owner,
};

/// Beats per lease: so many may fail before it is lost.
const BEATS: u32 = 5;
/// How often a process looks for the progress of a projection that another one leads, while somebody
/// here waits for it.
const FOLLOW: Duration = Duration::from_millis(50);
/// How long leaving may take; after that the leases run out by themselves.
const LEAVE: Duration = Duration::from_secs(2);

/// What a projection's task is told.
#[derive(Debug, Clone)]
pub(crate) struct Place {
    pub(crate) leads: bool,
    pub(crate) term: i64,
    pub(crate) progress: Progress,
    pub(crate) paused: bool,
    /// The error that it fails with where it is led.
    pub(crate) trouble: Option<String>,
}

impl Place {
    /// Who leads knows better how far it is, unless somebody else has changed that.
    fn is_news(&self, new: &Self) -> bool {
        let progress = match new.leads {
            true => self.progress.epoch != new.progress.epoch,
            false => self.progress != new.progress,
        };
        progress
            || (self.leads, self.term, self.paused) != (new.leads, new.term, new.paused)
            || self.trouble != new.trouble
    }
}

impl From<&Seat> for Place {
    fn from(seat: &Seat) -> Self {
        Self {
            leads: seat.leads,
            term: seat.term,
            progress: seat.progress.clone(),
            paused: seat.paused,
            trouble: seat.trouble.clone(),
        }
    }
}

impl Place {
    /// The place of the task that builds a new read model: where the live one is led.
    pub(crate) fn beside(seat: &Seat) -> Self {
        let nothing = || Progress::start(Slot::Next.name(owner(&seat.projection)));
        Self {
            leads: seat.leads && seat.rebuild.is_some(),
            term: seat.term,
            progress: seat.rebuild.clone().unwrap_or_else(nothing),
            paused: false,
            trouble: None,
        }
    }
}

/// Hurries the beats.
#[derive(Debug, Default)]
pub(crate) struct Pulse {
    /// There is something to say, or to be heard.
    pub(crate) now: Notify,
    /// Somebody waits: it may be for another process.
    pub(crate) look: Notify,
}

/// One projection, as the beats see it.
pub(crate) struct Member {
    pub(crate) name: String,
    pub(crate) snapshot: watch::Receiver<Snapshot>,
    pub(crate) waiters: Arc<Waiters>,
    pub(crate) place: watch::Sender<Place>,
    pub(crate) commands: mpsc::Sender<Command>,
    pub(crate) speed: Speed,
    /// Of the first part only.
    pub(crate) beside: Option<Beside>,
}

/// The task that builds a new read model when one is wanted.
pub(crate) struct Beside {
    pub(crate) snapshot: watch::Receiver<Snapshot>,
    pub(crate) place: watch::Sender<Place>,
    pub(crate) speed: Speed,
}

impl Beside {
    fn report(&mut self, now: Time) -> Option<RebuildReport> {
        let snapshot = self.snapshot.borrow();
        let reached = snapshot.reached;
        let rate = self.speed.at(now, reached.get().unsigned_abs());
        (!snapshot.standby).then(|| RebuildReport {
            state: snapshot.row_state(),
            reason: snapshot.reason_if_any(),
            reached,
            rate,
        })
    }
}

impl Member {
    /// True when somebody here waits for what another process does.
    fn follows(&self) -> bool {
        let place = self.place.borrow();
        !place.leads && self.waiters.highest() > place.progress.checkpoint.position
    }

    fn report(&mut self, now: Time, ring: &Ring) -> Report {
        let snapshot = self.snapshot.borrow();
        let head = ring.head().max(snapshot.scanned);
        Report {
            projection: self.name.clone(),
            state: snapshot.row_state(),
            reason: snapshot.reason_if_any(),
            reached: snapshot.reached,
            head,
            behind_since: snapshot.at.filter(|_| snapshot.reached < head),
            rate: self.speed.at(now, snapshot.events),
            rebuild: self.beside.as_mut().and_then(|beside| beside.report(now)),
        }
    }
}

/// How many events per second a projection was given lately.
#[derive(Debug, Default)]
pub(crate) struct Speed {
    since: Time,
    events: u64,
    rate: f64,
}

impl Speed {
    fn at(&mut self, now: Time, events: u64) -> f64 {
        let elapsed = now.saturating_sub(self.since);
        if elapsed >= Duration::from_millis(200) {
            self.rate = events.saturating_sub(self.events) as f64 / elapsed.as_secs_f64();
            (self.since, self.events) = (now, events);
        }
        self.rate
    }
}

/// See the [module](self).
pub(crate) struct Beats {
    control: Arc<dyn Control>,
    owner: Uuid,
    process: String,
    origin: Option<String>,
    lease: Duration,
    time: Timeline,
    ring: Arc<Ring>,
    pulse: Arc<Pulse>,
    /// What the projector's end is told by.
    leaving: watch::Receiver<bool>,
    members: Vec<Member>,
    /// Orders that a task is at.
    open: Vec<(i64, oneshot::Receiver<Told>)>,
    answers: Vec<Answer>,
    /// The leases hold at least until then.
    until: Time,
}

impl Beats {
    /// The first beat: leads what is free. The seats are those of `names`.
    pub(crate) async fn begin(
        start: Start<'_>,
    ) -> Result<(Self, Vec<Seat>), backstory_event::StoreError> {
        let Start {
            control,
            process,
            lease,
            mut time,
            ring,
            pulse,
            leaving,
            names,
            owner,
        } = start;
        let begun = time.now();
        let reports = names.iter().map(|name| Report::starting(name)).collect();
        let beat = Beat {
            owner,
            process: process.clone(),
            origin: origin::own(),
            lease,
            reports,
            answers: Vec::new(),
        };
        let mut seats = control.beat(&beat).await?;
        if send_off(&*control, &seats).await {
            seats = control.beat(&beat).await?;
        }
        // The next beat has more to tell.
        pulse.now.notify_one();
        let beats = Self {
            control,
            owner,
            process,
            origin: beat.origin,
            lease,
            time,
            ring,
            pulse,
            leaving,
            members: Vec::new(),
            open: Vec::new(),
            answers: Vec::new(),
            until: begun + lease,
        };
        Ok((beats, seats))
    }

    pub(crate) fn add(&mut self, member: Member) {
        self.members.push(member);
    }

    /// Runs until the projector ends, then gives the leases back.
    pub(crate) async fn run(mut self) {
        let mut begun = self.time.now();
        loop {
            let every = self.lease / BEATS;
            let follows = self.members.iter().any(Member::follows);
            let next = begun + if follows { FOLLOW.min(every) } else { every };
            tokio::select! {
                biased;
                () = left(&mut self.leaving) => break,
                () = self.pulse.now.notified() => {}
                () = self.pulse.look.notified() => continue,
                () = self.time.sleep_until(next) => {}
            }
            begun = self.time.now();
            if self.beat(begun).await.is_break() {
                break;
            }
        }
        self.everybody_stands_by();
        let until = self.time.now() + LEAVE;
        tokio::select! {
            left = self.control.leave(self.owner) => if let Err(error) = left {
                tracing::debug!(%error, "the leases of projections were not given back");
            },
            () = self.time.pass(until) => {}
        }
    }

    async fn beat(&mut self, begun: Time) -> std::ops::ControlFlow<()> {
        self.collect_answers();
        let members = self.members.iter_mut();
        let beat = Beat {
            owner: self.owner,
            process: self.process.clone(),
            origin: self.origin.clone(),
            lease: self.lease,
            reports: members.map(|one| one.report(begun, &self.ring)).collect(),
            answers: self.answers.clone(),
        };
        // An answer that comes later than that is too late.
        let limit = self.until.max(begun + self.lease / BEATS);
        let heard = {
            let mut answer = self.control.beat(&beat);
            tokio::select! {
                biased;
                () = left(&mut self.leaving) => {
                    // Given up it might still take leases, after they were given back.
                    let until = self.time.now() + LEAVE;
                    tokio::select! {
                        _ = &mut answer => {}
                        () = self.time.pass(until) => {}
                    }
                    return std::ops::ControlFlow::Break(());
                }
                heard = &mut answer => heard.inspect_err(|error| {
                    tracing::debug!(%error, "the leases of projections were not renewed");
                }).ok(),
                () = self.time.pass(limit) => None,
            }
        };
        if let Some(seats) = heard {
            self.until = begun + self.lease;
            self.answers.clear();
            for seat in &seats {
                self.seat(seat);
            }
            if send_off(&*self.control, &seats).await {
                self.pulse.now.notify_one();
            }
        }
        if self.time.now() >= self.until {
            self.everybody_stands_by();
        }
        std::ops::ControlFlow::Continue(())
    }

    fn seat(&mut self, seat: &Seat) {
        let Some(member) = self.members.iter().find(|one| one.name == seat.projection) else {
            return;
        };
        // A task that is woken gives up what it reads: only for news.
        tell(&member.place, seat.into());
        if let Some(beside) = &member.beside {
            tell(&beside.place, Place::beside(seat));
        }
        for Order { id, kind } in &seat.orders {
            let known = self.open.iter().any(|(open, _)| open == id)
                || self.answers.iter().any(|answer| answer.id == *id);
            if known {
                continue;
            }
            let (answer, outcome) = oneshot::channel();
            // A task that has much to do gets it with a later beat.
            let command = Command::Order(kind.clone(), answer);
            if member.commands.try_send(command).is_ok() {
                self.open.push((*id, outcome));
            }
        }
    }

    fn collect_answers(&mut self) {
        let answers = &mut self.answers;
        self.open.retain_mut(|(id, outcome)| {
            use oneshot::error::TryRecvError;
            match outcome.try_recv() {
                Ok(outcome) => answers.push(Answer { id: *id, outcome }),
                Err(TryRecvError::Empty) => return true,
                // Its task has ended: whoever leads next gets the order.
                Err(TryRecvError::Closed) => {}
            }
            false
        });
    }

    fn everybody_stands_by(&self) {
        for member in &self.members {
            let beside = member.beside.as_ref().map(|beside| &beside.place);
            for place in [Some(&member.place), beside].into_iter().flatten() {
                place.send_if_modified(|place| std::mem::take(&mut place.leads));
            }
        }
    }
}

fn tell(place: &watch::Sender<Place>, new: Place) {
    place.send_if_modified(|place| {
        let news = place.is_news(&new);
        if news {
            *place = new;
        }
        news
    });
}

/// What the first beat needs.
pub(crate) struct Start<'a> {
    pub(crate) control: Arc<dyn Control>,
    pub(crate) owner: Uuid,
    pub(crate) process: String,
    pub(crate) lease: Duration,
    pub(crate) time: Timeline,
    pub(crate) ring: Arc<Ring>,
    pub(crate) pulse: Arc<Pulse>,
    pub(crate) leaving: watch::Receiver<bool>,
    pub(crate) names: Vec<&'a str>,
}

impl Report {
    fn starting(projection: &str) -> Self {
        let behind_since: Option<DateTime<Utc>> = None;
        Self {
            projection: projection.to_owned(),
            state: RowState::Running,
            reason: None,
            reached: backstory_event::Position::START,
            head: backstory_event::Position::START,
            behind_since,
            rate: 0.0,
            rebuild: None,
        }
    }
}

/// Gives back the leases of leaders that have ended on this machine. True when there were any.
async fn send_off(control: &dyn Control, seats: &[Seat]) -> bool {
    let leaders = seats.iter().filter_map(|seat| seat.leader.as_ref());
    let gone: BTreeSet<Uuid> = leaders
        .filter(|leader| leader.origin.as_deref().is_some_and(origin::has_ended))
        .map(|leader| leader.owner)
        .collect();
    let mut any = false;
    for owner in gone {
        let left = control.leave(owner).await;
        any |= left.is_ok();
    }
    any
}

/// Waits until the projector ends, in order or not.
async fn left(leaving: &mut watch::Receiver<bool>) {
    // An error: it was dropped.
    let _ = leaving.wait_for(|leaving| *leaving).await;
}

#[cfg(test)]
mod tests;
