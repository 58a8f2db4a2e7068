//! Pauses between attempts.

use std::time::{Duration, SystemTime};

use sqlx::Error;
use tokio::time::{Instant, sleep};

const FIRST_PAUSE: Duration = Duration::from_millis(10);
const LONGEST_PAUSE: Duration = Duration::from_millis(500);

/// A pause between attempts that differs between processes.
pub(crate) fn jitter(longest: Duration) -> Duration {
    let nanos = SystemTime::UNIX_EPOCH
        .elapsed()
        .map_or(0, |now| now.subsec_nanos());
    longest.mul_f64(f64::from(nanos % 1_000) / 1_000.0)
}

/// The pauses between attempts, until a limit.
pub(crate) struct Pauses {
    until: Instant,
    pause: Duration,
}

impl Pauses {
    pub(crate) fn new(limit: Duration) -> Self {
        Self {
            until: Instant::now() + limit,
            pause: FIRST_PAUSE,
        }
    }

    /// Pauses, or fails with this error when there is no time left.
    pub(crate) async fn next_or(&mut self, error: Error) -> Result<(), Error> {
        let pause = self.pause + jitter(self.pause);
        if Instant::now() + pause > self.until {
            return Err(error);
        }
        sleep(pause).await;
        self.pause = (self.pause * 2).min(LONGEST_PAUSE);
        Ok(())
    }
}
