//! States in memory that follow the log.

use backstory_event::{
    Checkpoint, EventFilter, EventStore, EventStoreExt, NewEvent, StoreErrorKind,
};
use backstory_projection::Live;
use serde_json::json;

use crate::{
    Fixture,
    kit::{Background, PATIENCE, any, head, payload, put, stream, within},
    seats::{Occupied, SeatEvent, TAKEN},
};

fn seats() -> EventFilter {
    EventFilter::of::<SeatEvent>()
}

fn take(number: u32) -> NewEvent {
    NewEvent::of(&SeatEvent::taken(number)).unwrap()
}

pub async fn a_live_state_equals_the_fold<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    let other = within(fixture.elsewhere()).await;
    let theatre = stream("theatre", "1");
    within(store.append(any(&theatre, (0..7).map(take))))
        .await
        .unwrap();
    let mut live = within(Live::<Occupied>::start(&store, seats()))
        .await
        .unwrap();
    assert_eq!(live.get().unwrap(), Occupied(7));
    let writers: Vec<_> = [store.clone(), other]
        .into_iter()
        .map(|store| {
            let theatre = theatre.clone();
            Background::spawn(async move {
                for number in 0..40 {
                    let leave = NewEvent::of(&SeatEvent::left(number)).unwrap();
                    let events = [take(number), take(number), leave];
                    within(store.append(any(&theatre, events))).await.unwrap();
                    put(&store, &stream("noise", "1"), &["noise"]).await;
                }
            })
        })
        .collect();
    let mut last = 7;
    while last < 87 {
        within(live.changed()).await.unwrap();
        // Appends of three events take one seat each; a page may end within one.
        last = live.get().unwrap().0;
    }
    for writer in writers {
        writer.join().await;
    }
    within(live.reached(head(&store).await, PATIENCE))
        .await
        .unwrap();
    let folded = within(store.fold::<Occupied>(seats()).into_future()).await;
    assert_eq!(live.with(Clone::clone).unwrap(), folded.unwrap());
}

pub async fn a_live_state_contains_a_receipt<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    let other = within(fixture.elsewhere()).await;
    let live = within(Live::<Occupied>::start(&store, seats()))
        .await
        .unwrap();
    for number in 1..=20 {
        let append = any(&stream("theatre", "1"), [take(number)]);
        let receipt = within(other.append(append)).await.unwrap();
        within(live.reached(&receipt, PATIENCE)).await.unwrap();
        assert_eq!(live.get().unwrap(), Occupied(i64::from(number)));
        let noise = put(&other, &stream("noise", "1"), &["noise"]).await;
        within(live.reached(&noise, PATIENCE)).await.unwrap();
        let read_to = live.with(|folded| folded.read_to).unwrap();
        assert_eq!(read_to, Checkpoint::from(&noise));
    }
}

pub async fn a_live_state_ends_at_what_does_not_decode<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    let mut live = within(Live::<Occupied>::start(&store, seats()))
        .await
        .unwrap();
    let broken = NewEvent::raw(TAKEN, payload(json!({ "seat": "none" })));
    let append = any(&stream("theatre", "1"), [broken]);
    within(store.append(append)).await.unwrap();
    let error = within(live.changed()).await.unwrap_err();
    let kind = error.store_error().map(|error| error.kind().clone());
    assert!(matches!(kind, Some(StoreErrorKind::Decode(_))), "{error}");
    assert!(live.get().is_err());
}

/// One test per case of the suite of live states.
#[macro_export]
macro_rules! live_suite {
    ($make:expr) => {
        $crate::cases!($make, $crate::live, [
            a_live_state_equals_the_fold
            a_live_state_contains_a_receipt
            a_live_state_ends_at_what_does_not_decode
        ]);
    };
}
