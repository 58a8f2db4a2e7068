//! How many connections of the pool are needed: what is idle gives its connections back.

use std::{
    mem,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use sqlx::PgPool;

/// What the pool has beyond the most that were in use at once within this time is closed. Idle
/// times cannot tell it: the pool lends all of its connections in turn, however little there is to
/// do.
const LATELY: Duration = Duration::from_secs(10);

/// See the [module](self). Clones share it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Need(Arc<Mutex<Lately>>);

#[derive(Debug)]
struct Lately {
    since: Instant,
    most: u32,
}

impl Default for Lately {
    fn default() -> Self {
        Self {
            since: Instant::now(),
            most: 0,
        }
    }
}

impl Lately {
    /// So many are in use now; the answer is how many are to be kept, when that is known.
    fn used(&mut self, used: u32, now: Instant) -> Option<u32> {
        self.most = self.most.max(used);
        let over = now.duration_since(self.since) >= LATELY;
        over.then(|| {
            self.since = now;
            mem::replace(&mut self.most, used)
        })
    }
}

impl Need {
    /// A connection was just taken from the pool.
    pub(crate) fn taken(&self, pool: &PgPool) {
        let idle = u32::try_from(pool.num_idle()).unwrap_or(u32::MAX);
        let used = pool.size().saturating_sub(idle);
        let keep = {
            let mut lately = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            lately.used(used, Instant::now())
        };
        let Some(keep) = keep else { return };
        for _ in keep..pool.size() {
            let Some(mut surplus) = pool.try_acquire() else {
                return;
            };
            surplus.close_on_drop();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_many_are_kept_as_were_in_use_at_once() {
        let mut lately = Lately::default();
        let begin = lately.since;
        assert_eq!(lately.used(5, begin), None);
        assert_eq!(lately.used(2, begin + LATELY / 2), None);
        assert_eq!(lately.used(1, begin + LATELY), Some(5));
        assert_eq!(lately.used(3, begin + LATELY * 3 / 2), None);
        // Nobody asked for long: what was in use before counts, and what is now.
        assert_eq!(lately.used(1, begin + LATELY * 9), Some(3));
        assert_eq!(lately.used(1, begin + LATELY * 10), Some(1));
    }
}
