//! A store between a repository and the real one that misbehaves on request, and counts.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use async_trait::async_trait;
use backstory_aggregate::{SnapshotRecord, SnapshotStore};
use backstory_event::{
    Append, Appended, EventQuery, EventStore, Page, Position, StoreError, StoreErrorKind, StreamId,
    StreamPage, StreamQuery, StreamVersion,
};
use tokio::sync::Notify;

/// What happens to one append.
#[derive(Debug)]
pub enum Fault {
    /// Another writer is faster.
    Overtake(Append),
    /// It is stored, and the answer is lost.
    Forget,
    /// It is stored, and no answer ever comes.
    Hang,
    /// It is refused.
    Refuse(StoreErrorKind),
}

#[derive(Debug, Clone)]
pub struct Faulty<S>(Arc<Inner<S>>);

#[derive(Debug)]
struct Inner<S> {
    store: S,
    faults: Mutex<VecDeque<Fault>>,
    appends: AtomicUsize,
    events_read: AtomicUsize,
    reads_hang: AtomicBool,
    snapshots_fail: AtomicBool,
    hung: Notify,
}

impl<S> Faulty<S> {
    pub fn new(store: S, faults: impl IntoIterator<Item = Fault>) -> Self {
        Self(Arc::new(Inner {
            store,
            faults: Mutex::new(faults.into_iter().collect()),
            appends: AtomicUsize::new(0),
            events_read: AtomicUsize::new(0),
            reads_hang: AtomicBool::new(false),
            snapshots_fail: AtomicBool::new(false),
            hung: Notify::new(),
        }))
    }

    /// How many appends arrived.
    pub fn appends(&self) -> usize {
        self.0.appends.load(Ordering::SeqCst)
    }

    /// How many events were handed out since the last call.
    pub fn take_events_read(&self) -> usize {
        self.0.events_read.swap(0, Ordering::SeqCst)
    }

    /// From now on no read is answered.
    pub fn hang_reads(&self) {
        self.0.reads_hang.store(true, Ordering::SeqCst);
    }

    /// From now on reads are answered again. Those that hang go on hanging.
    pub fn answer_reads(&self) {
        self.0.reads_hang.store(false, Ordering::SeqCst);
    }

    /// From now on snapshots are away.
    pub fn fail_snapshots(&self) {
        self.0.snapshots_fail.store(true, Ordering::SeqCst);
    }

    /// Waits until an append hangs.
    pub async fn hung(&self) {
        self.0.hung.notified().await;
    }

    fn snapshots_work(&self) -> Result<(), StoreError> {
        if self.0.snapshots_fail.load(Ordering::SeqCst) {
            let reason = "snapshots are away".to_owned();
            return Err(StoreErrorKind::Unavailable { reason }.into());
        }
        Ok(())
    }
}

#[async_trait]
impl<S: EventStore> EventStore for Faulty<S> {
    async fn append(&self, append: Append) -> Result<Appended, StoreError> {
        self.0.appends.fetch_add(1, Ordering::SeqCst);
        let fault = self.0.faults.lock().unwrap().pop_front();
        let event_ids = append.event_ids();
        match fault {
            None => self.0.store.append(append).await,
            Some(Fault::Overtake(first)) => {
                self.0.store.append(first).await.unwrap();
                self.0.store.append(append).await
            }
            Some(Fault::Forget) => {
                self.0.store.append(append).await.unwrap();
                Err(StoreErrorKind::OutcomeUnknown { event_ids }.into())
            }
            Some(Fault::Hang) => {
                self.0.store.append(append).await.unwrap();
                self.0.hung.notify_one();
                std::future::pending().await
            }
            Some(Fault::Refuse(kind)) => Err(kind.into()),
        }
    }

    async fn read(&self, query: &EventQuery) -> Result<Page, StoreError> {
        if self.0.reads_hang.load(Ordering::SeqCst) {
            return std::future::pending().await;
        }
        let page = self.0.store.read(query).await?;
        let count = page.events.len();
        self.0.events_read.fetch_add(count, Ordering::SeqCst);
        Ok(page)
    }

    async fn streams(&self, query: &StreamQuery) -> Result<StreamPage, StoreError> {
        self.0.store.streams(query).await
    }

    async fn changed(&self, after: Position) -> Result<Position, StoreError> {
        self.0.store.changed(after).await
    }
}

#[async_trait]
impl<S: SnapshotStore> SnapshotStore for Faulty<S> {
    async fn save_snapshot(&self, snapshot: SnapshotRecord) -> Result<(), StoreError> {
        self.snapshots_work()?;
        self.0.store.save_snapshot(snapshot).await
    }

    async fn latest_snapshot(
        &self,
        stream: &StreamId,
        up_to: Option<StreamVersion>,
    ) -> Result<Option<SnapshotRecord>, StoreError> {
        self.snapshots_work()?;
        self.0.store.latest_snapshot(stream, up_to).await
    }

    async fn delete_snapshots(&self, stream: &StreamId) -> Result<(), StoreError> {
        self.snapshots_work()?;
        self.0.store.delete_snapshots(stream).await
    }
}
