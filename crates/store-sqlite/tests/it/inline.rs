//! Projections inside appends that write their own tables.

use std::time::Duration;

use async_trait::async_trait;
use backstory_conformance::{
    Fixture,
    kit::{any, event, log, stream, within},
};
use backstory_event::{
    Append, Appended, Envelope, Event, EventStore, ExpectedVersion, NewEvent, StoreError,
    StoreErrorKind,
};
use backstory_projection::{self as projection, Checkpoints, Projection, Projector, Schedule};
use backstory_store_sqlite::{SqliteConnection, SqliteStore};
use serde::{Deserialize, Serialize};
use sqlx::Connection;

use crate::{Sqlite, sqlite};

#[derive(Debug, Serialize, Deserialize, Event)]
#[event(prefix = "note", crate = "backstory_event")]
enum Note {
    Taken { text: String },
}

/// Keeps the notes in a table, and does what they say.
struct Notes;

#[async_trait]
impl Projection<SqliteConnection> for Notes {
    type Event = Note;
    const NAME: &'static str = "notes";

    async fn project(
        &self,
        batch: &[Envelope<Note>],
        connection: &mut SqliteConnection,
    ) -> projection::Result {
        for e in batch {
            let Note::Taken { text } = &e.event;
            sqlx::query("INSERT INTO note VALUES (?1, ?2)")
                .bind(e.position().get())
                .bind(text)
                .execute(&mut *connection)
                .await?;
            match &**text {
                "fail" => return Err("it is full".into()),
                "hang" => futures::future::pending().await,
                "inner" => {
                    let mut inner = connection.begin().await?;
                    let lost = sqlx::query("INSERT INTO note VALUES (0, 'lost')");
                    lost.execute(&mut *inner).await?;
                    inner.rollback().await?;
                }
                _ => {}
            }
        }
        Ok(())
    }
}

async fn admin(sqlite: &Sqlite) -> SqliteConnection {
    let path = sqlite.path();
    SqliteConnection::connect(path.to_str().unwrap())
        .await
        .unwrap()
}

async fn notes(admin: &mut SqliteConnection) -> Vec<(i64, String)> {
    sqlx::query_as("SELECT position, text FROM note ORDER BY position")
        .fetch_all(admin)
        .await
        .unwrap()
}

async fn take(store: &SqliteStore, text: &str) -> Result<Appended, StoreError> {
    let text = text.to_owned();
    let taken = NewEvent::of(&Note::Taken { text }).unwrap();
    let append = Append::to(stream("note", "a"), ExpectedVersion::Any, [taken]);
    within(store.append(append)).await
}

#[track_caller]
fn reason(outcome: Result<Appended, StoreError>) -> String {
    match outcome.map_err(StoreError::into_kind) {
        Err(StoreErrorKind::ProjectionFailed { reason, .. }) => reason,
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_commit_with_their_append_or_not_at_all() {
    let sqlite = sqlite().await;
    let store = sqlite.store();
    let mut admin = admin(&sqlite).await;
    let table = "CREATE TABLE note (position INTEGER PRIMARY KEY, text TEXT NOT NULL)";
    sqlx::raw_sql(table).execute(&mut admin).await.unwrap();
    let schedule = Schedule::inline().limit(Duration::from_millis(200));
    let projector = Projector::new(&store).with(Notes, schedule);
    let projector = within(projector.start()).await.unwrap();

    let receipt = take(&store, "one").await.unwrap();
    let progress = store.load_progress("notes").await.unwrap();
    assert_eq!(progress.checkpoint, receipt.checkpoint);
    take(&store, "inner").await.unwrap();
    assert!(reason(take(&store, "fail").await).contains("it is full"));
    let (hangs, other, fine) = tokio::join!(
        take(&store, "hang"),
        store.append(any(&stream("other", "a"), [event("other.thing")])),
        take(&store, "two"),
    );
    assert!(reason(hangs).contains("longer than 200ms"));
    other.unwrap();
    fine.unwrap();

    // Another process that does not run it.
    let elsewhere = sqlite.elsewhere().await;
    take(&elsewhere, "fail").await.unwrap();
    assert!(reason(take(&store, "three").await).contains("it is full"));
    let kept: Vec<_> = notes(&mut admin)
        .await
        .into_iter()
        .map(|(_, text)| text)
        .collect();
    assert_eq!(kept, ["one", "inner", "two"]);
    assert_eq!(log(&store).await.len(), 5);
    within(projector.shutdown()).await.unwrap();
    elsewhere.close().await;
}
