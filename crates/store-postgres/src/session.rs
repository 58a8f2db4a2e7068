//! Connections that the pool does not know, as the writer's own one.

use std::time::Duration;

use sqlx::{
    AssertSqlSafe, Connection, Error, PgConnection, Row, SqlSafeStr,
    postgres::{PgConnectOptions, PgTransactionManager},
    raw_sql,
};
use sqlx_core::transaction::TransactionManager;
use tokio::time::{sleep, timeout};

use crate::{
    Pooler, PostgresOptions,
    error::{Class, class, sqlstate, timed_out},
    pause::Pauses,
    pooler,
};

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
