//! The bus: what was stored, delivered in order, never at the publisher's cost.

use std::{sync::Arc, time::Duration};

use backstory_event::{
    Append, AwaitError, BusSubscription, Checkpoint, Delivery, EventBus, EventFilter, EventQuery,
    EventStore, ExpectedVersion, FilterItem, Position, RecordedEvent, StoreError, Topic, feed,
};
use futures::{FutureExt, StreamExt};

use crate::{
    Fixture,
    kit::{
        Background, PATIENCE, any, event, events, head, ids, log, names, position, positions, put,
        read, stream, tag, within,
    },
};

/// A bus that is fed from the store's tail, as a process does it.
struct Fed {
    bus: Arc<dyn EventBus>,
    feeder: Background<Result<std::convert::Infallible, StoreError>>,
}

impl Fed {
    async fn new<F: Fixture>(fixture: &F, capacity: usize) -> Self {
        let bus = fixture.bus(capacity);
        let store = fixture.store();
        let from = head(&store).await;
        let feeder = Background::spawn(feed(bus.clone(), Arc::new(store), from));
        Self { bus, feeder }
    }

    fn on(&self, pattern: &str) -> BusSubscription {
        self.bus.subscribe(Topic::pattern(pattern))
    }

    fn on_filter(&self, filter: impl Into<EventFilter>) -> BusSubscription {
        self.bus.subscribe(Topic::from(filter.into()))
    }
}

/// The next so many events of a subscription that must not miss any.
async fn take(subscription: &mut BusSubscription, count: usize) -> Vec<RecordedEvent> {
    let mut events = Vec::new();
    while events.len() < count {
        match within(subscription.next()).await {
            Some(Delivery::Event(event)) => events.push(event),
            other => panic!("{other:?} after {} of {count} events", events.len()),
        }
    }
    events
}

/// Nothing waits for the subscriber once an event behind it has reached another one.
fn is_quiet(subscription: &mut BusSubscription) -> bool {
    subscription.next().now_or_never().is_none()
}

async fn mixed(store: &impl EventStore) {
    let append = any(
        &stream("todo", "1"),
        [event("todo.added").with_tag(tag("red")), event("todo.done")],
    )
    .and(
        stream("list", "1"),
        ExpectedVersion::Any,
        [event("list.opened").with_tag(tag("red"))],
    )
    .and(
        stream("todo", "2"),
        ExpectedVersion::Any,
        [event("todo.added"), event("todone")],
    );
    within(store.append(append)).await.unwrap();
}

pub async fn topics_choose_names_prefixes_categories_and_tags<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    let fed = Fed::new(fixture, 100).await;
    let item = FilterItem::new;
    let mut subscriptions = [
        (fed.on("*"), vec![1, 2, 3, 4, 5]),
        (fed.on("todo.added"), vec![1, 4]),
        (fed.on("todo.*"), vec![1, 2, 4]),
        (fed.on("todo*"), vec![1, 2, 4, 5]),
        (fed.on("never"), vec![]),
        (fed.on("never.*"), vec![]),
        (fed.on_filter(EventFilter::category("list")), vec![3]),
        (fed.on_filter(EventFilter::tag(tag("red"))), vec![1, 3]),
        (
            fed.on_filter(EventFilter::stream(stream("todo", "2"))),
            vec![4, 5],
        ),
        (
            fed.on_filter(item().names(["todo.done", "list.opened", "never"])),
            vec![2, 3],
        ),
        (
            fed.on_filter(item().name("todo.added").tag(tag("red"))),
            vec![1],
        ),
        (fed.on_filter(EventFilter::none()), vec![]),
        (
            fed.bus.subscribe(Topic::Prefix(String::new())),
            vec![1, 2, 3, 4, 5],
        ),
    ];
    let mut last = fed.on("last");
    mixed(&store).await;
    put(&store, &stream("end", "1"), &["last"]).await;
    take(&mut last, 1).await;
    for (subscription, expected) in &mut subscriptions {
        let events = take(subscription, expected.len()).await;
        assert_eq!(&positions(&events), expected);
    }
    // Nothing else came, but for the last event, to those who hear everything.
    let mut quiet = 0;
    for (subscription, expected) in &mut subscriptions {
        if expected.len() < 5 {
            assert!(is_quiet(subscription), "{expected:?}");
            quiet += 1;
        }
    }
    assert_eq!(quiet, 11);
}

pub async fn every_subscriber_gets_every_event<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    let fed = Fed::new(fixture, 100).await;
    let mut subscribers: Vec<_> = (0..10).map(|_| fed.on("foo")).collect();
    let mut everything = fed.on("*");
    let todo = stream("todo", "1");
    put(&store, &todo, &["bar"]).await;
    take(&mut everything, 1).await;
    assert!(subscribers.iter_mut().all(is_quiet), "nobody asked for bar");
    put(&store, &todo, &["foo"]).await;
    let stored = log(&store).await;
    for subscriber in &mut subscribers {
        assert_eq!(take(subscriber, 1).await, stored[1..]);
    }
}

pub async fn order_is_kept_across_names_and_streams<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    let other = within(fixture.elsewhere()).await;
    let fed = Fed::new(fixture, 10_000).await;
    let names_of = ["a", "b", "c", "d"];
    let mut all = fed.on("*");
    let mut several = fed.on_filter(FilterItem::new().names(["a", "c", "d"]));
    let writers: Vec<_> = (0..8)
        .map(|writer| {
            let store = if writer % 2 == 0 {
                store.clone()
            } else {
                other.clone()
            };
            Background::spawn(async move {
                for round in 0..10 {
                    let name = names_of[(writer + round) % 4];
                    put(
                        &store,
                        &stream("writer", &writer.to_string()),
                        &[name, "b", "d"],
                    )
                    .await;
                }
            })
        })
        .collect();
    for writer in writers {
        writer.join().await;
    }
    let stored = log(&store).await;
    assert_eq!(stored.len(), 240);
    assert_eq!(ids(&take(&mut all, 240).await), ids(&stored));
    let wanted: Vec<_> = stored
        .into_iter()
        .filter(|event| event.name() != "b")
        .collect();
    assert_eq!(ids(&take(&mut several, wanted.len()).await), ids(&wanted));
}

pub async fn a_subscription_begins_when_it_is_made<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    let fed = Fed::new(fixture, 100).await;
    let todo = stream("todo", "1");
    let mut first = fed.on("*");
    put(&store, &todo, &["before"]).await;
    take(&mut first, 1).await;
    let mut second = fed.on("*");
    put(&store, &todo, &["after"]).await;
    assert_eq!(names(&take(&mut second, 1).await), ["after"]);
    assert_eq!(names(&take(&mut first, 1).await), ["after"]);
}

pub async fn a_dropped_subscription_ends_and_others_go_on<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    let fed = Fed::new(fixture, 2).await;
    let todo = stream("todo", "1");
    let mut kept = fed.on("*");
    for _ in 0..20 {
        let mut dropped = fed.on("*");
        put(&store, &todo, &["a"]).await;
        take(&mut dropped, 1).await;
        drop(dropped);
        put(&store, &todo, &["b"]).await;
        assert_eq!(names(&take(&mut kept, 2).await), ["a", "b"]);
    }
    assert!(!fed.feeder.is_finished());
}

pub async fn a_subscription_ends_with_its_bus<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    let fed = Fed::new(fixture, 100).await;
    let mut subscription = fed.on("*");
    let mut witness = fed.on("*");
    put(&store, &stream("todo", "1"), &["a", "b"]).await;
    take(&mut witness, 2).await;
    drop(fed);
    // What was published before is still delivered, then the stream ends.
    assert_eq!(names(&take(&mut subscription, 2).await), ["a", "b"]);
    assert_eq!(within(subscription.next()).await, None);
    let closed = within(witness.next_event(PATIENCE)).await;
    assert_eq!(closed, Err(AwaitError::Closed));
}

/// Follows a slow subscription up to a position; what it missed is read from the log. Together
/// this must be the log.
async fn with_log(
    subscription: &mut BusSubscription,
    store: &impl EventStore,
    filter: EventFilter,
    up_to: Position,
) -> (Vec<RecordedEvent>, usize) {
    let (mut seen, mut missed, mut reached) = (Vec::new(), 0, Position::START);
    while reached < up_to {
        match within(subscription.next()).await.unwrap() {
            Delivery::Event(event) => {
                assert!(event.position() > reached, "no repeat, no step back");
                reached = event.position();
                seen.push(event);
            }
            Delivery::Missed { after, up_to } => {
                assert!(
                    after >= reached && up_to > after,
                    "what was seen is not missed"
                );
                let query = EventQuery::new(filter.clone()).after(after).up_to(up_to);
                seen.extend(read(store, query).await);
                reached = up_to;
                missed += 1;
            }
            other => panic!("{other:?}"),
        }
    }
    (seen, missed)
}

pub async fn a_slow_subscriber_learns_what_it_missed<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    let fed = Fed::new(fixture, 10).await;
    let mut slow = fed.on("*");
    let red = EventFilter::tag(tag("red"));
    let mut slow_and_choosy = fed.on_filter(red.clone());
    let mut fast = fed.on("*");
    let todo = stream("todo", "1");
    let mut total = 0;
    for round in 0..3 {
        for _ in 0..10 {
            let some = [
                event("a"),
                event("b").with_tag(tag("red")),
                event("c").with_tag(tag("red")),
            ];
            within(store.append(any(&todo, some))).await.unwrap();
            // The publisher and the fast subscriber do not wait for the slow ones.
            take(&mut fast, 3).await;
            total += 3;
        }
        let stored = log(&store).await;
        assert_eq!(stored.len(), total);
        let from = position(round * 30);
        let (seen, missed) = with_log(&mut slow, &store, EventFilter::all(), position(total)).await;
        assert_eq!((ids(&seen), missed), (ids(&stored[round * 30..]), 1));
        let (seen, missed) =
            with_log(&mut slow_and_choosy, &store, red.clone(), position(total)).await;
        let expected: Vec<_> = stored
            .into_iter()
            .filter(|event| event.position() > from && red.matches(event))
            .collect();
        assert_eq!((ids(&seen), missed), (ids(&expected), 1));
    }
}

pub async fn a_full_queue_never_blocks_the_publisher<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    let bus = fixture.bus(3);
    let idle = bus.subscribe(Topic::All);
    for _ in 0..5 {
        put(&store, &stream("todo", "1"), &["done"; 50]).await;
    }
    let stored = log(&store).await;
    for part in stored.chunks(10) {
        within(bus.publish(part)).await.unwrap();
    }
    // Bounded: what is kept is the queue and one note.
    let mut idle = idle;
    let (mut kept, mut missed) = (0, Vec::new());
    while let Some(Some(delivery)) = idle.next().now_or_never() {
        match delivery {
            Delivery::Event(_) => kept += 1,
            Delivery::Missed { after, up_to } => missed.push((after, up_to)),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!((kept, missed), (3, vec![(position(3), position(250))]));
}

pub async fn one_event_can_be_awaited<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    let fed = Fed::new(fixture, 100).await;
    let todo = stream("todo", "1");
    let mut done = fed.on("done");
    put(&store, &todo, &["added", "done", "done"]).await;
    let first = within(done.next_event(PATIENCE)).await.unwrap();
    assert_eq!(first.position(), position(2));
    drop(done);
    let mut never = fed.on("never");
    let timed_out = within(never.next_event(Duration::from_millis(5))).await;
    assert_eq!(timed_out, Err(AwaitError::TimedOut));
    // A wait that was given up loses nothing.
    put(&store, &todo, &["never"]).await;
    let late = within(never.next_event(PATIENCE)).await.unwrap();
    assert_eq!(late.position(), position(4));
    // Who has missed events is told so instead of waiting for one that is gone.
    let small = Fed::new(fixture, 1).await;
    let (mut idle, mut witness) = (small.on("*"), small.on("last"));
    put(&store, &todo, &["a", "b", "last"]).await;
    take(&mut witness, 1).await;
    assert!(within(idle.next_event(PATIENCE)).await.is_ok());
    let missed = within(idle.next_event(PATIENCE)).await;
    assert_eq!(missed, Err(AwaitError::Missed));
}

pub async fn what_others_store_is_delivered<F: Fixture>(fixture: &F) {
    let other = within(fixture.elsewhere()).await;
    let fed = Fed::new(fixture, 100).await;
    let mut all = fed.on("*");
    put(&other, &stream("todo", "1"), &["added", "done"]).await;
    assert_eq!(take(&mut all, 2).await, log(&fixture.store()).await);
}

pub async fn only_what_is_stored_is_delivered<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    let fed = Fed::new(fixture, 100).await;
    let mut all = fed.on("*");
    let todo = stream("todo", "1");
    for _ in 0..5 {
        let refused = Append::to(todo.clone(), ExpectedVersion::StreamExists, events(&["x"]));
        assert!(within(store.append(refused)).await.is_err());
    }
    put(&store, &todo, &["added"]).await;
    assert_eq!(names(&take(&mut all, 1).await), ["added"]);
}

pub async fn a_restarted_feed_goes_on_where_it_was<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    let bus = fixture.bus(100);
    let mut all = bus.subscribe(Topic::All);
    let todo = stream("todo", "1");
    let mut from = Checkpoint::START;
    for _ in 0..3 {
        let feeder = Background::spawn(feed(bus.clone(), Arc::new(store.clone()), from));
        put(&store, &todo, &["a", "b"]).await;
        let events = take(&mut all, 3 - usize::from(from == Checkpoint::START)).await;
        from = events.last().unwrap().checkpoint();
        drop(feeder);
        put(&store, &todo, &["between"]).await;
    }
}

#[macro_export]
macro_rules! bus_suite {
    ($make:expr) => {
        $crate::cases!($make, $crate::bus, [
            topics_choose_names_prefixes_categories_and_tags
            every_subscriber_gets_every_event
            order_is_kept_across_names_and_streams
            a_subscription_begins_when_it_is_made
            a_dropped_subscription_ends_and_others_go_on
            a_subscription_ends_with_its_bus
            a_slow_subscriber_learns_what_it_missed
            a_full_queue_never_blocks_the_publisher
            one_event_can_be_awaited
            what_others_store_is_delivered
            only_what_is_stored_is_delivered
            a_restarted_feed_goes_on_where_it_was
        ]);
    };
}
