//! Connections that are borrowed from a pool.

use std::{
    io::ErrorKind,
    ops::{Deref, DerefMut},
    time::Duration,
};

use futures::future::BoxFuture;
use sqlx::{
    AssertSqlSafe, Error, PgConnection, PgPool, Postgres, SqlSafeStr,
    pool::PoolConnection,
    postgres::{PgConnectOptions, PgPoolOptions, PgTransactionManager},
    raw_sql,
};
use sqlx_core::transaction::TransactionManager;
use tokio::{runtime::Handle, time::timeout};

use crate::{
    Pooler, PostgresOptions,
    error::{Class, breaks_connection, class, sqlstate, timed_out},
    need::Need,
    outage::Outage,
    pause::Pauses,
    pooler,
    session::prepare,
};

/// How long a connection may take to become free again, else it is dropped.
const RELEASE: Duration = Duration::from_secs(2);

/// A pool of our own, whose connections are opened when they are needed.
pub(crate) fn connections(
    connect: PgConnectOptions,
    options: &PostgresOptions,
    outage: &Outage,
) -> PgPool {
    let (pooler, outage) = (options.pooler, outage.clone());
    PgPoolOptions::new()
        .max_connections(options.readers)
        .acquire_timeout(options.connect_timeout)
        // Reads find dead connections out by themselves.
        .test_before_acquire(false)
        .before_acquire(move |_, connection| {
            let trusted = outage.trusts(connection.age);
            Box::pin(async move { Ok(trusted) })
        })
        .after_connect(move |connection, _| {
            Box::pin(async move {
                match pooler {
                    Pooler::None => prepare(connection).await,
                    Pooler::Transaction => Ok(()),
                }
            })
        })
        .connect_lazy_with(connect)
}

/// Where connections are borrowed.
#[derive(Debug, Clone)]
pub(crate) struct Pool {
    pub(crate) connections: PgPool,
    /// Nothing for a pool that is not our own.
    need: Option<Need>,
    pooler: Pooler,
    wait: Duration,
    retry: Duration,
}

impl Pool {
    pub(crate) fn new(connections: PgPool, need: Option<Need>, options: &PostgresOptions) -> Self {
        Self {
            connections,
            need,
            pooler: options.pooler,
            wait: options.connect_timeout,
            retry: options.retry,
        }
    }

    /// Awaits what needs a backend of the pooler: there may be none that is free.
    async fn wait<T>(&self, work: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
        match timeout(self.wait, work).await {
            Ok(result) => result,
            Err(_) => Err(Error::PoolTimedOut),
        }
    }
}

/// A connection of the pool. Dropped before [`Lease::done_with`] it is closed instead of given
/// back: the server then stops whatever it is doing for it.
///
/// Behind a pooler it is in a transaction all the time.
#[derive(Debug)]
pub(crate) struct Lease {
    connection: PoolConnection<Postgres>,
    pooler: Pooler,
    done: bool,
}

impl Lease {
    pub(crate) async fn of(pool: &Pool) -> Result<Self, Error> {
        let mut lease = Self::bare(pool).await?;
        if lease.pooler.is_used() {
            let begin = AssertSqlSafe(lease.pooler.begin(pooler::READ));
            pool.wait(raw_sql(begin).execute(&mut *lease)).await?;
        }
        Ok(lease)
    }

    /// One in no transaction. It goes back by [`Lease::done`].
    pub(crate) async fn bare(pool: &Pool) -> Result<Self, Error> {
        let lease = Self {
            connection: pool.connections.acquire().await?,
            pooler: pool.pooler,
            done: false,
        };
        if let Some(need) = &pool.need {
            need.taken(&pool.connections);
        }
        Ok(lease)
    }

    /// One in a transaction that begins with these statements.
    pub(crate) async fn begin(pool: &Pool, statements: &str) -> Result<Self, Error> {
        let mut lease = Self::bare(pool).await?;
        let statements = AssertSqlSafe(lease.pooler.begin(statements)).into_sql_str();
        let begin = PgTransactionManager::begin(&mut lease, Some(statements));
        pool.wait(begin).await?;
        Ok(lease)
    }

    /// Gives a connection of [`Lease::bare`] back, in no transaction again.
    pub(crate) fn done(mut self) {
        self.done = true;
    }

    /// Commits what [`Lease::begin`] began, and gives the connection back.
    pub(crate) async fn commit(mut self) -> Result<(), Error> {
        if self.pooler.is_used() {
            pooler::forget(&mut self).await?;
        }
        PgTransactionManager::commit(&mut self).await?;
        self.done = true;
        Ok(())
    }

    /// Gives a connection of [`Lease::of`] back if it can still be used.
    pub(crate) async fn done_with<T>(mut self, result: Result<T, Error>) -> Result<T, Error> {
        let usable = !result.as_ref().is_err_and(breaks_connection);
        if !usable || !self.pooler.is_used() {
            self.done = usable;
            return result;
        }
        let ended = pooler::end(&mut self, result.is_ok()).await;
        self.done = ended.is_ok();
        // The first error is what matters.
        result.and_then(|value| ended.map(|()| value))
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
        } else if let Ok(runtime) = Handle::try_current() {
            // The pool asks the server for a sign of life first, and would wait for ever for it.
            runtime.spawn(timeout(RELEASE, self.connection.return_to_pool()));
        }
    }
}

/// How long the first attempt of a read may take. Each further one has twice as long.
const PATIENCE: Duration = Duration::from_secs(5);

/// Runs again what only reads, or has done nothing yet, after an error that time heals: a restart
/// or failover, too many connections, a deadlock.
///
/// A dead connection is no reason to pause: after a restart of the server all idle ones of the
/// pool are.
pub(crate) async fn retry<'a, T>(
    pool: &Pool,
    attempt: impl Fn() -> BoxFuture<'a, Result<T, Error>> + Send + Sync,
) -> Result<T, Error> {
    let mut pauses = Pauses::new(pool.retry);
    let mut stale = 20;
    let mut patience = PATIENCE;
    loop {
        let error = match timeout(patience, attempt()).await {
            Ok(Ok(value)) => return Ok(value),
            Ok(Err(error)) => error,
            // Slow, or the network of this connection is silent: another one tells.
            Err(_) if patience < PATIENCE * 16 => {
                patience *= 2;
                continue;
            }
            Err(_) => return Err(timed_out("the server did not answer")),
        };
        match (&error, sqlstate(&error)) {
            (Error::Io(io), _) if io.kind() != ErrorKind::TimedOut && stale > 0 => stale -= 1,
            (_, Some("57P01" | "57P02")) if stale > 0 => stale -= 1,
            // Somebody's time limit for statements: the next attempt would meet it, too.
            (_, Some("57014")) => return Err(error),
            _ if class(&error) == Class::Transient => pauses.next_or(error).await?,
            _ => return Err(error),
        }
    }
}
