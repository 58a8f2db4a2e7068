//! The production Backstory store on Postgres (14 or later).
//!
//! ```no_run
//! use backstory_event::{Append, EventStore, ExpectedVersion, NewEvent, Payload, StreamId};
//! use backstory_store_postgres::PostgresStore;
//!
//! # async fn run() -> Result<(), Box<dyn std::error::Error>> {
//! let store = PostgresStore::connect("postgres://user:password@localhost/app").await?;
//! let stream = StreamId::new("todo", 7)?;
//! let event = NewEvent::raw("todo.added", Payload::parse(r#"{"title":"buy milk"}"#)?);
//! store.append(Append::to(stream, ExpectedVersion::NoStream, [event])).await?;
//! # Ok(()) }
//! ```
//!
//! # How it works
//! One writer task per store coalesces the appends of all callers into batches. A batch takes the
//! advisory lock of the log, so that positions are dense and in commit order, decides each append
//! by the rules that all stores share, and commits once. Readers read pages by position; between
//! pages they hold no connection.
//!
//! Appends that a projection with [`Schedule::inline`](backstory_projection::Schedule::inline) wants
//! are batched apart; what it makes of them is written in their transaction, while the lock is held.
//! Behind a pooler too it runs on the writer's connection.
//!
//! # Connections
//! One of the writer, one that listens (none with [`Wake::Off`]), and at most
//! [`with_readers`](PostgresOptions::with_readers) (8) that read and run projections. With
//! [`PostgresStore::with_pool`] the latter come from the given pool. An import has one of its own.
//!
//! # Behind a pooler
//! Behind PgBouncer in session mode nothing differs, once its file says
//! `ignore_startup_parameters = extra_float_digits`. In transaction mode (`pool_mode =
//! transaction`, tested with 1.18) open the store so; PgBouncer's file needs nothing for it:
//!
//! ```no_run
//! # use backstory_store_postgres::{Pooler, PostgresOptions, PostgresStore};
//! # async fn run() -> Result<(), Box<dyn std::error::Error>> {
//! let options = PostgresOptions::default().with_pooler(Pooler::Transaction);
//! let store = PostgresStore::connect_with("postgres://user@localhost:6432/app", options).await?;
//! # Ok(()) }
//! ```
//!
//! Each read, batch of appends and batch of a projection is then one transaction; whatever it sets
//! or prepares ends with it. A pool of two connections is enough for any number of callers, unless
//! projections of your own hold their transactions for long.
//!
//! - **What is lost:** no notifications arrive, as with [`Wake::Off`], so that the appends of other
//!   processes are seen a poll later. And each call needs at least four round trips instead of one.
//! - `max_prepared_statements`: any value from PgBouncer 1.22 on, 0 with 1.21. The store does not
//!   need it, and it ends transactions with `DEALLOCATE ALL`, which 1.21 does not expect.
//! - `server_login_retry` (15 seconds by default) is how long PgBouncer refuses everybody after it
//!   could not reach the server. Lower it, or let
//!   [`with_retry`](PostgresOptions::with_retry) and the deadline of appends outlast it.
//! - A pool of the application's own ([`PostgresStore::with_pool_and`]) needs
//!   `PgConnectOptions::extra_float_digits(None)`, and its other statements `persistent(false)`.
//!   Those in the transaction of a projection may be as they are.
//!
//! # What it tells
//! Spans of `tracing`, at debug level: `backstory.postgres.batch` (field `appends`),
//! `backstory.postgres.append_in`, `backstory.postgres.import` (`events`),
//! `backstory.postgres.read`, `backstory.postgres.documents` (`projection`, `writes`),
//! `backstory.postgres.projection` (`projection`). Passwords are never part of a span, an error or
//! a `Debug` text.

mod ahead;
mod alone;
mod append;
mod control;
mod decode;
mod documents;
mod edge;
mod error;
mod guess;
mod health;
mod holder;
mod import;
mod indexes;
mod jump;
mod letters;
mod loads;
mod maintenance;
mod need;
mod options;
mod outage;
mod pause;
mod pool;
mod pooler;
mod projections;
mod read;
mod recent;
mod replica;
mod ring;
mod schema;
mod session;
mod snapshots;
mod sql;
mod statement;
mod streams;
mod tables;
mod tail;
mod turn;
mod values;
mod verify;
mod within;
mod writer;

use std::{
    fmt::{self, Debug},
    sync::Arc,
};

use async_trait::async_trait;
use backstory_event::{
    Append, Appended, EventQuery, EventStore, Page, Position, StoreError, StoreErrorKind,
    StreamPage, StreamQuery,
};
use backstory_projection::Inlines;
use backstory_store_kit::{BatchReader, Coalescer, CoalescerOptions, Tail, Writer};
pub use backstory_store_kit::{Conflicts, Distribution, Refusals, WriterOptions, WriterStats};
pub use health::{
    ListenerState, ListenerStats, PoolStats, PostgresHealth, PostgresStats, SchemaHealth,
    ServerHealth,
};
pub use holder::LockHolder;
pub use import::{ImportError, Imported};
pub use indexes::{IndexChange, IndexInfo, IndexState, OptionalIndex};
pub use maintenance::Maintenance;
pub use options::{Migrations, Pooler, PostgresOptions, Wake};
use sqlx::{AssertSqlSafe, ConnectOptions, PgPool, Row, postgres::PgConnectOptions, raw_sql};
use tracing::Instrument;
pub use verify::{Finding, FindingKind, RowCounts, Subject, Verification, verify};
pub use within::Pending;

use crate::{
    ahead::AheadReader,
    edge::Edge,
    error::store_error,
    health::Listener,
    jump::Losses,
    loads::{Load, Loads},
    need::Need,
    outage::Outage,
    pool::{Pool, retry},
    read::Reader,
    replica::Replica,
    schema::Schema,
    session::Session,
    sql::Statements,
    statement::Server,
    tail::{Watch, Watcher},
    writer::{Inline, PostgresWriter},
};

/// A store in a schema of a Postgres database. Clones share it; it ends with the last one.
///
/// It works in the runtime that it was opened in; after that has ended it answers `Closed`.
#[derive(Clone)]
pub struct PostgresStore(Arc<Inner>);

struct Inner {
    pool: Pool,
    owns_pool: bool,
    connect: PgConnectOptions,
    schema: Schema,
    sql: Arc<Statements>,
    options: PostgresOptions,
    writer: Writer,
    loads: Coalescer<Loads>,
    tail: Tail,
    reader: Reader,
    edge: Edge,
    replica: Option<Replica>,
    watcher: Watcher,
    listener: Arc<Listener>,
    ahead: Coalescer<AheadReader>,
    database: String,
    inlines: Inlines<Inline>,
}

impl PostgresStore {
    /// Opens the store of a database, and creates its tables when they are missing.
    ///
    /// # Errors
    /// `Config` for a URL that is none or an unknown database, `Denied` for a wrong password or
    /// missing rights, `Unavailable` when the server cannot be reached, `Schema` when its tables
    /// need a newer program.
    pub async fn connect(url: &str) -> Result<Self, StoreError> {
        Self::connect_with(url, PostgresOptions::default()).await
    }

    /// Opens the store of a database with options.
    ///
    /// # Errors
    /// As [`PostgresStore::connect`].
    pub async fn connect_with(url: &str, options: PostgresOptions) -> Result<Self, StoreError> {
        let connect = options.pooler.adapt(quiet(parse(url)?));
        let outage = Outage::new();
        let pool = pool::connections(connect.clone(), &options, &outage);
        Self::open(pool, connect, true, outage, options).await
    }

    /// Opens the store with the application's own pool for reads and projections. The writer and
    /// the listener use connections of their own with the same parameters.
    ///
    /// The application closes the pool. Its sessions are used as they are: on a young database
    /// reads are planned well once autovacuum has seen the tables.
    ///
    /// # Errors
    /// As [`PostgresStore::connect`].
    pub async fn with_pool(pool: PgPool) -> Result<Self, StoreError> {
        Self::with_pool_and(pool, PostgresOptions::default()).await
    }

    /// Opens the store with the application's own pool and options.
    ///
    /// # Errors
    /// As [`PostgresStore::connect`].
    pub async fn with_pool_and(pool: PgPool, options: PostgresOptions) -> Result<Self, StoreError> {
        let connect = quiet((*pool.connect_options()).clone());
        let connect = options.pooler.adapt(connect);
        Self::open(pool, connect, false, Outage::new(), options).await
    }

    async fn open(
        pool: PgPool,
        connect: PgConnectOptions,
        owns_pool: bool,
        outage: Outage,
        options: PostgresOptions,
    ) -> Result<Self, StoreError> {
        let schema = Schema::new(&options.schema)?;
        let sql = Arc::new(Statements::new(&schema, !options.pooler.is_used()));
        let pool = Pool::new(pool, owns_pool.then(Need::default), &options);
        let mut session = Session::open_first(&connect, &options)
            .await
            .map_err(store_error)?;
        schema
            .prepare(&mut session.connection, options.migrations)
            .await?;
        let head = raw_sql(AssertSqlSafe(sql.head.as_str()))
            .fetch_one(&mut session.connection)
            .await
            .and_then(|row| row.try_get(0))
            .map_err(store_error)?;
        let session = session
            .for_batches(options.connect_timeout)
            .await
            .map_err(store_error)?;
        let tail = Tail::new(Position::new(head));
        let database = format!(
            "{}:{}/{}",
            connect.get_host(),
            connect.get_port(),
            connect.get_database().unwrap_or(connect.get_username()),
        );
        let inlines = Inlines::default();
        let writer = PostgresWriter::new(
            connect.clone(),
            sql.clone(),
            options.clone(),
            tail.clone(),
            session,
            schema.clone(),
            inlines.clone(),
        );
        let writer = Writer::spawn(writer, options.writer);
        let listener = Arc::new(Listener::new(options.wake));
        let reader = Reader {
            pool: pool.clone(),
            schema: schema.clone(),
            sql: sql.clone(),
            outage: outage.clone(),
            window: options.window,
            page: options.page,
            server: Server::Primary,
            tail: Some(tail.clone()),
            weight: Arc::default(),
            losses: Losses::default(),
        };
        let loads = Loads {
            pool: pool.clone(),
            sql: sql.clone(),
            reader: reader.clone(),
        };
        let loads = Coalescer::new(loads, CoalescerOptions::default());
        let edge = Edge::spawn(reader.clone());
        let replica = match &options.replica {
            Some(url) => {
                let connect = options.pooler.adapt(quiet(parse(&url.0)?));
                let (reader, tail) = (reader.clone(), tail.clone());
                Some(Replica::open(connect, &options, reader, tail, &edge))
            }
            None => None,
        };
        let watcher = Watcher::spawn(Watch {
            connect: connect.clone(),
            pool: pool.clone(),
            schema: schema.clone(),
            sql: sql.clone(),
            options: options.clone(),
            tail: tail.clone(),
            listener: listener.clone(),
            edge: edge.shared().clone(),
            outage,
        });
        let ahead = AheadReader {
            pool: pool.clone(),
            sql: sql.clone(),
        };
        let ahead = Coalescer::new(ahead, CoalescerOptions::default());
        Ok(Self(Arc::new(Inner {
            pool,
            owns_pool,
            connect,
            schema,
            sql,
            options,
            writer,
            loads,
            tail,
            reader,
            edge,
            replica,
            watcher,
            listener,
            ahead,
            database,
            inlines,
        })))
    }

    /// The statements that make the tables of a schema, for those who apply them by hand.
    ///
    /// # Errors
    /// `Config` when the name is none of a schema.
    pub fn ddl(schema: &str) -> Result<String, StoreError> {
        Ok(Schema::new(schema)?.ddl())
    }

    /// The statements that give a role what a program needs on a prepared schema: no DDL rights,
    /// and none to change events.
    ///
    /// # Errors
    /// `Config` when the name is none of a schema.
    pub fn grants(schema: &str, role: &str) -> Result<String, StoreError> {
        Ok(Schema::new(schema)?.grants(role))
    }

    pub(crate) fn pool(&self) -> &Pool {
        &self.0.pool
    }

    /// Accepts no more appends, writes those that wait, and ends all tasks and connections of the
    /// store. Whoever still waits is answered `Closed`.
    pub async fn close(&self) {
        self.0.writer.close().await;
        self.0.watcher.close();
        self.0.edge.close();
        if let Some(replica) = &self.0.replica {
            replica.close().await;
        }
        if self.0.owns_pool {
            self.0.pool.connections.close().await;
        }
    }

    pub(crate) fn check_open(&self) -> Result<(), StoreError> {
        if self.0.watcher.is_closed() || self.0.writer.is_closed() {
            return Err(StoreError::new(StoreErrorKind::Closed));
        }
        Ok(())
    }

    pub(crate) fn writer(&self) -> &Writer {
        &self.0.writer
    }

    pub(crate) fn listener(&self) -> &Listener {
        &self.0.listener
    }

    pub(crate) fn sql(&self) -> &Arc<Statements> {
        &self.0.sql
    }

    pub(crate) fn schema(&self) -> &Schema {
        &self.0.schema
    }

    pub(crate) fn options(&self) -> &PostgresOptions {
        &self.0.options
    }

    pub(crate) fn ahead(&self) -> &Coalescer<AheadReader> {
        &self.0.ahead
    }

    pub(crate) fn connect_options(&self) -> &PgConnectOptions {
        &self.0.connect
    }

    pub(crate) fn tail(&self) -> &Tail {
        &self.0.tail
    }

    pub(crate) fn inlines(&self) -> &Inlines<Inline> {
        &self.0.inlines
    }
}

/// The driver takes any URL for one of Postgres.
fn parse(url: &str) -> Result<PgConnectOptions, StoreError> {
    let ours = ["postgres:", "postgresql:"];
    if !ours.iter().any(|scheme| url.starts_with(scheme)) {
        let refused = sqlx::Error::InvalidArgument("another scheme".to_owned());
        return Err(store_error(refused));
    }
    url.parse().map_err(store_error)
}

/// Our own name for operators, and no log lines of the driver.
fn quiet(connect: PgConnectOptions) -> PgConnectOptions {
    let named = match connect.get_application_name() {
        Some(_) => connect,
        None => connect.application_name("backstory"),
    };
    named.disable_statement_logging()
}

impl Debug for PostgresStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PostgresStore")
            .field("database", &self.0.database)
            .field("schema", &self.0.schema.name())
            .field("head", &self.0.tail.head())
            .finish()
    }
}

#[async_trait]
impl EventStore for PostgresStore {
    async fn append(&self, mut append: Append) -> Result<Appended, StoreError> {
        if !append.conditions.is_empty() {
            self.check_open()?;
            self.check_ahead(&mut append).await?;
        }
        self.0.writer.append(append).await
    }

    async fn read(&self, query: &EventQuery) -> Result<Page, StoreError> {
        self.check_open()?;
        let inner = &self.0;
        let (reader, tail) = (&inner.reader, &inner.tail);
        let read = async {
            let load = Load::of(query);
            if !load.as_ref().is_some_and(Load::is_first)
                && let Some(page) = inner.edge.read(query, tail, reader).await
            {
                return Ok(page);
            }
            if let Some(replica) = &inner.replica
                && let Some(page) = replica.read(query).await
            {
                return Ok(page);
            }
            let page = match load {
                Some(load) if load.is_first() => inner.loads.ask(load).await?,
                Some(load) => inner.loads.reader().one(&load).await?,
                None => reader.read(query).await?,
            };
            tail.advance(page.head);
            Ok(page)
        };
        let span = tracing::debug_span!("backstory.postgres.read");
        read.instrument(span).await
    }

    async fn streams(&self, query: &StreamQuery) -> Result<StreamPage, StoreError> {
        self.check_open()?;
        retry(self.pool(), || {
            Box::pin(streams::list(self.pool(), self.schema(), query))
        })
        .await
        .map_err(store_error)
    }

    async fn changed(&self, after: Position) -> Result<Position, StoreError> {
        self.check_open()?;
        let inner = &self.0;
        inner.watcher.beyond(&inner.tail, &inner.edge, after).await
    }
}
