//! Events that a projection in SQL fails on.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use backstory_event::{
    Append, Envelope, Event, EventStore, ExpectedVersion, Lifecycle, NewEvent, StreamId,
};
use backstory_projection::{
    self as projection, DeadLetters, LetterQuery, Letters, OnFailure, Projection, Projector,
    RunningProjector, Schedule,
};
use backstory_store_postgres::PostgresStore;
use serde::{Deserialize, Serialize};
use sqlx::PgConnection;

use crate::kit::{fresh, raw, run, scalar, stream, within};

#[derive(Debug, Serialize, Deserialize, Event)]
#[event(prefix = "number", crate = "backstory_event")]
enum NumberEvent {
    Drawn { number: i64 },
}

/// Writes each number into a table that does not take all.
#[derive(Clone)]
struct Numbers {
    policy: OnFailure,
    /// How often its connection is lost from now on.
    losses: Arc<AtomicU32>,
}

const NUMBERS: &str = "numbers";
// 37 is refused by its statement, 60 by the COMMIT.
const TABLE: &str = "CREATE TABLE number (n bigint CHECK (n <> 37), \
      m bigint UNIQUE DEFERRABLE INITIALLY DEFERRED); \
    INSERT INTO number VALUES (0, 60)";
const STORED: &str = "SELECT string_agg(n::text, ' ' ORDER BY n) FROM number";

#[async_trait]
impl Projection<PgConnection> for Numbers {
    type Event = NumberEvent;
    const NAME: &'static str = NUMBERS;

    fn on_failure(&self) -> OnFailure {
        let pause = Duration::from_millis(1);
        self.policy.backoff(pause, pause)
    }

    async fn project(
        &self,
        batch: &[Envelope<NumberEvent>],
        connection: &mut PgConnection,
    ) -> projection::Result {
        for e in batch {
            let NumberEvent::Drawn { number } = e.event;
            sqlx::query("INSERT INTO number VALUES ($1, $1)")
                .bind(number)
                .execute(&mut *connection)
                .await?;
        }
        let lose = |left: u32| left.checked_sub(1);
        let (set, fetch) = (Ordering::SeqCst, Ordering::SeqCst);
        if self.losses.fetch_update(set, fetch, lose).is_ok() {
            sqlx::query("SELECT pg_terminate_backend(pg_backend_pid())")
                .execute(connection)
                .await?;
        }
        Ok(())
    }
}

async fn draw(store: &PostgresStore, own: StreamId, numbers: impl IntoIterator<Item = i64>) {
    let drawn = numbers
        .into_iter()
        .map(|number| NumberEvent::Drawn { number });
    let drawn = drawn.map(|event| NewEvent::of(&event).unwrap());
    let append = Append::to(own, ExpectedVersion::Any, drawn);
    within(store.append(append)).await.unwrap();
}

async fn start(store: &PostgresStore, policy: OnFailure, losses: u32) -> RunningProjector {
    let losses = Arc::new(AtomicU32::new(losses));
    let numbers = Numbers { policy, losses };
    let projector = Projector::new(store).with(numbers, Schedule::continuous());
    within(projector.start()).await.unwrap()
}

/// Waits until it has passed everything. Whoever waits for it learns that it fails meanwhile.
async fn passed(projector: &RunningProjector) {
    let passed = async {
        while let Err(error) = projector.catch_up().await {
            assert!(error.is_failing(), "{error}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    within(passed).await;
}

fn text(numbers: impl IntoIterator<Item = i64>) -> String {
    let numbers: Vec<_> = numbers
        .into_iter()
        .map(|number| number.to_string())
        .collect();
    numbers.join(" ")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_table_refuses_is_left_out_and_the_rest_is_stored() {
    let (database, store) = fresh().await;
    let mut admin = raw(database.url()).await;
    run(&mut admin, TABLE).await;
    draw(&store, stream("draw", "a"), 1..=100).await;
    let projector = start(&store, OnFailure::skip().after(2), 0).await;
    passed(&projector).await;
    let stored: String = scalar(&mut admin, STORED).await;
    let taken = (0..=100).filter(|n| ![37, 60].contains(n));
    assert_eq!(stored, text(taken.clone()));
    let letters = store.list_letters(&LetterQuery::of(NUMBERS)).await.unwrap();
    let said: Vec<_> = letters
        .iter()
        .map(|letter| (letter.position.get(), letter.attempts, &*letter.reason))
        .collect();
    assert!(
        matches!(&said[..], [(37, 2, first), (60, 2, second)]
            if first.contains("number_n_check") && second.contains("23505")),
        "{said:?}"
    );
    // As psql sees it.
    let rows = "SELECT string_agg(projection || ' ' || position || ' ' || name || ' ' || key, ',' ORDER BY position) \
        FROM backstory.dead_letter";
    assert_eq!(
        scalar::<String>(&mut admin, rows).await,
        "numbers 37 number.drawn draw/a,numbers 60 number.drawn draw/a"
    );
    // The cause is mended: the letters go with what is made of their events.
    run(
        &mut admin,
        "ALTER TABLE number DROP CONSTRAINT number_n_check",
    )
    .await;
    let report = within(projector.replay(NUMBERS, Letters::All))
        .await
        .unwrap();
    assert_eq!((report.replayed, report.failed), (1, 1));
    run(&mut admin, "DELETE FROM number WHERE n = 0").await;
    let report = within(projector.replay(NUMBERS, Letters::All))
        .await
        .unwrap();
    assert_eq!((report.replayed, report.failed), (1, 0));
    assert_eq!(scalar::<String>(&mut admin, STORED).await, text(1..=100));
    assert!(store.verify().await.unwrap().is_sound());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_connection_is_no_failure_of_an_event() {
    let (database, store) = fresh().await;
    let mut admin = raw(database.url()).await;
    run(&mut admin, TABLE).await;
    draw(&store, stream("draw", "a"), 1..=3).await;
    let projector = start(&store, OnFailure::skip().after(1), 3).await;
    passed(&projector).await;
    assert_eq!(scalar::<String>(&mut admin, STORED).await, text(0..=3));
    assert_eq!(projector.status()[0].dead_letters, Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_erasure_does_not_race_with_a_letter() {
    let (database, store) = fresh().await;
    let mut admin = raw(database.url()).await;
    run(&mut admin, TABLE).await;
    let projector = start(&store, OnFailure::park().after(1), 0).await;
    for round in 0..30 {
        let own = stream("draw", round);
        draw(&store, own.clone(), [37, 1]).await;
        let erase = Append::to(own, ExpectedVersion::Any, [Lifecycle::Erased.event()]);
        within(store.append(erase)).await.unwrap();
    }
    within(projector.catch_up()).await.unwrap();
    assert!(store.verify().await.unwrap().is_sound());
    let letters = "SELECT count(*) FROM backstory.dead_letter";
    assert_eq!(scalar::<i64>(&mut admin, letters).await, 0);
}
