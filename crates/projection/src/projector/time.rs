//! The time since the projector began: it never goes back, whatever the clock does.

use std::{sync::Arc, time::Duration};

use backstory_event::Clock;
use chrono::{DateTime, Utc};
use futures::future::BoxFuture;

use crate::engine::Time;

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

    /// Waits until then, or less. Cancel-safe: a sleep that was begun goes on, so that time passes
    /// also while the clock of the machine is set back.
    pub(crate) async fn sleep_until(&mut self, until: Time) {
        let now = self.now();
        let (end, sleep) = match &mut self.sleep {
            Some(running) if running.0 <= until => running,
            slot => {
                let sleep = self.clock.sleep(until.saturating_sub(now));
                slot.insert((until, sleep))
            }
        };
        sleep.await;
        self.now = self.now.max(*end);
        self.sleep = None;
    }
}
