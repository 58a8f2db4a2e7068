//! Reading on for ever, over a store that a test grows, breaks and closes.

use std::{
    collections::VecDeque,
    error::Error,
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use backstory_event::{
    Append, Appended, Checkpoint, Event, EventFilter, EventQuery, EventStore, EventStoreExt,
    NewEvent, Page, Payload, Position, RecordedEvent, StoreError, StoreErrorKind, StreamPage,
    StreamQuery, Subscription,
};
use futures::{FutureExt, TryStreamExt};
use tokio::sync::watch;

use crate::{recorded, soon};

#[derive(Debug, PartialEq, serde::Serialize, serde::Deserialize, Event)]
#[event(prefix = "other", crate = "backstory_event")]
enum Other {
    Thing,
}

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

    let mut resumed = Subscription::new(Arc::new(store.clone()), subscription.checkpoint(), odd());
    store.grow(events(7..=9));
    let page = soon(resumed.next_page()).await.unwrap();
    assert_eq!(numbers(&page), [7]);
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
async fn a_wait_in_vain_says_how_far_it_looked_and_why() {
    let store = FakeStore::new(events(2..=2));
    let moment = Duration::from_millis(5);
    let wait = |from| store.await_event(odd(), from, moment);
    let error = wait(Checkpoint::START).await.unwrap_err();
    let StoreErrorKind::TimedOut { timeout, read_to } = error.kind() else {
        panic!("{error}");
    };
    assert_eq!((*timeout, read_to.position.get()), (moment, 2));
    assert!(error.is_timed_out() && error.is_transient());
    assert!(error.source().is_none(), "the store answered");

    store.grow(events(3..=3));
    assert_eq!(wait(*read_to).await.unwrap().position().get(), 3);

    let reason = "away".to_owned();
    store.fail(StoreErrorKind::Unavailable { reason });
    let error = wait(Checkpoint::START).await.unwrap_err();
    assert!(error.is_timed_out(), "{error}");
    let reason = error.source().unwrap().to_string();
    assert_eq!(reason, "the store is unavailable: away");
}

#[tokio::test]
async fn an_event_is_awaited_for_any_time_and_among_any_number() {
    let store = FakeStore::new(events(1..=2_501));
    let wait = store.await_event(odd(), Position::new(2_500), Duration::MAX);
    assert_eq!(soon(wait).await.unwrap().position().get(), 2_501);

    let name = "other.thing";
    let (other, all) = (NewEvent::raw(name, Payload::empty()), EventFilter::all());
    store.grow(vec![recorded(2_502, other)]);
    let wait = store.await_event_as::<Other>(all, Checkpoint::START, SOON);
    let found = soon(wait).await.unwrap();
    assert_eq!((found.position().get(), found.event), (2_502, Other::Thing));
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
