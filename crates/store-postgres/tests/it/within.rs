//! `append_in` and connections.

use std::{collections::BTreeMap, time::Duration};

use backstory_event::{
    Append, EventFilter, EventQuery, EventStore, ExpectedVersion, StoreErrorKind,
};
use backstory_store_postgres::{PostgresOptions, PostgresStore, Wake};
use backstory_test_postgres::TestDatabase;
use sqlx::Connection;

use crate::kit::{event, fresh, log, looked, one, raw, run, scalar, stream, until_count, within};

#[tokio::test]
async fn an_append_commits_with_the_rows_of_the_caller_or_not_at_all() {
    let (database, store) = fresh().await;
    let mut setup = raw(database.url()).await;
    let mut connection = raw(database.url()).await;
    run(&mut setup, "CREATE TABLE account (n int)").await;
    let todo = stream("todo", 1);

    let mut transaction = connection.begin().await.unwrap();
    run(&mut transaction, "INSERT INTO account VALUES (1)").await;
    let lost = store.append_in(&mut transaction, one(&todo)).await.unwrap();
    let error = lost.committed(&store).await.unwrap_err();
    assert!(error.is_transient(), "still open: {error:?}");
    transaction.rollback().await.unwrap();
    // The position goes to another event, the pending append is not fooled by it.
    store.append(one(&todo)).await.unwrap();
    let error = lost.committed(&store).await.unwrap_err();
    assert!(
        matches!(error.kind(), StoreErrorKind::NotStored { .. }),
        "{error:?}"
    );

    let mut transaction = connection.begin().await.unwrap();
    run(&mut transaction, "INSERT INTO account VALUES (2)").await;
    let append = Append::to(
        todo.clone(),
        ExpectedVersion::Exact(backstory_event::StreamVersion::new(1)),
        [event("todo.done")],
    );
    let pending = store
        .append_in(&mut transaction, append.clone())
        .await
        .unwrap();
    transaction.commit().await.unwrap();
    let receipt = pending.committed(&store).await.unwrap();
    assert_eq!(receipt.position().get(), 2);
    assert_eq!(
        store.append(append).await.unwrap(),
        receipt,
        "the same append again"
    );
    let accounts: i64 = scalar(&mut setup, "SELECT sum(n) FROM account").await;
    assert_eq!(accounts, 2);
    assert_eq!(log(&store).await.len(), 2);
}

#[tokio::test]
async fn a_transaction_that_the_server_ended_may_be_tried_again() {
    let (database, _) = fresh().await;
    let mut admin = raw(database.url()).await;
    let options = PostgresOptions::default().with_append_idle_timeout(Duration::from_millis(100));
    let store = PostgresStore::connect_with(database.url(), options).await;
    let store = store.unwrap();
    let mut connection = raw(database.url()).await;
    run(&mut connection, "BEGIN").await;
    let pid: i32 = scalar(&mut connection, "SELECT pg_backend_pid()").await;
    let lost = store.append_in(&mut connection, one(&stream("todo", 1)));
    let lost = lost.await.unwrap();
    // Frozen between two appends, or inside one: the next answer is that of the server's timeout.
    let there = format!("SELECT count(*) FROM pg_stat_activity WHERE pid = {pid}");
    until_count(&mut admin, &there, 0).await;
    let error = store
        .append_in(&mut connection, one(&stream("todo", 2)))
        .await
        .unwrap_err();
    assert!(error.is_transient(), "{error:?}");
    let error = lost.committed(&store).await.unwrap_err();
    assert!(
        matches!(error.kind(), StoreErrorKind::NotStored { .. }),
        "{error:?}"
    );

    let mut connection = raw(database.url()).await;
    let mut transaction = connection.begin().await.unwrap();
    let pending = store.append_in(&mut transaction, one(&stream("todo", 2)));
    let pending = pending.await.unwrap();
    transaction.commit().await.unwrap();
    pending.committed(&store).await.unwrap();
    assert_eq!(log(&store).await.len(), 1);
}

#[tokio::test]
async fn only_an_open_read_committed_transaction_can_be_joined() {
    let (database, store) = fresh().await;
    let mut connection = raw(database.url()).await;
    let todo = stream("todo", 1);
    for (begin, word) in [
        ("SELECT 1", "BEGIN"),
        ("BEGIN ISOLATION LEVEL REPEATABLE READ", "REPEATABLE READ"),
        ("BEGIN ISOLATION LEVEL SERIALIZABLE", "SERIALIZABLE"),
    ] {
        run(&mut connection, begin).await;
        let error = store
            .append_in(&mut connection, one(&todo))
            .await
            .unwrap_err();
        assert!(
            matches!(error.kind(), StoreErrorKind::Config { .. }),
            "{error:?}"
        );
        assert!(error.to_string().contains(word), "{error}");
        run(&mut connection, "ROLLBACK").await;
    }
    assert_eq!(log(&store).await.len(), 0);
}

#[tokio::test]
async fn smaller_timeouts_of_the_caller_stay_and_other_settings_come_back() {
    let (database, store) = fresh().await;
    let mut connection = raw(database.url()).await;
    run(
        &mut connection,
        "SET lock_timeout = '300ms'; SET synchronous_commit = off; \
         SET idle_in_transaction_session_timeout = 0; BEGIN",
    )
    .await;
    let _pending = store
        .append_in(&mut connection, one(&stream("todo", 1)))
        .await
        .unwrap();
    for (setting, value) in [
        ("lock_timeout", "300ms"),
        ("idle_in_transaction_session_timeout", "5s"),
        ("synchronous_commit", "on"),
        ("enable_seqscan", "on"),
    ] {
        let found: String = scalar(&mut connection, &format!("SHOW {setting}")).await;
        assert_eq!(found, value, "{setting}");
    }
    run(&mut connection, "COMMIT").await;
    let found: String = scalar(&mut connection, "SHOW idle_in_transaction_session_timeout").await;
    assert_eq!(found, "0", "only within the transaction");
}

#[tokio::test]
async fn a_conflict_leaves_the_transaction_to_the_caller() {
    let (database, store) = fresh().await;
    let mut connection = raw(database.url()).await;
    let todo = stream("todo", 1);
    store.append(one(&todo)).await.unwrap();
    let mut transaction = connection.begin().await.unwrap();
    let append = Append::to(todo, ExpectedVersion::NoStream, [event("todo.added")]);
    let error = store.append_in(&mut transaction, append).await.unwrap_err();
    assert!(error.is_conflict(), "{error:?}");
    let alive: i32 = scalar(&mut transaction, "SELECT 1").await;
    assert_eq!(alive, 1);
}

#[tokio::test]
async fn batches_commit_durably_and_bounded_whatever_the_database_says() {
    let database = TestDatabase::create().await;
    let mut connection = raw(database.url()).await;
    run(
        &mut connection,
        "DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET synchronous_commit = off', current_database()); \
           EXECUTE format('ALTER DATABASE %I SET default_transaction_isolation = serializable', current_database()); \
         END $$",
    )
    .await;
    let store = PostgresStore::connect(database.url()).await.unwrap();
    run(
        &mut connection,
        "CREATE TABLE seen (name text, value text); \
         CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN \
           INSERT INTO seen SELECT name, setting FROM pg_settings WHERE name IN \
             ('synchronous_commit', 'transaction_isolation', 'lock_timeout', \
              'idle_in_transaction_session_timeout'); \
           RETURN NULL; END $$; \
         CREATE TRIGGER note AFTER INSERT ON backstory.event EXECUTE FUNCTION note()",
    )
    .await;
    let todo = stream("todo", 1);
    // What is stored by one call waits for no client; what needs a look does. After some of them this
    // process knows that it is alone.
    let calls = (0..12).map(|_| (one(&todo), "0"));
    for (append, idle) in calls.chain([(looked(&todo), "5000")]) {
        store.append(append).await.unwrap();
        let seen: Vec<(String, String)> = sqlx::query_as("DELETE FROM seen RETURNING name, value")
            .fetch_all(&mut connection)
            .await
            .unwrap();
        let seen: BTreeMap<_, _> = seen
            .iter()
            .map(|(name, value)| (&**name, &**value))
            .collect();
        let expected = [
            ("idle_in_transaction_session_timeout", idle),
            ("lock_timeout", "2000"),
            ("synchronous_commit", "on"),
            ("transaction_isolation", "read committed"),
        ];
        assert_eq!(seen, expected.into());
    }
}

const ACTIVE: &str = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() \
    AND application_name = 'backstory' AND state = 'active'";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dropped_read_stops_its_statement_and_frees_its_connection() {
    let database = TestDatabase::create().await;
    let options = PostgresOptions::default()
        .with_readers(1)
        .with_wake(Wake::Off);
    let store = PostgresStore::connect_with(database.url(), options)
        .await
        .unwrap();
    let mut other = raw(database.url()).await;
    run(
        &mut other,
        "BEGIN; LOCK TABLE backstory.event IN ACCESS EXCLUSIVE MODE",
    )
    .await;
    let mut watch = raw(database.url()).await;
    let read = tokio::spawn({
        let store = store.clone();
        async move { store.read(&EventQuery::new(EventFilter::all())).await }
    });
    until_count(&mut watch, ACTIVE, 1).await;
    read.abort();
    until_count(&mut watch, ACTIVE, 0).await;
    run(&mut other, "ROLLBACK").await;
    within(store.read(&EventQuery::new(EventFilter::all())))
        .await
        .unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_whose_runtime_ended_answers_closed() {
    let database = TestDatabase::create().await;
    let url = database.url().to_owned();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap();
    let store = runtime
        .spawn(async move {
            let store = PostgresStore::connect(&url).await.unwrap();
            store.append(one(&stream("todo", 1))).await.unwrap();
            log(&store).await;
            store
        })
        .await
        .unwrap();
    let waiting = tokio::spawn({
        let store = store.clone();
        async move { store.changed(backstory_event::Position::new(1)).await }
    });
    runtime.shutdown_background();
    assert!(within(waiting).await.unwrap().unwrap_err().is_closed());
    let error = within(store.append(one(&stream("todo", 2))))
        .await
        .unwrap_err();
    assert!(error.is_closed(), "{error:?}");
    let error = within(store.read(&EventQuery::new(EventFilter::all())))
        .await
        .unwrap_err();
    assert!(error.is_closed(), "{error:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn close_ends_all_connections_and_the_last_handle_does_too() {
    const SESSIONS: &str = "SELECT count(*) FROM pg_stat_activity \
        WHERE datname = current_database() AND pid <> pg_backend_pid()";
    let (database, store) = fresh().await;
    let mut watch = raw(database.url()).await;
    store.append(one(&stream("todo", 1))).await.unwrap();
    log(&store).await;
    within(store.close()).await;
    until_count(&mut watch, SESSIONS, 0).await;
    assert!(
        store
            .append(one(&stream("todo", 1)))
            .await
            .unwrap_err()
            .is_closed()
    );
    drop(store);

    let store = PostgresStore::connect(database.url()).await.unwrap();
    store.append(one(&stream("todo", 1))).await.unwrap();
    log(&store).await;
    drop(store);
    until_count(&mut watch, SESSIONS, 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pool_of_the_application_is_used_and_left_open() {
    let database = TestDatabase::create().await;
    let pool = sqlx::PgPool::connect(database.url()).await.unwrap();
    let store = PostgresStore::with_pool(pool.clone()).await.unwrap();
    store.append(one(&stream("todo", 1))).await.unwrap();
    assert_eq!(log(&store).await.len(), 1);
    store.close().await;
    let alive: i32 = sqlx::query_scalar("SELECT 1")
        .fetch_one(&pool)
        .await
        .unwrap();
    assert_eq!(alive, 1);
}
