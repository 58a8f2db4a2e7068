//! Reads from a streaming replica.

use std::{
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use backstory_conformance::Fixture;
use backstory_event::{
    Append, Checkpoint, EventFilter, EventQuery, EventStore, EventStoreExt, ExpectedVersion,
    Position,
};
use backstory_store_postgres::{PostgresOptions, PostgresStore};
use backstory_test_postgres::{TestCluster, TestDatabase};
use sqlx::PgConnection;
use tokio::sync::OnceCell;

use crate::kit::{PATIENCE, event, log, one, raw, run, scalar, stream, within};

/// The URL of the same database on another server.
fn on(server: &TestCluster, database: &TestDatabase) -> String {
    server.url(database.url().rsplit_once('/').unwrap().1)
}

/// Waits until a replica has got all that its primary has made durable: it is sent nothing else.
async fn caught_up(primary: &str, replica: &mut PgConnection) {
    let mut primary = raw(primary).await;
    let written: String = scalar(&mut primary, "SELECT pg_current_wal_flush_lsn()::text").await;
    let replayed = format!("SELECT pg_last_wal_replay_lsn() >= '{written}'::pg_lsn");
    // It replays what all tests write at the same time.
    let patience = tokio::time::timeout(4 * PATIENCE, async {
        while !scalar::<bool>(replica, &replayed).await {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    });
    assert!(
        patience.await.is_ok(),
        "the replica does not get to {written}"
    );
}

struct Pair {
    primary: TestCluster,
    replica: TestCluster,
    database: TestDatabase,
    store: PostgresStore,
}

impl Pair {
    /// A store with a replica that it reads from, and five events.
    async fn start() -> Self {
        let primary = TestCluster::start().await;
        let database = primary.create_database().await;
        let writer = PostgresStore::connect(database.url()).await.unwrap();
        for _ in 0..5 {
            writer.append(one(&stream("todo", 1))).await.unwrap();
        }
        let replica = primary.replica().await;
        let options = PostgresOptions::default()
            .with_retry(Duration::ZERO)
            .with_replica(&on(&replica, &database));
        let store = PostgresStore::connect_with(database.url(), options)
            .await
            .unwrap();
        let pair = Self {
            primary,
            replica,
            database,
            store,
        };
        pair.in_use().await;
        pair
    }

    async fn on_replica(&self) -> PgConnection {
        raw(&on(&self.replica, &self.database)).await
    }

    /// Waits until the store reads from its replica.
    async fn in_use(&self) {
        let mut replica = self.on_replica().await;
        caught_up(self.database.url(), &mut replica).await;
        let count = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'backstory' \
            AND query LIKE 'WITH head%e.category = ANY%' AND state_change > now()";
        let name = "SELECT to_char(clock_timestamp(), 'YYYY-MM-DD HH24:MI:SS.US')";
        let query = EventQuery::new(EventFilter::category("todo")).limit(2);
        within(async {
            loop {
                let now: String = scalar(&mut replica, name).await;
                self.store.read(&query).await.unwrap();
                let count = count.replace("now()", &format!("'{now}'"));
                if scalar::<i64>(&mut replica, &count).await > 0 {
                    break;
                }
            }
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn history_is_read_from_the_replica() {
    let pair = Pair::start().await;
    let stored = log(&pair.store).await;
    assert_eq!(stored.len(), 5);
    // There is nobody else who could answer.
    pair.primary.stop().await;
    assert_eq!(log(&pair.store).await, stored);
    assert_eq!(pair.store.head().await.unwrap(), stored[4].checkpoint());
    let query = EventQuery::stream(stream("todo", 1)).after(stored[1].checkpoint());
    assert_eq!(pair.store.collect(query).await.unwrap(), stored[2..]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_known_to_be_written_is_read_while_the_replica_is_behind() {
    let pair = Pair::start().await;
    let other = PostgresStore::connect(pair.database.url()).await.unwrap();
    let mut replica = pair.on_replica().await;
    run(&mut replica, "SELECT pg_wal_replay_pause()").await;
    let start = pair.store.head().await.unwrap();
    let mut subscription = pair.store.subscribe(start, EventFilter::all());
    let mut expected = 5;
    for round in 0..20 {
        // Own writes are known at once, those of others when they are announced.
        let writer = if round % 2 == 0 { &pair.store } else { &other };
        let receipt = writer.append(one(&stream("late", round))).await.unwrap();
        expected += 1;
        if round % 2 == 1 {
            while pair
                .store
                .changed(Position::new(expected - 1))
                .await
                .unwrap()
                .get()
                < expected
            {}
        }
        assert_eq!(pair.store.head().await.unwrap(), receipt.checkpoint);
        assert_eq!(log(&pair.store).await.len() as i64, expected);
        let query = EventQuery::stream(stream("late", round));
        assert_eq!(pair.store.collect(query).await.unwrap().len(), 1);
        let query =
            EventQuery::new(EventFilter::category("late")).up_to(receipt.checkpoint.position);
        assert_eq!(pair.store.collect(query).await.unwrap().len(), round + 1);
        let page = within(subscription.next_page()).await.unwrap();
        assert_eq!(page.checkpoint, receipt.checkpoint);
        assert_eq!(page.events.len(), 1);
    }
    let stored = log(&pair.store).await;
    run(&mut replica, "SELECT pg_wal_replay_resume()").await;
    pair.in_use().await;
    pair.primary.stop().await;
    assert_eq!(log(&pair.store).await, stored);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_primary_is_read_while_the_replica_is_away() {
    let pair = Pair::start().await;
    let stored = log(&pair.store).await;
    pair.replica.kill9().await;
    for _ in 0..20 {
        assert_eq!(within(log(&pair.store)).await, stored);
    }
    pair.replica.restart().await;
    pair.in_use().await;
    pair.primary.stop().await;
    assert_eq!(log(&pair.store).await, stored);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_that_was_promoted_is_not_read() {
    let pair = Pair::start().await;
    let mut promoted = pair.on_replica().await;
    run(&mut promoted, "SELECT pg_promote()").await;
    // Two logs go on from here, and they are equally long.
    let fork = PostgresStore::connect(&on(&pair.replica, &pair.database))
        .await
        .unwrap();
    let append = |name: &str| Append::to(stream("todo", 2), ExpectedVersion::Any, [event(name)]);
    fork.append(append("fork")).await.unwrap();
    pair.store.append(append("primary")).await.unwrap();
    for _ in 0..20 {
        let stored = log(&pair.store).await;
        assert_eq!(stored.len(), 6);
        assert_eq!(stored[5].name(), "primary");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_of_something_else_is_not_read() {
    let pair = Pair::start().await;
    let stored = log(&pair.store).await;
    // Another database of the replica, with a log of its own.
    let other = pair.primary.create_database().await;
    let writer = PostgresStore::connect(other.url()).await.unwrap();
    for _ in 0..5 {
        writer.append(one(&stream("todo", 1))).await.unwrap();
    }
    let mut replica = pair.on_replica().await;
    caught_up(other.url(), &mut replica).await;
    let options = PostgresOptions::default().with_replica(&on(&pair.replica, &other));
    let store = PostgresStore::connect_with(pair.database.url(), options)
        .await
        .unwrap();
    for _ in 0..50 {
        assert_eq!(log(&store).await, stored);
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_checkpoint_that_the_replica_does_not_know_yet_is_no_divergence() {
    let pair = Pair::start().await;
    let mut replica = pair.on_replica().await;
    run(&mut replica, "SELECT pg_wal_replay_pause()").await;
    let receipt = pair.store.append(one(&stream("todo", 1))).await.unwrap();
    let query = EventQuery::new(EventFilter::all()).after(receipt.checkpoint);
    let page = pair.store.read(&query).await.unwrap();
    assert_eq!(
        (page.events.len(), page.checkpoint),
        (0, receipt.checkpoint)
    );
    // One that nobody knows is.
    let foreign = Checkpoint {
        event_id: backstory_event::EventId::new(),
        ..receipt.checkpoint
    };
    let query = EventQuery::new(EventFilter::all()).after(foreign);
    assert!(pair.store.read(&query).await.unwrap_err().is_diverged());
}

struct Replicated {
    store: PostgresStore,
}

impl Fixture for Replicated {
    type Store = PostgresStore;

    fn store(&self) -> PostgresStore {
        self.store.clone()
    }

    /// The same process: what others append is read from a replica when it has been announced.
    async fn elsewhere(&self) -> PostgresStore {
        self.store.clone()
    }
}

/// One database on a pair of servers for all suites; each case has a schema of its own.
async fn replicated() -> Replicated {
    static SHARED: OnceCell<(TestCluster, TestCluster, TestDatabase)> = OnceCell::const_new();
    static CASES: AtomicUsize = AtomicUsize::new(0);
    let start = async || {
        let primary = TestCluster::start().await;
        let database = primary.create_database().await;
        let replica = primary.replica().await;
        (primary, replica, database)
    };
    let (_primary, replica, database) = SHARED.get_or_init(start).await;
    let schema = format!("case_{}", CASES.fetch_add(1, Ordering::Relaxed));
    let options = PostgresOptions::default().with_schema(schema);
    // Its tables are there before anybody looks.
    let maker = PostgresStore::connect_with(database.url(), options.clone())
        .await
        .unwrap();
    maker.close().await;
    let mut watch = raw(&on(replica, database)).await;
    caught_up(database.url(), &mut watch).await;
    let options = options.with_replica(&on(replica, database));
    Replicated {
        store: PostgresStore::connect_with(database.url(), options)
            .await
            .unwrap(),
    }
}

mod suites {
    backstory_conformance::event_store_suite!(crate::replica::replicated());
    backstory_conformance::subscription_suite!(crate::replica::replicated());
}
