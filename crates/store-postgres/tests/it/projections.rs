//! Projections in SQL: read model and checkpoint in one transaction.

use std::time::Duration;

use backstory_event::{Checkpoint, EventId, Position};
use backstory_projection::{Checkpoints, CommitError, Host, Progress, Target, Unit};
use backstory_store_postgres::{PostgresOptions, PostgresStore};
use backstory_test_postgres::TestDatabase;
use sqlx::{Connection, PgConnection};

use crate::kit::{raw, run, scalar, within};

async fn prepared() -> (TestDatabase, PostgresStore, PgConnection) {
    let database = TestDatabase::create().await;
    let options =
        PostgresOptions::default().with_projection_idle_timeout(Duration::from_millis(500));
    let store = PostgresStore::connect_with(database.url(), options)
        .await
        .unwrap();
    let mut connection = raw(database.url()).await;
    run(
        &mut connection,
        "CREATE TABLE counter (n bigint); INSERT INTO counter VALUES (0)",
    )
    .await;
    (database, store, connection)
}

fn to(position: i64) -> Target {
    Target::Advance(Checkpoint {
        position: Position::new(position),
        event_id: EventId::new(),
    })
}

async fn begin(store: &PostgresStore, from: &Progress) -> Box<dyn Unit<PgConnection>> {
    Host::<PgConnection>::begin(store, from.clone())
        .await
        .unwrap()
}

const COUNT: &str = "UPDATE counter SET n = n + 1";
const COUNTED: &str = "SELECT n FROM counter";

#[tokio::test]
async fn read_model_and_checkpoint_commit_together() {
    let (_database, store, mut connection) = prepared().await;
    let start = store.load_progress("counter").await.unwrap();
    assert_eq!(start, Progress::start("counter"));

    let mut dropped = begin(&store, &start).await;
    run(dropped.context(), COUNT).await;
    drop(dropped);
    let mut unit = begin(&store, &start).await;
    run(unit.context(), COUNT).await;
    assert_eq!(scalar::<i64>(&mut connection, COUNTED).await, 0);
    unit.commit(to(5), Vec::new()).await.unwrap();
    assert_eq!(scalar::<i64>(&mut connection, COUNTED).await, 1);
    let progress = store.load_progress("counter").await.unwrap();
    assert_eq!(progress.checkpoint.position.get(), 5);

    // Whoever began before is fenced, from a first step as from a later one.
    for stale in [
        start,
        Progress {
            epoch: 7,
            ..progress.clone()
        },
    ] {
        let mut unit = begin(&store, &stale).await;
        run(unit.context(), COUNT).await;
        let error = unit.commit(to(9), Vec::new()).await.unwrap_err();
        assert!(matches!(error, CommitError::Fenced { .. }), "{error:?}");
    }
    assert_eq!(scalar::<i64>(&mut connection, COUNTED).await, 1);
    begin(&store, &progress)
        .await
        .commit(Target::Reset, Vec::new())
        .await
        .unwrap();
    let progress = store.load_progress("counter").await.unwrap();
    assert_eq!(
        (progress.checkpoint, progress.epoch),
        (Checkpoint::START, 1)
    );
    assert_eq!(store.list_progress().await.unwrap(), [progress]);
}

#[tokio::test]
async fn a_transaction_of_the_projection_is_a_savepoint() {
    let (_database, store, mut connection) = prepared().await;
    let start = Progress::start("counter");
    let mut unit = begin(&store, &start).await;
    let mut inner = unit.context().begin().await.unwrap();
    run(&mut inner, COUNT).await;
    inner.commit().await.unwrap();
    let mut inner = unit.context().begin().await.unwrap();
    run(&mut inner, COUNT).await;
    inner.rollback().await.unwrap();
    assert_eq!(scalar::<i64>(&mut connection, COUNTED).await, 0);
    unit.commit(to(1), Vec::new()).await.unwrap();
    assert_eq!(scalar::<i64>(&mut connection, COUNTED).await, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_locks_of_a_frozen_projection_are_freed() {
    let (_database, store, mut connection) = prepared().await;
    let start = Progress::start("counter");
    let mut frozen = begin(&store, &start).await;
    run(frozen.context(), COUNT).await;
    // The successor waits for the row until the server ends the frozen one.
    let mut successor = begin(&store, &start).await;
    within(async { run(successor.context(), COUNT).await }).await;
    successor.commit(to(1), Vec::new()).await.unwrap();
    frozen.commit(to(1), Vec::new()).await.unwrap_err();
    assert_eq!(scalar::<i64>(&mut connection, COUNTED).await, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dropped_projection_stops_its_statement() {
    let (_database, store, mut connection) = prepared().await;
    let slow = tokio::spawn({
        let store = store.clone();
        async move {
            let mut unit = begin(&store, &Progress::start("counter")).await;
            run(unit.context(), "SELECT pg_sleep(600)").await;
        }
    });
    const SLEEPERS: &str = "SELECT count(*) FROM pg_stat_activity \
        WHERE datname = current_database() AND state = 'active' AND query LIKE 'SELECT pg_sleep%'";
    crate::kit::until_count(&mut connection, SLEEPERS, 1).await;
    slow.abort();
    crate::kit::until_count(&mut connection, SLEEPERS, 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_one_of_two_owners_commits_a_batch() {
    let (_database, store, mut connection) = prepared().await;
    let mut progress = Progress::start("counter");
    for round in 1..=20 {
        let owners: Vec<_> = (0..4)
            .map(|_| {
                let (store, from) = (store.clone(), progress.clone());
                tokio::spawn(async move {
                    let mut unit = begin(&store, &from).await;
                    run(unit.context(), COUNT).await;
                    unit.commit(to(round), Vec::new()).await
                })
            })
            .collect();
        let mut won = 0;
        for owner in owners {
            match within(owner).await.unwrap() {
                Ok(()) => won += 1,
                Err(CommitError::Fenced { .. }) => {}
                Err(error) => panic!("{error:?}"),
            }
        }
        assert_eq!(won, 1);
        progress = store.load_progress("counter").await.unwrap();
        assert_eq!(scalar::<i64>(&mut connection, COUNTED).await, round);
    }
}
