//! One type for every store, chosen by a URL.

use std::sync::Arc;

use async_trait::async_trait;
use backstory_aggregate::{
    Lookup, LookupQuery, LookupReader, LookupRepair, LookupRow, LookupStore, LookupStoreExt,
    SnapshotRecord, SnapshotStore,
};
use backstory_event::{
    Append, Appended, Conflict, EventQuery, EventStore, EventStoreExt, Page, Payload, Position,
    StoreError, StoreErrorKind, StreamId, StreamPage, StreamQuery, StreamVersion,
};
use backstory_projection::{
    Beat, Checkpoints, CommitError, Control, DeadLetter, DeadLetters, DocumentKey, DocumentList,
    DocumentReader, DocumentRow, DocumentStore, DocumentWrite, Documents, Enlisted,
    InlineProjection, LetterCount, LetterQuery, OrderKind, OrderOutcome, Progress, ProjectionRow,
    Seat, Step, Turn,
};
use uuid::Uuid;

/// A store of any kind. Clones share it; user code needs no type parameter.
///
/// It runs projections over [`Documents`](crate::Documents). For SQL projections use the store's
/// own type: `PostgresStore`, `SqliteStore`.
#[derive(Debug, Clone)]
pub struct Store(Arc<dyn Backend>);

/// What every store can do, dyn-compatible.
#[async_trait]
trait Backend:
    LookupStore + SnapshotStore + Checkpoints + Control + DeadLetters + DocumentStore
{
    async fn shut(&self);

    async fn ready(&self) -> Result<(), StoreError> {
        self.head().await.map(drop)
    }

    #[cfg(feature = "sqlite")]
    fn sqlite(&self) -> Option<&backstory_store_sqlite::SqliteStore> {
        None
    }

    #[cfg(feature = "postgres")]
    fn postgres(&self) -> Option<&backstory_store_postgres::PostgresStore> {
        None
    }
}

#[cfg(feature = "memory")]
#[async_trait]
impl Backend for backstory_store_memory::MemoryStore {
    async fn shut(&self) {}
}

#[cfg(feature = "sqlite")]
#[async_trait]
impl Backend for backstory_store_sqlite::SqliteStore {
    async fn shut(&self) {
        self.close().await;
    }

    fn sqlite(&self) -> Option<&Self> {
        Some(self)
    }
}

#[cfg(feature = "postgres")]
#[async_trait]
impl Backend for backstory_store_postgres::PostgresStore {
    async fn shut(&self) {
        self.close().await;
    }

    async fn ready(&self) -> Result<(), StoreError> {
        match self.health().await.error {
            None => Ok(()),
            Some(reason) => Err(StoreError::new(StoreErrorKind::Unavailable { reason })),
        }
    }

    fn postgres(&self) -> Option<&Self> {
        Some(self)
    }
}

impl Store {
    /// Opens the store that a URL names: `memory:`, `sqlite:todo.db`, `postgres://host/database`.
    /// A missing SQLite file is created, a missing schema too.
    ///
    /// # Errors
    /// `Config` for an unknown scheme or one whose feature is off; what the store says otherwise.
    pub async fn connect(url: &str) -> Result<Self, StoreError> {
        let scheme = url.split(':').next().unwrap_or_default();
        match scheme {
            #[cfg(feature = "memory")]
            "memory" => Ok(backstory_store_memory::MemoryStore::new().into()),
            #[cfg(feature = "sqlite")]
            "sqlite" => Ok(backstory_store_sqlite::SqliteStore::connect(url)
                .await?
                .into()),
            #[cfg(feature = "postgres")]
            "postgres" | "postgresql" => Ok(backstory_store_postgres::PostgresStore::connect(url)
                .await?
                .into()),
            known if SCHEMES.contains(&known) => Err(config(format!(
                "the URL begins with `{known}:`, but that feature of the crate `backstory` is off"
            ))),
            // The rest of the URL may hold a password.
            _ => Err(config(
                "the URL must begin with `memory:`, `sqlite:` or `postgres:`".to_owned(),
            )),
        }
    }

    /// Reads the documents of projections.
    pub fn documents(&self) -> DocumentReader {
        DocumentReader::new(self.0.clone())
    }

    /// Reads and rebuilds a lookup: the aggregate that has a value, and the values that it has.
    pub fn lookup<L: Lookup>(&self, lookup: L) -> LookupReader<L> {
        LookupStoreExt::lookup(self, lookup)
    }

    /// Asks the database whether it works, for a readiness probe. On Postgres that takes at most 2
    /// seconds, and `PostgresStore::health` says more.
    ///
    /// # Errors
    /// Why it does not: it is away, a standby, read-only, of another schema, closed.
    pub async fn ready(&self) -> Result<(), StoreError> {
        self.0.ready().await
    }

    /// The store itself if it is one on SQLite: for SQL projections and its numbers.
    #[cfg(feature = "sqlite")]
    pub fn sqlite(&self) -> Option<&backstory_store_sqlite::SqliteStore> {
        self.0.sqlite()
    }

    /// The store itself if it is one on Postgres: for SQL projections, its health and its numbers.
    #[cfg(feature = "postgres")]
    pub fn postgres(&self) -> Option<&backstory_store_postgres::PostgresStore> {
        self.0.postgres()
    }

    /// Writes what is queued and closes the connections. Later calls answer `Closed`.
    pub async fn close(&self) {
        self.0.shut().await;
    }
}

const SCHEMES: [&str; 4] = ["memory", "sqlite", "postgres", "postgresql"];

fn config(reason: String) -> StoreError {
    StoreError::new(StoreErrorKind::Config { reason })
}

#[cfg(feature = "memory")]
impl From<backstory_store_memory::MemoryStore> for Store {
    fn from(store: backstory_store_memory::MemoryStore) -> Self {
        Self(Arc::new(store))
    }
}

#[cfg(feature = "sqlite")]
impl From<backstory_store_sqlite::SqliteStore> for Store {
    fn from(store: backstory_store_sqlite::SqliteStore) -> Self {
        Self(Arc::new(store))
    }
}

#[cfg(feature = "postgres")]
impl From<backstory_store_postgres::PostgresStore> for Store {
    fn from(store: backstory_store_postgres::PostgresStore) -> Self {
        Self(Arc::new(store))
    }
}

#[async_trait]
impl EventStore for Store {
    async fn append(&self, append: Append) -> Result<Appended, StoreError> {
        self.0.append(append).await
    }

    async fn read(&self, query: &EventQuery) -> Result<Page, StoreError> {
        self.0.read(query).await
    }

    async fn streams(&self, query: &StreamQuery) -> Result<StreamPage, StoreError> {
        self.0.streams(query).await
    }

    async fn changed(&self, after: Position) -> Result<Position, StoreError> {
        self.0.changed(after).await
    }
}

#[async_trait]
impl SnapshotStore for Store {
    async fn save_snapshot(&self, snapshot: SnapshotRecord) -> Result<(), StoreError> {
        self.0.save_snapshot(snapshot).await
    }

    async fn latest_snapshot(
        &self,
        stream: &StreamId,
        up_to: Option<StreamVersion>,
    ) -> Result<Option<SnapshotRecord>, StoreError> {
        self.0.latest_snapshot(stream, up_to).await
    }

    async fn delete_snapshots(&self, stream: &StreamId) -> Result<(), StoreError> {
        self.0.delete_snapshots(stream).await
    }
}

#[async_trait]
impl LookupStore for Store {
    async fn lookup_rows(&self, query: &LookupQuery) -> Result<Vec<LookupRow>, StoreError> {
        self.0.lookup_rows(query).await
    }

    async fn repair_lookup(
        &self,
        repairs: &[LookupRepair],
    ) -> Result<Vec<Result<(), Conflict>>, StoreError> {
        self.0.repair_lookup(repairs).await
    }
}

#[async_trait]
impl Checkpoints for Store {
    async fn load_progress(&self, projection: &str) -> Result<Progress, StoreError> {
        self.0.load_progress(projection).await
    }

    async fn list_progress(&self) -> Result<Vec<Progress>, StoreError> {
        self.0.list_progress().await
    }
}

#[async_trait]
impl Control for Store {
    async fn beat(&self, beat: &Beat) -> Result<Vec<Seat>, StoreError> {
        self.0.beat(beat).await
    }

    async fn leave(&self, owner: Uuid) -> Result<(), StoreError> {
        self.0.leave(owner).await
    }

    async fn list_projections(&self) -> Result<Vec<ProjectionRow>, StoreError> {
        self.0.list_projections().await
    }

    async fn order(&self, projection: &str, kind: &OrderKind) -> Result<Option<i64>, StoreError> {
        self.0.order(projection, kind).await
    }

    async fn order_outcome(&self, id: i64) -> Result<OrderOutcome, StoreError> {
        self.0.order_outcome(id).await
    }

    async fn withdraw_order(&self, id: i64) -> Result<OrderOutcome, StoreError> {
        self.0.withdraw_order(id).await
    }
}

#[async_trait]
impl DeadLetters for Store {
    async fn list_letters(&self, query: &LetterQuery) -> Result<Vec<DeadLetter>, StoreError> {
        self.0.list_letters(query).await
    }

    async fn count_letters(&self, projection: &str) -> Result<LetterCount, StoreError> {
        self.0.count_letters(projection).await
    }

    async fn parked_keys(
        &self,
        projection: &str,
        keys: &[String],
    ) -> Result<Vec<String>, StoreError> {
        self.0.parked_keys(projection, keys).await
    }
}

#[async_trait]
impl DocumentStore for Store {
    async fn get_documents(
        &self,
        keys: &[DocumentKey],
    ) -> Result<Vec<Option<Payload>>, StoreError> {
        self.0.get_documents(keys).await
    }

    async fn list_documents(&self, list: &DocumentList) -> Result<Vec<DocumentRow>, StoreError> {
        self.0.list_documents(list).await
    }

    async fn commit_documents(
        &self,
        writes: Vec<DocumentWrite>,
        step: &Step,
    ) -> Result<(), CommitError> {
        self.0.commit_documents(writes, step).await
    }

    async fn turn_documents(&self, turn: &Turn) -> Result<Progress, CommitError> {
        self.0.turn_documents(turn).await
    }

    fn enlist_documents(
        &self,
        projection: InlineProjection<Documents>,
    ) -> Result<Enlisted, StoreError> {
        self.0.enlist_documents(projection)
    }
}
