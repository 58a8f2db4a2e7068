//! Snapshots of aggregates.

use async_trait::async_trait;
use backstory_aggregate::{SnapshotRecord, SnapshotStore};
use backstory_event::{EventId, Payload, StoreError, StreamId, StreamVersion};
use sqlx::{Error, Row};
use uuid::Uuid;

use crate::{
    PostgresStore,
    error::store_error,
    pool::{Lease, retry},
};

impl PostgresStore {
    async fn snapshot(
        &self,
        stream: &StreamId,
        up_to: Option<StreamVersion>,
    ) -> Result<Option<SnapshotRecord>, Error> {
        let mut lease = Lease::of(self.pool()).await?;
        let row = sqlx::query(self.sql().latest_snapshot.text())
            .bind(stream.category())
            .bind(stream.key())
            .bind(up_to.map_or(i64::MAX, StreamVersion::get))
            .fetch_optional(&mut *lease)
            .await;
        let Some(row) = lease.done_with(row).await? else {
            return Ok(None);
        };
        let event_id: Uuid = row.try_get(1)?;
        let shape: i64 = row.try_get(2)?;
        let state: &str = row.try_get(3)?;
        Ok(Some(SnapshotRecord {
            stream: stream.clone(),
            version: StreamVersion::new(row.try_get(0)?),
            event_id: EventId::from_uuid(event_id),
            shape: u32::try_from(shape).map_err(|error| Error::Decode(error.into()))?,
            state: Payload::stored(state),
        }))
    }
}

#[async_trait]
impl SnapshotStore for PostgresStore {
    async fn save_snapshot(&self, snapshot: SnapshotRecord) -> Result<(), StoreError> {
        self.check_open()?;
        let save = async {
            let mut lease = Lease::of(self.pool()).await?;
            let saved = sqlx::query(self.sql().save_snapshot.text())
                .bind(snapshot.stream.category())
                .bind(snapshot.stream.key())
                .bind(snapshot.version.get())
                .bind(snapshot.event_id.as_uuid())
                .bind(i64::from(snapshot.shape))
                .bind(snapshot.state.as_str())
                .execute(&mut *lease)
                .await;
            lease.done_with(saved).await
        };
        save.await.map(drop).map_err(store_error)
    }

    async fn latest_snapshot(
        &self,
        stream: &StreamId,
        up_to: Option<StreamVersion>,
    ) -> Result<Option<SnapshotRecord>, StoreError> {
        self.check_open()?;
        retry(self.pool(), || Box::pin(self.snapshot(stream, up_to)))
            .await
            .map_err(store_error)
    }

    async fn delete_snapshots(&self, stream: &StreamId) -> Result<(), StoreError> {
        self.check_open()?;
        let delete = async {
            let mut lease = Lease::of(self.pool()).await?;
            let deleted = sqlx::query(self.sql().delete_snapshots.text())
                .bind(stream.category())
                .bind(stream.key())
                .execute(&mut *lease)
                .await;
            lease.done_with(deleted).await
        };
        delete.await.map(drop).map_err(store_error)
    }
}
