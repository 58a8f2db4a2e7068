//! The time since the projector began: it never goes back, whatever the clock does.

use std::{sync::Arc, time::Duration};

use backstory_event::Clock;
use chrono::{DateTime, Utc};
use futures::future::BoxFuture;

use crate::engine::Time;

/// How long a look at the clock may take.
const TOLERANCE: Duration = Duration::from_millis(5);
/// A sleep does not count the time while the machine sleeps too: the clock is looked at so often.
const LONGEST_SLEEP: Duration = Duration::from_secs(60);

pub(crate) struct Timeline {
    clock: Arc<dyn Clock>,
    begin: DateTime<Utc>,
    now: Time,
    // The sleep that runs, and what time it is when it ends.
    sleep: Option<(Time, BoxFuture<'static, ()>)>,
}

impl Timeline {
    pub(crate) fn new(clock: Arc<dyn Clock>) -> Self {
        Self {
            begin: clock.now(),
            clock,
            now: Duration::ZERO,
            sleep: None,
        }
    }

    pub(crate) fn now(&mut self) -> Time {
        let passed = (self.clock.now() - self.begin).to_std();
        self.now = self.now.max(passed.unwrap_or_default());
        self.now
    }

    /// What time the clock says.
    pub(crate) fn clock(&self) -> DateTime<Utc> {
        self.clock.now()
    }

    /// The time of the clock that it counts from.
    pub(crate) fn begin(&self) -> DateTime<Utc> {
        self.begin
    }

    fn begin_sleep(&mut self, until: Time) -> BoxFuture<'static, ()> {
        loop {
            let now = self.now();
            let sleep = self.clock.sleep(until.saturating_sub(now));
            // Somebody may have moved the clock in between: the sleep would be too long.
            if self.now() < now + TOLERANCE {
                return sleep;
            }
        }
    }

    /// Waits until then.
    pub(crate) async fn pass(&mut self, until: Time) {
        while self.now() < until {
            self.sleep_until(until).await;
        }
    }

    /// Waits until then, or less. Cancel-safe: a sleep that was begun goes on, so that time passes
    /// also while the clock of the machine is set back.
    pub(crate) async fn sleep_until(&mut self, until: Time) {
        let until = until.min(self.now().saturating_add(LONGEST_SLEEP));
        if self.sleep.as_ref().is_none_or(|(end, _)| *end > until) {
            self.sleep = Some((until, self.begin_sleep(until)));
        }
        let Some((end, sleep)) = &mut self.sleep else {
            return;
        };
        sleep.await;
        self.now = self.now.max(*end);
        self.sleep = None;
    }
}
