//! The bus within one process.

use std::{sync::Arc, time::Duration};

use backstory_event::{
    AwaitError, Checkpoint, Delivery, EventBus, EventFilter, FilterItem, LocalBus, NewEvent,
    Payload, Position, RecordedEvent, StreamId, Tag, Topic, feed,
};
use futures::{FutureExt, StreamExt};

use crate::{recorded_in, soon, subscription::FakeStore};

const SOON: Duration = Duration::from_secs(10);
const NOW: Duration = Duration::from_millis(1);

/// Five events of two categories, the third and fifth tagged.
fn log() -> Vec<RecordedEvent> {
    [
        "todo.added",
        "list.opened",
        "todo.done",
        "todo.added",
        "list.closed",
    ]
    .iter()
    .zip(1..)
    .map(|(name, position)| {
        let category = name.split('.').next().unwrap();
        let mut event = NewEvent::raw(*name, Payload::empty());
        if position == 3 || position == 5 {
            event = event.with_tag(Tag::new("by:ada").unwrap());
        }
        recorded_in(StreamId::new(category, 1).unwrap(), position, event)
    })
    .collect()
}

fn publish(bus: &impl EventBus, events: &[RecordedEvent]) {
    let published = bus.publish(events).now_or_never();
    published.expect("a publisher never waits").unwrap();
}

async fn positions(bus: LocalBus, topic: Topic) -> Vec<i64> {
    let subscription = bus.subscribe(topic);
    publish(&bus, &log());
    drop(bus);
    let positions = subscription.map(|delivery| match delivery {
        Delivery::Event(event) => event.position().get(),
        other => panic!("{other:?}"),
    });
    soon(positions.collect()).await
}

#[tokio::test]
async fn topics_choose_and_keep_the_order_across_names() {
    let names = FilterItem::new().names(["list.closed", "todo.added", "todo.done"]);
    for (topic, expected) in [
        (Topic::All, vec![1, 2, 3, 4, 5]),
        (Topic::pattern("*"), vec![1, 2, 3, 4, 5]),
        (Topic::pattern("todo.*"), vec![1, 3, 4]),
        (Topic::pattern("todo.added"), vec![1, 4]),
        (Topic::Prefix("list.".into()), vec![2, 5]),
        (Topic::Filter(names.into()), vec![1, 3, 4, 5]),
        (EventFilter::category("list").into(), vec![2, 5]),
        (
            EventFilter::tag(Tag::new("by:ada").unwrap()).into(),
            vec![3, 5],
        ),
        (EventFilter::none().into(), vec![]),
    ] {
        assert_eq!(
            positions(LocalBus::new(), topic.clone()).await,
            expected,
            "{topic:?}"
        );
    }
}

#[tokio::test]
async fn a_slow_subscriber_misses_instead_of_blocking_and_goes_on() {
    let bus = LocalBus::with_capacity(2);
    let mut slow = bus.subscribe(Topic::pattern("todo.*"));
    let log = log();
    for event in &log {
        publish(&bus, std::slice::from_ref(event));
    }
    let at = |position: usize| Delivery::Event(log[position - 1].clone());
    assert_eq!(soon(slow.next()).await, Some(at(1)));
    assert_eq!(soon(slow.next()).await, Some(at(3)));
    let missed = Delivery::Missed {
        after: Position::new(3),
        up_to: Position::new(4),
    };
    assert_eq!(soon(slow.next()).await, Some(missed));

    publish(&bus, &log[..1]);
    assert_eq!(soon(slow.next()).await, Some(at(1)));
}

#[tokio::test]
async fn each_subscriber_has_a_queue_of_its_own() {
    let bus = LocalBus::with_capacity(1);
    let mut idle = bus.subscribe(Topic::All);
    let mut quick = bus.subscribe(Topic::All);
    for event in log() {
        publish(&bus, std::slice::from_ref(&event));
        assert_eq!(soon(quick.next()).await, Some(Delivery::Event(event)));
    }
    assert_eq!(idle.next_event(SOON).await.unwrap().position().get(), 1);
    assert_eq!(idle.next_event(SOON).await, Err(AwaitError::Missed));
}

#[tokio::test]
async fn one_event_is_awaited_with_a_deadline() {
    let bus = LocalBus::new();
    let mut done = bus.subscribe(Topic::pattern("todo.done"));
    assert_eq!(done.next_event(NOW).await, Err(AwaitError::TimedOut));

    let publisher = bus.clone();
    let (event, ()) = tokio::join!(done.next_event(SOON), async {
        publish(&publisher, &log());
    });
    assert_eq!(event.unwrap().position().get(), 3);
}

#[tokio::test]
async fn the_end_comes_after_what_was_published_before_it() {
    let bus: Arc<dyn EventBus> = Arc::new(LocalBus::new());
    let mut subscription = bus.subscribe(Topic::All);
    publish(&bus, &log()[..1]);
    drop(bus);
    assert!(matches!(
        soon(subscription.next()).await,
        Some(Delivery::Event(_))
    ));
    assert_eq!(subscription.next_event(SOON).await, Err(AwaitError::Closed));
    assert_eq!(soon(subscription.next()).await, None);
}

#[tokio::test]
async fn the_end_wakes_who_waits() {
    let bus = LocalBus::new();
    let mut subscription = bus.subscribe(Topic::All);
    let waiting = tokio::spawn(async move { subscription.next().await });
    tokio::task::yield_now().await;
    drop(bus);
    assert_eq!(soon(waiting).await.unwrap(), None);
}

#[tokio::test]
async fn a_store_feeds_the_bus_from_a_checkpoint_on() {
    let log = log();
    let store = FakeStore::new(log[..3].to_vec());
    let bus = Arc::new(LocalBus::new());
    let mut subscription = bus.subscribe(Topic::All);
    let feeding = tokio::spawn(feed(bus, Arc::new(store.clone()), log[0].checkpoint()));
    for position in [2, 3] {
        let event = subscription.next_event(SOON).await.unwrap();
        assert_eq!(event.position().get(), position);
    }
    store.grow(log[3..].to_vec());
    for position in [4, 5] {
        let event = subscription.next_event(SOON).await.unwrap();
        assert_eq!(event.position().get(), position);
    }
    store.close();
    let error = soon(feeding).await.unwrap().unwrap_err();
    assert!(error.is_closed(), "{error}");
    assert_eq!(soon(subscription.next()).await, None);
    assert_ne!(Checkpoint::START, log[0].checkpoint());
}
