//! What operators are told: each number and each sign of trouble appears with its cause.

use std::time::Duration;

use backstory_event::{
    Append, AppendCondition, EventFilter, EventStore, ExpectedVersion, Position,
};
use backstory_store_postgres::{ListenerState, PostgresOptions, PostgresStore, Wake};
use backstory_test_postgres::{TestCluster, TestDatabase};
use sqlx::postgres::PgPoolOptions;

use crate::kit::{
    LOCK_WAITERS, TAKE_LOCK, event, eventually, fresh, log, one, raw, run, scalar, stream,
    until_count, within,
};

async fn open(database: &TestDatabase, options: PostgresOptions) -> PostgresStore {
    let open = PostgresStore::connect_with(database.url(), options);
    open.await.unwrap()
}

async fn listener_is(store: &PostgresStore, state: ListenerState) {
    eventually(async || store.stats().listener.state == state).await;
}

#[tokio::test]
async fn a_healthy_store_says_so_and_what_it_talks_to() {
    let (database, store) = fresh().await;
    store.append(one(&stream("todo", 1))).await.unwrap();
    let health = store.health().await;
    assert!(health.ready && health.reachable, "{health:?}");
    assert_eq!((&health.error, &health.lock), (&None, &None));
    assert_eq!(health.head, Some(Position::new(1)));
    assert!(health.answer_micros.unwrap() > 0);
    let server = health.server.unwrap();
    let version: String = scalar(&mut raw(database.url()).await, "SHOW server_version").await;
    assert_eq!(server.version, version);
    assert!(server.primary && !server.read_only, "{server:?}");
    let schema = health.schema.unwrap();
    assert!(schema.readable_from <= schema.known && schema.version >= schema.known);
    assert_eq!(health.stats.head, Position::new(1));
}

#[tokio::test]
async fn health_is_json_for_a_probe() {
    let (_database, store) = fresh().await;
    let json = serde_json::to_value(store.health().await).unwrap();
    assert_eq!(json["ready"], true);
    assert_eq!(json["server"]["primary"], true);
    assert_eq!(json["head"], 0);
    assert_eq!(json["stats"]["writer"]["capacity"], 1_024);
    assert_eq!(json["stats"]["pool"]["max"], 8);
    assert!(json["stats"]["listener"]["state"].is_string(), "{json}");
}

#[tokio::test]
async fn a_read_only_server_is_reachable_but_not_ready() {
    let (database, store) = fresh().await;
    let statement = "DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET default_transaction_read_only = on', \
        current_database()); END $$";
    run(&mut raw(database.url()).await, statement).await;
    let health = store.health().await;
    assert!(health.reachable && !health.ready, "{health:?}");
    assert!(health.server.unwrap().read_only);
    assert!(health.error.unwrap().contains("read-only"));
}

#[tokio::test]
async fn tables_that_do_not_fit_are_reachable_but_not_ready() {
    let (database, store) = fresh().await;
    let mut other = raw(database.url()).await;
    run(
        &mut other,
        "INSERT INTO backstory.migration (version, readable_from) VALUES (98, 97)",
    )
    .await;
    let health = store.health().await;
    assert!(health.reachable && !health.ready, "{health:?}");
    let schema = health.schema.unwrap();
    assert_eq!((schema.version, schema.readable_from), (98, 97));
    assert!(health.error.unwrap().contains("97"));
    run(&mut other, "DROP SCHEMA backstory CASCADE").await;
    let health = store.health().await;
    assert!(health.reachable && !health.ready, "{health:?}");
    assert!(health.error.unwrap().contains("migrations"));
}

#[tokio::test]
async fn a_closed_store_is_not_ready() {
    let (_database, store) = fresh().await;
    store.close().await;
    let health = store.health().await;
    assert!(!health.ready && !health.reachable, "{health:?}");
    assert!(health.error.unwrap().contains("closed"));
}

#[tokio::test]
async fn a_pool_that_is_used_up_does_not_make_a_store_unhealthy() {
    let database = TestDatabase::create().await;
    let pool = PgPoolOptions::new().max_connections(1);
    let pool = pool.connect(database.url()).await.unwrap();
    let store = PostgresStore::with_pool(pool.clone()).await.unwrap();
    assert_eq!((store.stats().pool.size, store.stats().pool.max), (1, 1));
    eventually(async || store.stats().pool.idle == 1).await;
    let used = pool.acquire().await.unwrap();
    assert_eq!(store.stats().pool.idle, 0);
    let health = within(store.health()).await;
    assert!(health.ready, "{health:?}");
    drop(used);
    eventually(async || store.stats().pool.idle == 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_holds_the_lock_is_told_while_others_wait() {
    let database = TestDatabase::create().await;
    let options = PostgresOptions::default().with_lock_timeout(Duration::from_millis(50));
    let store = open(&database, options).await;
    let mut other = raw(database.url()).await;
    let mut watch = raw(database.url()).await;
    run(&mut other, "SET application_name = 'sleepy'; BEGIN").await;
    run(&mut other, TAKE_LOCK).await;
    // It is nobody's business while nobody waits.
    assert_eq!(store.health().await.lock, None);
    let pid: i32 = scalar(&mut other, "SELECT pg_backend_pid()").await;
    let call = tokio::spawn({
        let store = store.clone();
        async move { store.append(one(&stream("todo", 1))).await }
    });
    until_count(&mut watch, LOCK_WAITERS, 1).await;
    eventually(async || store.stats().writer.retries > 0).await;
    let held = || async {
        let lock = store.health().await.lock?;
        (lock.waiting > 0).then_some(lock)
    };
    let lock = within(async {
        loop {
            if let Some(lock) = held().await {
                return lock;
            }
        }
    })
    .await;
    assert_eq!(lock.pid, Some(pid));
    assert_eq!(lock.application.as_deref(), Some("sleepy"));
    assert_eq!(lock.state.as_deref(), Some("idle in transaction"));
    assert_eq!(lock.prepared, None);
    assert!(lock.age_micros.unwrap() > 50_000, "{lock:?}");
    let writer = store.stats().writer;
    assert!(writer.writing_micros.unwrap() > 50_000, "{writer:?}");
    assert!(writer.lock_wait_micros.max >= 50_000, "{writer:?}");
    run(&mut other, "COMMIT").await;
    within(call).await.unwrap().unwrap();
    let writer = store.stats().writer;
    assert_eq!((writer.stored, writer.batch_appends.count), (1, 1));
    assert!(writer.batch_micros.count > writer.retries);
    eventually(async || store.stats().writer.writing_micros.is_none()).await;
    assert!(store.health().await.ready);
}

#[tokio::test]
async fn conflicts_and_refusals_are_counted_by_kind() {
    let (database, store) = fresh().await;
    let (todo, list) = (stream("todo", 1), stream("list", 1));
    let append = one(&todo).claim("title", "milk", todo.clone());
    store.append(append.clone()).await.unwrap();
    // Sent before: stored, and no second time.
    store.append(append.clone()).await.unwrap();
    let twice = Append::to(
        todo.clone(),
        ExpectedVersion::NoStream,
        [event("todo.added")],
    );
    store.append(twice).await.unwrap_err();
    let condition = AppendCondition::new(EventFilter::all(), Position::START);
    let late = one(&list).fail_if(condition);
    store.append(late.clone()).await.unwrap_err();
    store.append(late).await.unwrap_err();
    let claim = one(&list).claim("title", "milk", list.clone());
    store.append(claim).await.unwrap_err();
    let mut reused = append;
    reused.parts[0].stream = list.clone();
    store.append(reused).await.unwrap_err();
    run(
        &mut raw(database.url()).await,
        "ALTER TABLE backstory.event ADD CHECK (name <> 'bad')",
    )
    .await;
    let bad = Append::to(list, ExpectedVersion::Any, [event("bad")]);
    store.append(bad).await.unwrap_err();
    let writer = store.stats().writer;
    let conflicts = writer.conflicts;
    assert_eq!(
        (conflicts.version, conflicts.condition, conflicts.claim),
        (1, 2, 1)
    );
    let refused = writer.refused;
    assert_eq!((refused.event_id_reused, refused.database), (1, 1));
    assert_eq!((refused.total(), writer.stored), (2, 2));
    assert_eq!(writer.batch_micros.count, 8);
    assert_eq!(log(&store).await.len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cut_listener_is_seen_and_counted() {
    let (database, store) = fresh().await;
    listener_is(&store, ListenerState::Idle).await;
    assert_eq!(store.stats().listener.reconnects, 0);
    let mut other = raw(database.url()).await;
    let cut = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity \
        WHERE datname = current_database() AND pid <> pg_backend_pid()";
    scalar::<i64>(&mut other, cut).await;
    eventually(async || store.stats().listener.reconnects == 1).await;
    listener_is(&store, ListenerState::Idle).await;
    let listener = store.stats().listener;
    assert_eq!(listener.reconnects, 1);
    let soon = store.stats().listener;
    assert!(soon.since_micros >= listener.since_micros);
    // The writer lost its connection, too.
    within(store.append(one(&stream("todo", 1)))).await.unwrap();
    let writer = store.stats().writer;
    assert!(writer.retries + writer.resent > 0, "{writer:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_listener_listens_while_somebody_waits() {
    let (database, store) = fresh().await;
    let reader = open(&database, PostgresOptions::default()).await;
    for number in 1..=2 {
        listener_is(&reader, ListenerState::Idle).await;
        let waiting = tokio::spawn({
            let reader = reader.clone();
            async move { reader.changed(Position::new(number - 1)).await.unwrap() }
        });
        listener_is(&reader, ListenerState::Listening).await;
        store.append(one(&stream("todo", 1))).await.unwrap();
        assert_eq!(within(waiting).await.unwrap().get(), number);
    }
}

#[tokio::test]
async fn without_a_listener_it_is_off() {
    let database = TestDatabase::create().await;
    let options = PostgresOptions::default().with_wake(Wake::Off);
    let listener = open(&database, options).await.stats().listener;
    assert_eq!(
        (listener.state, listener.reconnects),
        (ListenerState::Off, 0)
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_away_is_not_reachable_until_it_is_back() {
    let cluster = TestCluster::start().await;
    let database = cluster.create_database().await;
    let store = open(&database, PostgresOptions::default()).await;
    listener_is(&store, ListenerState::Idle).await;
    assert!(store.health().await.ready);
    cluster.kill9().await;
    let health = within(store.health()).await;
    assert!(!health.ready && !health.reachable, "{health:?}");
    assert!(health.error.is_some() && health.answer_micros.is_none());
    listener_is(&store, ListenerState::Reconnecting).await;
    eventually(async || store.stats().listener.reconnects > 1).await;
    let soon = one(&stream("todo", 1)).with_deadline(Duration::from_millis(700));
    within(store.append(soon)).await.unwrap_err();
    let writer = store.stats().writer;
    let told = writer.refused.unavailable + writer.unknown + writer.withdrawn;
    assert_eq!((told, writer.stored), (1, 0), "{writer:?}");
    assert!(writer.retries + writer.resent > 0, "{writer:?}");
    cluster.restart().await;
    eventually(async || store.health().await.ready).await;
    listener_is(&store, ListenerState::Idle).await;
}
