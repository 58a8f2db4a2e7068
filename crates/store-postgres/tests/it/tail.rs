//! Learning of what other processes append.

use std::time::{Duration, Instant};

use backstory_event::{EventStore, Position};
use backstory_store_postgres::{PostgresOptions, PostgresStore, Wake};
use backstory_test_postgres::TestDatabase;

use crate::kit::{fresh, one, raw, run, scalar, stream, within};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_foreign_append_wakes_at_once() {
    let (database, store) = fresh().await;
    // Nothing but the notification can wake it in time.
    let options = PostgresOptions::default().with_poll(Duration::from_secs(600));
    let reader = PostgresStore::connect_with(database.url(), options)
        .await
        .unwrap();
    let mut watch = raw(database.url()).await;
    for number in 1..=5 {
        let waiting = tokio::spawn({
            let reader = reader.clone();
            async move { reader.changed(Position::new(number - 1)).await.unwrap() }
        });
        store.append(one(&stream("todo", 1))).await.unwrap();
        assert_eq!(within(waiting).await.unwrap().get(), number);
    }
    // After a loss of its connection it looks by itself for what it missed.
    run(
        &mut watch,
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
         WHERE datname = current_database() AND pid <> pg_backend_pid()",
    )
    .await;
    store.append(one(&stream("todo", 1))).await.unwrap();
    assert_eq!(
        within(reader.changed(Position::new(5)))
            .await
            .unwrap()
            .get(),
        6
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_listening_it_polls_only_while_somebody_waits() {
    let (database, store) = fresh().await;
    let options = PostgresOptions::default().with_wake(Wake::Off);
    let reader = PostgresStore::connect_with(database.url(), options)
        .await
        .unwrap();
    let waiting = tokio::spawn({
        let reader = reader.clone();
        async move { reader.changed(Position::START).await.unwrap() }
    });
    store.append(one(&stream("todo", 1))).await.unwrap();
    assert_eq!(within(waiting).await.unwrap().get(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_notification_costs_latency_only() {
    let (database, store) = fresh().await;
    let options = PostgresOptions::default().with_poll(Duration::from_millis(50));
    let reader = PostgresStore::connect_with(database.url(), options)
        .await
        .unwrap();
    let mut other = raw(database.url()).await;
    let waiting = tokio::spawn({
        let reader = reader.clone();
        async move { reader.changed(Position::START).await.unwrap() }
    });
    drop(store);
    // An append that nobody announces.
    run(
        &mut other,
        "INSERT INTO backstory.event (position, category, key, version, id, name, schema_version, \
           payload, metadata, tags, recorded_at) \
         VALUES (1, 'todo', '1', 1, gen_random_uuid(), 'todo.added', 1, '{}', '{}', '{}', now())",
    )
    .await;
    assert_eq!(within(waiting).await.unwrap().get(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_false_notification_does_not_last() {
    let (database, store) = fresh().await;
    let options = PostgresOptions::default().with_poll(Duration::from_millis(20));
    let reader = PostgresStore::connect_with(database.url(), options)
        .await
        .unwrap();
    let mut other = raw(database.url()).await;
    // Whoever learned of this listens.
    store.append(one(&stream("todo", 1))).await.unwrap();
    within(reader.changed(Position::START)).await.unwrap();
    run(
        &mut other,
        "NOTIFY backstory_backstory, '99'; NOTIFY backstory_backstory, 'nonsense'",
    )
    .await;
    let began = Instant::now();
    let patience = Duration::from_millis(200);
    assert_eq!(
        within(reader.changed(Position::new(1)))
            .await
            .unwrap()
            .get(),
        99
    );
    // It may be believed for two polls, but not for ever.
    while tokio::time::timeout(patience, reader.changed(Position::new(1)))
        .await
        .is_ok()
    {
        assert!(
            began.elapsed() < Duration::from_secs(20),
            "the false head stays"
        );
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_idle_store_asks_once_in_each_poll_interval_and_nothing_else() {
    let database = TestDatabase::create().await;
    let options = PostgresOptions::default().with_poll(Duration::from_millis(200));
    let store = PostgresStore::connect_with(database.url(), options)
        .await
        .unwrap();
    store.append(one(&stream("todo", 1))).await.unwrap();
    // Counted from another database, so that the count does not count itself.
    let (server, name) = database.url().rsplit_once('/').unwrap();
    let mut watch = raw(&format!("{server}/template1")).await;
    let count = format!(
        "SELECT xact_commit + xact_rollback FROM pg_stat_database WHERE datname = '{name}'"
    );
    // Sessions report once a second: what was asked at the start is counted after this.
    tokio::time::sleep(Duration::from_secs(3)).await;
    let before: i64 = scalar(&mut watch, &count).await;
    tokio::time::sleep(Duration::from_secs(6)).await;
    let asked = scalar::<i64>(&mut watch, &count).await - before;
    assert!((1..=38).contains(&asked), "{asked} queries in 30 intervals");
}
