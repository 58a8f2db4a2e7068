//! Events that a projection in SQL fails on.

use std::time::Duration;

use async_trait::async_trait;
use backstory_conformance::kit::{any, stream, within};
use backstory_event::{Envelope, Event, EventStore, NewEvent};
use backstory_projection::{
    self as projection, DeadLetters, LetterQuery, Letters, OnFailure, Projection, Projector,
    Schedule,
};
use backstory_store_sqlite::SqliteConnection;
use serde::{Deserialize, Serialize};

use crate::sqlite;

#[derive(Debug, Serialize, Deserialize, Event)]
#[event(prefix = "number", crate = "backstory_event")]
enum NumberEvent {
    Drawn { number: i64 },
}

/// Writes each number into a table that does not take all.
struct Numbers;

const NUMBERS: &str = "numbers";

#[async_trait]
impl Projection<SqliteConnection> for Numbers {
    type Event = NumberEvent;
    const NAME: &'static str = NUMBERS;

    fn on_failure(&self) -> OnFailure {
        let pause = Duration::from_millis(1);
        OnFailure::skip().after(2).backoff(pause, pause)
    }

    async fn project(
        &self,
        batch: &[Envelope<NumberEvent>],
        connection: &mut SqliteConnection,
    ) -> projection::Result {
        for e in batch {
            let NumberEvent::Drawn { number } = e.event;
            sqlx::query("INSERT INTO number VALUES (?1)")
                .bind(number)
                .execute(&mut *connection)
                .await?;
        }
        Ok(())
    }
}

#[tokio::test]
async fn what_the_table_refuses_is_left_out_and_the_rest_is_stored() {
    let fixture = sqlite().await;
    let store = &fixture.store;
    let mut file = sqlx::ConnectOptions::connect(
        &sqlx::sqlite::SqliteConnectOptions::new().filename(fixture.path()),
    )
    .await
    .unwrap();
    let table = "CREATE TABLE number (n INTEGER CHECK (n <> 37))";
    sqlx::raw_sql(table).execute(&mut file).await.unwrap();
    let drawn = (1..=100).map(|number| NewEvent::of(&NumberEvent::Drawn { number }).unwrap());
    let append = any(&stream("draw", "a"), drawn);
    within(store.append(append)).await.unwrap();

    let projector = Projector::new(store).with(Numbers, Schedule::continuous());
    let projector = within(projector.start()).await.unwrap();
    let passed = async {
        // Whoever waits learns that it fails meanwhile.
        while let Err(error) = projector.catch_up().await {
            assert!(error.is_failing(), "{error}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    within(passed).await;
    let stored = "SELECT n FROM number ORDER BY n";
    let numbers: Vec<i64> = sqlx::query_scalar(stored)
        .fetch_all(&mut file)
        .await
        .unwrap();
    let taken: Vec<_> = (1..=100).filter(|number| *number != 37).collect();
    assert_eq!(numbers, taken);
    let letters = store.list_letters(&LetterQuery::of(NUMBERS)).await.unwrap();
    let [letter] = &letters[..] else {
        panic!("{letters:?}");
    };
    assert_eq!((letter.position.get(), letter.attempts), (37, 2));
    assert!(letter.reason.contains("CHECK"), "{}", letter.reason);
    // The cause is mended.
    let mend = "CREATE TABLE other (n INTEGER); INSERT INTO other SELECT n FROM number; \
        DROP TABLE number; ALTER TABLE other RENAME TO number";
    sqlx::raw_sql(mend).execute(&mut file).await.unwrap();
    let report = within(projector.replay(NUMBERS, Letters::All))
        .await
        .unwrap();
    assert_eq!((report.replayed, report.failed), (1, 0));
    let numbers: Vec<i64> = sqlx::query_scalar(stored)
        .fetch_all(&mut file)
        .await
        .unwrap();
    assert_eq!(numbers, (1..=100).collect::<Vec<_>>());
    assert!(
        store
            .list_letters(&LetterQuery::of(NUMBERS))
            .await
            .unwrap()
            .is_empty()
    );
}
