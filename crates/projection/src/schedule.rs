//! When a projection runs.

use std::time::Duration;

/// The most stored events of a batch, unless a schedule says otherwise.
const MAX_BATCH: usize = 1_000;

/// The cap of a short debounce, unless a schedule says otherwise.
const SHORT_CAP: Duration = Duration::from_secs(5);

/// When a projection runs: as events come, or from time to time.
///
/// ```
/// use std::time::Duration;
/// use backstory_projection::Schedule;
///
/// let at_once = Schedule::continuous();
/// let collected = Schedule::continuous().debounce(Duration::from_millis(50));
/// let every_hour = Schedule::every(Duration::from_secs(3600)).immediately();
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Schedule {
    pub(crate) timing: Timing,
    /// Stored events per batch.
    pub(crate) max_batch: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Timing {
    Continuous { debounce: Duration, cap: Duration },
    Periodic { every: Duration, immediately: bool },
}

impl Schedule {
    /// As events come: at once, unless it is told to [`debounce`](Continuous::debounce).
    pub const fn continuous() -> Continuous {
        Continuous {
            debounce: Duration::ZERO,
            cap: None,
            max_batch: MAX_BATCH,
        }
    }

    /// Once in each interval, with everything that came in between. The first run is after one
    /// interval, unless it shall run [`immediately`](Periodic::immediately). Intervals below one
    /// millisecond are one millisecond.
    pub const fn every(interval: Duration) -> Periodic {
        Periodic {
            every: interval,
            immediately: false,
            max_batch: MAX_BATCH,
        }
    }
}

/// A [`Schedule`] that runs as events come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Continuous {
    debounce: Duration,
    cap: Option<Duration>,
    max_batch: usize,
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

    /// The most stored events of a batch; so many run at once. At least 1; 1,000 by default.
    #[must_use]
    pub const fn max_batch(mut self, events: usize) -> Self {
        self.max_batch = events;
        self
    }
}

/// A [`Schedule`] that runs from time to time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Periodic {
    every: Duration,
    immediately: bool,
    max_batch: usize,
}

impl Periodic {
    /// Runs at the start too, not only after the first interval.
    #[must_use]
    pub const fn immediately(mut self) -> Self {
        self.immediately = true;
        self
    }

    /// The most stored events of a batch; a run takes as many batches as it needs. At least 1;
    /// 1,000 by default.
    #[must_use]
    pub const fn max_batch(mut self, events: usize) -> Self {
        self.max_batch = events;
        self
    }
}

impl From<Continuous> for Schedule {
    fn from(continuous: Continuous) -> Self {
        let Continuous { debounce, cap, .. } = continuous;
        Self {
            timing: Timing::Continuous {
                debounce,
                cap: cap.unwrap_or(SHORT_CAP.max(debounce * 2)),
            },
            max_batch: continuous.max_batch.max(1),
        }
    }
}

impl From<Periodic> for Schedule {
    fn from(periodic: Periodic) -> Self {
        Self {
            timing: Timing::Periodic {
                every: periodic.every.max(Duration::from_millis(1)),
                immediately: periodic.immediately,
            },
            max_batch: periodic.max_batch.max(1),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cap(schedule: Continuous) -> Duration {
        match Schedule::from(schedule).timing {
            Timing::Continuous { cap, .. } => cap,
            Timing::Periodic { .. } => Duration::ZERO,
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
