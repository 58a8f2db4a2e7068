//! Conditions that begin among the events that a process stored last need no look, and are decided
//! as if there had been one.

use backstory_event::{
    Append, Appended, Checkpoint, Conflict, EventId, EventStore, ExpectedVersion, Lifecycle,
    Position, StoreError, StoreErrorKind,
};
use backstory_store_postgres::PostgresStore;
use backstory_test_postgres::TestDatabase;

use crate::{
    conditions::guarded,
    kit::{
        CALLS, assert_stored_once, count_calls, deaf, event, fresh, one, raw, run, stream,
        until_count,
    },
};

/// So many batches prove that a process is alone.
const PROOFS: usize = 4;

/// Stores events with tags of their own, each under a condition: the process learns that it is alone.
async fn prove(store: &PostgresStore) -> Appended {
    let mut last = None;
    for _ in 0..=PROOFS {
        let key = EventId::new().to_string();
        let append = guarded(&key, &key, Checkpoint::START);
        last = Some(store.append(append).await.unwrap());
    }
    last.unwrap()
}

/// Where the event is at which a condition failed.
fn hit(outcome: Result<Appended, StoreError>) -> Position {
    match outcome.unwrap_err().kind() {
        StoreErrorKind::Conflict(Conflict::Condition { position, .. }) => *position,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_condition_on_recent_events_needs_no_call() {
    let database = TestDatabase::create().await;
    let mut direct = raw(database.url()).await;
    count_calls(&mut direct).await;
    let store = PostgresStore::connect(database.url()).await.unwrap();
    let mut receipts = Vec::new();
    let mut after = Checkpoint::START;
    for number in 0..20 {
        let append = guarded(&number.to_string(), "mine", after);
        let receipt = store.append(append.clone()).await.unwrap();
        after = receipt.checkpoint;
        receipts.push((append, receipt));
    }
    assert_stored_once(&store, &receipts).await;
    store.close().await;
    until_count(&mut direct, CALLS, i64::try_from(PROOFS).unwrap()).await;
}

#[tokio::test]
async fn a_condition_is_hit_by_the_first_recent_event_that_it_excludes() {
    let (_database, store) = fresh().await;
    prove(&store).await;
    let seat = guarded("1", "seat", Checkpoint::START);
    let first = store.append(seat.clone()).await.unwrap().checkpoint;
    let second = guarded("2", "seat", first);
    let second = store.append(second).await.unwrap().checkpoint;
    prove(&store).await;

    let append = |key: &str, after| store.append(guarded(key, "seat", after));
    assert_eq!(hit(append("3", Checkpoint::START).await), first.position);
    let before = Checkpoint::at(Position::new(first.position.get() - 1));
    assert_eq!(hit(append("3", before).await), first.position);
    assert_eq!(hit(append("3", first).await), second.position);
    // What is stored already is answered with its receipt, whatever its condition says now.
    assert_eq!(store.append(seat).await.unwrap().checkpoint, first);
    let elsewhere = Checkpoint {
        event_id: EventId::new(),
        ..second
    };
    let error = append("3", elsewhere).await.unwrap_err();
    let kind = error.kind();
    assert!(matches!(kind, StoreErrorKind::Diverged { .. }), "{kind:?}");
    append("3", second).await.unwrap();

    // Erased events have no tags.
    for key in ["1", "2", "3"] {
        let erased = Lifecycle::Erased.event();
        let erase = Append::to(stream("seat", key), ExpectedVersion::Any, [erased]);
        store.append(erase).await.unwrap();
    }
    prove(&store).await;
    append("4", Checkpoint::START).await.unwrap();
    assert!(store.verify().await.unwrap().is_sound());
}

#[tokio::test]
async fn conditions_see_what_others_append() {
    let database = TestDatabase::create().await;
    let store = deaf(&database).await;
    let other = PostgresStore::connect(database.url()).await.unwrap();
    for round in 0..5 {
        let tag = format!("seat:{round}");
        let after = prove(&store).await.checkpoint;
        let taken = guarded(&format!("{round} of the other"), &tag, after);
        let taken = other.append(taken).await.unwrap();
        let alone = guarded(&format!("{round} alone"), &tag, after);
        assert_eq!(hit(store.append(alone).await), taken.position());

        let after = prove(&store).await.checkpoint;
        let taken = guarded(&format!("{round} of the other, again"), &tag, after);
        let taken = other.append(taken).await.unwrap();
        // Both are in one batch.
        let (refused, stored) = tokio::join!(
            store.append(guarded(&format!("{round} first"), &tag, after)),
            store.append(guarded(&format!("{round} second"), "free", after)),
        );
        assert_eq!(hit(refused), taken.position());
        assert_eq!(stored.unwrap().position().get(), taken.position().get() + 1);
        let freed = Append::to(
            stream("seat", format!("{round} second")),
            ExpectedVersion::Any,
            [Lifecycle::Erased.event()],
        );
        store.append(freed).await.unwrap();
    }
    assert!(store.verify().await.unwrap().is_sound());
}

#[tokio::test]
async fn a_condition_on_what_is_not_recent_any_more_looks() {
    let (_database, store) = fresh().await;
    prove(&store).await;
    let seat = guarded("1", "seat", Checkpoint::START);
    let seat = store.append(seat).await.unwrap().checkpoint;
    for number in 0..5 {
        let todo = stream("todo", number);
        let events = (0..400).map(|_| event("todo.added"));
        let many = Append::to(todo, ExpectedVersion::NoStream, events);
        store.append(many).await.unwrap();
        for after in [Checkpoint::START, Checkpoint::at(Position::new(3))] {
            let second = store.append(guarded("2", "seat", after)).await;
            assert_eq!(hit(second), seat.position);
        }
        let other = guarded(&format!("other {number}"), &format!("other:{number}"), seat);
        store.append(other).await.unwrap();
    }
    store.append(guarded("2", "seat", seat)).await.unwrap();
}

#[tokio::test]
async fn behind_a_new_connection_the_past_may_be_another() {
    let (database, store) = fresh().await;
    let before = prove(&store).await.checkpoint;
    let last = prove(&store).await.position();
    // As if a replica that was behind had taken over, and somebody had gone on there.
    let mut admin = raw(database.url()).await;
    let change = "ALTER TABLE backstory.event DISABLE TRIGGER ALL; \
        UPDATE backstory.event SET tags = '{seat}' WHERE position = (SELECT max(position) FROM backstory.event); \
        SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
          WHERE datname = current_database() AND query LIKE 'INSERT INTO %.event%'";
    run(&mut admin, change).await;
    // By this one the store finds its connection gone.
    store.append(one(&stream("todo", 1))).await.unwrap();
    assert_eq!(hit(store.append(guarded("1", "seat", before)).await), last);
}
