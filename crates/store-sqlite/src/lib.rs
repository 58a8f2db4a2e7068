//! The embedded Backstory store: one SQLite file, durable, no server.
//!
//! Several processes may use the same file at once. It must be on a local disk: over NFS or SMB
//! the locks of SQLite do not hold, and the file gets damaged.
//!
//! ```
//! use backstory_event::{Append, EventQuery, EventStore, EventStoreExt, ExpectedVersion};
//! use backstory_event::{NewEvent, Payload, StreamId};
//! use backstory_store_sqlite::SqliteStore;
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let directory = tempfile::tempdir()?;
//! # let path = directory.path().join("todo.db");
//! # let url = format!("sqlite:{}", path.display());
//! let store = SqliteStore::connect(&url).await?; // "sqlite:todo.db"
//! let stream = StreamId::new("todo", 7)?;
//! let event = NewEvent::raw("todo.added", Payload::parse(r#"{"title":"buy milk"}"#)?);
//! let receipt =
//!     store.append(Append::to(stream.clone(), ExpectedVersion::NoStream, [event])).await?;
//! assert_eq!(receipt.position().get(), 1);
//! assert_eq!(store.collect(EventQuery::stream(stream)).await?.len(), 1);
//! store.close().await;
//! # Ok(()) }
//! ```
//!
//! # How it works
//! The file is in WAL mode: readers and the writer do not wait for each other. One connection
//! writes; a group-commit writer puts the appends of all callers that wait into one transaction,
//! so that `synchronous = FULL` costs almost nothing. A pool of read-only connections reads. One
//! connection looks for commits of other processes, only while somebody waits for them.
//!
//! Code of the application runs while the write lock is held only in SQL projections and in
//! projections with [`Schedule::inline`](backstory_projection::Schedule::inline): keep it short.
//!
//! Tables begin with `backstory_`, everything else in the file is yours. Triggers refuse to change
//! or delete events; the SQL of the tables is in `migrations/`.
//!
//! # Spans
//! `backstory.sqlite.batch` (`appends`): one transaction of the writer.
//! `backstory.sqlite.read`: one page of events.

mod append;
mod bind;
mod control;
mod documents;
mod error;
mod filter;
mod inline;
mod letters;
mod lock;
mod options;
mod progress;
mod read;
mod schema;
mod snapshots;
mod turn;
mod values;
mod watch;

use std::{fmt, sync::Arc};

use async_trait::async_trait;
use backstory_event::{
    Append, Appended, EventQuery, EventStore, Page, Position, StoreError, StreamPage, StreamQuery,
};
use backstory_projection::Inlines;
use backstory_store_kit::{Tail, Writer};
use sqlx::{
    ConnectOptions, Connection, Sqlite, SqlitePool, pool::PoolConnection, sqlite::SqlitePoolOptions,
};
use tokio::time::Instant;
use tracing::Instrument;

pub use backstory_store_kit::{Conflicts, Distribution, Refusals, WriterStats};
pub use options::SqliteOptions;
pub use sqlx::sqlite::{SqliteConnection, SqliteSynchronous};

use crate::{
    append::Batches,
    error::Failure,
    inline::Inline,
    lock::{WriteLock, WriteTransaction, closed},
    options::Location,
    watch::Watch,
};

/// A store in an SQLite file. Clones share it.
#[derive(Clone)]
pub struct SqliteStore(Arc<Inner>);

struct Inner {
    options: SqliteOptions,
    location: Arc<Location>,
    lock: WriteLock,
    writer: Writer,
    readers: SqlitePool,
    tail: Tail,
    watch: Watch,
    inlines: Inlines<Inline>,
}

impl SqliteStore {
    /// Opens a file, given as a URL (`sqlite:todo.db`, `sqlite:///var/lib/todo.db`) or as a path.
    /// In a URL `%` and `?` are written `%25` and `%3F`, in a path they stand for themselves.
    /// A missing file is created, a missing directory is not. Needs a tokio runtime; when that
    /// ends, the store answers `Closed`.
    ///
    /// # Errors
    /// `Config`, `NotWritable`, `Denied`, `Corrupt`, `Schema` or `Unavailable`, naming the file.
    pub async fn connect(url: impl AsRef<str>) -> Result<Self, StoreError> {
        Self::connect_with(url, SqliteOptions::default()).await
    }

    /// Opens a file with options.
    ///
    /// # Errors
    /// As [`SqliteStore::connect`].
    pub async fn connect_with(
        url: impl AsRef<str>,
        options: SqliteOptions,
    ) -> Result<Self, StoreError> {
        let location = Arc::new(Location::new(url.as_ref(), &options)?);
        let deadline = Instant::now() + options.writer.deadline;
        let head = loop {
            match open(&location)
                .await
                .map_err(|failure| failure.at(&location.path))
            {
                Ok(opened) => break opened,
                // Many processes may start at once, and SQLite keeps no order among them.
                Err(error) if error.is_transient() && Instant::now() < deadline => {
                    tokio::time::sleep(lock::jitter()).await;
                }
                Err(error) => return Err(error),
            }
        };
        let lock = WriteLock::new(location.clone());
        let tail = Tail::new(head);
        let inlines = Inlines::default();
        let batches = Batches {
            lock: lock.clone(),
            tail: tail.clone(),
            path: location.path.clone(),
            lock_wait: Arc::default(),
            inlines: inlines.clone(),
            again: Default::default(),
        };
        let readers = SqlitePoolOptions::new()
            .max_connections(options.readers)
            .acquire_timeout(options.writer.deadline)
            .idle_timeout(None)
            .max_lifetime(None)
            .test_before_acquire(false)
            .connect_lazy_with(location.read());
        Ok(Self(Arc::new(Inner {
            writer: Writer::spawn(batches, options.writer),
            watch: Watch::new(location.clone()),
            options,
            location,
            lock,
            readers,
            tail,
            inlines,
        })))
    }

    /// Writes what is queued and closes all connections. Later calls answer `Closed`.
    pub async fn close(&self) {
        self.0.writer.close().await;
        self.0.readers.close().await;
        self.0.watch.close().await;
        self.0.lock.close().await;
    }

    /// What the store counted since it was opened: queue, batches, conflicts, waits for the lock.
    /// It costs next to nothing and touches no file.
    pub fn stats(&self) -> WriterStats {
        self.0.writer.stats()
    }

    fn failed(&self, failure: impl Into<Failure>) -> StoreError {
        failure.into().at(&self.0.location.path)
    }

    /// The writer's task ends with its runtime, and then nothing else can be relied on.
    fn check_open(&self) -> Result<(), StoreError> {
        if self.0.writer.is_closed() {
            return Err(closed());
        }
        Ok(())
    }

    async fn reader(&self) -> Result<PoolConnection<Sqlite>, StoreError> {
        self.check_open()?;
        let reader = self.0.readers.acquire().await;
        reader.map_err(|error| self.failed(error))
    }

    async fn begin(&self) -> Result<WriteTransaction, StoreError> {
        self.check_open()?;
        self.0.lock.begin(self.0.options.writer.deadline).await
    }

    async fn commit(&self, transaction: WriteTransaction) -> Result<(), StoreError> {
        transaction
            .commit()
            .await
            .map_err(|error| self.failed(error))
    }
}

/// Creates the file if need be, brings its schema up to date, and says where its log ends.
async fn open(location: &Location) -> Result<Position, Failure> {
    let mut connection = location.create().connect().await?;
    let opened = async {
        schema::migrate(&mut connection, &location.path).await?;
        schema::head(&mut connection).await.map_err(Failure::from)
    };
    let head = opened.await.map(Position::new);
    // It was closed by dropping it otherwise, at some later time.
    let _ = connection.close().await;
    head
}

impl fmt::Debug for SqliteStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SqliteStore")
            .field("path", &self.0.location.path)
            .field("head", &self.0.tail.head())
            .field("writer", &self.0.writer)
            .finish()
    }
}

#[async_trait]
impl EventStore for SqliteStore {
    async fn append(&self, append: Append) -> Result<Appended, StoreError> {
        self.0.writer.append(append).await
    }

    async fn read(&self, query: &EventQuery) -> Result<Page, StoreError> {
        let options = &self.0.options;
        let page = async {
            let mut reader = self.reader().await?;
            let page = read::events(&mut reader, query, options.window, options.page).await;
            page.map_err(|failure| self.failed(failure))
        };
        page.instrument(tracing::debug_span!("backstory.sqlite.read"))
            .await
    }

    async fn streams(&self, query: &StreamQuery) -> Result<StreamPage, StoreError> {
        let mut reader = self.reader().await?;
        let page = read::streams(&mut reader, query).await;
        page.map_err(|failure| self.failed(failure))
    }

    async fn changed(&self, after: Position) -> Result<Position, StoreError> {
        self.check_open()?;
        let Inner { tail, watch, .. } = &*self.0;
        tokio::select! {
            head = tail.beyond(after) => head,
            failure = watch.follow(tail, || self.0.writer.is_closed()) => Err(self.failed(failure)),
            () = self.0.readers.close_event() => Err(closed()),
        }
    }
}
