//! A projection that shows what it was given, and how to drive it.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use backstory_event::{
    Append, Appended, Envelope, Event, EventStore, ExpectedVersion, ManualClock, NewEvent, Payload,
    StreamId,
};
use backstory_projection::{
    self as projection, DocumentReader, DocumentStore, Documents, Projection, ProjectionStatus,
    Projector, RunningProjector, Schedule,
};
use serde::{Deserialize, Serialize};

use crate::{
    CompleteStore,
    kit::{PATIENCE, within},
};

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Event)]
#[event(prefix = "ledger", crate = "backstory_event")]
pub enum LedgerEvent {
    Booked { amount: i64 },
}

/// How a ledger behaves while a case runs.
#[derive(Debug, Default, Clone)]
pub struct Switches {
    fails: Arc<AtomicBool>,
    panics: Arc<AtomicBool>,
    hangs: Arc<AtomicBool>,
}

impl Switches {
    pub fn fail(&self, on: bool) {
        self.fails.store(on, Ordering::SeqCst);
    }

    pub fn panic(&self, on: bool) {
        self.panics.store(on, Ordering::SeqCst);
    }

    pub fn hang(&self, on: bool) {
        self.hangs.store(on, Ordering::SeqCst);
    }
}

/// Writes down the position of each event that it is given: a repeated or lost one shows.
#[derive(Debug, Default)]
pub struct Ledger(pub Switches);

pub const LEDGER: &str = "ledger";

#[async_trait]
impl Projection<Documents> for Ledger {
    type Event = LedgerEvent;
    const NAME: &'static str = LEDGER;

    async fn project(
        &self,
        batch: &[Envelope<LedgerEvent>],
        docs: &mut Documents,
    ) -> projection::Result {
        let positions = batch.iter().map(|e| e.position().get());
        let write_down = |seen: Option<Vec<i64>>| {
            Some(
                seen.unwrap_or_default()
                    .into_iter()
                    .chain(positions)
                    .collect(),
            )
        };
        docs.update(LEDGER, "seen", write_down).await?;
        if self.0.fails.load(Ordering::SeqCst) {
            return Err("the ledger is closed today".into());
        }
        if self.0.panics.load(Ordering::SeqCst) {
            panic!("the ledger fell from the table");
        }
        if self.0.hangs.load(Ordering::SeqCst) {
            futures::future::pending::<()>().await;
        }
        Ok(())
    }
}

/// The positions that the ledger was given, as they are stored.
pub async fn seen<S: DocumentStore + Clone>(store: &S) -> Vec<i64> {
    let reader = DocumentReader::from(store);
    let seen = within(reader.get(LEDGER, "seen")).await.unwrap();
    seen.unwrap_or_default()
}

pub fn account(key: &str) -> StreamId {
    StreamId::new("account", key).unwrap()
}

pub fn booked(amount: i64) -> NewEvent {
    NewEvent::of(&LedgerEvent::Booked { amount }).unwrap()
}

/// Appends so many events that the ledger wants.
pub async fn book<S: EventStore>(store: &S, events: i64) -> Appended {
    append(store, "a", (0..events).map(booked)).await
}

/// Appends so many events that nobody wants.
pub async fn noise<S: EventStore>(store: &S, events: usize) -> Appended {
    let noise = || NewEvent::raw("noise.made", Payload::empty());
    append(store, "noise", (0..events).map(|_| noise())).await
}

pub async fn append<S: EventStore>(
    store: &S,
    key: &str,
    events: impl IntoIterator<Item = NewEvent>,
) -> Appended {
    let append = Append::to(account(key), ExpectedVersion::Any, events);
    within(store.append(append)).await.unwrap()
}

pub async fn run<S: CompleteStore + Clone>(
    store: &S,
    schedule: impl Into<Schedule>,
) -> RunningProjector {
    let projector = Projector::new(store).with(Ledger::default(), schedule);
    within(projector.start()).await.unwrap()
}

/// A ledger whose time stands still until the case moves it.
pub async fn run_by_hand<S: CompleteStore + Clone>(
    store: &S,
    schedule: impl Into<Schedule>,
) -> (RunningProjector, ManualClock) {
    let clock = ManualClock::default();
    let projector = Projector::new(store)
        .with(Ledger::default(), schedule)
        .with_clock(Arc::new(clock.clone()));
    (within(projector.start()).await.unwrap(), clock)
}

pub fn status(projector: &RunningProjector) -> ProjectionStatus {
    projector.projection(LEDGER).status().unwrap()
}

/// Waits until the ledger's status is as wanted.
#[track_caller]
pub fn until(
    projector: &RunningProjector,
    wanted: impl Fn(&ProjectionStatus) -> bool,
) -> impl Future<Output = ProjectionStatus> {
    let place = std::panic::Location::caller();
    async move {
        let patience = tokio::time::timeout(PATIENCE, async {
            loop {
                let status = status(projector);
                if wanted(&status) {
                    return status;
                }
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        });
        match patience.await {
            Ok(status) => status,
            Err(_) => panic!(
                "the ledger never got there at {place}: {:#?}",
                status(projector)
            ),
        }
    }
}

pub const HOUR: Duration = Duration::from_secs(3_600);
