//! When one projection does what: a pure state machine. It is told what happened and what time it
//! is, and says what to do next. [`crate::projector`] does it.

use std::time::Duration;

use backstory_event::Position;

use crate::{OnFailure, Schedule, schedule::Timing, ticks::Ticks};

mod suspects;

use suspects::{Suspects, Verdict};

/// The time since the projector began.
pub(crate) type Time = Duration;

const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// How long two processes that ran into each other stay apart: between these.
const FENCE_PAUSE: (Duration, Duration) = (Duration::from_millis(5), Duration::from_millis(50));
/// A checkpoint that moved past events of others is written so often …
const IDLE_PAUSE: Duration = Duration::from_secs(1);
/// … or after so many positions.
const IDLE_POSITIONS: i64 = 10_000;
/// How long events lie before the task of an inline projection looks whether their appends have
/// projected them: so long without a new one …
const LINGER: Duration = Duration::from_millis(50);
/// … or at most.
const LINGER_CAP: Duration = Duration::from_millis(500);
/// At shutdown a projection catches up when it is no farther behind than this.
const CLOSING_POSITIONS: i64 = 10_000;

/// What to do next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Action {
    /// Project the [`Engine::portion`] of what is buffered; store only the checkpoint when nothing
    /// is.
    Run,
    /// Leave the first event of the buffer out: pass it without projecting it.
    LeaveOut,
    /// Find the end of the log and say [`Engine::head_found`].
    FindHead,
    /// Load the projection's progress and say [`Engine::reloaded`].
    Reload,
    /// Wait for news, at most until then. Meanwhile read on if there is [`Engine::room`].
    Wait(Option<Time>),
    /// Nothing is left to do, for ever.
    Stop,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    Active,
    Paused,
    /// By an error that time does not heal.
    Stopped,
}

/// What was read and is not projected yet.
#[derive(Debug, Clone, Copy)]
struct Buffer {
    events: usize,
    /// Where its first event is.
    first: Position,
    /// When its first event came.
    since: Time,
    /// When its last event came.
    latest: Time,
    full: bool,
}

/// See the [module](self).
#[derive(Debug)]
pub(crate) struct Engine {
    schedule: Schedule,
    mode: Mode,
    /// Another process leads the projection.
    standby: bool,
    /// The last position to project before the end, once the end is near.
    closing: Option<Position>,
    /// Where the checkpoint in the store is, and since when.
    stored: Position,
    stored_at: Time,
    /// Up to here the log has been looked at.
    scanned: Position,
    buffer: Option<Buffer>,
    /// Up to here somebody asked it to run, or waits.
    asked: Position,
    awaited: Position,
    /// When the schedule's time comes; and that it has come.
    ticks: Ticks,
    look: bool,
    failures: u32,
    suspects: Suspects,
    fenced: bool,
    /// Of an inline projection: up to here its progress is looked for, and up to here it was found
    /// that appends have not projected what is missing.
    looking: Option<Position>,
    missing: Position,
    /// Nothing happens before that: the pause after a failure or a fence.
    blocked_until: Option<Time>,
    jitter: u64,
}

impl Engine {
    /// A projection whose checkpoint is at `stored`, with a log that ends at `head`. `jitter` is
    /// any number, another one for each process.
    pub(crate) fn new(
        schedule: Schedule,
        now: Time,
        stored: Position,
        head: Position,
        jitter: u64,
    ) -> Self {
        let (asked, look) = match schedule.timing {
            // What is in the log already has waited long enough.
            Timing::Inline(_) | Timing::Continuous { .. } | Timing::Once => (head, false),
            Timing::Periodic { immediately, .. } | Timing::Cron { immediately, .. } => {
                (Position::START, immediately)
            }
        };
        Self {
            ticks: Ticks::new(&schedule.timing, now),
            schedule,
            mode: Mode::Active,
            standby: false,
            closing: None,
            stored,
            stored_at: now,
            scanned: stored,
            buffer: None,
            asked,
            awaited: Position::START,
            look,
            failures: 0,
            suspects: Suspects::new(OnFailure::default()),
            fenced: false,
            looking: None,
            missing: Position::START,
            blocked_until: None,
            jitter,
        }
    }

    /// With what the projection does about events that it fails on.
    pub(crate) fn with_policy(mut self, policy: OnFailure) -> Self {
        self.suspects = Suspects::new(policy);
        self
    }

    /// What to do next.
    pub(crate) fn next(&mut self, now: Time) -> Action {
        if self.mode != Mode::Active || self.standby {
            return match self.closing {
                Some(_) => Action::Stop,
                None => Action::Wait(None),
            };
        }
        if let Some(until) = self.blocked_until {
            if self.closing.is_some() && self.failures > 0 {
                return Action::Stop;
            }
            if now < until {
                return Action::Wait(Some(until));
            }
            self.blocked_until = None;
        }
        if self.fenced {
            return Action::Reload;
        }
        if self.suspects.is_condemned() {
            return Action::LeaveOut;
        }
        if self.closing.is_none() && self.ticks.pass(now) {
            self.look = true;
        }
        if self.look {
            return Action::FindHead;
        }
        if self.is_due(now) {
            if self.must_look() {
                self.looking = Some(self.scanned);
                return Action::Reload;
            }
            return Action::Run;
        }
        match self.closing {
            Some(up_to) if self.scanned >= up_to => Action::Stop,
            _ => Action::Wait(self.timer()),
        }
    }

    /// How many more events it takes in. 0: read nothing now.
    pub(crate) fn room(&self) -> usize {
        let blocked =
            self.blocked_until.is_some() || self.fenced || self.look || self.suspects.any();
        let (events, full) = self
            .buffer
            .map_or((0, false), |buffer| (buffer.events, buffer.full));
        let wanted = match (self.closing, &self.schedule.timing) {
            (Some(up_to), _) => self.scanned < up_to,
            (None, Timing::Inline(_) | Timing::Continuous { .. }) => true,
            (None, Timing::Periodic { .. } | Timing::Cron { .. }) => {
                self.scanned < self.asked.max(self.awaited)
            }
            (None, Timing::Once) => self.scanned < self.asked,
        };
        if self.mode != Mode::Active || self.standby || blocked || full || !wanted {
            return 0;
        }
        self.schedule.max_batch.saturating_sub(events)
    }

    /// Up to here the read model contains the log.
    pub(crate) fn reached(&self) -> Position {
        match self.buffer {
            Some(buffer) => Position::new(buffer.first.get() - 1),
            None => self.scanned,
        }
    }

    /// How many events of the buffer the next batch takes: less than all while one of them makes
    /// batches fail.
    pub(crate) fn portion(&self) -> usize {
        let buffered = self.buffer.map_or(0, |buffer| buffer.events);
        self.suspects.portion(buffered).min(buffered)
    }

    /// How often the event was tried that fails alone.
    pub(crate) fn attempts(&self) -> u32 {
        self.suspects.attempts()
    }

    /// How often the projection failed since it last got on.
    pub(crate) fn failures(&self) -> u32 {
        self.failures
    }

    pub(crate) fn is_paused(&self) -> bool {
        self.mode == Mode::Paused
    }

    pub(crate) fn is_stopped(&self) -> bool {
        self.mode == Mode::Stopped
    }

    /// It runs once, and has run.
    pub(crate) fn is_finished(&self) -> bool {
        let idle = self.buffer.is_none() && !self.fenced && self.mode == Mode::Active;
        self.schedule.is_once() && idle && self.scanned >= self.asked && self.stored >= self.scanned
    }

    pub(crate) fn is_closing(&self) -> bool {
        self.closing.is_some()
    }

    /// The log was looked at up to `scanned`; so many events of it, the first one there, are in the
    /// buffer now. `full`: the buffer takes no more, whatever their number.
    pub(crate) fn filled(
        &mut self,
        now: Time,
        scanned: Position,
        first: Option<Position>,
        events: usize,
        full: bool,
    ) {
        self.failures = 0;
        self.scanned = self.scanned.max(scanned);
        let Some(first) = first else { return };
        let before = self.buffer.get_or_insert(Buffer {
            events: 0,
            first,
            since: now,
            latest: now,
            full,
        });
        before.events += events;
        before.latest = now;
        before.full = full;
    }

    /// The log could not be read, or a batch not be stored: no event is to blame.
    pub(crate) fn failed(&mut self, now: Time) {
        self.failures = self.failures.saturating_add(1);
        self.pause(now, FIRST_PAUSE, LONGEST_PAUSE, self.failures);
    }

    /// The projection's code failed on a batch of so many events, of which the first one is there.
    /// `for_good`: it failed on that one, and always will. True when it is known which one fails.
    pub(crate) fn batch_failed(
        &mut self,
        now: Time,
        events: usize,
        first: Position,
        for_good: bool,
    ) -> bool {
        match self.suspects.failed(events, first, for_good) {
            Verdict::Halve => return false,
            // It gets on.
            Verdict::LeaveOut => self.failures = 0,
            Verdict::Later => {
                self.failures = self.failures.saturating_add(1);
                let OnFailure { first, longest, .. } = self.suspects.policy();
                self.pause(now, first, longest, self.suspects.attempts());
            }
            Verdict::Stop => {
                self.failures = self.failures.saturating_add(1);
                self.mode = Mode::Stopped;
            }
        }
        true
    }

    /// Chance shortens it by up to a half, so that many who fail alike do not try again together.
    fn pause(&mut self, now: Time, first: Duration, longest: Duration, failures: u32) {
        let doubled = first.saturating_mul(2_u32.saturating_pow(failures.saturating_sub(1)));
        let half = doubled.min(longest) / 2;
        let spread = u64::try_from(half.as_micros()).unwrap_or(u64::MAX).max(1);
        self.blocked_until = Some(now + half + Duration::from_micros(1 + self.random() % spread));
    }

    /// A batch is stored, with the checkpoint at `to`. So many events, the first one there, are
    /// left in the buffer.
    pub(crate) fn committed(&mut self, now: Time, to: Position, left: Option<(usize, Position)>) {
        self.failures = 0;
        self.stored = to;
        self.stored_at = now;
        let before = self.buffer.map_or(0, |buffer| buffer.events);
        self.suspects
            .passed(before.saturating_sub(left.map_or(0, |(events, _)| events)));
        self.buffer = match (self.buffer, left) {
            (Some(buffer), Some((events, first))) => Some(Buffer {
                events,
                first,
                full: false,
                ..buffer
            }),
            _ => None,
        };
    }

    /// An append took the projection to `to`. So many events, the first one there, are left in the
    /// buffer.
    pub(crate) fn advanced(&mut self, now: Time, to: Position, left: Option<(usize, Position)>) {
        self.committed(now, to, left);
        self.scanned = self.scanned.max(to);
        if !self.fenced {
            self.blocked_until = None;
        }
    }

    /// Another process moved the projection meanwhile.
    pub(crate) fn fenced(&mut self, now: Time) {
        self.fenced = true;
        let (least, most) = FENCE_PAUSE;
        let spread = (most - least).as_micros() as u64;
        self.blocked_until = Some(now + least + Duration::from_micros(self.random() % spread));
    }

    /// Where it begins has to be found before anything else.
    pub(crate) fn lost(&mut self) {
        self.fenced = true;
    }

    /// Before the progress is loaded the log is seen to reach up to there: what the progress does
    /// not contain of it is missing.
    pub(crate) fn saw(&mut self, head: Position) {
        self.looking = self.looking.map(|seen| seen.max(head));
    }

    /// The projection's progress was loaded anew; the buffer is empty.
    pub(crate) fn reloaded(&mut self, now: Time, stored: Position) {
        self.fenced = false;
        self.stored = stored;
        self.stored_at = now;
        self.scanned = stored;
        self.buffer = None;
        self.suspects.dropped();
        if let Some(seen) = self.looking.take().filter(|seen| *seen > stored) {
            self.missing = seen;
            self.asked = self.asked.max(seen);
        }
    }

    /// Another process leads the projection from now on; it is at `stored`, as far as is known.
    pub(crate) fn stands_by(&mut self, now: Time, stored: Position) {
        self.reloaded(now, stored);
        self.standby = true;
        self.failures = 0;
        self.blocked_until = None;
        if self.mode == Mode::Stopped {
            self.mode = Mode::Active;
        }
    }

    /// This process leads the projection from now on, with a log that ends at `head`.
    pub(crate) fn leads(&mut self, now: Time, stored: Position, head: Position) {
        self.reloaded(now, stored);
        self.standby = false;
        // What is in the log already has waited long enough.
        if let Timing::Inline(_) | Timing::Continuous { .. } = self.schedule.timing {
            self.asked = self.asked.max(head);
        }
    }

    pub(crate) fn is_standby(&self) -> bool {
        self.standby
    }

    /// It was set to another place: emptied, rewound, or replaced by another read model. What is
    /// behind that is projected at once, up to `head` without a debounce.
    pub(crate) fn moved(&mut self, now: Time, stored: Position, head: Position) {
        self.reloaded(now, stored);
        self.failures = 0;
        self.suspects.acquit();
        self.blocked_until = None;
        self.asked = head;
        if self.mode == Mode::Stopped {
            self.mode = Mode::Active;
        }
    }

    /// Somebody waits for this position; [`Position::START`]: nobody does.
    pub(crate) fn awaited(&mut self, position: Position) {
        self.awaited = position;
    }

    /// Somebody wants it to run now, up to this position.
    pub(crate) fn triggered(&mut self, position: Position) {
        self.asked = self.asked.max(position);
        if self.failures > 0 {
            self.blocked_until = None;
        }
    }

    /// The answer to [`Action::FindHead`].
    pub(crate) fn head_found(&mut self, position: Position) {
        self.look = false;
        self.failures = 0;
        self.asked = self.asked.max(position);
    }

    pub(crate) fn paused(&mut self) {
        if self.mode == Mode::Active {
            self.mode = Mode::Paused;
        }
    }

    /// Goes on, also after a failure or an error that stopped it: with all attempts again.
    pub(crate) fn resumed(&mut self) {
        if self.mode == Mode::Stopped {
            self.suspects.acquit();
            self.failures = 0;
            self.blocked_until = None;
        }
        self.mode = Mode::Active;
        if self.failures > 0 {
            self.blocked_until = None;
        }
    }

    /// An error that time does not heal.
    pub(crate) fn stopped(&mut self) {
        self.mode = Mode::Stopped;
    }

    /// The end is near: what is buffered is projected, and what is in the log up to `head` if
    /// that is not too much.
    pub(crate) fn close(&mut self, head: Position) {
        let goal = match self.schedule.timing {
            Timing::Inline(_) | Timing::Continuous { .. } => head,
            // A run that has begun is finished; no other one begins.
            Timing::Periodic { .. } | Timing::Cron { .. } | Timing::Once => self.asked,
        };
        let near = goal.get() - self.scanned.get() <= CLOSING_POSITIONS;
        self.closing = Some(if near { goal } else { self.scanned });
        self.look = false;
    }

    /// Appends project what an inline projection wants: what is buffered may be done already.
    fn must_look(&self) -> bool {
        matches!(self.schedule.timing, Timing::Inline(_))
            && self
                .buffer
                .is_some_and(|buffer| buffer.first > self.missing)
    }

    fn is_due(&self, now: Time) -> bool {
        let Some(buffer) = &self.buffer else {
            let behind = self.scanned.get() - self.stored.get();
            let done = match self.closing {
                Some(up_to) => self.scanned >= up_to,
                None => self.schedule.is_once() && self.scanned >= self.asked,
            };
            return behind > 0
                && (done || behind >= IDLE_POSITIONS || now >= self.stored_at + IDLE_PAUSE);
        };
        buffer.full
            || buffer.events >= self.schedule.max_batch
            || self.closing.is_some()
            || self.failures > 0
            || self.suspects.any()
            || buffer.first <= self.asked.max(self.awaited)
            || now >= self.fires_at(buffer)
    }

    fn fires_at(&self, buffer: &Buffer) -> Time {
        match self.schedule.timing {
            Timing::Inline(_) => (buffer.latest + LINGER).min(buffer.since + LINGER_CAP),
            Timing::Continuous { debounce, cap } => {
                (buffer.latest + debounce).min(buffer.since + cap)
            }
            // It collects nothing between its runs.
            Timing::Periodic { .. } | Timing::Cron { .. } | Timing::Once => buffer.since,
        }
    }

    fn timer(&self) -> Option<Time> {
        let work = match &self.buffer {
            Some(buffer) => Some(self.fires_at(buffer)),
            None if self.scanned > self.stored => Some(self.stored_at + IDLE_PAUSE),
            None => None,
        };
        let tick = self.ticks.next().filter(|_| self.closing.is_none());
        [work, tick].into_iter().flatten().min()
    }

    /// A number that nobody has to guess well (xorshift).
    fn random(&mut self) -> u64 {
        let mut x = self.jitter | 1;
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        self.jitter = x;
        x
    }
}

#[cfg(test)]
mod tests;
