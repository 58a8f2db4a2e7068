//! What a writer counts, for operators.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use backstory_event::{Appended, Conflict, StoreErrorKind};
use serde::Serialize;
use tokio::time::Instant;

use crate::histogram::{Distribution, Histogram, micros};

/// The numbers of a writer since its store was opened. Read without a lock while others count:
/// two of them may be an append apart.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct WriterStats {
    /// Appends that wait in the queue now.
    pub queued: usize,
    /// Appends that fit into the queue. Further callers wait for room, up to their deadline.
    pub capacity: usize,
    /// For how long the batch that is now at the database has been there, in microseconds, with
    /// all its attempts; `None` when there is none.
    pub writing_micros: Option<u64>,
    /// Appends that were stored, or were stored before.
    pub stored: u64,
    /// How long appends waited in the queue, in microseconds.
    pub queue_wait_micros: Distribution,
    /// How long batches waited for the lock of the log, in microseconds, as far as the store
    /// knows it.
    pub lock_wait_micros: Distribution,
    /// How long the database worked on one attempt of a batch, in microseconds.
    pub batch_micros: Distribution,
    /// Appends of a batch.
    pub batch_appends: Distribution,
    /// Events of a batch.
    pub batch_events: Distribution,
    /// Bytes of a batch, about.
    pub batch_bytes: Distribution,
    /// Appends that lost against somebody else.
    pub conflicts: Conflicts,
    /// Appends that were refused for another reason.
    pub refused: Refusals,
    /// Attempts of a batch that stored nothing and were made again: the database was busy, away,
    /// or its lock was held.
    pub retries: u64,
    /// Batches that were sent again, with the same ids, because their answer was lost.
    pub resent: u64,
    /// Batches that the database refused and that were halved to find the guilty append.
    pub bisections: u64,
    /// Appends whose caller was told `OutcomeUnknown`.
    pub unknown: u64,
    /// Appends that were never sent: their deadline passed in the queue or before it, or their
    /// caller went away.
    pub withdrawn: u64,
}

/// Appends that lost against somebody else, by what they expected.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Conflicts {
    /// Another version of a stream.
    pub version: u64,
    /// That no event of a condition is stored.
    pub condition: u64,
    /// That a value is free or their own.
    pub claim: u64,
}

impl Conflicts {
    /// All of them.
    pub fn total(&self) -> u64 {
        self.version + self.condition + self.claim
    }
}

/// Appends that were refused, by the reason.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Refusals {
    /// No store accepts them.
    pub invalid: u64,
    /// The stream is deleted.
    pub stream_deleted: u64,
    /// The stream was erased.
    pub stream_erased: u64,
    /// An id is stored already, in another append.
    pub event_id_reused: u64,
    /// The log is not the one that the caller had read.
    pub diverged: u64,
    /// The database was busy or away until shortly before the deadline.
    pub unavailable: u64,
    /// The database is read-only or full.
    pub not_writable: u64,
    /// An inline projection failed on them, or lacked too many earlier events.
    pub projection: u64,
    /// The database refused them for another reason.
    pub database: u64,
}

impl Refusals {
    /// All of them.
    pub fn total(&self) -> u64 {
        self.invalid
            + self.stream_deleted
            + self.stream_erased
            + self.event_id_reused
            + self.diverged
            + self.unavailable
            + self.not_writable
            + self.projection
            + self.database
    }
}

#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    pub(crate) fn add(&self) {
        self.0.fetch_add(1, Relaxed);
    }

    fn read(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// Where the numbers come from.
#[derive(Debug)]
pub(crate) struct Meters {
    start: Instant,
    // When the batch at the database was begun, in microseconds since the start; 0: there is none.
    writing: AtomicU64,
    lock_wait: Option<Arc<Histogram>>,
    pub(crate) queue_wait: Histogram,
    pub(crate) batch_time: Histogram,
    pub(crate) batch_appends: Histogram,
    pub(crate) batch_events: Histogram,
    pub(crate) batch_bytes: Histogram,
    pub(crate) retries: Counter,
    pub(crate) resent: Counter,
    pub(crate) bisections: Counter,
    pub(crate) unknown: Counter,
    pub(crate) withdrawn: Counter,
    stored: Counter,
    version: Counter,
    condition: Counter,
    claim: Counter,
    invalid: Counter,
    stream_deleted: Counter,
    stream_erased: Counter,
    event_id_reused: Counter,
    diverged: Counter,
    unavailable: Counter,
    not_writable: Counter,
    projection: Counter,
    database: Counter,
}

impl Meters {
    pub(crate) fn new(lock_wait: Option<Arc<Histogram>>) -> Self {
        Self {
            start: Instant::now(),
            writing: AtomicU64::new(0),
            lock_wait,
            queue_wait: Histogram::default(),
            batch_time: Histogram::default(),
            batch_appends: Histogram::default(),
            batch_events: Histogram::default(),
            batch_bytes: Histogram::default(),
            retries: Counter::default(),
            resent: Counter::default(),
            bisections: Counter::default(),
            unknown: Counter::default(),
            withdrawn: Counter::default(),
            stored: Counter::default(),
            version: Counter::default(),
            condition: Counter::default(),
            claim: Counter::default(),
            invalid: Counter::default(),
            stream_deleted: Counter::default(),
            stream_erased: Counter::default(),
            event_id_reused: Counter::default(),
            diverged: Counter::default(),
            unavailable: Counter::default(),
            not_writable: Counter::default(),
            projection: Counter::default(),
            database: Counter::default(),
        }
    }

    /// A batch is at the database until the value is dropped.
    pub(crate) fn writing(&self) -> Writing<'_> {
        let now = micros(self.start.elapsed());
        self.writing.store(now.max(1), Relaxed);
        Writing(self)
    }

    /// Counts what an append is answered.
    pub(crate) fn answer(&self, outcome: Result<&Appended, &StoreErrorKind>) {
        use StoreErrorKind as Kind;
        let counter = match outcome {
            Ok(_) => &self.stored,
            Err(Kind::Conflict(Conflict::Version { .. })) => &self.version,
            Err(Kind::Conflict(Conflict::Condition { .. })) => &self.condition,
            Err(Kind::Conflict(Conflict::Claim { .. })) => &self.claim,
            Err(Kind::Invalid(_)) => &self.invalid,
            Err(Kind::StreamDeleted { .. }) => &self.stream_deleted,
            Err(Kind::StreamErased { .. }) => &self.stream_erased,
            Err(Kind::EventIdReused { .. }) => &self.event_id_reused,
            Err(Kind::Diverged { .. }) => &self.diverged,
            Err(Kind::Unavailable { .. }) => &self.unavailable,
            Err(Kind::NotWritable { .. }) => &self.not_writable,
            Err(Kind::ProjectionFailed { .. } | Kind::ProjectionBehind { .. }) => &self.projection,
            Err(_) => &self.database,
        };
        counter.add();
    }

    pub(crate) fn read(&self, queued: usize, capacity: usize) -> WriterStats {
        let writing = match self.writing.load(Relaxed) {
            0 => None,
            begun => Some(Duration::from_micros(begun)),
        };
        WriterStats {
            queued,
            capacity,
            writing_micros: writing.map(|begun| micros(self.start.elapsed().saturating_sub(begun))),
            stored: self.stored.read(),
            queue_wait_micros: self.queue_wait.read(),
            lock_wait_micros: self
                .lock_wait
                .as_ref()
                .map(|waits| waits.read())
                .unwrap_or_default(),
            batch_micros: self.batch_time.read(),
            batch_appends: self.batch_appends.read(),
            batch_events: self.batch_events.read(),
            batch_bytes: self.batch_bytes.read(),
            conflicts: Conflicts {
                version: self.version.read(),
                condition: self.condition.read(),
                claim: self.claim.read(),
            },
            refused: Refusals {
                invalid: self.invalid.read(),
                stream_deleted: self.stream_deleted.read(),
                stream_erased: self.stream_erased.read(),
                event_id_reused: self.event_id_reused.read(),
                diverged: self.diverged.read(),
                unavailable: self.unavailable.read(),
                not_writable: self.not_writable.read(),
                projection: self.projection.read(),
                database: self.database.read(),
            },
            retries: self.retries.read(),
            resent: self.resent.read(),
            bisections: self.bisections.read(),
            unknown: self.unknown.read(),
            withdrawn: self.withdrawn.read(),
        }
    }
}

/// A batch is at the database.
pub(crate) struct Writing<'a>(&'a Meters);

impl Drop for Writing<'_> {
    fn drop(&mut self) {
        self.0.writing.store(0, Relaxed);
    }
}
