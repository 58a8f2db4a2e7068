//! When a projection runs, and where it begins.

use std::time::Duration;

use backstory_event::{EventFilter, Invalid, Position};
use chrono::{DateTime, TimeZone, Utc};

use crate::calendar::Calendar;

/// The most stored events of a batch, unless a schedule says otherwise.
const MAX_BATCH: usize = 1_000;

/// The most parts of a projection.
const MAX_PARTITIONS: u32 = 64;

/// How long an inline projection may hold an append up, unless a schedule says otherwise.
const INLINE_LIMIT: Duration = Duration::from_secs(1);

/// The cap of a short debounce, unless a schedule says otherwise.
const SHORT_CAP: Duration = Duration::from_secs(5);

/// When a projection runs: inside appends, as events come, from time to time, or once.
///
/// ```
/// use std::time::Duration;
/// use backstory_event::EventFilter;
/// use backstory_projection::{Schedule, Start};
///
/// let in_appends = Schedule::inline();
/// let at_once = Schedule::continuous();
/// let collected = Schedule::continuous().debounce(Duration::from_millis(50));
/// let every_hour = Schedule::every(Duration::from_secs(3600)).immediately();
/// let every_night = Schedule::cron("0 3 * * *")?;
/// let once = Schedule::once();
/// let from_now_on = Schedule::continuous().start_at(Start::Now);
/// let todos_at_first = Schedule::continuous().startup(EventFilter::category("todo"));
/// # Ok::<(), backstory_event::Invalid>(())
/// ```
#[derive(Debug, Clone)]
pub struct Schedule {
    pub(crate) timing: Timing,
    /// Stored events per batch.
    pub(crate) max_batch: usize,
    pub(crate) start: Option<Start>,
    /// All that it takes of what was there at first.
    pub(crate) startup: Option<EventFilter>,
    /// In so many parts.
    pub(crate) partitions: u32,
}

#[derive(Debug, Clone)]
pub(crate) enum Timing {
    Inline(Inline),
    Continuous {
        debounce: Duration,
        cap: Duration,
    },
    Periodic {
        every: Duration,
        immediately: bool,
    },
    Cron {
        calendar: Calendar,
        immediately: bool,
    },
    Once,
}

/// Where a projection begins that has never run, or was reset. What is before is passed over.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Start {
    /// With the first event.
    #[default]
    Beginning,
    /// Behind what is in the log when the first projector that runs it starts, or when it is reset.
    /// Should that process die before it has stored this, it is the beginning: nothing is missed.
    Now,
    /// Behind this position.
    Position(Position),
    /// With what was recorded at this time or later.
    Time(DateTime<Utc>),
}

/// What all schedules have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Common {
    max_batch: usize,
    start: Option<Start>,
    partitions: u32,
}

const COMMON: Common = Common {
    max_batch: MAX_BATCH,
    start: None,
    partitions: 1,
};

impl Schedule {
    /// Inside appends: the read model is up to date when an append returns, because both commit
    /// together. An append fails when the projection fails on its events
    /// ([`OnFailure`](crate::OnFailure) does not matter there), and takes as much longer as the
    /// projection does; keep it short. Appends that it does not concern are as fast as ever.
    ///
    /// Its code must not append. A transaction of the application that has changed rows which the
    /// projection also writes, and then appends, may meet it in a deadlock: the server ends one of
    /// the two, and appends are tried again.
    ///
    /// It holds for appends through this store and its clones while the projector runs. What others
    /// append (processes that do not run it, imports, appends in a transaction of the application)
    /// is projected by the next such append, or by the projection's task soon.
    ///
    /// A projection may change between this and other schedules at any time: nothing is lost or
    /// repeated. While it is paused appends go on without it.
    pub const fn inline() -> Inline {
        Inline {
            limit: INLINE_LIMIT,
            allow_behind: false,
            max_batch: MAX_BATCH,
        }
    }

    /// As events come: at once, unless it is told to [`debounce`](Continuous::debounce).
    pub const fn continuous() -> Continuous {
        Continuous {
            debounce: Duration::ZERO,
            cap: None,
            common: COMMON,
        }
    }

    /// Once in each interval, with everything that came in between. The first run is after one
    /// interval, unless it shall run [`immediately`](Periodic::immediately). Runs that were missed
    /// are not made up for. Intervals below one millisecond are one millisecond.
    pub const fn every(interval: Duration) -> Periodic {
        Periodic {
            every: interval,
            immediately: false,
            common: COMMON,
        }
    }

    /// At the times of a cron pattern, with everything that came in between: minute, hour, day of
    /// the month, month, day of the week, and before them seconds if there are six fields. Times
    /// are those of UTC, unless it is told another [`zone`](Cron::in_zone). Runs that were missed
    /// are not made up for.
    ///
    /// # Errors
    /// When it is no pattern, or one whose time never comes.
    pub fn cron(pattern: &str) -> Result<Cron, Invalid> {
        Ok(Cron {
            calendar: Calendar::parse(pattern)?,
            immediately: false,
            common: COMMON,
        })
    }

    /// Once: everything that is in the log when the projector starts, and perhaps what comes
    /// meanwhile. Then it has [finished](crate::ProjectionState::Finished), until it is triggered.
    pub const fn once() -> Once {
        Once { common: COMMON }
    }

    /// As events come, with the same batches and the same start: for a rebuild.
    pub(crate) fn at_once(&self) -> Self {
        let mut schedule = Self::from(Self::continuous());
        (schedule.max_batch, schedule.start) = (self.max_batch, self.start);
        schedule.startup = self.startup.clone();
        schedule
    }

    pub(crate) fn inline_terms(&self) -> Option<Inline> {
        match self.timing {
            Timing::Inline(inline) => Some(inline),
            _ => None,
        }
    }

    pub(crate) fn is_once(&self) -> bool {
        matches!(self.timing, Timing::Once)
    }

    /// Times of a calendar are counted from here.
    pub(crate) fn count_from(&mut self, begin: DateTime<Utc>) {
        if let Timing::Cron { calendar, .. } = &mut self.timing {
            calendar.count_from(begin);
        }
    }
}

/// A [`Schedule`] that runs inside appends. See [`Schedule::inline`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Inline {
    pub(crate) limit: Duration,
    pub(crate) allow_behind: bool,
    max_batch: usize,
}

impl Inline {
    /// How long the projection may hold an append up: 1 second by default, at least 1 millisecond.
    /// Then the append fails. Whoever appends meanwhile waits.
    #[must_use]
    pub const fn limit(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }

    /// Appends go on without the projection while more than 1,000 events are missing in it that
    /// it wants, or 100,000 positions of others: when it starts on a long log, is built again, or
    /// rested. Its task brings it near, and then it is inline again. By default such appends fail
    /// with [`ProjectionBehind`](backstory_event::StoreErrorKind::ProjectionBehind).
    #[must_use]
    pub const fn allow_behind(mut self) -> Self {
        self.allow_behind = true;
        self
    }

    /// The most stored events of a batch of its task, which projects what others have appended. At
    /// least 1; 1,000 by default.
    #[must_use]
    pub const fn max_batch(mut self, events: usize) -> Self {
        self.max_batch = events;
        self
    }
}

/// A [`Schedule`] that runs as events come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Continuous {
    debounce: Duration,
    cap: Option<Duration>,
    common: Common,
}

impl Continuous {
    /// Waits until no event has come for so long, so that one batch takes many events. Somebody
    /// who waits for an event ends it. Zero by default.
    #[must_use]
    pub const fn debounce(mut self, quiet: Duration) -> Self {
        self.debounce = quiet;
        self
    }

    /// The longest that an event waits, counted from the first one of a batch: it holds under
    /// steady traffic too. By default 5 seconds, or twice the debounce if that is more.
    #[must_use]
    pub const fn debounce_cap(mut self, cap: Duration) -> Self {
        self.cap = Some(cap);
        self
    }
}

/// A [`Schedule`] that runs from time to time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Periodic {
    every: Duration,
    immediately: bool,
    common: Common,
}

impl Periodic {
    /// Runs at the start too, not only after the first interval.
    #[must_use]
    pub const fn immediately(mut self) -> Self {
        self.immediately = true;
        self
    }
}

/// A [`Schedule`] that runs at times of a calendar.
#[derive(Debug, Clone)]
pub struct Cron {
    calendar: Calendar,
    immediately: bool,
    common: Common,
}

impl Cron {
    /// With the times of another zone: `chrono::Local`, a `FixedOffset`, a zone of the crate
    /// `chrono-tz`. When its clocks are set forward over a time of the pattern, that runs right
    /// behind; when they are set back, what comes twice runs once. Patterns that name no hour or
    /// no minute (`*`, `*/5`) follow the clock: nothing runs in the hour that is left out, and all
    /// of it in both that have one name.
    #[must_use]
    pub fn in_zone<Z>(mut self, zone: Z) -> Self
    where
        Z: TimeZone + Send + Sync + 'static,
    {
        self.calendar = self.calendar.in_zone(zone);
        self
    }

    /// Runs at the start too, not only at the first time that comes.
    #[must_use]
    pub fn immediately(mut self) -> Self {
        self.immediately = true;
        self
    }
}

/// A [`Schedule`] that runs once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Once {
    common: Common,
}

macro_rules! common {
    ($($schedule:ty)*) => {$(
        impl $schedule {
            /// The most stored events of a batch; a run takes as many batches as it needs. At
            /// least 1; 1,000 by default.
            #[must_use]
            pub const fn max_batch(mut self, events: usize) -> Self {
                self.common.max_batch = events;
                self
            }

            /// In so many parts, 1 to 64, which run at the same time and which the processes that run
            /// the projection share. An event is in the part of its
            /// [key](crate::Projection::key), so that the order of each key is kept; events of
            /// different keys may come in another order than they are in the log. What the
            /// projection writes must depend on events of one key only: a document of its own for
            /// each key, or SQL that bears others beside it. The first process that runs the
            /// projection says how many there are; others have to say the same. 1 by default.
            #[must_use]
            pub const fn partitions(mut self, parts: u32) -> Self {
                self.common.partitions = parts;
                self
            }

            /// Where it begins while it has not stored a checkpoint. Other processes that run the
            /// projection should say the same. The beginning by default; now for a
            /// [`Reactor`](crate::Reactor).
            #[must_use]
            pub const fn start_at(mut self, start: Start) -> Self {
                self.common.start = Some(start);
                self
            }

            /// Takes only these events of what is in the log when it first starts, and of what comes
            /// later all that it wants. Where that boundary is, is stored before
            /// [`Projector::start`](crate::Projector::start) returns for the first time, and stays:
            /// after restarts, resets and rebuilds. Other processes should say the same. Say it
            /// last.
            #[must_use]
            pub fn startup(self, filter: EventFilter) -> Schedule {
                Schedule {
                    startup: Some(filter),
                    ..Schedule::from(self)
                }
            }
        }
    )*};
}

common! { Continuous Periodic Cron Once }

impl Common {
    fn with(self, timing: Timing) -> Schedule {
        Schedule {
            timing,
            max_batch: self.max_batch.max(1),
            start: self.start,
            startup: None,
            partitions: self.partitions.clamp(1, MAX_PARTITIONS),
        }
    }
}

impl From<Inline> for Schedule {
    fn from(inline: Inline) -> Self {
        let common = Common {
            max_batch: inline.max_batch,
            ..COMMON
        };
        common.with(Timing::Inline(Inline {
            limit: inline.limit.max(Duration::from_millis(1)),
            ..inline
        }))
    }
}

impl From<Continuous> for Schedule {
    fn from(continuous: Continuous) -> Self {
        let Continuous { debounce, cap, .. } = continuous;
        continuous.common.with(Timing::Continuous {
            debounce,
            cap: cap.unwrap_or(SHORT_CAP.max(debounce * 2)),
        })
    }
}

impl From<Periodic> for Schedule {
    fn from(periodic: Periodic) -> Self {
        periodic.common.with(Timing::Periodic {
            every: periodic.every.max(Duration::from_millis(1)),
            immediately: periodic.immediately,
        })
    }
}

impl From<Cron> for Schedule {
    fn from(cron: Cron) -> Self {
        cron.common.with(Timing::Cron {
            calendar: cron.calendar,
            immediately: cron.immediately,
        })
    }
}

impl From<Once> for Schedule {
    fn from(once: Once) -> Self {
        once.common.with(Timing::Once)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cap(schedule: Continuous) -> Duration {
        match Schedule::from(schedule).timing {
            Timing::Continuous { cap, .. } => cap,
            _ => Duration::ZERO,
        }
    }

    #[test]
    fn the_cap_follows_the_debounce_unless_given() {
        let debounced = |millis| Schedule::continuous().debounce(Duration::from_millis(millis));
        assert_eq!(cap(debounced(0)), Duration::from_secs(5));
        assert_eq!(cap(debounced(2_500)), Duration::from_secs(5));
        assert_eq!(cap(debounced(4_000)), Duration::from_secs(8));
        let given = debounced(4_000).debounce_cap(Duration::from_secs(1));
        assert_eq!(cap(given), Duration::from_secs(1));
    }

    #[test]
    fn nothing_can_be_zero() {
        assert_eq!(
            Schedule::from(Schedule::continuous().max_batch(0)).max_batch,
            1
        );
        let Timing::Periodic { every, .. } = Schedule::from(Schedule::every(Duration::ZERO)).timing
        else {
            panic!("periodic");
        };
        assert!(every > Duration::ZERO);
    }
}
