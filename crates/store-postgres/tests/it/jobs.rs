//! Jobs in SQL: what they write and their checkpoint are one transaction.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use backstory_event::{
    Append, EventFilter, EventStore as _, ExpectedVersion, NewEvent, Payload, StreamId,
};
use backstory_projection::{
    Job, JobRun, OnFailure, Projector, ProjectorErrorKind, RunningProjector, Schedule,
};
use backstory_store_postgres::PostgresStore;
use backstory_test_postgres::TestDatabase;
use sqlx::PgConnection;

use crate::kit::{raw, run, scalar, within};

async fn prepared(events: usize) -> (TestDatabase, PostgresStore, PgConnection) {
    let database = TestDatabase::create().await;
    let store = PostgresStore::connect(database.url()).await.unwrap();
    let mut connection = raw(database.url()).await;
    run(
        &mut connection,
        "CREATE TABLE counter (n bigint); INSERT INTO counter VALUES (0)",
    )
    .await;
    let made = (0..events).map(|_| NewEvent::raw("thing.made", Payload::empty()));
    let stream = StreamId::new("thing", "a").unwrap();
    let append = Append::to(stream, ExpectedVersion::Any, made);
    within(store.append(append)).await.unwrap();
    (database, store, connection)
}

/// Counts events; the first so many runs fail after they have counted.
fn counting(failing: usize) -> Job<PgConnection> {
    let failing = Arc::new(AtomicUsize::new(failing));
    let all = EventFilter::all();
    let job = Job::with_context("count", all, move |mut job: JobRun<PgConnection>| {
        let failing = Arc::clone(&failing);
        async move {
            let events = job.events().len() as i64;
            sqlx::query("UPDATE counter SET n = n + $1")
                .bind(events)
                .execute(job.context())
                .await?;
            job.before_commit("fail", move |mut job| async move {
                sqlx::query("UPDATE counter SET n = n + 1000")
                    .execute(job.context())
                    .await?;
                let fails = |left: usize| left.checked_sub(1);
                match failing.fetch_update(Ordering::SeqCst, Ordering::SeqCst, fails) {
                    Ok(_) => Err("not yet".into()),
                    Err(_) => Ok(()),
                }
            });
            Ok(())
        }
    });
    job.on_failure(OnFailure::stop())
}

async fn start(store: &PostgresStore, job: Job<PgConnection>) -> RunningProjector {
    let once = Schedule::once().max_batch(1);
    let projector = Projector::new(store).with_job(job, once);
    within(projector.start()).await.unwrap()
}

const COUNTED: &str = "SELECT n FROM counter";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_job_writes_commits_with_its_checkpoint() {
    let (_database, store, mut connection) = prepared(3).await;
    let projector = start(&store, counting(2)).await;
    within(async {
        while let Err(error) = projector.finished().await {
            assert!(error.is_failing(), "{error}");
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert_eq!(scalar::<i64>(&mut connection, COUNTED).await, 3_003);
    within(projector.shutdown()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_in_sql_says_how_it_is_reset() {
    let (_database, store, mut connection) = prepared(2).await;
    let projector = start(&store, counting(0)).await;
    within(projector.finished()).await.unwrap();
    let error = within(projector.reset("count")).await.unwrap_err();
    let ProjectorErrorKind::NotReset { reason, .. } = error.kind() else {
        panic!("{error}");
    };
    assert!(reason.contains("Job::on_reset"), "{reason}");
    within(projector.shutdown()).await.unwrap();
    let job = counting(0).on_reset(|mut job| async move {
        sqlx::query("UPDATE counter SET n = 0")
            .execute(job.context())
            .await?;
        Ok(())
    });
    let projector = start(&store, job).await;
    within(projector.finished()).await.unwrap();
    assert_eq!(scalar::<i64>(&mut connection, COUNTED).await, 2_002);
    within(projector.reset("count")).await.unwrap();
    within(projector.finished()).await.unwrap();
    assert_eq!(scalar::<i64>(&mut connection, COUNTED).await, 2_002);
}
