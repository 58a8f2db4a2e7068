//! Through PgBouncer in transaction mode.

use async_trait::async_trait;
use backstory_aggregate::{SnapshotRecord, SnapshotStore};
use backstory_conformance::Fixture;
use backstory_event::{
    Append, Checkpoint, Envelope, Event, EventFilter, EventStore, EventStoreExt, ExpectedVersion,
    Payload, Position,
};
use backstory_projection::{
    self as projection, DocumentReader, Documents, Projection, Projector, Schedule,
};
use backstory_store_postgres::{Pooler, PostgresOptions, PostgresStore};
use backstory_test_postgres::{TestCluster, TestDatabase, TestPooler};
use futures::StreamExt;
use serde::{Deserialize, Serialize};
use sqlx::{
    Connection, PgConnection, Row,
    postgres::{PgConnectOptions, PgPoolOptions, PgRow},
};
use tokio::sync::OnceCell;

use crate::kit::{
    CALLS, assert_stored_once, count_calls, event, eventually, log, one, raw, run, scalar, stream,
    until_count, within,
};

pub(crate) fn pooled() -> PostgresOptions {
    PostgresOptions::default().with_pooler(Pooler::Transaction)
}

struct Pooled {
    store: PostgresStore,
    url: String,
    database: TestDatabase,
}

impl Fixture for Pooled {
    type Store = PostgresStore;

    fn store(&self) -> PostgresStore {
        self.store.clone()
    }

    async fn elsewhere(&self) -> PostgresStore {
        PostgresStore::connect_with(&self.url, pooled())
            .await
            .unwrap()
    }
}

/// One pooler for all suites, with two connections to each database.
async fn fixture() -> Pooled {
    through_pooler(TestCluster::shared().await.create_database().await).await
}

async fn through_pooler(database: TestDatabase) -> Pooled {
    static SHARED: OnceCell<TestPooler> = OnceCell::const_new();
    let cluster = TestCluster::shared().await;
    let pooler = SHARED.get_or_init(|| TestPooler::start(cluster)).await;
    let url = pooler.url(database.url());
    Pooled {
        store: PostgresStore::connect_with(&url, pooled()).await.unwrap(),
        url,
        database,
    }
}

mod suites {
    // Through `Arc<dyn …>` is no other way through a pooler.
    backstory_conformance::every_suite!(crate::pooler::fixture());
}

/// As the events of the kit.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Event)]
#[event(prefix = "todo", crate = "backstory_event")]
enum TodoEvent {
    Added { title: String },
}

/// Counts in a document.
struct InDocument;

#[async_trait]
impl Projection<Documents> for InDocument {
    type Event = TodoEvent;
    const NAME: &'static str = "in_document";

    async fn project(
        &self,
        batch: &[Envelope<TodoEvent>],
        documents: &mut Documents,
    ) -> projection::Result {
        let count = |before: Option<usize>| Some(before.unwrap_or_default() + batch.len());
        Ok(documents.update("count", "all", count).await?)
    }
}

/// Counts in SQL, by a statement as everybody writes it.
struct InTable;

#[async_trait]
impl Projection<PgConnection> for InTable {
    type Event = TodoEvent;
    const NAME: &'static str = "in_table";

    async fn project(
        &self,
        batch: &[Envelope<TodoEvent>],
        connection: &mut PgConnection,
    ) -> projection::Result {
        sqlx::query("UPDATE counted SET n = n + $1")
            .bind(i64::try_from(batch.len())?)
            .execute(connection)
            .await?;
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_callers_append_subscribe_and_project_through_two_connections() {
    const CALLERS: usize = 32;
    const EACH: usize = 10;
    let fixture = fixture().await;
    let store = &fixture.store;
    let mut direct = raw(fixture.database.url()).await;
    run(
        &mut direct,
        "CREATE TABLE counted (n bigint); INSERT INTO counted VALUES (0)",
    )
    .await;
    let projector = Projector::new(store)
        .with::<Documents, _>(InDocument, Schedule::continuous())
        .with::<PgConnection, _>(InTable, Schedule::continuous());
    let projector = within(projector.start()).await.unwrap();
    let subscribers: Vec<_> = (0..4)
        .map(|_| {
            let subscription = store.subscribe(Checkpoint::START, EventFilter::all());
            tokio::spawn(async move {
                let mut events = std::pin::pin!(subscription.into_stream());
                for expected in 1..=CALLERS * EACH {
                    let position = events.next().await.unwrap().unwrap().position();
                    assert_eq!(position.get(), i64::try_from(expected).unwrap());
                }
            })
        })
        .collect();
    let callers: Vec<_> = (0..CALLERS)
        .map(|caller| {
            let store = store.clone();
            tokio::spawn(async move {
                let mut receipts = Vec::new();
                for _ in 0..EACH {
                    let append = one(&stream("todo", caller));
                    receipts.push((append.clone(), store.append(append).await.unwrap()));
                    log(&store).await;
                }
                receipts
            })
        })
        .collect();
    let mut receipts = Vec::new();
    for caller in callers {
        receipts.extend(within(caller).await.unwrap());
    }
    let backends: i64 = scalar(
        &mut direct,
        "SELECT count(*) FROM pg_stat_activity \
         WHERE datname = current_database() AND pid <> pg_backend_pid()",
    )
    .await;
    assert!((1..=2).contains(&backends), "{backends}");
    for subscriber in subscribers {
        within(subscriber).await.unwrap();
    }
    for (_, receipt) in &receipts {
        within(projector.caught_up(receipt)).await.unwrap();
    }
    assert_stored_once(store, &receipts).await;
    let counted: i64 = scalar(&mut direct, "SELECT n FROM counted").await;
    assert_eq!(usize::try_from(counted).unwrap(), CALLERS * EACH);
    let reader = DocumentReader::from(store);
    let counted: Option<usize> = reader.get("count", "all").await.unwrap();
    assert_eq!(counted, Some(CALLERS * EACH));
    let verification = store.verify().await.unwrap();
    assert!(verification.is_sound(), "{verification}");
    projector.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_batch_that_is_what_it_seems_to_be_is_stored_by_one_call() {
    const BATCHES: i64 = 20;
    let database = TestCluster::shared().await.create_database().await;
    let mut direct = raw(database.url()).await;
    count_calls(&mut direct).await;
    let fixture = through_pooler(database).await;
    let store = &fixture.store;
    for number in 0..BATCHES {
        store.append(one(&stream("todo", number))).await.unwrap();
    }
    // A refusal is proved by the same call.
    let taken = Append::to(
        stream("todo", 1),
        ExpectedVersion::NoStream,
        [event("todo.added")],
    );
    let error = store.append(taken).await.unwrap_err();
    assert!(error.is_conflict(), "{error:?}");
    store.close().await;
    until_count(&mut direct, CALLS, BATCHES + 1).await;
    let looks = "SELECT coalesce(sum(idx_scan), 0)::bigint FROM pg_stat_user_indexes \
        WHERE indexrelname = 'event_id_key'";
    // That of the refused append: whether it is stored already.
    until_count(&mut direct, looks, 1).await;
}

/// A backend, and what its next client sees.
type State = (i32, Vec<(String, String)>);

async fn assert_left_nothing(stranger: &mut PgConnection, before: &State) {
    let (backend, mut left) = state(stranger).await;
    assert_eq!(backend, before.0, "it is the same backend");
    left.retain(|one| !before.1.contains(one));
    assert_eq!(left, []);
}

async fn state(stranger: &mut PgConnection) -> State {
    let backend = scalar_simple(stranger, "SELECT pg_backend_pid()").await;
    let state = sqlx::raw_sql(
        "SELECT name, setting FROM pg_settings WHERE name <> 'application_name' \
         UNION ALL SELECT 'prepared statement', statement FROM pg_prepared_statements \
         UNION ALL SELECT 'listens to', pg_listening_channels() \
         UNION ALL SELECT 'lock', objid::text FROM pg_locks \
           WHERE pid = pg_backend_pid() AND locktype = 'advisory' ORDER BY 1, 2",
    );
    let rows = state.fetch_all(stranger).await.unwrap();
    let row = |row: &PgRow| (text(row, 0), text(row, 1));
    (backend, rows.iter().map(row).collect())
}

fn text(row: &PgRow, column: usize) -> String {
    row.get(column)
}

async fn scalar_simple(connection: &mut PgConnection, query: &'static str) -> i32 {
    let row = sqlx::raw_sql(query).fetch_one(connection).await.unwrap();
    row.get(0)
}

fn plain(url: &str) -> PgConnectOptions {
    let options: PgConnectOptions = url.parse().unwrap();
    options.extra_float_digits(None)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_next_client_of_the_connection_finds_nothing_that_the_store_left() {
    let cluster = TestCluster::shared().await;
    let database = cluster.create_database().await;
    let pooler = TestPooler::start_with(cluster, &[("default_pool_size", "1")]).await;
    let url = pooler.url(database.url());
    let mut stranger = PgConnection::connect_with(&plain(&url)).await.unwrap();
    // What comes with the language is no state.
    run(&mut stranger, "DO 'BEGIN END'").await;
    let before = state(&mut stranger).await;

    let store = PostgresStore::connect_with(&url, pooled()).await.unwrap();
    run(
        &mut raw(database.url()).await,
        "CREATE TABLE counted (n bigint); INSERT INTO counted VALUES (0)",
    )
    .await;
    let projector = Projector::new(&store)
        .with::<Documents, _>(InDocument, Schedule::continuous())
        .with::<PgConnection, _>(InTable, Schedule::continuous());
    let projector = within(projector.start()).await.unwrap();
    let waiting = tokio::spawn({
        let store = store.clone();
        async move { store.changed(Position::START).await.unwrap() }
    });
    let todo = stream("todo", 1);
    let receipt = store.append(one(&todo)).await.unwrap();
    within(waiting).await.unwrap();
    eventually(async || {
        let mut status = projector.status().into_iter();
        status.all(|one| one.checkpoint.position == receipt.position())
    })
    .await;
    let snapshot = SnapshotRecord {
        stream: todo.clone(),
        version: log(&store).await[0].version(),
        event_id: log(&store).await[0].id(),
        shape: 1,
        state: Payload::empty(),
    };
    store.save_snapshot(snapshot).await.unwrap();
    store.verify().await.unwrap();
    store.latest_snapshot(&todo, None).await.unwrap();
    assert_left_nothing(&mut stranger, &before).await;
    let mut direct = raw(database.url()).await;
    run(
        &mut direct,
        "ALTER TABLE backstory.snapshot RENAME TO elsewhere",
    )
    .await;
    // The transaction of a refused statement is rolled back.
    store.latest_snapshot(&todo, None).await.unwrap_err();

    assert_left_nothing(&mut stranger, &before).await;
    projector.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pool_of_the_application_behind_the_pooler_reads_and_appends_in_its_transactions() {
    let fixture = fixture().await;
    let mut direct = raw(fixture.database.url()).await;
    run(&mut direct, "CREATE TABLE account (n bigint)").await;
    // It remembers statements, as by default.
    let pool = PgPoolOptions::new()
        .max_connections(6)
        .connect_with(plain(&fixture.url))
        .await
        .unwrap();
    let store = PostgresStore::with_pool_and(pool.clone(), pooled())
        .await
        .unwrap();
    let callers: Vec<_> = (0..6)
        .map(|caller| {
            let (pool, store) = (pool.clone(), store.clone());
            tokio::spawn(async move {
                let mut receipts = Vec::new();
                for turn in 0..10 {
                    let append = one(&stream("todo", caller));
                    let mut transaction = pool.begin().await.unwrap();
                    sqlx::query("INSERT INTO account VALUES ($1)")
                        .bind(turn)
                        .persistent(false)
                        .execute(&mut *transaction)
                        .await
                        .unwrap();
                    let pending = store.append_in(&mut transaction, append.clone());
                    let pending = pending.await.unwrap();
                    if turn % 3 == 2 {
                        transaction.rollback().await.unwrap();
                        pending.committed(&store).await.unwrap_err();
                    } else {
                        transaction.commit().await.unwrap();
                        receipts.push((append, pending.committed(&store).await.unwrap()));
                    }
                    assert!(!log(&store).await.is_empty());
                }
                receipts
            })
        })
        .collect();
    let mut receipts = Vec::new();
    for caller in callers {
        receipts.extend(within(caller).await.unwrap());
    }
    assert_eq!(receipts.len(), 6 * 7);
    assert_stored_once(&store, &receipts).await;
    let rows: i64 = scalar(&mut direct, "SELECT count(*) FROM account").await;
    assert_eq!(rows, 6 * 7);
}
