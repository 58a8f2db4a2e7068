use std::{
    collections::VecDeque,
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use async_trait::async_trait;
use backstory_event::{
    Append, Appended, DecodeEvent, Envelope, Event, EventId, EventQuery, Metadata, NewEvent, Page,
    Payload, Recorded, RecordedEvent, StoreErrorKind, StreamId, StreamPage, StreamQuery,
    StreamVersion,
};
use serde::{Deserialize, Serialize};

use super::*;

const SOON: Duration = Duration::from_secs(10);

#[derive(Debug, Clone, Serialize, Deserialize, Event)]
#[event(prefix = "money", crate = "backstory_event")]
enum Money {
    Moved { amount: i64 },
}

#[derive(Debug, Default, Clone, PartialEq)]
struct Balance(i64);

impl Fold for Balance {
    type Event = Money;

    fn fold(&mut self, envelope: &Envelope<Money>) {
        let Money::Moved { amount } = envelope.event;
        assert!(amount != 13, "thirteen");
        self.0 += amount;
    }
}

/// A log that tests grow, and that counts what is asked of it.
#[derive(Debug, Clone)]
struct Log(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    events: watch::Sender<Vec<RecordedEvent>>,
    errors: Mutex<VecDeque<StoreErrorKind>>,
    reads: AtomicUsize,
    waiting: AtomicUsize,
}

impl Log {
    fn new() -> Self {
        Self(Arc::new(Inner {
            events: watch::Sender::new(Vec::new()),
            errors: Mutex::default(),
            reads: AtomicUsize::new(0),
            waiting: AtomicUsize::new(0),
        }))
    }

    fn push(&self, event: NewEvent) -> Checkpoint {
        let position = self.0.events.borrow().len() as i64 + 1;
        let event = RecordedEvent::new(Recorded {
            position: Position::new(position),
            stream: StreamId::stored("money", "1"),
            version: StreamVersion::new(position),
            id: event.id,
            name: event.name.into(),
            schema_version: event.version,
            payload: event.payload,
            metadata: Metadata::default(),
            tags: Vec::new(),
            recorded_at: chrono::DateTime::UNIX_EPOCH,
            erased_at: None,
        });
        let checkpoint = event.checkpoint();
        self.0.events.send_modify(|events| events.push(event));
        checkpoint
    }

    fn moved(&self, amount: i64) -> Checkpoint {
        self.push(NewEvent::of(&Money::Moved { amount }).unwrap())
    }

    fn noise(&self) -> Checkpoint {
        self.push(NewEvent::raw("noise", Payload::empty()))
    }

    /// Waits until so many wait for the log to grow.
    async fn waiting(&self, wanted: usize) {
        let count = async {
            while self.0.waiting.load(Ordering::SeqCst) != wanted {
                tokio::task::yield_now().await;
            }
        };
        timeout(SOON, count).await.expect("so many wait");
    }
}

#[async_trait]
impl EventStore for Log {
    async fn append(&self, _: Append) -> Result<Appended, StoreError> {
        Err(StoreErrorKind::Closed.into())
    }

    async fn read(&self, query: &EventQuery) -> Result<Page, StoreError> {
        self.0.reads.fetch_add(1, Ordering::SeqCst);
        if let Some(error) = self.0.errors.lock().unwrap().pop_front() {
            return Err(error.into());
        }
        let events = self.0.events.borrow();
        let after = query.after.position.get() as usize;
        let window = &events[after.min(events.len())..events.len().min(after + 2)];
        let checkpoint = window.last().map_or(query.after, RecordedEvent::checkpoint);
        let head = Position::new(events.len() as i64);
        let next = query.clone().after(checkpoint);
        Ok(Page {
            events: window
                .iter()
                .filter(|event| query.matches(event))
                .cloned()
                .collect(),
            checkpoint,
            head,
            next: (checkpoint.position < head).then_some(next),
        })
    }

    async fn streams(&self, _: &StreamQuery) -> Result<StreamPage, StoreError> {
        Err(StoreErrorKind::Closed.into())
    }

    async fn changed(&self, after: Position) -> Result<Position, StoreError> {
        struct Waits<'a>(&'a AtomicUsize);
        impl Drop for Waits<'_> {
            fn drop(&mut self) {
                self.0.fetch_sub(1, Ordering::SeqCst);
            }
        }
        self.0.waiting.fetch_add(1, Ordering::SeqCst);
        let _waits = Waits(&self.0.waiting);
        let mut events = self.0.events.subscribe();
        let grown = events
            .wait_for(|events| events.len() as i64 > after.get())
            .await;
        Ok(Position::new(grown.expect("the log lives").len() as i64))
    }
}

async fn start(log: &Log) -> Live<Balance> {
    Live::start(log, EventFilter::of::<Money>()).await.unwrap()
}

async fn soon<T>(future: impl Future<Output = T>) -> T {
    timeout(SOON, future).await.expect("in time")
}

#[tokio::test]
async fn it_changes_with_events_and_not_with_others() {
    let log = Log::new();
    for amount in 1..=5 {
        log.moved(amount);
    }
    let mut live = start(&log).await;
    assert_eq!(live.get().unwrap(), Balance(15));
    let noise = log.noise();
    soon(live.reached(noise, SOON)).await.unwrap();
    let still = timeout(Duration::from_millis(5), live.changed()).await;
    assert!(still.is_err(), "nothing changed");

    let mut other = live.clone();
    log.moved(10);
    soon(live.changed()).await.unwrap();
    assert_eq!(live.get().unwrap(), Balance(25));
    soon(other.changed()).await.unwrap();
    let read_to = other.with(|folded| folded.read_to.position.get()).unwrap();
    assert_eq!(read_to, 7);
}

#[tokio::test]
async fn nothing_is_read_while_the_log_does_not_grow() {
    let log = Log::new();
    log.moved(1);
    let live = start(&log).await;
    log.waiting(1).await;
    let reads = log.0.reads.load(Ordering::SeqCst);
    for _ in 0..1_000 {
        tokio::task::yield_now().await;
    }
    assert_eq!(log.0.reads.load(Ordering::SeqCst), reads);
    drop(live);
}

#[tokio::test]
async fn it_ends_with_its_last_owner() {
    let log = Log::new();
    let live = start(&log).await;
    let clone = live.clone();
    log.waiting(1).await;
    drop(live);
    let end = log.moved(1);
    soon(clone.reached(end, SOON)).await.unwrap();
    log.waiting(1).await;
    drop(clone);
    log.waiting(0).await;
}

#[tokio::test]
async fn a_store_that_is_away_is_waited_for() {
    let log = Log::new();
    let live = start(&log).await;
    log.waiting(1).await;
    for _ in 0..2 {
        let reason = "away".to_owned();
        let away = StoreErrorKind::Unavailable { reason };
        log.0.errors.lock().unwrap().push_back(away);
    }
    let end = log.moved(3);
    soon(live.reached(end, SOON)).await.unwrap();
    assert_eq!(live.get().unwrap(), Balance(3));
}

#[tokio::test]
async fn what_time_does_not_heal_ends_it_with_its_error() {
    let log = Log::new();
    let mut live = start(&log).await;
    log.waiting(1).await;
    let diverged = StoreErrorKind::Diverged {
        position: Position::new(1),
        expected: EventId::new(),
        found: None,
    };
    log.0.errors.lock().unwrap().push_back(diverged);
    let end = log.moved(3);
    let error = soon(live.changed()).await.unwrap_err();
    assert!(error.store_error().unwrap().is_diverged(), "{error}");
    // Whoever asks later learns it too.
    assert!(live.get().unwrap_err().store_error().is_some());
    let error = soon(live.reached(end, SOON)).await.unwrap_err();
    assert!(error.store_error().is_some());
    assert!(soon(live.clone().changed()).await.is_err());
}

#[tokio::test]
async fn an_event_that_does_not_decode_ends_it() {
    let log = Log::new();
    let mut live = start(&log).await;
    let name = Money::types()[0].name;
    log.push(NewEvent::raw(name, Payload::empty()));
    let error = soon(live.changed()).await.unwrap_err();
    let kind = error.store_error().unwrap().kind();
    assert!(matches!(kind, StoreErrorKind::Decode(_)), "{kind:?}");
}

#[tokio::test]
async fn a_panic_ends_it_and_not_its_owner() {
    let log = Log::new();
    let mut live = start(&log).await;
    log.moved(13);
    let error = soon(live.changed()).await.unwrap_err();
    let LiveError::Panicked { reason } = error else {
        panic!("{error}");
    };
    assert_eq!(reason, "thirteen");
    assert!(live.get().is_err());
}

#[tokio::test]
async fn a_wait_in_vain_says_where_it_is() {
    let log = Log::new();
    log.moved(1);
    let live = start(&log).await;
    let moment = Duration::from_millis(5);
    let beyond = Position::new(2);
    let error = live.reached(beyond, moment).await.unwrap_err();
    let LiveError::TimedOut {
        awaited,
        read_to,
        timeout,
    } = error
    else {
        panic!("{error}");
    };
    assert_eq!((awaited, read_to.get(), timeout), (beyond, 1, moment));
}

#[test]
fn it_ends_with_its_runtime() {
    let log = Log::new();
    let runtime = || {
        tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .unwrap()
    };
    let first = runtime();
    let mut live = first.block_on(start(&log));
    drop(first);
    let error = runtime().block_on(live.changed()).unwrap_err();
    assert!(matches!(error, LiveError::Ended), "{error}");
    assert!(matches!(live.get(), Err(LiveError::Ended)));
}

#[test]
fn without_a_runtime_it_says_so() {
    let log = Log::new();
    let start = Live::<Balance>::start(&log, EventFilter::all());
    let error = crate::test_util::block_on(start).unwrap_err();
    assert!(matches!(error, LiveError::NoRuntime), "{error}");
}
