//! Connections: the writer's own one, and those borrowed from the pool.

use std::{
    ops::{Deref, DerefMut},
    time::{Duration, SystemTime},
};

use futures::future::BoxFuture;
use sqlx::{
    Connection, Error, PgConnection, PgPool, Postgres, Row, pool::PoolConnection,
    postgres::PgConnectOptions,
};
use tokio::time::timeout;

use crate::error::{breaks_connection, sqlstate, timed_out};

/// The server's side of a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Backend {
    pid: i32,
    // As text: it is only compared.
    started: String,
}

/// A connection that the pool does not know.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) connection: PgConnection,
    pub(crate) backend: Backend,
}

impl Session {
    pub(crate) async fn open(options: &PgConnectOptions, limit: Duration) -> Result<Self, Error> {
        let open = async {
            let mut connection = PgConnection::connect_with(options).await?;
            prepare(&mut connection).await?;
            let row = sqlx::query(
                "SELECT a.pid, a.backend_start::text FROM pg_stat_get_activity(pg_backend_pid()) a",
            )
            .fetch_one(&mut connection)
            .await?;
            let backend = Backend {
                pid: row.try_get(0)?,
                started: row.try_get(1)?,
            };
            Ok(Self {
                connection,
                backend,
            })
        };
        match timeout(limit, open).await {
            Ok(opened) => opened,
            Err(_) => Err(timed_out("the server did not answer the connection")),
        }
    }

    /// Makes sure that a backend which we lost has ended: it can then neither commit nor hold a lock.
    pub(crate) async fn end(&mut self, lost: &Backend, limit: Duration) -> Result<(), Error> {
        let wait = async {
            loop {
                let there = sqlx::query(
                    "SELECT pg_terminate_backend(a.pid) FROM pg_stat_get_activity($1) a \
                     WHERE a.backend_start::text = $2",
                )
                .bind(lost.pid)
                .bind(&lost.started)
                .fetch_optional(&mut self.connection)
                .await?;
                if there.is_none() {
                    return Ok(());
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        match timeout(limit, wait).await {
            Ok(ended) => ended,
            Err(_) => Err(timed_out("the backend of a lost connection does not end")),
        }
    }
}

/// Prepares a connection of our own: look-ups by index also while the server has no statistics.
///
/// And the server shall notice within a second that a client which waits for an answer is gone;
/// on some platforms it cannot, then it notices later.
pub(crate) async fn prepare(connection: &mut PgConnection) -> Result<(), Error> {
    for setting in [
        "SET enable_seqscan = off",
        "SET jit = off",
        "SET client_connection_check_interval = '1s'",
    ] {
        match sqlx::raw_sql(setting).execute(&mut *connection).await {
            Err(error) if sqlstate(&error).is_none() => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

/// A pause between attempts that differs between processes.
pub(crate) fn jitter(longest: Duration) -> Duration {
    let nanos = SystemTime::UNIX_EPOCH
        .elapsed()
        .map_or(0, |now| now.subsec_nanos());
    longest.mul_f64(f64::from(nanos % 1_000) / 1_000.0)
}

/// A connection of the pool. Dropped before [`Lease::done`] it is closed instead of given back:
/// the server then stops whatever it is doing for it.
#[derive(Debug)]
pub(crate) struct Lease {
    connection: PoolConnection<Postgres>,
    done: bool,
}

impl Lease {
    pub(crate) async fn of(pool: &PgPool) -> Result<Self, Error> {
        let connection = pool.acquire().await?;
        Ok(Self {
            connection,
            done: false,
        })
    }

    /// Gives the connection back.
    pub(crate) fn done(mut self) {
        self.done = true;
    }

    /// Gives the connection back if it can still be used.
    pub(crate) fn done_with<T>(self, result: Result<T, Error>) -> Result<T, Error> {
        if !result.as_ref().is_err_and(breaks_connection) {
            self.done();
        }
        result
    }
}

impl Deref for Lease {
    type Target = PgConnection;

    fn deref(&self) -> &PgConnection {
        &self.connection
    }
}

impl DerefMut for Lease {
    fn deref_mut(&mut self) -> &mut PgConnection {
        &mut self.connection
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if !self.done {
            self.connection.close_on_drop();
        }
    }
}

/// Runs something that only reads again when its connection turns out to be dead: after a restart
/// of the server all idle connections of the pool are.
pub(crate) async fn retry<'a, T>(
    attempt: impl Fn() -> BoxFuture<'a, Result<T, Error>> + Send + Sync,
) -> Result<T, Error> {
    let mut left = 20;
    loop {
        let result = attempt().await;
        let stale = match &result {
            Err(error @ Error::Database(_)) => breaks_connection(error),
            Err(Error::Io(_)) => true,
            _ => false,
        };
        if !stale || left == 0 {
            return result;
        }
        left -= 1;
    }
}
