//! How hard a repository tries.

use std::time::{Duration, Instant};

/// How hard a repository tries before it gives up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct RepositoryOptions {
    /// How often an update decides, and how often an append with an unknown outcome is sent: 10.
    pub max_attempts: u32,
    /// The longest wait before the second attempt: 5 milliseconds. It doubles with each attempt.
    pub backoff_base: Duration,
    /// The longest wait before any attempt: 500 milliseconds.
    pub backoff_max: Duration,
    /// How long one save, update or command may take in all. `None` by default: each append is
    /// bounded by the store's own options.
    pub deadline: Option<Duration>,
}

impl Default for RepositoryOptions {
    fn default() -> Self {
        Self {
            max_attempts: 10,
            backoff_base: Duration::from_millis(5),
            backoff_max: Duration::from_millis(500),
            deadline: None,
        }
    }
}

impl RepositoryOptions {
    /// With at most so many attempts; 0 counts as 1.
    #[must_use]
    pub fn with_max_attempts(mut self, attempts: u32) -> Self {
        self.max_attempts = attempts.max(1);
        self
    }

    /// With these bounds of the wait between attempts. The wait itself is random, so that writers
    /// that met once do not meet again.
    #[must_use]
    pub fn with_backoff(mut self, base: Duration, max: Duration) -> Self {
        self.backoff_base = base;
        self.backoff_max = max;
        self
    }

    /// With a deadline for one save, update or command in all.
    #[must_use]
    pub fn with_deadline(mut self, deadline: Duration) -> Self {
        self.deadline = Some(deadline);
        self
    }

    /// A random wait before the attempt after this one.
    pub(crate) fn pause(&self, attempt: u32) -> Duration {
        let doubled = 2_u32.saturating_pow(attempt.saturating_sub(1));
        let longest = self
            .backoff_base
            .saturating_mul(doubled)
            .min(self.backoff_max);
        let share = f64::from(uuid::Uuid::new_v4().as_fields().0) / f64::from(u32::MAX);
        longest.mul_f64(share)
    }
}

/// The end of the time that a call has, if it has one.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Deadline(Option<Instant>);

impl Deadline {
    pub(crate) fn after(duration: Option<Duration>) -> Self {
        Self(duration.and_then(|duration| Instant::now().checked_add(duration)))
    }

    /// What is left of it; `None` when there is no end.
    pub(crate) fn left(self) -> Option<Duration> {
        self.0
            .map(|end| end.saturating_duration_since(Instant::now()))
    }

    pub(crate) fn is_over(self) -> bool {
        self.left() == Some(Duration::ZERO)
    }
}
