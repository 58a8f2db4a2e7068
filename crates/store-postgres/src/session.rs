//! Connections: the writer's own one, and those borrowed from the pool.

use std::{
    io::ErrorKind,
    ops::{Deref, DerefMut},
    time::{Duration, SystemTime},
};

use futures::future::BoxFuture;
use sqlx::{
    AssertSqlSafe, Connection, Error, PgConnection, PgPool, Postgres, Row, SqlSafeStr,
    pool::PoolConnection,
    postgres::{PgConnectOptions, PgPoolOptions, PgTransactionManager},
    raw_sql,
};
use sqlx_core::transaction::TransactionManager;
use tokio::{
    runtime::Handle,
    time::{Instant, sleep, timeout},
};

use crate::{
    Pooler, PostgresOptions,
    error::{Class, breaks_connection, class, sqlstate, timed_out},
    need::Need,
    outage::Outage,
    pooler,
};

/// How long a connection may take to become free again, else it is dropped.
const RELEASE: Duration = Duration::from_secs(2);

/// The server's side of a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Backend {
    pid: i32,
    // Numbers as text: they are only compared.
    started: String,
    // Behind a pooler only this transaction is ours: the next one is a stranger's.
    transaction: Option<String>,
}

/// Who we are at the server.
const BACKEND: &str = "SELECT a.pid, extract(epoch FROM a.backend_start)::text, \
    extract(epoch FROM a.xact_start)::text FROM pg_stat_get_activity(pg_backend_pid()) a";

/// A connection that the pool does not know.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) connection: PgConnection,
    /// Behind a pooler that of the last transaction that was begun.
    pub(crate) backend: Option<Backend>,
    pooler: Pooler,
}

impl Session {
    pub(crate) async fn open(
        connect: &PgConnectOptions,
        options: &PostgresOptions,
    ) -> Result<Self, Error> {
        let open = async {
            let mut session = Self {
                connection: PgConnection::connect_with(connect).await?,
                backend: None,
                pooler: options.pooler,
            };
            if session.pooler == Pooler::None {
                prepare(&mut session.connection).await?;
                let row = raw_sql(BACKEND).fetch_one(&mut session.connection).await?;
                session.backend = Some(Backend {
                    pid: row.try_get(0)?,
                    started: row.try_get(1)?,
                    transaction: None,
                });
            }
            Ok(session)
        };
        match timeout(options.connect_timeout, open).await {
            Ok(opened) => opened,
            Err(_) => Err(timed_out("the server did not answer the connection")),
        }
    }

    /// Opens the first one: a server that is there but not yet ready is waited for.
    pub(crate) async fn open_first(
        connect: &PgConnectOptions,
        options: &PostgresOptions,
    ) -> Result<Self, Error> {
        let mut pauses = Pauses::new(options.retry);
        loop {
            match Self::open(connect, options).await {
                Err(error @ Error::Database(_)) if class(&error) == Class::Transient => {
                    pauses.next_or(error).await?;
                }
                opened => return opened,
            }
        }
    }

    /// Begins a transaction with these statements, and behind a pooler learns where.
    pub(crate) async fn begin(&mut self, statements: &str) -> Result<(), Error> {
        let mut statements = self.pooler.begin(statements);
        if self.pooler == Pooler::None {
            raw_sql(AssertSqlSafe(statements))
                .execute(&mut self.connection)
                .await?;
            return Ok(());
        }
        statements += "; ";
        statements += BACKEND;
        let rows = raw_sql(AssertSqlSafe(statements))
            .fetch_all(&mut self.connection)
            .await?;
        let row = rows.last().ok_or(Error::RowNotFound)?;
        self.backend = Some(Backend {
            pid: row.try_get(0)?,
            started: row.try_get(1)?,
            transaction: row.try_get(2)?,
        });
        Ok(())
    }

    /// As [`Self::begin`], and the driver knows of it: a transaction that somebody begins inside is
    /// a savepoint.
    pub(crate) async fn begin_outer(&mut self, statements: &str) -> Result<(), Error> {
        let statements = AssertSqlSafe(self.pooler.begin(statements)).into_sql_str();
        PgTransactionManager::begin(&mut self.connection, Some(statements)).await?;
        if self.pooler.is_used() {
            let row = raw_sql(BACKEND).fetch_one(&mut self.connection).await?;
            self.backend = Some(Backend {
                pid: row.try_get(0)?,
                started: row.try_get(1)?,
                transaction: row.try_get(2)?,
            });
        }
        Ok(())
    }

    /// Forgets what others prepared in the transaction, as long as it lasts.
    pub(crate) async fn forget(&mut self) -> Result<(), Error> {
        match self.pooler.is_used() {
            true => pooler::forget(&mut self.connection).await,
            false => Ok(()),
        }
    }

    /// True when nobody has left a savepoint open.
    pub(crate) fn is_outermost(&self) -> bool {
        PgTransactionManager::get_transaction_depth(&self.connection) == 1
    }

    /// Commits what [`Self::begin_outer`] began.
    pub(crate) async fn commit(&mut self) -> Result<(), Error> {
        PgTransactionManager::commit(&mut self.connection).await
    }

    /// Rolls back what [`Self::begin_outer`] began, with all savepoints inside.
    pub(crate) async fn roll_back(&mut self) -> Result<(), Error> {
        while PgTransactionManager::get_transaction_depth(&self.connection) > 0 {
            PgTransactionManager::rollback(&mut self.connection).await?;
        }
        Ok(())
    }

    /// Makes sure that a backend which we lost has ended, or our transaction on it: it can then
    /// neither commit nor hold a lock.
    pub(crate) async fn end(&mut self, lost: &Backend, limit: Duration) -> Result<(), Error> {
        // No parameters, so that it is one message: poolers need no transaction for it.
        let mut statement = format!(
            "SELECT pg_terminate_backend(a.pid) FROM pg_stat_get_activity({}) a \
             WHERE extract(epoch FROM a.backend_start)::text = '{}'",
            lost.pid, lost.started
        );
        if let Some(transaction) = &lost.transaction {
            statement += &format!(" AND extract(epoch FROM a.xact_start)::text = '{transaction}'");
        }
        let wait = async {
            loop {
                let there = raw_sql(AssertSqlSafe(statement.clone()))
                    .fetch_optional(&mut self.connection)
                    .await?;
                if there.is_none() {
                    return Ok(());
                }
                sleep(Duration::from_millis(5)).await;
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
        match raw_sql(setting).execute(&mut *connection).await {
            Err(error) if sqlstate(&error).is_none() => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

impl Session {
    /// Prepares the connection of a writer: one plan for all batches, made of look-ups by index,
    /// and transactions as its calls need them. Behind a pooler each transaction says so itself.
    pub(crate) async fn for_batches(mut self, limit: Duration) -> Result<Self, Error> {
        if self.pooler == Pooler::None {
            let settings = raw_sql(
                "SET enable_hashjoin = off; SET enable_mergejoin = off; \
                 SET plan_cache_mode = force_generic_plan; \
                 SET default_transaction_isolation = 'read committed'; \
                 SET default_transaction_read_only = off",
            );
            match timeout(limit, settings.execute(&mut self.connection)).await {
                Ok(set) => set?,
                Err(_) => return Err(timed_out("the server did not answer")),
            };
        }
        Ok(self)
    }
}

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

/// A pause between attempts that differs between processes.
pub(crate) fn jitter(longest: Duration) -> Duration {
    let nanos = SystemTime::UNIX_EPOCH
        .elapsed()
        .map_or(0, |now| now.subsec_nanos());
    longest.mul_f64(f64::from(nanos % 1_000) / 1_000.0)
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

const FIRST_PAUSE: Duration = Duration::from_millis(10);
const LONGEST_PAUSE: Duration = Duration::from_millis(500);

/// The pauses between attempts, until a limit.
struct Pauses {
    until: Instant,
    pause: Duration,
}

impl Pauses {
    fn new(limit: Duration) -> Self {
        Self {
            until: Instant::now() + limit,
            pause: FIRST_PAUSE,
        }
    }

    /// Pauses, or fails with this error when there is no time left.
    async fn next_or(&mut self, error: Error) -> Result<(), Error> {
        let pause = self.pause + jitter(self.pause);
        if Instant::now() + pause > self.until {
            return Err(error);
        }
        sleep(pause).await;
        self.pause = (self.pause * 2).min(LONGEST_PAUSE);
        Ok(())
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

#[cfg(test)]
mod tests {
    use backstory_test_postgres::TestDatabase;

    use super::*;

    #[tokio::test]
    async fn only_our_transaction_is_ended_on_a_backend_that_others_use_next() {
        let database = TestDatabase::create().await;
        let options = PostgresOptions::default().with_pooler(Pooler::Transaction);
        let connect = database.url().parse().unwrap();
        let mut lost = Session::open(&connect, &options).await.unwrap();
        let mut next = Session::open(&connect, &options).await.unwrap();
        lost.begin("SELECT 1").await.unwrap();
        let ours = lost.backend.clone().unwrap();
        pooler::end(&mut lost.connection, true).await.unwrap();
        // As a pooler would give the backend away.
        lost.begin("SELECT 1").await.unwrap();
        let stranger = lost.backend.clone().unwrap();
        let limit = Duration::from_secs(10);
        next.end(&ours, limit).await.unwrap();
        pooler::forget(&mut lost.connection).await.unwrap();

        next.end(&stranger, limit).await.unwrap();
        pooler::forget(&mut lost.connection).await.unwrap_err();
    }
}
