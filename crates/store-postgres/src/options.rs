//! What can be set.

use std::{
    fmt::{self, Debug},
    sync::Arc,
    time::Duration,
};

use backstory_event::Limits;
use backstory_store_kit::WriterOptions;

/// What to do about the tables at the start.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Migrations {
    /// Create or update them when needed. On a prepared schema no DDL rights are needed.
    #[default]
    Apply,
    /// Only check that they fit. Somebody runs [`PostgresStore::ddl`](crate::PostgresStore::ddl).
    Verify,
}

/// How readers learn that other processes have appended.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Wake {
    /// By LISTEN on a connection of its own as long as somebody waits for news, and a query every
    /// [poll interval](PostgresOptions::with_poll) in case a notification was lost.
    #[default]
    Listen,
    /// By a query while somebody waits, for poolers in transaction mode: 10 ms after news, then
    /// twice as long each time, up to the [poll interval](PostgresOptions::with_poll).
    Off,
}

/// What stands between the program and the server.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Pooler {
    /// Nothing, or a pooler in session mode.
    #[default]
    None,
    /// A pooler in transaction mode, such as PgBouncer from 1.18 on. See [the
    /// page of the crate](crate#behind-a-pooler) for what to set and what is lost.
    Transaction,
}

/// A URL, which may hold a password.
#[derive(Clone)]
pub(crate) struct ReplicaUrl(pub(crate) Arc<str>);

impl Debug for ReplicaUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("…")
    }
}

/// Options of a [`PostgresStore`](crate::PostgresStore).
///
/// ```
/// use backstory_store_postgres::{Migrations, PostgresOptions};
///
/// let options = PostgresOptions::default()
///     .with_schema("orders")
///     .with_migrations(Migrations::Verify);
/// ```
#[derive(Debug, Clone)]
pub struct PostgresOptions {
    pub(crate) schema: String,
    pub(crate) migrations: Migrations,
    pub(crate) wake: Wake,
    pub(crate) pooler: Pooler,
    pub(crate) replica: Option<ReplicaUrl>,
    pub(crate) retry: Duration,
    pub(crate) poll: Duration,
    pub(crate) readers: u32,
    pub(crate) page: usize,
    pub(crate) window: i64,
    pub(crate) writer: WriterOptions,
    pub(crate) connect_timeout: Duration,
    pub(crate) lock_timeout: Duration,
    pub(crate) append_idle_timeout: Duration,
    pub(crate) projection_idle_timeout: Duration,
}

impl Default for PostgresOptions {
    fn default() -> Self {
        Self {
            schema: "backstory".to_owned(),
            migrations: Migrations::default(),
            wake: Wake::default(),
            pooler: Pooler::default(),
            replica: None,
            retry: Duration::from_secs(5),
            poll: Duration::from_secs(1),
            readers: 8,
            page: 4_000,
            window: 20_000,
            writer: WriterOptions::default(),
            connect_timeout: Duration::from_secs(5),
            lock_timeout: Duration::from_secs(2),
            append_idle_timeout: Duration::from_secs(5),
            projection_idle_timeout: Duration::from_secs(5),
        }
    }
}

impl PostgresOptions {
    /// The schema that holds the tables; `backstory` by default. Stores in other schemas of the
    /// same database are independent.
    #[must_use]
    pub fn with_schema(mut self, schema: impl Into<String>) -> Self {
        self.schema = schema.into();
        self
    }

    /// What to do about the tables at the start; [`Migrations::Apply`] by default.
    #[must_use]
    pub fn with_migrations(mut self, migrations: Migrations) -> Self {
        self.migrations = migrations;
        self
    }

    /// How readers learn of foreign appends; [`Wake::Listen`] by default.
    #[must_use]
    pub fn with_wake(mut self, wake: Wake) -> Self {
        self.wake = wake;
        self
    }

    /// What stands before the server; [`Pooler::None`] by default. [`Pooler::Transaction`] implies
    /// [`Wake::Off`].
    #[must_use]
    pub fn with_pooler(mut self, pooler: Pooler) -> Self {
        self.pooler = pooler;
        self
    }

    /// Reads events from this streaming replica of the same database; from nowhere else by default.
    ///
    /// A reader sees no less than at the primary, as far as this process knows that one: what it
    /// has appended itself, or was told of, is read from the primary until the replica has it.
    /// While the replica is away, far behind, or none of this primary, the primary is read, too.
    /// Everything else is done at the primary: appends and their conditions, lists of streams,
    /// snapshots, documents, projections, and listening. It takes up to
    /// [`with_readers`](Self::with_readers) connections.
    #[must_use]
    pub fn with_replica(mut self, url: &str) -> Self {
        self.replica = Some(ReplicaUrl(url.into()));
        self
    }

    /// How long reads, the begin of a projection's batch and the first connection are tried again
    /// after an error that time heals: a restart, a failover, too many connections, a deadlock.
    /// 5 seconds by default; at zero only dead connections are replaced. Appends have their
    /// [deadline](Self::with_deadline).
    #[must_use]
    pub fn with_retry(mut self, limit: Duration) -> Self {
        self.retry = limit;
        self
    }

    /// How often to look for foreign appends although none was announced; 1 second by default.
    #[must_use]
    pub fn with_poll(mut self, interval: Duration) -> Self {
        self.poll = interval.max(Duration::from_millis(10));
        self
    }

    /// How many connections read and run projections at most; 8 by default. Those beyond the most
    /// that were in use at once within 10 seconds are closed. Not used with a pool of your own.
    #[must_use]
    pub fn with_readers(mut self, connections: u32) -> Self {
        self.readers = connections.max(1);
        self
    }

    /// How many events a page holds at most; 4,000 by default.
    #[must_use]
    pub fn with_page(mut self, events: usize) -> Self {
        self.page = events.clamp(1, 100_000);
        self
    }

    /// How many positions one page looks at, at most; 20,000 by default. Behind a page with next to
    /// nothing in it the indexes of names and tags tell what can be left out.
    #[must_use]
    pub fn with_window(mut self, positions: i64) -> Self {
        self.window = positions.max(1);
        self
    }

    /// The bounds of the append queue and its batches, and the default deadline.
    #[must_use]
    pub fn with_writer(mut self, writer: WriterOptions) -> Self {
        self.writer = writer;
        self
    }

    /// What one append may hold.
    #[must_use]
    pub fn with_limits(mut self, limits: Limits) -> Self {
        self.writer.limits = limits;
        self
    }

    /// How long an append without a deadline of its own may take; 10 seconds by default.
    #[must_use]
    pub fn with_deadline(mut self, deadline: Duration) -> Self {
        self.writer.deadline = deadline;
        self
    }

    /// How long to wait for a connection; 5 seconds by default.
    #[must_use]
    pub fn with_connect_timeout(mut self, timeout: Duration) -> Self {
        self.connect_timeout = timeout;
        self
    }

    /// How long the server lets one attempt wait for the lock of the log before the holder is
    /// named; 2 seconds by default.
    #[must_use]
    pub fn with_lock_timeout(mut self, timeout: Duration) -> Self {
        self.lock_timeout = timeout.max(Duration::from_millis(1));
        self
    }

    /// After how long the server ends a client that freezes inside an append; 5 seconds by
    /// default, at least 1 ms.
    #[must_use]
    pub fn with_append_idle_timeout(mut self, timeout: Duration) -> Self {
        self.append_idle_timeout = timeout.max(Duration::from_millis(1));
        self
    }

    /// After how long the server ends a client that freezes inside the transaction of a
    /// projection; 5 seconds by default, at least 1 ms. Not longer than the
    /// [lease](backstory_projection::ProjectorOptions::lease) of the projector: another process that takes
    /// over waits for the rows which the frozen one has locked.
    #[must_use]
    pub fn with_projection_idle_timeout(mut self, timeout: Duration) -> Self {
        self.projection_idle_timeout = timeout.max(Duration::from_millis(1));
        self
    }
}
