//! Projections inside appends, with SQL and with faults.

use std::{
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::{Duration, Instant},
};

use async_trait::async_trait;
use backstory_event::{
    Append, Envelope, Event, EventStore, ExpectedVersion, NewEvent, Position, StoreError,
    StoreErrorKind,
};
use backstory_projection::{
    self as projection, Beat, Checkpoints, Collection, Control, Documents, Inline, List,
    Projection, Projector, ProjectorOptions, Report, RowState, RunningProjector, Schedule,
};
use backstory_store_postgres::{PostgresOptions, PostgresStore};
use backstory_test_postgres::{TestCluster, TestDatabase};
use serde::{Deserialize, Serialize};
use sqlx::{Connection, PgConnection};
use uuid::Uuid;

use crate::{
    crash::{LOSE_ANSWER, LOSE_COMMIT, Proxy, own_program, survives},
    kit::{log, one, raw, run, scalar, stream, until_count, within},
    plans::{SCANNED, without_statistics},
};

const NAME: &str = "tally";

#[derive(Debug, Serialize, Deserialize, Event)]
#[event(prefix = "todo", crate = "backstory_event")]
enum Todo {
    Added { title: String },
}

/// Counts the events of each stream: one that is given twice, or not at all, shows. What else it
/// does depends on the title.
#[derive(Debug, Default, Clone)]
struct Tally {
    savepoints: Arc<AtomicI64>,
}

#[async_trait]
impl Projection<PgConnection> for Tally {
    type Event = Todo;
    const NAME: &'static str = NAME;

    async fn project(
        &self,
        batch: &[Envelope<Todo>],
        connection: &mut PgConnection,
    ) -> projection::Result {
        for e in batch {
            let Todo::Added { title } = &e.event;
            sqlx::query(
                "INSERT INTO tally VALUES ($1, 1) ON CONFLICT (key) DO UPDATE SET n = tally.n + 1",
            )
            .bind(e.stream().key())
            .execute(&mut *connection)
            .await?;
            let statement = match &**title {
                "refused" => "INSERT INTO tally VALUES ('x', -1)",
                "deferred" => "INSERT INTO orphan VALUES (1)",
                "slow" => "SELECT pg_sleep(60)",
                "scan" => "UPDATE seen SET scans = current_setting('enable_seqscan')",
                "swallowed" => {
                    let failed = sqlx::query("SELECT 1 / 0").execute(&mut *connection).await;
                    failed.unwrap_err();
                    continue;
                }
                "inner" => {
                    let mut inner = connection.begin().await?;
                    let lost = sqlx::query("INSERT INTO tally VALUES ('lost', 1)");
                    lost.execute(&mut *inner).await?;
                    inner.rollback().await?;
                    let mut inner = connection.begin().await?;
                    let kept = sqlx::query("INSERT INTO tally VALUES ('kept', 1)");
                    kept.execute(&mut *inner).await?;
                    inner.commit().await?;
                    self.savepoints.fetch_add(1, Ordering::SeqCst);
                    continue;
                }
                _ => continue,
            };
            sqlx::query(statement).execute(&mut *connection).await?;
        }
        Ok(())
    }
}

const TABLES: &str = "CREATE TABLE tally (key text PRIMARY KEY, n bigint NOT NULL CHECK (n > 0)); \
    CREATE TABLE parent (id bigint PRIMARY KEY); \
    CREATE TABLE orphan (id bigint REFERENCES parent DEFERRABLE INITIALLY DEFERRED); \
    CREATE TABLE seen (scans text); INSERT INTO seen VALUES ('')";

/// By stream, what the read model and the log do not agree on.
const LOST_OR_REPEATED: &str = "SELECT count(*) FROM \
    (SELECT e.key, count(*) AS n FROM backstory.event e WHERE e.name = 'todo.added' GROUP BY e.key) e \
    FULL JOIN tally t ON t.key = e.key WHERE t.n IS DISTINCT FROM e.n";

async fn start(store: &PostgresStore, schedule: impl Into<Schedule>) -> RunningProjector {
    let projector = Projector::new(store).with(Tally::default(), schedule);
    within(projector.start()).await.unwrap()
}

/// A process that leads the projection and does nothing: only appends project.
async fn silent_leader(store: &PostgresStore) {
    let report = Report {
        projection: NAME.to_owned(),
        state: RowState::Running,
        reason: None,
        reached: Position::START,
        head: Position::START,
        behind_since: None,
        rate: 0.0,
        rebuild: None,
    };
    let beat = Beat {
        owner: Uuid::now_v7(),
        process: "silent".to_owned(),
        origin: None,
        lease: Duration::from_secs(3_600),
        reports: vec![report],
        answers: Vec::new(),
    };
    assert!(store.beat(&beat).await.unwrap()[0].leads);
}

async fn inline(options: Inline) -> (TestDatabase, PostgresStore, PgConnection, RunningProjector) {
    let database = TestDatabase::create().await;
    let store = PostgresStore::connect(database.url()).await.unwrap();
    let mut admin = raw(database.url()).await;
    run(&mut admin, TABLES).await;
    let projector = start(&store, options).await;
    (database, store, admin, projector)
}

fn titled(key: &str, title: &str) -> Append {
    let title = title.to_owned();
    let event = NewEvent::of(&Todo::Added { title }).unwrap();
    Append::to(stream("todo", key), ExpectedVersion::Any, [event])
}

#[track_caller]
fn reason(outcome: Result<backstory_event::Appended, StoreError>) -> String {
    match outcome.map_err(StoreError::into_kind) {
        Err(StoreErrorKind::ProjectionFailed { projection, reason }) => {
            assert_eq!(projection, NAME);
            reason
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_commit_with_their_append_or_not_at_all() {
    let (_database, store, mut admin, projector) = inline(Schedule::inline()).await;
    let receipt = store.append(titled("a", "milk")).await.unwrap();
    assert_eq!(scalar::<i64>(&mut admin, "SELECT n FROM tally").await, 1);
    let progress = store.load_progress(NAME).await.unwrap();
    assert_eq!(progress.checkpoint, receipt.checkpoint);

    // Each fails alone, whenever the server notices.
    let appends = ["refused", "milk", "deferred", "milk", "swallowed", "milk"];
    let outcomes = appends.map(|title| {
        let (store, append) = (store.clone(), titled(title, title));
        tokio::spawn(async move { store.append(append).await })
    });
    for (outcome, title) in outcomes.into_iter().zip(appends) {
        let outcome = within(outcome).await.unwrap();
        match title {
            "milk" => drop(outcome.unwrap()),
            "refused" => assert!(reason(outcome).contains("tally_n_check")),
            "deferred" => assert!(reason(outcome).contains("orphan")),
            _ => assert!(reason(outcome).contains("current transaction is aborted")),
        }
    }
    assert_eq!(log(&store).await.len(), 4);
    assert_eq!(scalar::<i64>(&mut admin, LOST_OR_REPEATED).await, 0);

    // Statements of the user are planned as in any session.
    store.append(titled("a", "scan")).await.unwrap();
    let scans: String = scalar(&mut admin, "SELECT scans FROM seen").await;
    assert_eq!(scans, "on");
    within(projector.shutdown()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transaction_inside_an_append_is_a_savepoint() {
    let (_database, store, mut admin, projector) = inline(Schedule::inline()).await;
    store.append(titled("a", "inner")).await.unwrap();
    let keys = "SELECT string_agg(key, ' ' ORDER BY key) FROM tally";
    assert_eq!(scalar::<String>(&mut admin, keys).await, "a kept");
    // After failures the writer's connection is as before.
    reason(store.append(titled("b", "inner")).await);
    store.append(titled("b", "milk")).await.unwrap();
    assert_eq!(scalar::<String>(&mut admin, keys).await, "a b kept");
    within(projector.shutdown()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_statement_inside_an_append_ends_with_its_limit() {
    let limit = Duration::from_millis(300);
    let (_database, store, mut admin, projector) = inline(Schedule::inline().limit(limit)).await;
    let begun = Instant::now();
    let slow = tokio::spawn({
        let store = store.clone();
        async move { store.append(titled("a", "slow")).await }
    });
    until_count(
        &mut admin,
        "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'",
        1,
    )
    .await;
    // Whoever waits behind it is served as soon as it is over.
    store.append(titled("b", "milk")).await.unwrap();
    store
        .append(crate::kit::looked(&stream("other", 1)))
        .await
        .unwrap();
    assert!(reason(within(slow).await.unwrap()).contains("longer than 300ms"));
    assert!(begun.elapsed() < Duration::from_secs(10), "{begun:?}");
    let busy = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'";
    assert_eq!(scalar::<i64>(&mut admin, busy).await, 0);
    assert_eq!(scalar::<i64>(&mut admin, LOST_OR_REPEATED).await, 0);
    within(projector.shutdown()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_goes_past_the_writer_is_projected_by_the_next_append() {
    let database = TestDatabase::create().await;
    let store = PostgresStore::connect(database.url()).await.unwrap();
    let mut admin = raw(database.url()).await;
    run(&mut admin, TABLES).await;
    silent_leader(&store).await;
    let projector = start(&store, Schedule::inline()).await;
    store.append(titled("a", "milk")).await.unwrap();
    let mut transaction = admin.begin().await.unwrap();
    let pending = store
        .append_in(&mut transaction, titled("a", "bread"))
        .await
        .unwrap();
    transaction.commit().await.unwrap();
    pending.committed(&store).await.unwrap();
    let n = "SELECT sum(n)::bigint FROM tally";
    assert_eq!(scalar::<i64>(&mut admin, n).await, 1);
    // Another program, which does not run it.
    let other = PostgresStore::connect(database.url()).await.unwrap();
    for _ in 0..30 {
        other.append(one(&stream("todo", "b"))).await.unwrap();
    }
    store.append(titled("a", "milk")).await.unwrap();
    assert_eq!(scalar::<i64>(&mut admin, n).await, 33);
    assert_eq!(scalar::<i64>(&mut admin, LOST_OR_REPEATED).await, 0);
    within(projector.shutdown()).await.unwrap();
}

/// Keeps a document of each stream, found by its number of events.
struct Cards;

#[async_trait]
impl Projection<Documents> for Cards {
    type Event = Todo;
    const NAME: &'static str = "cards";

    async fn project(&self, batch: &[Envelope<Todo>], docs: &mut Documents) -> projection::Result {
        let cards = Collection::named("cards").indexed("n");
        for e in batch {
            let count = |card: Option<serde_json::Value>| {
                let n = card.and_then(|card| card["n"].as_i64()).unwrap_or_default();
                Some(serde_json::json!({ "n": n + 1 }))
            };
            let key = e.stream().key();
            docs.update_owned(cards, key, e.stream(), count).await?;
        }
        let twice = List::of(cards).field("n", &2).limit(3);
        let found = docs.list::<serde_json::Value>(twice).await?;
        assert!(found.items.len() <= 3);
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn appends_that_project_scan_nothing_from_an_empty_table_on() {
    let database = TestDatabase::create().await;
    let store = PostgresStore::connect(database.url()).await.unwrap();
    let mut admin = raw(database.url()).await;
    run(&mut admin, TABLES).await;
    without_statistics(&mut admin).await;
    let projector = Projector::new(&store)
        .with(Cards, Schedule::inline())
        .with(Tally::default(), Schedule::inline());
    let projector = within(projector.start()).await.unwrap();
    for round in 0..60 {
        // What is between is looked through for events that others have left.
        let noise = (0..20).map(|number| {
            let event = crate::kit::event("other.thing");
            let own = stream("other", format!("{round}-{number}"));
            store.append(Append::to(own, ExpectedVersion::NoStream, [event]))
        });
        for stored in futures::future::join_all(noise).await {
            stored.unwrap();
        }
        let appends =
            (0..20).map(|number| store.append(titled(&format!("{}-{number}", round / 2), "milk")));
        for stored in futures::future::join_all(appends).await {
            stored.unwrap();
        }
    }
    assert_eq!(scalar::<i64>(&mut admin, LOST_OR_REPEATED).await, 0);
    within(projector.shutdown()).await.unwrap();
    drop(projector);
    store.close().await;
    // The sessions have ended and reported.
    let others = "SELECT count(*) FROM pg_stat_activity \
        WHERE datname = current_database() AND pid <> pg_backend_pid()";
    until_count(&mut admin, others, 0).await;
    assert_eq!(scalar::<String>(&mut admin, SCANNED).await, "");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deadlock_with_others_is_tried_again() {
    let limit = Duration::from_secs(6);
    let (database, store, mut admin, projector) = inline(Schedule::inline().limit(limit)).await;
    let both = |store: PostgresStore| async move {
        let append = titled("a", "milk").and(
            stream("todo", "b"),
            ExpectedVersion::Any,
            [NewEvent::of(&Todo::Added {
                title: "milk".into(),
            })
            .unwrap()],
        );
        store.append(append).await
    };
    both(store.clone()).await.unwrap();
    let mut other = admin.begin().await.unwrap();
    // It is not the one that the server ends.
    run(&mut other, "SET LOCAL deadlock_timeout = '60s'").await;
    run(&mut other, "UPDATE tally SET n = n WHERE key = 'b'").await;
    let append = tokio::spawn(both(store.clone()));
    let mut watcher = raw(database.url()).await;
    let waits = "SELECT count(*) FROM pg_stat_activity \
        WHERE datname = current_database() AND wait_event_type = 'Lock' AND wait_event = 'transactionid'";
    until_count(&mut watcher, waits, 1).await;
    run(&mut other, "UPDATE tally SET n = n WHERE key = 'a'").await;
    other.commit().await.unwrap();
    within(append).await.unwrap().unwrap();
    assert!(store.stats().writer.retries >= 1);
    assert_eq!(scalar::<i64>(&mut admin, LOST_OR_REPEATED).await, 0);
    within(projector.shutdown()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rolling_deploy_from_async_to_inline_loses_and_repeats_nothing() {
    let database = TestDatabase::create().await;
    let [old, new] = [(), ()].map(|()| PostgresStore::connect(database.url()));
    let (old, new) = (old.await.unwrap(), new.await.unwrap());
    let mut admin = raw(database.url()).await;
    run(&mut admin, TABLES).await;
    let before = start(&old, Schedule::continuous()).await;
    let after = start(&new, Schedule::inline()).await;
    let load = [old.clone(), new.clone(), old.clone(), new.clone()].map(|store| {
        tokio::spawn(async move {
            for number in 0..60 {
                let append = titled(&format!("{}", number % 7), "milk");
                store.append(append).await.unwrap();
            }
        })
    });
    let [one, two, three, four] = load;
    within(one).await.unwrap();
    within(before.shutdown()).await.unwrap();
    for load in [two, three, four] {
        within(load).await.unwrap();
    }
    within(after.catch_up()).await.unwrap();
    assert_eq!(scalar::<i64>(&mut admin, LOST_OR_REPEATED).await, 0);
    new.append(titled("1", "milk")).await.unwrap();
    assert_eq!(
        scalar::<i64>(&mut admin, "SELECT sum(n)::bigint FROM tally").await,
        241
    );
    within(after.shutdown()).await.unwrap();
}

async fn a_lost_commit(mode: usize) {
    let cluster = TestCluster::start().await;
    let database = cluster.create_database().await;
    let mut admin = raw(database.url()).await;
    run(&mut admin, TABLES).await;
    let proxy = Proxy::start(database.url(), b"COMMIT\0").await;
    // Longer than the test: nobody but us ends the old backend.
    let options = PostgresOptions::default().with_append_idle_timeout(Duration::from_secs(300));
    let store = PostgresStore::connect_with(&proxy.url, options)
        .await
        .unwrap();
    silent_leader(&store).await;
    let projector = start(&store, Schedule::inline()).await;
    for number in 1..=3_i64 {
        proxy.arm(mode);
        let append = titled("a", "milk");
        let receipt = within(store.append(append.clone())).await.unwrap();
        assert!(!proxy.is_armed(), "the fault happened");
        assert_eq!(receipt.position().get(), number);
        assert_eq!(within(store.append(append)).await.unwrap(), receipt);
        assert_eq!(
            scalar::<i64>(&mut admin, "SELECT n FROM tally").await,
            number
        );
    }
    assert_eq!(store.stats().writer.resent, 3);
    within(projector.shutdown()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_append_whose_commit_is_lost_is_projected_once() {
    a_lost_commit(LOSE_ANSWER).await;
    a_lost_commit(LOSE_COMMIT).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_append_is_projected_once_whenever_the_server_is_killed() {
    let cluster = TestCluster::start().await;
    let database = cluster.create_database().await;
    let store = PostgresStore::connect(database.url()).await.unwrap();
    let mut admin = raw(database.url()).await;
    run(&mut admin, TABLES).await;
    let projector = start(&store, Schedule::inline()).await;
    survives(&store, 2, async |_| {
        cluster.kill9().await;
        cluster.restart().await;
    })
    .await;
    let mut admin = raw(database.url()).await;
    assert_eq!(scalar::<i64>(&mut admin, LOST_OR_REPEATED).await, 0);
    within(projector.shutdown()).await.unwrap();
}

/// A process of the test below; without its environment it has nothing to do.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn appender() {
    let Ok(url) = std::env::var("INLINE_URL") else {
        return;
    };
    let store = PostgresStore::connect(&url).await.unwrap();
    let options = ProjectorOptions::default().with_lease(Duration::from_secs(1));
    let projector = Projector::new(&store)
        .with(Tally::default(), Schedule::inline())
        .with_options(options);
    let _running = projector.start().await.unwrap();
    // Until it is killed, or its test is gone.
    let until = Instant::now() + Duration::from_secs(60);
    for number in 0_u64.. {
        if Instant::now() > until {
            return;
        }
        let append = titled(&format!("{}", number % 5), "milk");
        match store.append(append).await {
            Ok(_) => {}
            Err(error) => assert!(error.is_transient(), "{error}"),
        }
    }
}

/// Ends with its test.
struct Appender(Child);

impl Appender {
    fn start(url: &str) -> Self {
        let child = Command::new(own_program())
            .args(["--exact", "inline::appender", "--nocapture"])
            .env("INLINE_URL", url)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        Self(child.unwrap())
    }
}

impl Drop for Appender {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn processes_that_die_inside_appends_lose_and_repeat_nothing() {
    let database = TestDatabase::create().await;
    let store = PostgresStore::connect(database.url()).await.unwrap();
    let mut admin = raw(database.url()).await;
    run(&mut admin, TABLES).await;
    let mut appenders = vec![
        Appender::start(database.url()),
        Appender::start(database.url()),
    ];
    for _ in 0..6 {
        let before: i64 = scalar(&mut admin, "SELECT count(*) FROM backstory.event").await;
        within(async {
            let now = "SELECT count(*) FROM backstory.event";
            while scalar::<i64>(&mut admin, now).await < before + 150 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
        .await;
        // In the middle of whatever it does.
        drop(appenders.remove(0));
        appenders.push(Appender::start(database.url()));
    }
    drop(appenders);
    let projector = start(&store, Schedule::inline()).await;
    within(store.append(titled("1", "milk"))).await.unwrap();
    assert_eq!(scalar::<i64>(&mut admin, LOST_OR_REPEATED).await, 0);
    within(projector.shutdown()).await.unwrap();
}
