//! When a projection runs whose schedule looks at the time, not at events.

use std::time::Duration;

use crate::{calendar::Calendar, engine::Time, schedule::Timing};

#[derive(Debug)]
pub(crate) struct Ticks {
    rhythm: Rhythm,
    next: Option<Time>,
}

#[derive(Debug)]
enum Rhythm {
    None,
    Every(Duration),
    At(Calendar),
}

impl Ticks {
    pub(crate) fn new(timing: &Timing, now: Time) -> Self {
        let rhythm = match timing {
            Timing::Inline(_) | Timing::Continuous { .. } | Timing::Once => Rhythm::None,
            Timing::Periodic { every, .. } => Rhythm::Every(*every),
            Timing::Cron { calendar, .. } => Rhythm::At(calendar.clone()),
        };
        let next = match &rhythm {
            Rhythm::None => None,
            Rhythm::Every(every) => Some(now + *every),
            Rhythm::At(calendar) => calendar.next_after(now),
        };
        Self { rhythm, next }
    }

    /// When the next one comes.
    pub(crate) fn next(&self) -> Option<Time> {
        self.next
    }

    /// True when at least one has come. Those that were missed are not made up for.
    pub(crate) fn pass(&mut self, now: Time) -> bool {
        let Some(tick) = self.next.filter(|tick| now >= *tick) else {
            return false;
        };
        self.next = match &self.rhythm {
            Rhythm::None => None,
            Rhythm::Every(every) => {
                let missed = (now - tick).as_nanos() / every.as_nanos();
                let missed = u32::try_from(missed).unwrap_or(u32::MAX);
                Some(tick + every.saturating_mul(missed.saturating_add(1)))
            }
            Rhythm::At(calendar) => calendar.next_after(now),
        };
        true
    }
}
