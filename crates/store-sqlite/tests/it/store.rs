//! What a handle on a store does: SQL projections, dropped futures, the end of its runtime.

use std::time::Duration;

use backstory_aggregate::{SnapshotRecord, SnapshotStore};
use backstory_conformance::{
    Fixture,
    kit::{any, event, log, payload, stream, within},
};
use backstory_event::{
    Append, Checkpoint, EventFilter, EventId, EventQuery, EventStore, ExpectedVersion, Position,
    StoreError, StreamQuery, StreamVersion,
};
use backstory_projection::{
    Checkpoints, CommitError, DocumentKey, DocumentStore, DocumentWrite, Host, Progress, Step,
    Target, Unit,
};
use backstory_store_sqlite::{SqliteConnection, SqliteOptions, SqliteStore};
use sqlx::Connection;
use tempfile::TempDir;

use crate::sqlite;

async fn unit(store: &SqliteStore, from: &Progress) -> Box<dyn Unit<SqliteConnection>> {
    within(Host::<SqliteConnection>::begin(store, from.clone()))
        .await
        .unwrap()
}

async fn count(connection: &mut SqliteConnection, number: i64) {
    sqlx::raw_sql("CREATE TABLE IF NOT EXISTS mine (number INTEGER)")
        .execute(&mut *connection)
        .await
        .unwrap();
    // As a user would who has a function that wants a transaction.
    let mut nested = connection.begin().await.unwrap();
    sqlx::query("INSERT INTO mine VALUES (?1)")
        .bind(number)
        .execute(&mut *nested)
        .await
        .unwrap();
    nested.commit().await.unwrap();
}

async fn counted(store: &SqliteStore) -> Vec<i64> {
    let mut unit = unit(store, &Progress::start("reader")).await;
    sqlx::query_scalar("SELECT number FROM mine ORDER BY number")
        .fetch_all(unit.context())
        .await
        .unwrap()
}

fn checkpoint(position: i64) -> Checkpoint {
    Checkpoint {
        position: Position::new(position),
        event_id: EventId::new(),
    }
}

#[tokio::test]
async fn a_sql_projection_commits_with_its_checkpoint_or_not_at_all() {
    let fixture = sqlite().await;
    let store = &fixture.store;
    let start = Progress::start("mine");
    let advance = Target::Advance(checkpoint(3));

    let mut first = unit(store, &start).await;
    count(first.context(), 1).await;
    first.commit(advance, Vec::new()).await.unwrap();
    let moved = store.load_progress("mine").await.unwrap();
    assert_eq!(Target::Advance(moved.checkpoint), advance);

    let mut dropped = unit(store, &moved).await;
    count(dropped.context(), 2).await;
    drop(dropped);
    assert_eq!(counted(store).await, [1]);

    let mut late = unit(store, &start).await;
    count(late.context(), 3).await;
    let fenced = late
        .commit(Target::Advance(checkpoint(4)), Vec::new())
        .await
        .unwrap_err();
    assert!(matches!(fenced, CommitError::Fenced { projection } if projection == "mine"));
    assert_eq!(counted(store).await, [1]);
    assert_eq!(store.load_progress("mine").await.unwrap(), moved);

    unit(store, &moved)
        .await
        .commit(Target::Reset, Vec::new())
        .await
        .unwrap();
    let reset = store.load_progress("mine").await.unwrap();
    assert_eq!((reset.checkpoint, reset.epoch), (Checkpoint::START, 1));
    assert_eq!(store.list_progress().await.unwrap(), [reset]);
}

#[tokio::test]
async fn who_holds_the_write_lock_delays_others_until_their_deadline() {
    let fixture = sqlite().await;
    let other = fixture.elsewhere().await;
    let unit = unit(&fixture.store, &Progress::start("slow")).await;
    for store in [&fixture.store, &other] {
        let append = any(&stream("todo", "1"), [event("added")]);
        let error = within(store.append(append.with_deadline(Duration::from_millis(600))))
            .await
            .unwrap_err();
        assert!(error.is_transient(), "{error:?}");
    }
    assert_eq!(log(&other).await.len(), 0, "readers do not wait");
    let append = any(&stream("todo", "1"), [event("added")]);
    let waiting = tokio::spawn(async move { other.append(append).await });
    drop(unit);
    within(waiting).await.unwrap().unwrap();
}

#[tokio::test]
async fn the_writer_counts_appends_conflicts_and_waits() {
    let fixture = sqlite().await;
    let store = &fixture.store;
    let append = Append::to(
        stream("todo", "1"),
        ExpectedVersion::NoStream,
        [event("added")],
    );
    store.append(append.clone()).await.unwrap();
    let again = Append::to(
        stream("todo", "1"),
        ExpectedVersion::NoStream,
        [event("added")],
    );
    store.append(again).await.unwrap_err();
    let before = store.stats();
    assert_eq!((before.stored, before.conflicts.version), (1, 1));
    assert_eq!((before.batch_events.sum, before.batch_micros.count), (2, 2));
    // Somebody else writes for so long that the batch has to be tried again.
    let unit = unit(store, &Progress::start("slow")).await;
    let waiting = tokio::spawn({
        let store = store.clone();
        async move { store.append(append).await }
    });
    within(async {
        while store.stats().retries == 0 {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    })
    .await;
    drop(unit);
    within(waiting).await.unwrap().unwrap();
    let stats = store.stats();
    assert_eq!(stats.stored, 2, "sent before is stored");
    assert!(stats.lock_wait_micros.max > 100_000, "{stats:?}");
}

#[tokio::test]
async fn a_commit_elsewhere_is_noticed() {
    let fixture = sqlite().await;
    let other = fixture.elsewhere().await;
    for position in 1..=20 {
        let (here, there) = (fixture.store.clone(), other.clone());
        let before = Position::new(position - 1);
        let waiting = tokio::spawn(async move { here.changed(before).await });
        there
            .append(any(&stream("todo", "1"), [event("added")]))
            .await
            .unwrap();
        assert_eq!(
            within(waiting).await.unwrap().unwrap(),
            Position::new(position)
        );
    }
}

#[tokio::test]
async fn dropped_futures_leave_nothing_behind() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("log.db");
    // A connection that does not come back would be missed at once.
    let options = SqliteOptions::default()
        .with_readers(1)
        .with_deadline(Duration::from_secs(5));
    let store = SqliteStore::connect_with(path.to_str().unwrap(), options)
        .await
        .unwrap();
    let other = SqliteStore::connect(path.to_str().unwrap()).await.unwrap();
    let own = stream("todo", "1");
    store.append(any(&own, [event("added")])).await.unwrap();
    let query = EventQuery::new(EventFilter::all());
    for round in 0..60_u64 {
        let soon = Duration::from_micros(round * 37);
        let step = Step::new(
            store.load_progress("lists").await.unwrap(),
            Target::Advance(checkpoint(1)),
        );
        let write = DocumentWrite::Put {
            key: DocumentKey {
                collection: "lists".into(),
                key: round.to_string(),
            },
            body: payload(round.into()),
            indexed: vec![],
            owner: None,
        };
        let snapshot = snapshot();
        tokio::select! {
            biased;
            () = tokio::time::sleep(soon) => {}
            _ = async {
                futures::join!(
                    store.read(&query),
                    store.append(any(&own, [event("done")])),
                    store.commit_documents(vec![write], &step),
                    store.save_snapshot(snapshot),
                    async {
                        let mut unit = unit(&store, &Progress::start("mine")).await;
                        count(unit.context(), 1).await;
                    },
                    store.changed(Position::END),
                )
            } => {}
        }
        within(other.append(any(&own, [event("done")])))
            .await
            .unwrap();
        within(store.read(&query)).await.unwrap();
    }
    within(store.append(any(&own, [event("done")])))
        .await
        .unwrap();
    within(store.close()).await;
    within(other.close()).await;
}

fn snapshot() -> SnapshotRecord {
    SnapshotRecord {
        stream: stream("todo", "1"),
        version: StreamVersion::new(1),
        event_id: EventId::new(),
        shape: 1,
        state: payload(1.into()),
    }
}

/// Every call of a store that is not there any more.
async fn expect_closed(store: &SqliteStore) {
    let step = Step::new(Progress::start("lists"), Target::Reset);
    let append = any(&stream("todo", "1"), [event("added")]);
    let commit = store.commit_documents(vec![], &step);
    let outcomes: [Result<(), StoreError>; 8] = [
        within(store.append(append)).await.map(drop),
        within(store.read(&EventQuery::new(EventFilter::all())))
            .await
            .map(drop),
        within(store.streams(&StreamQuery::new())).await.map(drop),
        within(store.changed(Position::END)).await.map(drop),
        within(store.save_snapshot(snapshot())).await,
        within(store.load_progress("lists")).await.map(drop),
        within(store.list_progress()).await.map(drop),
        within(commit).await.map_err(|error| match error {
            CommitError::Store(error) => error,
            other => panic!("{other}"),
        }),
    ];
    for outcome in outcomes {
        assert!(outcome.unwrap_err().is_closed());
    }
    let unit = within(Host::<SqliteConnection>::begin(
        store,
        Progress::start("mine"),
    ))
    .await;
    assert!(unit.err().unwrap().is_closed());
}

#[tokio::test]
async fn a_closed_store_answers_closed() {
    let fixture = sqlite().await;
    let waiting = fixture.store();
    let waiting = tokio::spawn(async move { waiting.changed(Position::END).await });
    tokio::task::yield_now().await;
    within(fixture.store.close()).await;
    assert!(within(waiting).await.unwrap().unwrap_err().is_closed());
    expect_closed(&fixture.store).await;
    within(fixture.store.close()).await;
}

#[test]
fn a_store_whose_runtime_ended_answers_closed() {
    let runtime = || {
        tokio::runtime::Builder::new_multi_thread()
            .enable_all()
            .build()
            .unwrap()
    };
    let first = runtime();
    let fixture = first.block_on(async {
        let fixture = sqlite().await;
        let append = any(&stream("todo", "1"), [event("added")]);
        fixture.store.append(append).await.unwrap();
        log(&fixture.store).await;
        fixture
    });
    drop(first);
    runtime().block_on(expect_closed(&fixture.store));
}
