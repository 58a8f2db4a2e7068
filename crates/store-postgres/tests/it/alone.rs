//! Single events while nobody else appends: a plain statement stores them.

use backstory_event::{
    Append, EventStore, ExpectedVersion, Lifecycle, StoreErrorKind, StreamId, StreamVersion,
};
use backstory_store_postgres::PostgresStore;
use backstory_test_postgres::TestDatabase;

use crate::kit::{
    CALLS, LOCK_WAITERS, assert_stored_once, count_calls, deaf, event, fresh, one, raw, run,
    stream, until_count, within,
};

/// So many appends prove that a process is alone.
const PROOFS: i64 = 4;

async fn alone() -> (TestDatabase, PostgresStore) {
    let (database, store) = fresh().await;
    prove(&store).await;
    (database, store)
}

/// Shows the writer that it is alone, also when it was not just now.
async fn prove(store: &PostgresStore) {
    for number in 0..=PROOFS {
        store.append(one(&stream("todo", number))).await.unwrap();
    }
}

#[tokio::test]
async fn a_process_that_is_alone_stores_single_events_without_a_call() {
    let database = TestDatabase::create().await;
    let mut direct = raw(database.url()).await;
    count_calls(&mut direct).await;
    let store = PostgresStore::connect(database.url()).await.unwrap();
    let mut receipts = Vec::new();
    for number in 0..20 {
        let append = one(&stream("todo", number % 7));
        receipts.push((append.clone(), store.append(append).await.unwrap()));
    }
    assert_stored_once(&store, &receipts).await;
    store.close().await;
    until_count(&mut direct, CALLS, PROOFS).await;
}

#[tokio::test]
async fn others_that_append_are_found_out_and_followed() {
    let database = TestDatabase::create().await;
    let mut direct = raw(database.url()).await;
    count_calls(&mut direct).await;
    let store = deaf(&database).await;
    let other = PostgresStore::connect(database.url()).await.unwrap();
    let mut receipts = Vec::new();
    for number in 0..60 {
        let writer = if number == 30 { &other } else { &store };
        let append = one(&stream("todo", number));
        receipts.push((append.clone(), writer.append(append).await.unwrap()));
    }
    assert_stored_once(&store, &receipts).await;
    assert!(store.verify().await.unwrap().is_sound());
    store.close().await;
    other.close().await;
    // The first ones, that of the other, the one that found it out, and proofs that it went away.
    until_count(&mut direct, CALLS, PROOFS + 1 + 1 + PROOFS).await;
}

#[tokio::test]
async fn what_a_plain_statement_does_not_store_gets_its_answer() {
    let (_database, store) = alone().await;
    let todo = stream("todo", 1);
    let taken = Append::to(
        todo.clone(),
        ExpectedVersion::NoStream,
        [event("todo.added")],
    );
    let error = store.append(taken).await.unwrap_err();
    assert!(error.is_conflict(), "{error:?}");
    prove(&store).await;

    let again = one(&todo);
    let first = store.append(again.clone()).await.unwrap();
    assert_eq!(store.append(again.clone()).await.unwrap(), first);
    prove(&store).await;
    let mut reused = one(&stream("todo", 2));
    reused.parts[0].events[0].id = again.event_ids()[0];
    let error = store.append(reused).await.unwrap_err();
    assert!(
        matches!(error.kind(), StoreErrorKind::EventIdReused { .. }),
        "{error:?}"
    );
}

#[tokio::test]
async fn streams_that_others_changed_are_seen_as_they_are() {
    let (database, store) = alone().await;
    let other = PostgresStore::connect(database.url()).await.unwrap();
    let exact = |todo: &StreamId, version: i64| {
        let version = ExpectedVersion::Exact(StreamVersion::new(version));
        Append::to(todo.clone(), version, [event("todo.done")])
    };
    for number in 100..110 {
        let todo = stream("todo", number);
        // What this process believes of it is one behind, or one ahead.
        store.append(one(&todo)).await.unwrap();
        other.append(one(&todo)).await.unwrap();
        prove(&store).await;
        let error = store.append(exact(&todo, 1)).await.unwrap_err();
        assert!(error.is_conflict(), "{error:?}");
        prove(&store).await;
        let error = store
            .append(exact(&stream("todo", 1_000), 3))
            .await
            .unwrap_err();
        assert!(error.is_conflict(), "{error:?}");
        prove(&store).await;
        store.append(exact(&todo, 2)).await.unwrap();
        prove(&store).await;
    }
    // A stream that was deleted takes no events, whoever deleted it and knows its version.
    for (number, deleter) in [(200, &store), (201, &other)] {
        let todo = stream("todo", number);
        other.append(one(&todo)).await.unwrap();
        let end = [Lifecycle::Deleted.event()];
        let deleted = Append::to(todo.clone(), ExpectedVersion::Any, end);
        deleter.append(deleted).await.unwrap();
        prove(&store).await;
        let error = store.append(exact(&todo, 2)).await.unwrap_err();
        let kind = error.kind();
        assert!(
            matches!(kind, StoreErrorKind::StreamDeleted { .. }),
            "{kind:?}"
        );
    }
    assert!(store.verify().await.unwrap().is_sound());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_plain_statement_waits_for_the_lock_as_a_call_does() {
    let (database, store) = alone().await;
    let mut holder = raw(database.url()).await;
    let mut watch = raw(database.url()).await;
    run(&mut holder, "BEGIN").await;
    let pending = store
        .append_in(&mut holder, one(&stream("todo", 1)))
        .await
        .unwrap();
    let waiting = tokio::spawn({
        let store = store.clone();
        async move { store.append(one(&stream("todo", 2))).await }
    });
    until_count(&mut watch, LOCK_WAITERS, 1).await;
    run(&mut holder, "COMMIT").await;
    let first = pending.committed(&store).await.unwrap();
    let second = within(waiting).await.unwrap().unwrap();
    assert_eq!(first.checkpoint.position.next(), second.checkpoint.position);
}
