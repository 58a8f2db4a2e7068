//! Callers that do the same thing again and again for a while.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use backstory::BoxError;
use tokio::sync::Barrier;

use crate::meter::{Cpu, Meter};

/// Somebody who calls, one call after another.
pub trait Caller: Send + 'static {
    /// One call; returns how many events, commands … it did.
    fn call(&mut self) -> impl Future<Output = Result<u64, BoxError>> + Send;
}

/// What came out.
pub struct Run<C> {
    /// The callers as they ended.
    pub callers: Vec<C>,
    /// What the calls did in all.
    pub done: u64,
    /// From the first call to the end of the last one.
    pub elapsed: Duration,
    /// Processor time meanwhile.
    pub cpu: Cpu,
    millis: Vec<f32>,
}

impl Run<()> {
    /// One long call.
    pub fn single(done: u64, elapsed: Duration, cpu: Cpu) -> Self {
        Self {
            callers: Vec::new(),
            done,
            elapsed,
            cpu,
            millis: Vec::new(),
        }
    }
}

impl<C> Run<C> {
    /// What was done per second.
    pub fn rate(&self) -> f64 {
        self.done as f64 / self.elapsed.as_secs_f64()
    }

    /// A percentile of the times of the calls, in milliseconds.
    pub fn percentile(&self, percent: f64) -> f64 {
        percentile(&self.millis, percent)
    }
}

/// A percentile of sorted numbers; 0 when there are none.
pub fn percentile(sorted: &[f32], percent: f64) -> f64 {
    let last = sorted.len().saturating_sub(1);
    let at = (last as f64 * percent / 100.0).round() as usize;
    sorted.get(at).copied().map_or(0.0, f64::from)
}

/// Lets all callers call until the time is over.
pub async fn drive<C: Caller>(
    callers: Vec<C>,
    duration: Duration,
    meter: &Meter,
) -> Result<Run<C>, BoxError> {
    let start = Arc::new(Barrier::new(callers.len() + 1));
    let tasks: Vec<_> = callers
        .into_iter()
        .map(|mut caller| {
            let start = start.clone();
            tokio::spawn(async move {
                start.wait().await;
                let end = Instant::now() + duration;
                let (mut done, mut millis) = (0, Vec::new());
                let mut began = Instant::now();
                while began < end {
                    done += caller.call().await?;
                    let now = Instant::now();
                    millis.push((now - began).as_secs_f32() * 1e3);
                    began = now;
                }
                Ok::<_, BoxError>((caller, done, millis))
            })
        })
        .collect();
    let before = meter.read()?;
    start.wait().await;
    let began = Instant::now();
    let (mut callers, mut done, mut millis) = (Vec::new(), 0, Vec::new());
    for task in tasks {
        let (caller, count, times) = task.await??;
        callers.push(caller);
        done += count;
        millis.extend(times);
    }
    let elapsed = began.elapsed();
    let cpu = meter.read()? - before;
    millis.sort_by(f32::total_cmp);
    Ok(Run {
        callers,
        done,
        elapsed,
        cpu,
        millis,
    })
}
