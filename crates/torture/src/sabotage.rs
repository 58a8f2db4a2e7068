//! Writers that go past the lock of the log: positions come from a sequence, in another order
//! than that of the commits. A live reader then skips events, and the run has to find it.

use std::time::Duration;

use backstory_event::{Append, ExpectedVersion, NewEvent, Payload, Position, StreamId};
use sqlx::{Connection, Error, PgConnection};
use tokio::time::sleep;
use uuid::Uuid;

use crate::{Result, journal::Outcome, now, writer::Writer};

/// What these writers need.
pub(crate) async fn prepare(connection: &mut PgConnection) -> Result {
    sqlx::raw_sql("CREATE SEQUENCE torture.position")
        .execute(connection)
        .await?;
    Ok(())
}

/// One append of one event by plain SQL.
pub(crate) async fn insert(writer: &mut Writer) -> Result {
    let stream = StreamId::new("own", Uuid::now_v7())?;
    let event = NewEvent::raw("torture.added", Payload::empty());
    let append = Append::to(stream, ExpectedVersion::NoStream, [event]);
    let id = Uuid::now_v7();
    let Ok(mut connection) = writer.shared.pool.acquire().await else {
        return Ok(());
    };
    writer.journal.intent(id, "sabotage", &append).await?;
    let started = now();
    let outcome = match write(&mut connection, &append).await {
        Ok(position) => Outcome::Stored(Position::new(position)),
        Err(_) => Outcome::Unknown,
    };
    writer.journal.outcome(id, started, outcome).await
}

async fn write(connection: &mut PgConnection, append: &Append) -> Result<i64, Error> {
    let mut transaction = connection.begin().await?;
    let mut position: i64 = 0;
    for part in &append.parts {
        for event in &part.events {
            position = sqlx::query_scalar(
                "INSERT INTO backstory.event (position, category, key, version, id, name, \
                   schema_version, payload, metadata, tags, recorded_at) \
                 VALUES (nextval('torture.position'), $1, $2, 1, $3, $4, 1, '{}', '{}', '{}', \
                   clock_timestamp()) RETURNING position",
            )
            .bind(part.stream.category())
            .bind(part.stream.key())
            .bind(event.id.as_uuid())
            .bind(&event.name)
            .fetch_one(&mut *transaction)
            .await?;
        }
    }
    // What an application does in its transaction takes a moment.
    sleep(Duration::from_millis(fastrand::u64(..10))).await;
    transaction.commit().await?;
    Ok(position)
}
