//! Time, as a port: real, or moved by a test.

use std::{
    fmt::Debug,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll, Waker},
    time::Duration,
};

use chrono::{DateTime, SubsecRound, Utc};
use futures::future::BoxFuture;

/// What time it is, and how to wait.
pub trait Clock: Debug + Send + Sync + 'static {
    /// Now, in microseconds.
    fn now(&self) -> DateTime<Utc>;

    /// Waits.
    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()>;
}

/// The real time.
#[derive(Debug, Default, Clone, Copy)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> DateTime<Utc> {
        Utc::now().trunc_subsecs(6)
    }

    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()> {
        Box::pin(futures_timer::Delay::new(duration))
    }
}

/// A time that stands still until a test moves it. Clones share it.
#[derive(Debug, Clone)]
pub struct ManualClock(Arc<Mutex<Manual>>);

#[derive(Debug)]
struct Manual {
    now: DateTime<Utc>,
    waiting: Vec<Waker>,
}

impl ManualClock {
    /// A clock that stands at this time.
    pub fn new(now: DateTime<Utc>) -> Self {
        Self(Arc::new(Mutex::new(Manual {
            now,
            waiting: Vec::new(),
        })))
    }

    /// Moves the time forward and wakes whoever waited for it.
    pub fn advance(&self, by: Duration) {
        let waiting = {
            let mut manual = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            manual.now += by;
            std::mem::take(&mut manual.waiting)
        };
        waiting.into_iter().for_each(Waker::wake);
    }

    /// How many tasks wait for a time to come. A test that moves the clock awaits this first.
    pub fn sleepers(&self) -> usize {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .waiting
            .len()
    }
}

impl Default for ManualClock {
    /// A clock that stands at the beginning of 2020.
    fn default() -> Self {
        Self::new(DateTime::from_timestamp(1_577_836_800, 0).unwrap_or_default())
    }
}

impl Clock for ManualClock {
    fn now(&self) -> DateTime<Utc> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).now
    }

    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()> {
        let until = self.now() + duration;
        Box::pin(ManualSleep {
            clock: self.clone(),
            until,
        })
    }
}

struct ManualSleep {
    clock: ManualClock,
    until: DateTime<Utc>,
}

impl Future for ManualSleep {
    type Output = ();

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let mut manual = self.clock.0.lock().unwrap_or_else(PoisonError::into_inner);
        if manual.now >= self.until {
            return Poll::Ready(());
        }
        if !manual
            .waiting
            .iter()
            .any(|waker| waker.will_wake(context.waker()))
        {
            manual.waiting.push(context.waker().clone());
        }
        Poll::Pending
    }
}
