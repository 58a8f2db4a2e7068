//! States of now and of before.

use backstory_event::{
    Checkpoint, EventFilter, EventStore, EventStoreExt, NewEvent, RecordedEvent, StoreErrorKind,
};
use chrono::{DateTime, Duration, Utc};
use serde_json::json;

use super::query::three_times;
use crate::{
    Fixture,
    kit::{Dice, any, event, log, payload, position, put, refusal, refused, stream, within},
    seats::{Occupied, SeatEvent, TAKEN},
};

/// The state that events give one after another.
fn occupied<'a>(events: impl IntoIterator<Item = &'a RecordedEvent>) -> Occupied {
    let change = |event: &RecordedEvent| match event.name() {
        "seat.taken" => 1,
        "seat.left" => -1,
        _ => 0,
    };
    Occupied(events.into_iter().map(change).sum())
}

pub async fn a_fold_gives_the_state_at_any_position<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    let mut dice = Dice::new(7);
    for round in 0..40 {
        let events = (0..=dice.below(3)).map(|_| match dice.below(3) {
            0 => NewEvent::of(&SeatEvent::left(1)).unwrap(),
            1 => NewEvent::of(&SeatEvent::taken(1)).unwrap(),
            _ => event("noise"),
        });
        let events: Vec<_> = events.collect();
        let theatre = stream("theatre", &(round % 3).to_string());
        within(store.append(any(&theatre, events))).await.unwrap();
    }
    let stored = log(&store).await;
    for end in 0..stored.len() + 3 {
        let fold = store.fold::<Occupied>(EventFilter::of::<SeatEvent>());
        let folded = within(fold.at(position(end)).into_future()).await.unwrap();
        let seen = &stored[..end.min(stored.len())];
        let last = seen
            .last()
            .map_or(Checkpoint::START, RecordedEvent::checkpoint);
        assert_eq!((folded.state, folded.read_to), (occupied(seen), last));
    }
}

pub async fn a_fold_gives_the_state_at_any_time<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    for round in 0..3 {
        let take = NewEvent::of(&SeatEvent::taken(round)).unwrap();
        within(store.append(any(&stream("theatre", "1"), [take])))
            .await
            .unwrap();
        three_times(&store).await;
    }
    let stored = log(&store).await;
    let ticks = [-1, 0, 1].map(Duration::microseconds);
    let about = |event: &RecordedEvent| ticks.map(|tick| event.recorded_at() + tick);
    let mut times: Vec<_> = stored.iter().flat_map(about).collect();
    times.dedup();
    let nearly = stored[0].recorded_at() + Duration::nanoseconds(999);
    times.extend([nearly, DateTime::UNIX_EPOCH, DateTime::<Utc>::MAX_UTC]);
    for time in times {
        let fold = store.fold::<Occupied>(EventFilter::of::<SeatEvent>());
        let folded = within(fold.at_time(time).into_future()).await.unwrap();
        let seen = stored.iter().filter(|event| event.recorded_at() <= time);
        let last = seen.clone().next_back();
        let last = last.map_or(Checkpoint::START, RecordedEvent::checkpoint);
        assert_eq!(folded.state, occupied(seen), "at {time}");
        assert_eq!(folded.read_to, last, "at {time}");
        assert_eq!(within(store.position_at(time)).await.unwrap(), last);
    }
}

pub async fn a_decision_on_a_past_state_is_refused<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    let theatre = stream("theatre", "1");
    let take = |seat| NewEvent::of(&SeatEvent::taken(seat)).unwrap();
    within(store.append(any(&theatre, [take(1)])))
        .await
        .unwrap();
    put(&store, &theatre, &["noise"]).await;
    within(store.append(any(&theatre, [take(2)])))
        .await
        .unwrap();
    let fold = || store.fold::<Occupied>(EventFilter::of::<SeatEvent>());
    let before = within(fold().at(position(2)).into_future()).await.unwrap();
    let kind = refused(&store, any(&theatre, [take(3)]).fail_if(before.condition())).await;
    assert!(matches!(kind, StoreErrorKind::Conflict(_)), "{kind:?}");
}

pub async fn an_event_that_does_not_decode_ends_a_fold<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    let theatre = stream("theatre", "1");
    let take = NewEvent::of(&SeatEvent::taken(1)).unwrap();
    let broken = NewEvent::raw(TAKEN, payload(json!({ "seat": "none" })));
    within(store.append(any(&theatre, [take, broken])))
        .await
        .unwrap();
    let fold = || store.fold::<Occupied>(EventFilter::of::<SeatEvent>());
    let before = within(fold().at(position(1)).into_future()).await.unwrap();
    assert_eq!(before.state, Occupied(1));
    let kind = refusal(within(fold().into_future()).await);
    let StoreErrorKind::Decode(error) = kind else {
        panic!("{kind:?}");
    };
    assert_eq!(error.position, position(2));
}
