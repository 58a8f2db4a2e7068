//! Reading on for ever, over a store that a test grows, breaks and closes.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use backstory_event::{
    Append, Appended, Checkpoint, EventFilter, EventQuery, EventStore, EventStoreExt, NewEvent,
    Page, Payload, Position, RecordedEvent, StoreError, StoreErrorKind, StreamPage, StreamQuery,
    Subscription,
};
use futures::{FutureExt, TryStreamExt};
use tokio::sync::watch;

use crate::{recorded, soon};

const SOON: Duration = Duration::from_secs(10);

/// A log that is read two places at a time.
#[derive(Debug, Clone)]
pub(crate) struct FakeStore {
    log: Arc<watch::Sender<Option<Vec<RecordedEvent>>>>,
    errors: Arc<Mutex<VecDeque<StoreErrorKind>>>,
}

impl FakeStore {
    pub(crate) fn new(log: Vec<RecordedEvent>) -> Self {
        Self {
            log: Arc::new(watch::Sender::new(Some(log))),
            errors: Arc::default(),
        }
    }

    pub(crate) fn grow(&self, events: Vec<RecordedEvent>) {
        self.log
            .send_modify(|log| log.get_or_insert_default().extend(events));
    }

    pub(crate) fn close(&self) {
        self.log.send_replace(None);
    }

    fn fail(&self, error: StoreErrorKind) {
        self.errors.lock().unwrap().push_back(error);
    }
}

#[async_trait]
impl EventStore for FakeStore {
    async fn append(&self, _: Append) -> Result<Appended, StoreError> {
        Err(StoreErrorKind::Closed.into())
    }

    async fn read(&self, query: &EventQuery) -> Result<Page, StoreError> {
        // A reader in an endless loop must not keep its deadline from coming.
        tokio::task::coop::consume_budget().await;
        if let Some(error) = self.errors.lock().unwrap().pop_front() {
            return Err(error.into());
        }
        let log = self.log.borrow();
        let log = log.as_ref().ok_or(StoreErrorKind::Closed)?;
        let head = log.last().map_or(Position::START, RecordedEvent::position);
        let window: Vec<_> = log
            .iter()
            .filter(|event| event.position() > query.after.position)
            .take(query.limit.unwrap_or(2))
            .cloned()
            .collect();
        let checkpoint = window.last().map_or(query.after, RecordedEvent::checkpoint);
        let next = query.clone().after(checkpoint);
        Ok(Page {
            events: window
                .into_iter()
                .filter(|event| query.matches(event))
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
        let mut watching = self.log.subscribe();
        loop {
            let head = match watching.borrow_and_update().as_ref() {
                None => return Err(StoreErrorKind::Closed.into()),
                Some(log) => log.last().map_or(Position::START, RecordedEvent::position),
            };
            if head > after {
                return Ok(head);
            }
            let ended = watching.changed().await.is_err();
            assert!(!ended, "the store lives as long as its handle");
        }
    }
}

fn events(positions: std::ops::RangeInclusive<i64>) -> Vec<RecordedEvent> {
    positions
        .map(|position| {
            let name = if position % 2 == 0 { "even" } else { "odd" };
            recorded(position, NewEvent::raw(name, Payload::empty()))
        })
        .collect()
}

fn numbers(page: &Page) -> Vec<i64> {
    page.events
        .iter()
        .map(|event| event.position().get())
        .collect()
}

fn odd() -> EventFilter {
    backstory_event::FilterItem::new().name("odd").into()
}

#[tokio::test]
async fn catching_up_and_live_join_without_gap_or_repeat() {
    let store = FakeStore::new(events(1..=3));
    let mut subscription = store.subscribe(Checkpoint::START, EventFilter::all());
    assert_eq!(
        numbers(&soon(subscription.next_page()).await.unwrap()),
        [1, 2]
    );
    assert_eq!(numbers(&soon(subscription.next_page()).await.unwrap()), [3]);
    assert!(
        subscription.next_page().now_or_never().is_none(),
        "nothing is there yet"
    );

    let ((), page) = tokio::join!(
        async { store.grow(events(4..=4)) },
        soon(subscription.next_page())
    );
    assert_eq!(numbers(&page.unwrap()), [4]);
    assert_eq!(subscription.checkpoint().position.get(), 4);
}

#[tokio::test]
async fn a_checkpoint_moves_also_over_what_does_not_match() {
    let store = FakeStore::new(events(1..=6));
    let from = Position::new(5);
    let mut subscription = store.subscribe(from, odd());
    let page = soon(subscription.next_page()).await.unwrap();
    assert_eq!(
        (numbers(&page), page.checkpoint.position.get()),
        (vec![], 6)
    );

    let resumed = Subscription::new(Arc::new(store.clone()), subscription.checkpoint(), odd());
    store.grow(events(7..=9));
    let first = resumed.first(SOON).await.unwrap();
    assert_eq!(first.position().get(), 7);
}

#[tokio::test]
async fn a_store_that_is_away_is_waited_for() {
    let store = FakeStore::new(events(1..=1));
    store.fail(StoreErrorKind::Unavailable {
        reason: "away".into(),
    });
    store.fail(StoreErrorKind::Unavailable {
        reason: "still away".into(),
    });
    let mut subscription = store.subscribe(Checkpoint::START, EventFilter::all());
    assert_eq!(numbers(&soon(subscription.next_page()).await.unwrap()), [1]);
}

#[tokio::test]
async fn what_time_does_not_heal_ends_the_stream() {
    let store = FakeStore::new(events(1..=3));
    let subscription = store.subscribe(Checkpoint::START, odd());
    let mut stream = std::pin::pin!(subscription.into_stream());
    for position in [1, 3] {
        let event = soon(stream.try_next()).await.unwrap().unwrap();
        assert_eq!(event.position().get(), position);
    }
    store.close();
    assert!(soon(stream.try_next()).await.unwrap_err().is_closed());
    assert!(soon(stream.try_next()).await.unwrap().is_none());
}

#[tokio::test]
async fn waiting_for_the_first_event_has_a_deadline() {
    let store = FakeStore::new(events(2..=2));
    let nothing = store.subscribe(Checkpoint::START, odd());
    let error = nothing.first(Duration::from_millis(5)).await.unwrap_err();
    assert!(error.is_transient(), "{error}");
}

#[tokio::test]
async fn what_follows_from_the_port_reads_page_by_page() {
    let store: Arc<dyn EventStore> = Arc::new(FakeStore::new(events(1..=5)));
    let all = soon(store.collect(EventQuery::new(odd()))).await.unwrap();
    let positions: Vec<_> = all.iter().map(|event| event.position().get()).collect();
    assert_eq!(positions, [1, 3, 5]);

    let streamed: Vec<_> = store
        .events(EventQuery::new(odd()))
        .try_collect()
        .await
        .unwrap();
    assert_eq!(streamed, all);
}
