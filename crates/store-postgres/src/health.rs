//! Health and numbers for operators.

use std::{
    sync::atomic::{AtomicU8, AtomicU64, Ordering::Relaxed},
    time::{Duration, Instant},
};

use backstory_event::{Position, StoreError};
use backstory_store_kit::WriterStats;
use serde::Serialize;
use sqlx::{
    AssertSqlSafe, Connection, Error, PgConnection, Row,
    postgres::{PgConnectOptions, PgRow},
    raw_sql,
};
use tokio::time::timeout;

use crate::{
    PostgresStore, Wake,
    error::{breaks_connection, sqlstate, store_error, timed_out},
    holder::LockHolder,
    pool::Lease,
    schema::VERSION,
};

/// How long [`PostgresStore::health`] waits for the server.
const PATIENCE: Duration = Duration::from_secs(2);

const SERVER: &str = "SELECT current_setting('server_version'), pg_is_in_recovery(), \
    current_setting('transaction_read_only') = 'on'";

const LOG: &str = "SELECT m.version, m.readable_from, \
      (SELECT coalesce(max(e.position), 0) FROM {s}.event e) \
    FROM {s}.migration m ORDER BY m.version DESC LIMIT 1";

/// The numbers of a store since it was opened, by [`PostgresStore::stats`].
#[derive(Debug, Clone, Serialize)]
#[non_exhaustive]
pub struct PostgresStats {
    /// Queue, batches, conflicts, retries.
    pub writer: WriterStats,
    /// How the store learns of appends by other processes.
    pub listener: ListenerStats,
    /// The connections that read and run projections.
    pub pool: PoolStats,
    /// How far the log is known to reach.
    pub head: Position,
}

/// The connections of a pool.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct PoolStats {
    /// Open connections.
    pub size: u32,
    /// Those of them that nobody uses.
    pub idle: usize,
    /// As many as there may be.
    pub max: u32,
}

/// The listener of a store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct ListenerStats {
    /// What it is doing.
    pub state: ListenerState,
    /// For how long, in microseconds.
    pub since_micros: u64,
    /// How often it has lost its connection, or found no server.
    pub reconnects: u64,
}

/// What a listener is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum ListenerState {
    /// It hears each notification.
    Listening,
    /// It has a connection, but nobody waits for news.
    Idle,
    /// It has no connection. Readers see foreign appends when it has one again.
    Reconnecting,
    /// There is none: [`Wake::Off`].
    Off,
}

/// How a store is, by [`PostgresStore::health`].
#[derive(Debug, Clone, Serialize)]
#[non_exhaustive]
pub struct PostgresHealth {
    /// True when appends and reads work: the store is open, its server is a writable primary and
    /// its tables fit this program.
    pub ready: bool,
    /// True when the server answered.
    pub reachable: bool,
    /// What is wrong, without passwords and values; `None` when it is ready.
    pub error: Option<String>,
    /// How long the server took to answer everything, in microseconds.
    pub answer_micros: Option<u64>,
    /// The server.
    pub server: Option<ServerHealth>,
    /// The store's tables.
    pub schema: Option<SchemaHealth>,
    /// The newest position in the database.
    pub head: Option<Position>,
    /// Who holds the lock of the log while others wait for it: for moments this is one of the
    /// writers, an old transaction is a problem.
    pub lock: Option<LockHolder>,
    /// The numbers of this process.
    pub stats: PostgresStats,
}

/// A server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct ServerHealth {
    /// Its version: `17.2`.
    pub version: String,
    /// False for a standby.
    pub primary: bool,
    /// True when transactions cannot write, also on a primary that is set so.
    pub read_only: bool,
}

/// The tables of a store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct SchemaHealth {
    /// Their version.
    pub version: i32,
    /// The oldest program that can work with them, by the version it knows.
    pub readable_from: i32,
    /// The version that this program knows.
    pub known: i32,
}

/// What the server said.
#[derive(Default)]
struct Answer {
    server: Option<ServerHealth>,
    schema: Option<SchemaHealth>,
    head: Option<Position>,
    lock: Option<LockHolder>,
}

impl Answer {
    /// Why the store cannot work, whatever else is well.
    fn problem(&self) -> Option<String> {
        match (&self.server, &self.schema) {
            (Some(ServerHealth { primary: false, .. }), _) => {
                Some("the server is a standby: connect to the primary".to_owned())
            }
            (
                Some(ServerHealth {
                    read_only: true, ..
                }),
                _,
            ) => {
                Some("the server is read-only: see its `default_transaction_read_only`".to_owned())
            }
            (_, Some(schema)) if schema.known < schema.readable_from => Some(format!(
                "the tables need a program that knows version {} of them; this one knows {}: update it",
                schema.readable_from, schema.known
            )),
            (_, None) => Some("the schema has no version: apply the migrations".to_owned()),
            _ => None,
        }
    }
}

impl PostgresStore {
    /// What the store counted since it was opened, and the state of its connections. It costs next
    /// to nothing and asks nobody.
    pub fn stats(&self) -> PostgresStats {
        let pool = &self.pool().connections;
        PostgresStats {
            writer: self.writer().stats(),
            listener: self.listener().stats(),
            pool: PoolStats {
                size: pool.size(),
                idle: pool.num_idle(),
                max: pool.options().get_max_connections(),
            },
            head: self.tail().head(),
        }
    }

    /// Asks the server how it is, for at most 2 seconds. It never fails: what is wrong stands in
    /// the answer, and that can be sent as JSON.
    ///
    /// Whoever asks often, as a readiness probe does, shares the pool with readers; when that is
    /// used up, a connection of its own is opened for the question.
    ///
    /// ```no_run
    /// # use backstory_store_postgres::PostgresStore;
    /// /// Status and body for `GET /ready`.
    /// async fn ready(store: &PostgresStore) -> (u16, String) {
    ///     let health = store.health().await;
    ///     let status = if health.ready { 200 } else { 503 };
    ///     (status, serde_json::to_string(&health).unwrap_or_default())
    /// }
    /// ```
    pub async fn health(&self) -> PostgresHealth {
        let begun = Instant::now();
        let mut answer = Answer::default();
        let result = match self.check_open() {
            Ok(()) => self.ask(&mut answer).await,
            Err(closed) => Err(closed),
        };
        let error = match result {
            Ok(()) => answer.problem(),
            Err(error) => Some(error.to_string()),
        };
        let reachable = answer.server.is_some();
        PostgresHealth {
            ready: error.is_none(),
            reachable,
            error,
            answer_micros: reachable
                .then(|| u64::try_from(begun.elapsed().as_micros()).unwrap_or(u64::MAX)),
            server: answer.server,
            schema: answer.schema,
            head: answer.head,
            lock: answer.lock,
            stats: self.stats(),
        }
    }

    async fn ask(&self, answer: &mut Answer) -> Result<(), StoreError> {
        let ask = async {
            let pool = &self.pool().connections;
            let pooled =
                match pool.num_idle() > 0 || pool.size() < pool.options().get_max_connections() {
                    true => self.ask_pooled(answer).await,
                    false => Err(Error::PoolTimedOut),
                };
            match pooled {
                // There is none, or it died while nobody used it.
                Err(error) if breaks_connection(&error) => {}
                pooled => return pooled,
            }
            *answer = Answer::default();
            let connect: PgConnectOptions = (*pool.connect_options()).clone();
            let mut connection = PgConnection::connect_with(&connect).await?;
            self.look(&mut connection, answer).await?;
            connection.close().await
        };
        match timeout(PATIENCE, ask).await {
            Ok(result) => result.map_err(store_error),
            Err(_) => Err(store_error(timed_out("the server did not answer"))),
        }
    }

    async fn ask_pooled(&self, answer: &mut Answer) -> Result<(), Error> {
        let mut lease = Lease::bare(self.pool()).await?;
        let result = self.look(&mut lease, answer).await;
        if !result.as_ref().is_err_and(breaks_connection) {
            lease.done();
        }
        result
    }

    async fn look(&self, connection: &mut PgConnection, answer: &mut Answer) -> Result<(), Error> {
        answer.server = Some(server(connection).await?);
        let log = match row(connection, &self.schema().sql(LOG)).await {
            // No such schema or table: said as such.
            Err(error) if matches!(sqlstate(&error), Some("3F000" | "42P01")) => return Ok(()),
            log => log?,
        };
        if let Some(log) = log {
            answer.schema = Some(SchemaHealth {
                version: log.try_get(0)?,
                readable_from: log.try_get(1)?,
                known: VERSION,
            });
            answer.head = Some(Position::new(log.try_get(2)?));
        }
        let holder = LockHolder::find(connection, self.sql()).await?;
        answer.lock = holder.filter(|holder| holder.waiting > 0);
        Ok(())
    }
}

async fn server(connection: &mut PgConnection) -> Result<ServerHealth, Error> {
    let row = row(connection, SERVER).await?.ok_or(Error::RowNotFound)?;
    let standby: bool = row.try_get(1)?;
    Ok(ServerHealth {
        version: row.try_get(0)?,
        primary: !standby,
        read_only: row.try_get(2)?,
    })
}

/// One row by the simple protocol: it needs no prepared statement, whatever is in between.
async fn row(connection: &mut PgConnection, text: &str) -> Result<Option<PgRow>, Error> {
    raw_sql(AssertSqlSafe(text.to_owned()))
        .fetch_optional(connection)
        .await
}

/// What the listener does, told by its task.
#[derive(Debug)]
pub(crate) struct Listener {
    start: Instant,
    state: AtomicU8,
    // In microseconds since the start.
    since: AtomicU64,
    reconnects: AtomicU64,
}

impl Listener {
    const OFF: u8 = 0;
    const RECONNECTING: u8 = 1;
    const LISTENING: u8 = 2;
    const IDLE: u8 = 3;

    pub(crate) fn new(wake: Wake) -> Self {
        let state = match wake {
            Wake::Off => Self::OFF,
            Wake::Listen => Self::RECONNECTING,
        };
        Self {
            start: Instant::now(),
            state: AtomicU8::new(state),
            since: AtomicU64::new(0),
            reconnects: AtomicU64::new(0),
        }
    }

    /// It hears what is announced.
    pub(crate) fn listens(&self) {
        self.becomes(Self::LISTENING);
    }

    /// It has a connection on which nothing is announced.
    pub(crate) fn idles(&self) {
        self.becomes(Self::IDLE);
    }

    /// It has lost its connection, or did not get one.
    pub(crate) fn lost(&self) {
        self.reconnects.fetch_add(1, Relaxed);
        self.becomes(Self::RECONNECTING);
    }

    fn becomes(&self, state: u8) {
        if self.state.swap(state, Relaxed) != state {
            self.since.store(self.now(), Relaxed);
        }
    }

    fn now(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_micros()).unwrap_or(u64::MAX)
    }

    fn stats(&self) -> ListenerStats {
        ListenerStats {
            state: match self.state.load(Relaxed) {
                Self::OFF => ListenerState::Off,
                Self::RECONNECTING => ListenerState::Reconnecting,
                Self::IDLE => ListenerState::Idle,
                _ => ListenerState::Listening,
            },
            since_micros: self.now().saturating_sub(self.since.load(Relaxed)),
            reconnects: self.reconnects.load(Relaxed),
        }
    }
}
