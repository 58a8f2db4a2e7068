//! Snapshots: the newest ten of each stream.

use async_trait::async_trait;
use backstory_aggregate::{SnapshotRecord, SnapshotStore};
use backstory_event::{EventId, Payload, StoreError, StreamId, StreamVersion};
use sqlx::{Row, SqliteConnection};

use crate::{SqliteStore, error::Failure};

#[async_trait]
impl SnapshotStore for SqliteStore {
    async fn save_snapshot(&self, snapshot: SnapshotRecord) -> Result<(), StoreError> {
        let mut transaction = self.begin().await?;
        let saved = save(&mut transaction, &snapshot).await;
        saved.map_err(|error| self.failed(error))?;
        self.commit(transaction).await
    }

    async fn latest_snapshot(
        &self,
        stream: &StreamId,
        up_to: Option<StreamVersion>,
    ) -> Result<Option<SnapshotRecord>, StoreError> {
        let mut reader = self.reader().await?;
        let found = latest(&mut reader, stream, up_to).await;
        found.map_err(|failure| self.failed(failure))
    }

    async fn delete_snapshots(&self, stream: &StreamId) -> Result<(), StoreError> {
        let mut transaction = self.begin().await?;
        let deleted =
            sqlx::query("DELETE FROM backstory_snapshot WHERE category = ?1 AND key = ?2")
                .bind(stream.category())
                .bind(stream.key())
                .execute(&mut *transaction)
                .await;
        deleted.map_err(|error| self.failed(error))?;
        self.commit(transaction).await
    }
}

async fn save(
    connection: &mut SqliteConnection,
    snapshot: &SnapshotRecord,
) -> Result<(), sqlx::Error> {
    // An erasure may have been faster; then nothing of the stream may come back.
    sqlx::query(
        "INSERT OR REPLACE INTO backstory_snapshot (category, key, version, event_id, shape, state)
         SELECT ?1, ?2, ?3, ?4, ?5, ?6 WHERE NOT EXISTS (
             SELECT 1 FROM backstory_event
             WHERE category = ?1 AND key = ?2 AND version = ?3 AND erased_at IS NOT NULL
         )",
    )
    .bind(snapshot.stream.category())
    .bind(snapshot.stream.key())
    .bind(snapshot.version.get())
    .bind(snapshot.event_id.as_uuid())
    .bind(snapshot.shape)
    .bind(snapshot.state.as_str())
    .execute(&mut *connection)
    .await?;
    sqlx::query(
        "DELETE FROM backstory_snapshot WHERE category = ?1 AND key = ?2 AND version <= (
             SELECT version FROM backstory_snapshot WHERE category = ?1 AND key = ?2
             ORDER BY version DESC LIMIT 1 OFFSET 10
         )",
    )
    .bind(snapshot.stream.category())
    .bind(snapshot.stream.key())
    .execute(connection)
    .await?;
    Ok(())
}

async fn latest(
    connection: &mut SqliteConnection,
    stream: &StreamId,
    up_to: Option<StreamVersion>,
) -> Result<Option<SnapshotRecord>, Failure> {
    let row = sqlx::query(
        "SELECT version, event_id, shape, state FROM backstory_snapshot
         WHERE category = ?1 AND key = ?2 AND version <= ?3 ORDER BY version DESC LIMIT 1",
    )
    .bind(stream.category())
    .bind(stream.key())
    .bind(up_to.map_or(i64::MAX, StreamVersion::get))
    .fetch_optional(connection)
    .await?;
    let Some(row) = row else { return Ok(None) };
    Ok(Some(SnapshotRecord {
        stream: stream.clone(),
        version: StreamVersion::new(row.try_get(0)?),
        event_id: EventId::from_uuid(row.try_get(1)?),
        shape: row.try_get(2)?,
        state: Payload::stored(row.try_get::<&str, _>(3)?),
    }))
}
