//! The one connection that writes. Within a store it is handed on in order of arrival; other
//! processes are asked again and again, because SQLite keeps no order among them.

use std::{
    hash::{BuildHasher, Hasher, RandomState},
    sync::Arc,
    time::Duration,
};

use backstory_event::{StoreError, StoreErrorKind};
use sqlx::{Connection, Sqlite, SqlitePool, sqlite::SqlitePoolOptions};
use tokio::time::{Instant, sleep, timeout_at};

use crate::{
    error::{busy, is_busy, store_error},
    options::Location,
};

/// A transaction that holds the write lock. Dropped without a commit it is rolled back.
pub(crate) type WriteTransaction = sqlx::Transaction<'static, Sqlite>;

/// The way to a write transaction.
#[derive(Clone)]
pub(crate) struct WriteLock {
    location: Arc<Location>,
    pool: SqlitePool,
}

impl WriteLock {
    pub(crate) fn new(location: Arc<Location>) -> Self {
        let pool = SqlitePoolOptions::new()
            .max_connections(1)
            .idle_timeout(None)
            .max_lifetime(None)
            .test_before_acquire(false)
            // After some errors SQLite has rolled back by itself and sqlx does not know, so a
            // connection is used again only if its transaction ended in order.
            .after_release(|connection, _| {
                let ended = !connection.is_in_transaction();
                Box::pin(async move { Ok(ended) })
            })
            .connect_lazy_with(location.write());
        Self { location, pool }
    }

    /// Begins a transaction that holds the write lock of the file.
    ///
    /// # Errors
    /// `Unavailable` when somebody else held the lock for all of `patience`, `Closed`.
    pub(crate) async fn begin(&self, patience: Duration) -> Result<WriteTransaction, StoreError> {
        let deadline = Instant::now() + patience;
        loop {
            match timeout_at(deadline, self.pool.begin_with("BEGIN IMMEDIATE")).await {
                Ok(Ok(transaction)) => return Ok(transaction),
                Ok(Err(error)) if is_busy(&error) && Instant::now() < deadline => {
                    sleep(jitter()).await;
                }
                Ok(Err(error)) => return Err(store_error(&self.location.path, error)),
                Err(_) => return Err(StoreError::new(busy(&self.location.path))),
            }
        }
    }

    pub(crate) async fn close(&self) {
        self.pool.close().await;
    }
}

/// 1 to 5 ms: about the length of a transaction, and different for everybody who waits.
pub(crate) fn jitter() -> Duration {
    let random = RandomState::new().build_hasher().finish();
    Duration::from_micros(1_000 + random % 4_000)
}

/// The store is closed.
pub(crate) fn closed() -> StoreError {
    StoreError::new(StoreErrorKind::Closed)
}
