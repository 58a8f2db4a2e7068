//! A caller learns the outcome, and readers learn of news.

use std::{pin::pin, time::Duration};

use backstory_event::{Append, EventStore, ExpectedVersion, Position, StoreErrorKind, StreamId};
use futures::{FutureExt, future::poll_immediate};

use crate::{
    Fixture,
    kit::{Background, Dice, any, event, events, exact, find, log, put, stream, within},
};

/// Sends an append until its outcome is known. It must be stored in the end.
async fn until_stored(store: &impl EventStore, append: &Append) {
    let mut append = append.clone();
    append.deadline = None;
    within(store.append(append)).await.unwrap();
}

async fn count(store: &impl EventStore, stream: &StreamId) -> usize {
    find(store, backstory_event::EventFilter::stream(stream.clone()))
        .await
        .len()
}

pub async fn a_dropped_append_is_stored_whole_or_not_at_all<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    let mut dice = Dice::new(7);
    let mut dropped = Vec::new();
    for round in 0..30 {
        let (one, two) = (
            stream("one", &round.to_string()),
            stream("two", &round.to_string()),
        );
        let append =
            Append::to(one, exact(0), events(&["a", "b"])).and(two, exact(0), events(&["c"]));
        {
            // Dropped before it begins, after the first poll, or while the store works on it.
            let mut attempt = pin!(store.append(append.clone()));
            for _ in 0..dice.below(6) {
                if poll_immediate(&mut attempt).await.is_some() {
                    break;
                }
                tokio::task::yield_now().await;
            }
        }
        dropped.push(append);
        // The store goes on.
        put(&store, &stream("steady", "1"), &["done"]).await;
    }
    let half = |append: &Append| {
        let (one, two) = (
            append.parts[0].stream.clone(),
            append.parts[1].stream.clone(),
        );
        let store = store.clone();
        async move { (count(&store, &one).await, count(&store, &two).await) }
    };
    for append in &dropped {
        let found = half(append).await;
        assert!(
            [(0, 0), (2, 1)].contains(&found),
            "half an append is stored: {found:?}"
        );
    }
    // Whatever became of them: the same events with the same ids end up in the log once.
    for append in &dropped {
        until_stored(&store, append).await;
        until_stored(&store, append).await;
        assert_eq!(half(append).await, (2, 1));
    }
    assert_eq!(log(&store).await.len(), 30 + 30 * 3);
}

pub async fn an_expired_deadline_tells_the_truth<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    let mut not_stored = Vec::new();
    let mut all = Vec::new();
    for (round, micros) in [0, 1, 50, 200, 500, 1_000, 2_000, 5_000]
        .into_iter()
        .cycle()
        .take(40)
        .enumerate()
    {
        let own = stream("own", &round.to_string());
        let append = Append::to(own.clone(), ExpectedVersion::NoStream, events(&["a", "b"]))
            .with_deadline(Duration::from_micros(micros));
        let outcome = within(store.append(append.clone()))
            .await
            .map_err(|error| error.into_kind());
        match outcome {
            Ok(receipt) => assert_eq!(receipt.version(&own).unwrap().get(), 2),
            Err(StoreErrorKind::NotStored { .. } | StoreErrorKind::Unavailable { .. }) => {
                not_stored.push((own, append.clone()));
            }
            Err(StoreErrorKind::OutcomeUnknown { event_ids }) => {
                assert_eq!(event_ids, append.event_ids(), "it says whose outcome");
            }
            Err(other) => panic!("{other:?}"),
        }
        all.push(append);
    }
    put(&store, &stream("steady", "1"), &["done"]).await;
    for (own, _) in &not_stored {
        assert_eq!(count(&store, own).await, 0, "not stored means not stored");
    }
    // Sending the same again is safe after each of these outcomes.
    for append in &all {
        until_stored(&store, append).await;
    }
    assert_eq!(log(&store).await.len(), 1 + 40 * 2);
}

pub async fn deadlines_hold_under_load<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    let deadline = Duration::from_secs(15);
    let attempts = (0..200).map(|number| {
        let own = stream("own", &number.to_string());
        store.append(any(&own, [event("added")]).with_deadline(deadline))
    });
    for outcome in within(futures::future::join_all(attempts)).await {
        outcome.unwrap();
    }
    assert_eq!(log(&store).await.len(), 200);
}

pub async fn who_waits_for_news_is_woken<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    let other = within(fixture.elsewhere()).await;
    let todo = stream("todo", "1");
    put(&store, &todo, &["added"]).await;
    for (waits, writes) in [(&store, &store), (&other, &store), (&store, &other)] {
        let before = crate::kit::head(waits).await.position;
        let waiting = waits.clone();
        let waiter = Background::spawn(async move {
            // An early return is allowed, an unfounded promise is not.
            while waiting.changed(before).await.unwrap() <= before {
                tokio::task::yield_now().await;
            }
            crate::kit::head(&waiting).await.position
        });
        put(writes, &todo, &["done"]).await;
        assert!(waiter.join().await > before);
    }
    // News that are known already are told at once.
    let known = within(store.changed(Position::START)).await.unwrap();
    assert!(known <= crate::kit::head(&store).await.position);
    // Nobody is promised what is not there.
    let end = crate::kit::head(&store).await.position;
    if let Some(reached) = store.changed(end).now_or_never() {
        assert!(reached.unwrap() <= end);
    }
}
