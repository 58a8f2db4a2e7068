//! When a projection runs.

use std::time::Duration;

use backstory_projection::Schedule;

use super::ledger::{HOUR, LEDGER, book, noise, run_by_hand, seen, status, until};
use crate::{Fixture, kit::within};

pub async fn a_debounce_makes_one_batch_of_many<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    let schedule = Schedule::continuous().debounce(HOUR).debounce_cap(HOUR * 9);
    let (projector, clock) = run_by_hand(&store, schedule).await;
    for _ in 0..10 {
        book(&store, 5).await;
        noise(&store, 1).await;
    }
    let collected = until(&projector, |status| status.buffered == 50).await;
    assert_eq!((collected.batches, collected.events_projected), (0, 0));
    // Quiet, but not for long enough.
    clock.advance(HOUR / 2);
    book(&store, 1).await;
    let collected = until(&projector, |status| status.buffered == 51).await;
    clock.advance(HOUR / 2);
    assert_eq!(collected.batches, 0);
    clock.advance(HOUR / 2);
    let done = until(&projector, |status| status.events_projected == 51).await;
    assert_eq!((done.batches, done.buffered), (1, 0));
    assert_eq!(seen(&store).await.len(), 51);
}

pub async fn the_cap_holds_under_steady_traffic<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    let debounce = Duration::from_millis(200);
    let schedule = Schedule::continuous()
        .debounce(debounce)
        .debounce_cap(debounce * 2);
    let (projector, clock) = run_by_hand(&store, schedule).await;
    // An event in each tenth of a second, for six seconds: it is never quiet for long enough.
    for number in 1..=60 {
        book(&store, 1).await;
        until(&projector, |status| {
            status.buffered as u64 + status.events_projected == number
        })
        .await;
        clock.advance(debounce / 2);
    }
    // Five events fit into the time of the cap, the batch in between may take one more.
    let batches = status(&projector).batches;
    assert!(
        (9..=16).contains(&batches),
        "{batches} batches in six seconds"
    );
}

pub async fn a_full_batch_does_not_wait<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    let schedule = Schedule::continuous().debounce(HOUR).max_batch(10);
    let (projector, clock) = run_by_hand(&store, schedule).await;
    book(&store, 25).await;
    let full = until(&projector, |status| status.buffered == 5).await;
    assert_eq!((full.batches, full.events_projected), (2, 20));
    assert_eq!(seen(&store).await.len(), 20);
    clock.advance(HOUR);
    until(&projector, |status| status.events_projected == 25).await;
}

pub async fn a_periodic_projection_runs_once_in_each_interval<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    book(&store, 5).await;
    let (projector, clock) = run_by_hand(&store, Schedule::every(HOUR).max_batch(4)).await;
    book(&store, 5).await;
    until(&projector, |status| status.head.get() == 10).await;
    assert_eq!(
        status(&projector).reached.get(),
        0,
        "the first run is after an interval"
    );
    clock.advance(HOUR);
    until(&projector, |status| status.events_projected == 10).await;
    book(&store, 3).await;
    until(&projector, |status| status.head.get() == 13).await;
    clock.advance(HOUR / 2);
    assert_eq!(status(&projector).events_projected, 10);
    clock.advance(HOUR / 2);
    until(&projector, |status| status.events_projected == 13).await;
    assert_eq!(seen(&store).await, (1..=13).collect::<Vec<_>>());
    within(projector.shutdown()).await.unwrap();

    let immediately = Schedule::every(HOUR).immediately();
    book(&store, 1).await;
    let (projector, _) = run_by_hand(&store, immediately).await;
    until(&projector, |status| status.events_projected == 1).await;
}

pub async fn a_cron_projection_runs_at_its_times<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    let nightly = Schedule::cron("0 3 * * *").unwrap().max_batch(4);
    // It is midnight.
    let (projector, clock) = run_by_hand(&store, nightly).await;
    book(&store, 5).await;
    until(&projector, |status| status.head.get() == 5).await;
    clock.advance(HOUR * 3 - Duration::from_millis(1));
    assert_eq!(status(&projector).events_projected, 0);
    clock.advance(Duration::from_millis(1));
    until(&projector, |status| status.events_projected == 5).await;
    book(&store, 3).await;
    until(&projector, |status| status.head.get() == 8).await;
    // Nights that are missed are not made up for.
    clock.advance(HOUR * 24 * 10 - Duration::from_millis(1));
    until(&projector, |status| status.events_projected == 8).await;
    book(&store, 1).await;
    until(&projector, |status| status.head.get() == 9).await;
    assert_eq!(status(&projector).events_projected, 8);
    clock.advance(Duration::from_millis(1));
    until(&projector, |status| status.events_projected == 9).await;
    assert_eq!(seen(&store).await, (1..=9).collect::<Vec<_>>());
}

pub async fn a_trigger_runs_a_projection_now<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    let schedules: [Schedule; 2] = [
        Schedule::continuous().debounce(HOUR).into(),
        Schedule::every(HOUR).into(),
    ];
    for (schedule, from) in schedules.into_iter().zip([0, 6]) {
        let (projector, _) = run_by_hand(&store, schedule).await;
        book(&store, 3).await;
        within(projector.trigger(LEDGER)).await.unwrap();
        until(&projector, |status| status.events_projected == 3).await;
        // It is over then: what comes later waits again.
        book(&store, 3).await;
        until(&projector, |status| status.head.get() == from + 6).await;
        assert_eq!(status(&projector).events_projected, 3);
        within(projector.trigger(LEDGER)).await.unwrap();
        until(&projector, |status| status.events_projected == 6).await;
        within(projector.shutdown()).await.unwrap();
    }
    assert_eq!(seen(&store).await, (1..=12).collect::<Vec<_>>());
}
