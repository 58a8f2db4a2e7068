//! Catch up, then live: no gap and no repeat.

use std::time::Duration;

use backstory_event::{
    Checkpoint, EventFilter, EventId, EventStore, EventStoreExt, FilterItem, Lifecycle, NewEvent,
    Position, StoreErrorKind, Subscription,
};
use futures::{FutureExt, StreamExt, TryStreamExt};
use serde_json::json;

use crate::{
    Fixture,
    kit::{
        Background, PATIENCE, any, event, find, head, ids, log, names, payload, position,
        positions, put, refusal, stream, tag, within,
    },
    seats::{BOOKED, SeatEvent, TAKEN},
};

/// Pages until a position is reached.
async fn follow(subscription: &mut Subscription, up_to: Position) -> Vec<EventId> {
    let mut seen = Vec::new();
    while subscription.checkpoint().position < up_to {
        let page = within(subscription.next_page()).await.unwrap();
        assert_eq!(page.checkpoint, subscription.checkpoint());
        seen.extend(ids(&page.events));
    }
    seen
}

pub async fn a_subscription_catches_up_and_goes_on_live<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    let other = within(fixture.elsewhere()).await;
    let todo = stream("todo", "1");
    for _ in 0..5 {
        put(&store, &todo, &["a", "b", "c"]).await;
    }
    let total: usize = 15 + 6 * 20 * 2;
    let readers: Vec<_> = (0..4)
        .map(|reader| {
            let store = if reader % 2 == 0 {
                store.clone()
            } else {
                other.clone()
            };
            let mut subscription = store.subscribe(Checkpoint::START, EventFilter::all());
            if reader > 1 {
                subscription = subscription.with_page_limit(3);
            }
            Background::spawn(async move { follow(&mut subscription, position(total)).await })
        })
        .collect();
    let writers: Vec<_> = (0..6)
        .map(|writer| {
            let store = if writer % 2 == 0 {
                store.clone()
            } else {
                other.clone()
            };
            Background::spawn(async move {
                for _ in 0..20 {
                    put(&store, &stream("writer", &writer.to_string()), &["a", "b"]).await;
                }
            })
        })
        .collect();
    for writer in writers {
        writer.join().await;
    }
    let stored = log(&store).await;
    assert_eq!(stored.len(), total);
    for reader in readers {
        assert_eq!(reader.join().await, ids(&stored));
    }
}

pub async fn a_subscription_filters_and_moves_on_when_nothing_matches<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    let filters = [
        EventFilter::tag(tag("red")),
        EventFilter::category("list"),
        FilterItem::new().name("done").into(),
        EventFilter::stream(stream("todo", "2")),
        FilterItem::new().name("never").into(),
        EventFilter::none(),
    ];
    let mut subscriptions: Vec<_> = filters
        .iter()
        .map(|filter| store.subscribe(Checkpoint::START, filter.clone()))
        .collect();
    for round in 1..=3 {
        for key in ["1", "2"] {
            let events = [
                event("added").with_tag(tag("red")),
                event("done"),
                event("added"),
            ];
            within(store.append(any(&stream("todo", key), events)))
                .await
                .unwrap();
            put(&store, &stream("list", key), &["done"]).await;
        }
        let stored = log(&store).await;
        for (subscription, filter) in subscriptions.iter_mut().zip(&filters) {
            let seen = follow(subscription, position(stored.len())).await;
            let new = stored[(round - 1) * 8..].iter();
            let expected: Vec<_> = new
                .filter(|event| filter.matches(event))
                .map(|event| event.id())
                .collect();
            assert_eq!(seen, expected, "{filter:?}");
        }
    }
}

pub async fn a_subscription_resumes_from_its_checkpoint<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    let todo = stream("todo", "1");
    let mut checkpoint = Checkpoint::START;
    let mut seen = Vec::new();
    for round in 0..6 {
        put(&store, &todo, &["a", "b", "c", "d"]).await;
        // A new process each time, which keeps only the text of its checkpoint.
        let from: Checkpoint = checkpoint.to_string().parse().unwrap();
        let mut subscription = store
            .subscribe(from, EventFilter::all())
            .with_page_limit(1 + round % 3);
        let page = within(subscription.next_page()).await.unwrap();
        seen.extend(page.events);
        checkpoint = subscription.checkpoint();
    }
    let mut rest = store.subscribe(checkpoint, EventFilter::all());
    let rest = follow(&mut rest, position(24)).await;
    let stored = log(&store).await;
    assert_eq!([ids(&seen), rest].concat(), ids(&stored));
}

pub async fn a_subscription_from_now_sees_only_what_comes<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    let todo = stream("todo", "1");
    put(&store, &todo, &["before"]).await;
    let mut subscription = store.subscribe(head(&store).await, EventFilter::all());
    assert!(
        subscription.next_page().now_or_never().is_none(),
        "nothing is new"
    );
    put(&store, &todo, &["after"]).await;
    let page = within(subscription.next_page()).await.unwrap();
    assert_eq!(names(&page.events), ["after"]);
}

pub async fn a_subscription_goes_on_when_the_log_grows<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    let other = within(fixture.elsewhere()).await;
    let todo = stream("todo", "1");
    let mut subscription = store.subscribe(Checkpoint::START, EventFilter::all());
    for round in 1..=6 {
        let handle = if round % 2 == 0 {
            store.clone()
        } else {
            other.clone()
        };
        let todo = todo.clone();
        // The reader waits already when the event is stored.
        let mut next = Box::pin(subscription.next_page());
        assert!((&mut next).now_or_never().is_none());
        let writer = Background::spawn(async move { put(&handle, &todo, &["done"]).await });
        let page = within(next).await.unwrap();
        assert_eq!(positions(&page.events), [round]);
        assert_eq!(page.checkpoint, writer.join().await.checkpoint);
    }
}

pub async fn a_given_up_wait_loses_nothing<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    let todo = stream("todo", "1");
    let mut subscription = store.subscribe(Checkpoint::START, EventFilter::all());
    let mut seen = Vec::new();
    for round in 0..20 {
        put(&store, &todo, &["done"]).await;
        // Dropped after some polls, at whatever it was doing.
        for _ in 0..round % 4 {
            if let Some(page) = subscription.next_page().now_or_never() {
                seen.extend(ids(&page.unwrap().events));
            }
        }
    }
    seen.extend(follow(&mut subscription, position(20)).await);
    assert_eq!(seen, ids(&log(&store).await));
}

pub async fn a_foreign_checkpoint_is_divergence<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    put(&store, &stream("todo", "1"), &["a", "b", "c"]).await;
    let stored = log(&store).await;
    let foreign = EventId::new();
    for (number, found) in [
        (2, Some(stored[1].id())),
        (3, Some(stored[2].id())),
        (4, None),
        (50, None),
    ] {
        for filter in [EventFilter::all(), EventFilter::category("never")] {
            let from = Checkpoint {
                position: position(number),
                event_id: foreign,
            };
            let mut subscription = store.subscribe(from, filter);
            let kind = refusal(within(subscription.next_page()).await);
            let expected = StoreErrorKind::Diverged {
                position: position(number),
                expected: foreign,
                found,
            };
            assert_eq!(kind, expected);
            assert_eq!(subscription.checkpoint(), from, "it does not move on");
        }
    }
}

pub async fn the_first_match_can_be_awaited<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    let other = within(fixture.elsewhere()).await;
    let todo = stream("todo", "1");
    put(&store, &todo, &["added", "done", "done"]).await;
    let done = || FilterItem::new().name("done").into();
    let first = store.await_event(done(), Checkpoint::START, PATIENCE);
    assert_eq!(within(first).await.unwrap().position(), position(2));
    // One that comes later, from elsewhere, among others.
    let waiting = Background::spawn({
        let (store, now) = (store.clone(), head(&store).await);
        async move { store.await_event(done(), now, PATIENCE).await }
    });
    put(&other, &todo, &["added", "added"]).await;
    put(&other, &todo, &["done"]).await;
    assert_eq!(waiting.join().await.unwrap().position(), position(6));
}

pub async fn one_awaited_event_after_the_other_misses_none<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    let other = within(fixture.elsewhere()).await;
    let writer = Background::spawn(async move {
        for round in 0..40 {
            put(&other, &stream("todo", "1"), &["done", "noise", "done"]).await;
            put(&other, &stream("noise", &round.to_string()), &["noise"]).await;
        }
    });
    let (mut seen, mut from) = (Vec::new(), Checkpoint::START);
    for _ in 0..80 {
        let done = FilterItem::new().name("done").into();
        let next = within(store.await_event(done, from, PATIENCE)).await;
        let next = next.unwrap();
        from = next.checkpoint();
        seen.push(next.id());
    }
    writer.join().await;
    let done = find(&store, FilterItem::new().name("done")).await;
    assert_eq!(seen, ids(&done));
}

pub async fn a_wait_in_vain_says_how_far_it_looked<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    let todo = stream("todo", "1");
    put(&store, &todo, &["added", "added"]).await;
    let end = head(&store).await;
    let done = || FilterItem::new().name("done").into();
    // Whoever goes on from there gets to the end, however short each wait is.
    let looked = within(async {
        let mut looked = Checkpoint::START;
        while looked != end {
            let moment = Duration::from_millis(20);
            match refusal(store.await_event(done(), looked, moment).await) {
                StoreErrorKind::TimedOut { read_to, .. } => looked = read_to,
                kind => panic!("{kind:?}"),
            }
        }
        looked
    })
    .await;
    put(&store, &todo, &["done", "done"]).await;
    let next = store.await_event(done(), looked, PATIENCE);
    assert_eq!(within(next).await.unwrap().position(), position(3));
}

pub async fn an_awaited_event_is_decoded<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    let seat = |name, number| NewEvent::raw(name, payload(json!({ "seat": number, "by": "ann" })));
    put(&store, &stream("noise", "1"), &["noise"; 5]).await;
    let erased = stream("theatre", "closed");
    for event in [seat(TAKEN, 1), Lifecycle::Erased.event()] {
        within(store.append(any(&erased, [event]))).await.unwrap();
    }
    let theatre = stream("theatre", "1");
    // Under the name that it had once, and one that does not decode.
    let broken = NewEvent::raw(TAKEN, payload(json!({ "seat": "none" })));
    let receipt = within(store.append(any(&theatre, [seat(BOOKED, 7), broken])));
    let receipt = receipt.await.unwrap();

    let wait = |from| store.await_event_as::<SeatEvent>(EventFilter::all(), from, PATIENCE);
    let first = within(wait(Checkpoint::START)).await.unwrap();
    assert_eq!(first.event, SeatEvent::taken(7));
    let kind = refusal(within(wait(first.recorded().checkpoint())).await);
    let StoreErrorKind::Decode(error) = kind else {
        panic!("{kind:?}");
    };
    assert_eq!(error.position, receipt.position());
}

pub async fn waiting_for_an_event_proves_the_log<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    put(&store, &stream("todo", "1"), &["added", "done"]).await;
    let foreign = Checkpoint {
        position: position(1),
        event_id: EventId::new(),
    };
    let wait = store.await_event(EventFilter::all(), foreign, PATIENCE);
    assert!(within(wait).await.unwrap_err().is_diverged());
}

pub async fn a_subscription_is_a_stream_too<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    let todo = stream("todo", "1");
    let writer = {
        let (store, todo) = (store.clone(), todo.clone());
        Background::spawn(async move {
            for _ in 0..30 {
                put(&store, &todo, &["a", "b"]).await;
            }
        })
    };
    let subscription = store.subscribe(Checkpoint::START, EventFilter::stream(todo));
    let seen: Vec<_> = within(subscription.into_stream().take(60).try_collect())
        .await
        .unwrap();
    writer.join().await;
    assert_eq!(positions(&seen), (1..=60).collect::<Vec<_>>());
    let from = Checkpoint {
        position: position(2),
        event_id: EventId::new(),
    };
    let mut broken = Box::pin(store.subscribe(from, EventFilter::all()).into_stream());
    assert!(
        within(broken.next())
            .await
            .unwrap()
            .unwrap_err()
            .is_diverged()
    );
    assert!(
        within(broken.next()).await.is_none(),
        "it ends after an error"
    );
}

pub async fn a_subscription_sees_lifecycle_and_erased_events<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    let todo = stream("todo", "1");
    put(&store, &todo, &["added"]).await;
    within(store.append(any(&todo, [Lifecycle::Deleted.event()])))
        .await
        .unwrap();
    within(store.append(any(&todo, [Lifecycle::Erased.event()])))
        .await
        .unwrap();
    let mut subscription = store.subscribe(Checkpoint::START, EventFilter::all());
    let page = within(subscription.next_page()).await.unwrap();
    assert_eq!(
        names(&page.events),
        ["added", "backstory.deleted", "backstory.erased"]
    );
    let erased: Vec<_> = page.events.iter().map(|event| event.is_erased()).collect();
    assert_eq!(erased, [true, true, false]);
    // A checkpoint on an erased event is still a proof.
    let mut again = store.subscribe(page.events[0].checkpoint(), EventFilter::all());
    assert_eq!(within(again.next_page()).await.unwrap().events.len(), 2);
}

#[macro_export]
macro_rules! subscription_suite {
    ($make:expr) => {
        $crate::cases!($make, $crate::subscription, [
            a_subscription_catches_up_and_goes_on_live
            a_subscription_filters_and_moves_on_when_nothing_matches
            a_subscription_resumes_from_its_checkpoint
            a_subscription_from_now_sees_only_what_comes
            a_subscription_goes_on_when_the_log_grows
            a_given_up_wait_loses_nothing
            a_foreign_checkpoint_is_divergence
            the_first_match_can_be_awaited
            one_awaited_event_after_the_other_misses_none
            a_wait_in_vain_says_how_far_it_looked
            an_awaited_event_is_decoded
            waiting_for_an_event_proves_the_log
            a_subscription_is_a_stream_too
            a_subscription_sees_lifecycle_and_erased_events
        ]);
    };
}
