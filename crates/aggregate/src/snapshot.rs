//! Where states are kept so that long histories need not be read again.

use std::{fmt::Debug, sync::Arc};

use async_trait::async_trait;
use backstory_event::{EventId, Payload, StoreError, StreamId, StreamVersion};

/// A state as it was after some event, with the proof that the event is still there.
#[derive(Debug, Clone, PartialEq)]
pub struct SnapshotRecord {
    /// The stream.
    pub stream: StreamId,
    /// The number of the last event that the state contains.
    pub version: StreamVersion,
    /// The id of that event: when the stream holds another one there, the snapshot is worthless.
    pub event_id: EventId,
    /// The shape of the state, raised by the user when it changes.
    pub shape: u32,
    /// The state.
    pub state: Payload,
}

/// Keeps snapshots. They are a cache: losing them costs time only.
#[async_trait]
pub trait SnapshotStore: Debug + Send + Sync + 'static {
    /// Keeps a snapshot. Stores keep at least the newest ten of a stream; one of the same version
    /// replaces the older one. A snapshot of a stream that was erased is dropped silently.
    ///
    /// # Errors
    /// When the store is away.
    async fn save_snapshot(&self, snapshot: SnapshotRecord) -> Result<(), StoreError>;

    /// The newest snapshot of a stream, at most of version `up_to`.
    ///
    /// # Errors
    /// When the store is away.
    async fn latest_snapshot(
        &self,
        stream: &StreamId,
        up_to: Option<StreamVersion>,
    ) -> Result<Option<SnapshotRecord>, StoreError>;

    /// Forgets all snapshots of a stream.
    ///
    /// # Errors
    /// When the store is away.
    async fn delete_snapshots(&self, stream: &StreamId) -> Result<(), StoreError>;
}

#[async_trait]
impl<T: SnapshotStore + ?Sized> SnapshotStore for Arc<T> {
    async fn save_snapshot(&self, snapshot: SnapshotRecord) -> Result<(), StoreError> {
        (**self).save_snapshot(snapshot).await
    }

    async fn latest_snapshot(
        &self,
        stream: &StreamId,
        up_to: Option<StreamVersion>,
    ) -> Result<Option<SnapshotRecord>, StoreError> {
        (**self).latest_snapshot(stream, up_to).await
    }

    async fn delete_snapshots(&self, stream: &StreamId) -> Result<(), StoreError> {
        (**self).delete_snapshots(stream).await
    }
}
