//! A histogram that costs a few atomic additions.

use std::{
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

use serde::Serialize;

const BUCKETS: usize = 65;

/// Counts values in buckets that end at powers of two: never locked, never larger.
#[derive(Debug)]
pub struct Histogram {
    // Bucket n holds the values of n bits.
    buckets: [AtomicU64; BUCKETS],
    sum: AtomicU64,
    max: AtomicU64,
}

impl Default for Histogram {
    fn default() -> Self {
        Self {
            buckets: [const { AtomicU64::new(0) }; BUCKETS],
            sum: AtomicU64::new(0),
            max: AtomicU64::new(0),
        }
    }
}

impl Histogram {
    /// Counts a value.
    pub fn record(&self, value: u64) {
        let bits = u64::BITS - value.leading_zeros();
        // There is a bucket for each number of bits.
        if let Some(bucket) = self.buckets.get(bits as usize) {
            bucket.fetch_add(1, Relaxed);
        }
        self.sum.fetch_add(value, Relaxed);
        self.max.fetch_max(value, Relaxed);
    }

    /// Counts a duration in microseconds.
    pub fn record_time(&self, time: Duration) {
        self.record(micros(time));
    }

    /// What was counted so far.
    pub fn read(&self) -> Distribution {
        let buckets = self.buckets.each_ref().map(|bucket| bucket.load(Relaxed));
        let count = buckets.iter().sum();
        let max = self.max.load(Relaxed);
        Distribution {
            count,
            sum: self.sum.load(Relaxed),
            max,
            p50: quantile(&buckets, count, 0.50).min(max),
            p99: quantile(&buckets, count, 0.99).min(max),
        }
    }
}

/// The values that a [`Histogram`] has counted since the store was opened.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Distribution {
    /// How many.
    pub count: u64,
    /// Their sum.
    pub sum: u64,
    /// The largest.
    pub max: u64,
    /// Half of them are about so large or smaller: an estimate, at most a factor of 2 off.
    pub p50: u64,
    /// 99 % of them are about so large or smaller: an estimate, at most a factor of 2 off.
    pub p99: u64,
}

impl Distribution {
    /// Their mean; 0 of none.
    pub fn mean(&self) -> f64 {
        #[allow(clippy::cast_precision_loss, reason = "a mean is an estimate")]
        let mean = self.sum as f64 / self.count.max(1) as f64;
        mean
    }
}

pub(crate) fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

/// Where this share of the values ends, as if those of a bucket lay evenly in it.
fn quantile(buckets: &[u64; BUCKETS], count: u64, share: f64) -> u64 {
    #[allow(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "an estimate of something that is not negative"
    )]
    let rank = ((count as f64 * share).ceil() as u64).max(1);
    let mut below = 0;
    for (bits, bucket) in buckets.iter().enumerate() {
        if below + bucket >= rank {
            let low = match bits {
                0 => return 0,
                bits => 1_u64 << (bits - 1),
            };
            let part = u128::from(low - 1) * u128::from(rank - below) / u128::from(*bucket);
            return low + u64::try_from(part).unwrap_or(low);
        }
        below += bucket;
    }
    0
}
