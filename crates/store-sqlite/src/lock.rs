//! The one connection that writes. Within a store it is handed on in order of arrival; other
//! processes are asked again and again, because SQLite keeps no order among them.

use std::{
    fmt,
    hash::{BuildHasher, Hasher, RandomState},
    sync::Arc,
    time::Duration,
};

use backstory_event::StoreError;
use sqlx::{
    ConnectOptions, Connection, SqlSafeStr, SqliteConnection, TransactionManager,
    sqlite::SqliteTransactionManager,
};
use tokio::{
    sync::{Mutex, OwnedMutexGuard},
    time::{Instant, sleep, timeout_at},
};

use crate::{
    error::{Failure, busy, is_busy, is_uncertain, store_error},
    options::Location,
};

/// The way to a write transaction.
#[derive(Clone)]
pub(crate) struct WriteLock {
    location: Arc<Location>,
    // Empty before the first use, after an error and after `close`.
    slot: Arc<Mutex<Option<SqliteConnection>>>,
}

impl WriteLock {
    pub(crate) fn new(location: Arc<Location>, connection: SqliteConnection) -> Self {
        Self {
            location,
            slot: Arc::new(Mutex::new(Some(connection))),
        }
    }

    /// Begins a transaction that holds the write lock of the file.
    ///
    /// # Errors
    /// `Unavailable` when somebody else held the lock for all of `patience`.
    pub(crate) async fn begin(&self, patience: Duration) -> Result<WriteTransaction, StoreError> {
        let failed = |error| store_error(&self.location.path, error);
        let deadline = Instant::now() + patience;
        let Ok(mut slot) = timeout_at(deadline, self.slot.clone().lock_owned()).await else {
            return Err(StoreError::new(busy(&self.location.path)));
        };
        loop {
            // Whoever drops this future drops the connection with whatever it has begun.
            let mut connection = match slot.take() {
                Some(connection) => connection,
                None => self.location.write().connect().await.map_err(failed)?,
            };
            let begin = "BEGIN IMMEDIATE".into_sql_str();
            match SqliteTransactionManager::begin(&mut connection, Some(begin)).await {
                Ok(()) => {
                    return Ok(WriteTransaction {
                        connection,
                        slot,
                        location: self.location.clone(),
                    });
                }
                Err(error) if is_busy(&error) => {
                    *slot = Some(connection);
                    if Instant::now() >= deadline {
                        return Err(failed(error));
                    }
                    sleep(jitter()).await;
                }
                Err(error) => return Err(failed(error)),
            }
        }
    }

    /// Closes the connection once nobody uses it any more.
    pub(crate) async fn close(&self) {
        if let Some(connection) = self.slot.lock().await.take() {
            // It is gone either way.
            let _ = connection.close().await;
        }
    }
}

impl fmt::Debug for WriteLock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("WriteLock")
            .field(&self.location.path)
            .finish()
    }
}

/// A transaction that holds the write lock. Dropped without [`WriteTransaction::commit`] it closes
/// its connection, and SQLite rolls back.
pub(crate) struct WriteTransaction {
    // Before `slot`: it is closed before the next in line may open another.
    connection: SqliteConnection,
    slot: OwnedMutexGuard<Option<SqliteConnection>>,
    location: Arc<Location>,
}

impl WriteTransaction {
    pub(crate) fn connection(&mut self) -> &mut SqliteConnection {
        &mut self.connection
    }

    /// The error of a statement of this transaction.
    pub(crate) fn failed(&self, failure: impl Into<Failure>) -> StoreError {
        failure.into().at(&self.location.path)
    }

    pub(crate) async fn commit(mut self) -> Result<(), CommitFailure> {
        match SqliteTransactionManager::commit(&mut self.connection).await {
            Ok(()) => {
                *self.slot = Some(self.connection);
                Ok(())
            }
            Err(error) => Err(CommitFailure {
                uncertain: is_uncertain(&error),
                error: self.failed(error),
            }),
        }
    }

    /// Leaves nothing behind, because of an error.
    pub(crate) async fn abandon(self, failure: impl Into<Failure>) -> StoreError {
        let error = self.failed(failure);
        self.rollback().await;
        error
    }

    /// Leaves nothing behind, and keeps the connection for the next.
    pub(crate) async fn rollback(mut self) {
        if SqliteTransactionManager::rollback(&mut self.connection)
            .await
            .is_ok()
        {
            *self.slot = Some(self.connection);
        }
    }
}

/// A COMMIT that failed.
pub(crate) struct CommitFailure {
    /// Whether it may be on the disk all the same.
    pub(crate) uncertain: bool,
    pub(crate) error: StoreError,
}

impl From<CommitFailure> for StoreError {
    fn from(failure: CommitFailure) -> Self {
        failure.error
    }
}

/// 1 to 5 ms: about the length of a transaction, and different for everybody who waits.
pub(crate) fn jitter() -> Duration {
    let random = RandomState::new().build_hasher().finish();
    Duration::from_micros(1_000 + random % 4_000)
}
