//! Snapshots: a cache, independent per stream.

use std::collections::BTreeMap;

use async_trait::async_trait;
use backstory_aggregate::{SnapshotRecord, SnapshotStore};
use backstory_event::{StoreError, StreamId, StreamVersion};
use dashmap::DashMap;

use crate::MemoryStore;

const KEPT: usize = 10;

#[derive(Debug, Default)]
pub(crate) struct Snapshots {
    records: DashMap<StreamId, BTreeMap<StreamVersion, SnapshotRecord>>,
}

impl Snapshots {
    pub(crate) fn erase(&self, stream: &StreamId) {
        self.records.remove(stream);
    }
}

#[async_trait]
impl SnapshotStore for MemoryStore {
    async fn save_snapshot(&self, snapshot: SnapshotRecord) -> Result<(), StoreError> {
        // Under the lock of the log: an erasure cannot slip in between.
        self.with(|state| {
            if state.log.is_erased_at(&snapshot.stream, snapshot.version) {
                return;
            }
            let mut kept = self
                .0
                .snapshots
                .records
                .entry(snapshot.stream.clone())
                .or_default();
            kept.insert(snapshot.version, snapshot);
            while kept.len() > KEPT {
                kept.pop_first();
            }
        });
        Ok(())
    }

    async fn latest_snapshot(
        &self,
        stream: &StreamId,
        up_to: Option<StreamVersion>,
    ) -> Result<Option<SnapshotRecord>, StoreError> {
        let Some(kept) = self.0.snapshots.records.get(stream) else {
            return Ok(None);
        };
        let newest = kept
            .iter()
            .rev()
            .find(|(version, _)| up_to.is_none_or(|end| **version <= end));
        Ok(newest.map(|(_, snapshot)| snapshot.clone()))
    }

    async fn delete_snapshots(&self, stream: &StreamId) -> Result<(), StoreError> {
        self.0.snapshots.records.remove(stream);
        Ok(())
    }
}
