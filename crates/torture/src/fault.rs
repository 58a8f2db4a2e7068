//! What is done to the processes, and the record of it.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use crate::now;

/// A kind of fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    KillWriter,
    KillSubscriber,
    KillServer,
    TerminateBackend,
    StopWriter,
    FreezeInside,
    CutProxy,
    DelayProxy,
}

impl Fault {
    pub(crate) const ALL: [Self; 8] = [
        Self::KillWriter,
        Self::KillSubscriber,
        Self::KillServer,
        Self::TerminateBackend,
        Self::StopWriter,
        Self::FreezeInside,
        Self::CutProxy,
        Self::DelayProxy,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::KillWriter => "kill -9 of a writer process",
            Self::KillSubscriber => "kill -9 of a subscriber",
            Self::KillServer => "kill -9 of the server",
            Self::TerminateBackend => "pg_terminate_backend",
            Self::StopWriter => "SIGSTOP of a writer process",
            Self::FreezeInside => "SIGSTOP inside append_in",
            Self::CutProxy => "connection cut by the proxy",
            Self::DelayProxy => "bytes delayed by the proxy",
        }
    }

    /// How often it comes up in a round of all of them.
    pub(crate) fn weight(self) -> usize {
        match self {
            // Nothing is written for seconds then.
            Self::KillServer | Self::FreezeInside => 1,
            Self::KillWriter | Self::StopWriter | Self::DelayProxy => 3,
            Self::KillSubscriber | Self::TerminateBackend | Self::CutProxy => 5,
        }
    }
}

/// A fault that happened, in microseconds since 1970.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Happened {
    pub(crate) fault: Fault,
    /// Which subscriber was killed, or which incarnation of a writer was frozen.
    pub(crate) target: i32,
    pub(crate) began: i64,
    pub(crate) ended: i64,
}

/// All faults of a run.
#[derive(Debug)]
pub(crate) struct Faults {
    started: i64,
    all: Mutex<Vec<Happened>>,
}

impl Faults {
    pub(crate) fn new() -> Self {
        Self {
            started: now(),
            all: Mutex::default(),
        }
    }

    /// Records a fault, and shows when it was.
    pub(crate) fn add(&self, happened: Happened) {
        let seconds = |at: i64| {
            Duration::from_micros(at.saturating_sub(self.started).unsigned_abs()).as_secs_f64()
        };
        println!(
            "{:7.1} s to {:7.1} s: {} {}",
            seconds(happened.began),
            seconds(now()),
            happened.fault.name(),
            happened.target,
        );
        self.all
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(happened);
    }

    pub(crate) fn all(&self) -> Vec<Happened> {
        self.all
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    pub(crate) fn count(&self, fault: Fault) -> usize {
        let all = self.all();
        all.iter()
            .filter(|happened| happened.fault == fault)
            .count()
    }

    /// How often a subscriber was killed and started again.
    pub(crate) fn restarts(&self, subscriber: usize) -> usize {
        let is_it = |happened: &&Happened| {
            happened.fault == Fault::KillSubscriber
                && usize::try_from(happened.target) == Ok(subscriber)
        };
        self.all().iter().filter(is_it).count()
    }
}
