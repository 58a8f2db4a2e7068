//! Where a projection begins, and where it ends.

use backstory_event::{EventFilter, EventStore, Position, RecordedEvent};
use backstory_projection::{ProjectionState, Projector, ProjectorErrorKind, Schedule, Start};

use super::ledger::{HOUR, LEDGER, Ledger, LedgerEvent, book, noise, run, seen, status, until};
use crate::{
    Fixture,
    kit::{Background, find, head, position, positions, within},
};

async fn booked_positions<S: EventStore>(store: &S, from: usize) -> Vec<i64> {
    let all = positions(&find(store, EventFilter::of::<LedgerEvent>()).await);
    let from = position(from).get();
    all.into_iter()
        .filter(|position| *position >= from)
        .collect()
}

pub async fn a_projection_begins_behind_a_position<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    book(&store, 3).await;
    noise(&store, 2).await;
    book(&store, 2).await;
    let schedule = Schedule::continuous().start_at(Start::Position(Position::new(2)));
    let projector = run(&store, schedule).await;
    within(projector.catch_up()).await.unwrap();
    assert_eq!(seen(&store).await, [3, 6, 7]);
    // A reset makes it one that has never run.
    within(projector.reset(LEDGER)).await.unwrap();
    book(&store, 1).await;
    within(projector.catch_up()).await.unwrap();
    assert_eq!(seen(&store).await, [3, 6, 7, 8]);
    within(projector.shutdown()).await.unwrap();
    // One that has run goes on where it was, wherever it should have begun.
    let other = Schedule::continuous().start_at(Start::Position(Position::new(7)));
    for schedule in [Schedule::continuous(), other] {
        let projector = run(&store, schedule).await;
        within(projector.catch_up()).await.unwrap();
        assert_eq!(status(&projector).events_projected, 0);
        within(projector.shutdown()).await.unwrap();
    }
}

pub async fn a_projection_begins_at_a_time<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    // No time is waited for: the clock moves on while events are stored.
    for _ in 0..10_000 {
        book(&store, 1).await;
        let stored = find(&store, EventFilter::all()).await;
        let times = stored.iter().map(RecordedEvent::recorded_at);
        let time = times.clone().max().unwrap();
        if times.clone().min() < Some(time) {
            let wanted = stored.iter().filter(|event| event.recorded_at() >= time);
            let wanted: Vec<_> = wanted.map(|event| event.position().get()).collect();
            let schedule = Schedule::continuous().start_at(Start::Time(time));
            let projector = run(&store, schedule).await;
            within(projector.catch_up()).await.unwrap();
            assert_eq!(seen(&store).await, wanted);
            return;
        }
    }
    panic!("the clock stands still");
}

pub async fn a_start_of_now_is_kept<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    let now = Schedule::every(HOUR).start_at(Start::Now);
    // It crashes before it has projected anything, in an empty log …
    drop(run(&store, now).await);
    book(&store, 3).await;
    let projector = run(&store, now).await;
    within(projector.catch_up()).await.unwrap();
    assert_eq!(seen(&store).await, [1, 2, 3]);
    within(projector.reset(LEDGER)).await.unwrap();
    until(&projector, |status| status.checkpoint.position.get() == 3).await;
    drop(projector);
    // … and with something in it.
    book(&store, 2).await;
    let projector = run(&store, now).await;
    within(projector.catch_up()).await.unwrap();
    assert_eq!(seen(&store).await, [4, 5]);
}

pub async fn several_processes_begin_at_one_place<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    let other = within(fixture.elsewhere()).await;
    book(&store, 1).await;
    let writer = Background::spawn({
        let store = store.clone();
        async move {
            for _ in 0..60 {
                book(&store, 1).await;
            }
        }
    });
    let now = Schedule::continuous().start_at(Start::Now);
    let (one, two) = tokio::join!(run(&store, now), run(&other, now));
    writer.join().await;
    let end = head(&store).await;
    for projector in [&one, &two] {
        within(projector.caught_up(end)).await.unwrap();
    }
    let seen = seen(&store).await;
    let first = seen.first().map_or(62, |first| *first as usize);
    assert!(first > 1, "what was there is passed over");
    assert_eq!(
        seen,
        booked_positions(&store, first).await,
        "all from there on, once"
    );
}

pub async fn a_start_beyond_the_end_is_refused<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    book(&store, 2).await;
    let schedule = Schedule::continuous().start_at(Start::Position(Position::new(3)));
    let projector = Projector::new(&store).with(Ledger::default(), schedule);
    let error = within(projector.start()).await.unwrap_err();
    let expected = ProjectorErrorKind::StartBeyondTheEnd {
        projection: LEDGER.to_owned(),
        start: Position::new(3),
        end: Position::new(2),
    };
    assert_eq!(error.kind(), &expected);
    let schedule = Schedule::continuous().start_at(Start::Position(Position::new(2)));
    let projector = run(&store, schedule).await;
    book(&store, 1).await;
    within(projector.catch_up()).await.unwrap();
    assert_eq!(seen(&store).await, [3]);
}

pub async fn a_projection_that_runs_once_finishes<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    book(&store, 5).await;
    noise(&store, 2).await;
    let once = Schedule::once().max_batch(2);
    let projector = run(&store, once).await;
    within(projector.finished()).await.unwrap();
    let end = head(&store).await;
    let done = status(&projector);
    assert_eq!(
        (done.state, done.checkpoint),
        (ProjectionState::Finished, end)
    );
    assert_eq!(seen(&store).await, [1, 2, 3, 4, 5]);
    let ledger = projector.projection(LEDGER);
    within(ledger.caught_up(end)).await.unwrap();
    // What comes later is not for it, and who waits for it learns that at once.
    let later = book(&store, 2).await;
    let error = within(ledger.caught_up(&later)).await.unwrap_err();
    assert!(error.is_finished(), "{error}");
    within(projector.caught_up(&later)).await.unwrap();
    assert_eq!(status(&projector).events_projected, 5);
    // Unless it is asked to run again.
    within(projector.trigger(LEDGER)).await.unwrap();
    until(&projector, |status| status.events_projected == 7).await;
    within(projector.finished()).await.unwrap();
    within(projector.shutdown()).await.unwrap();
    let projector = run(&store, once).await;
    within(projector.finished()).await.unwrap();
    assert_eq!(status(&projector).events_projected, 0);
    assert_eq!(seen(&store).await, [1, 2, 3, 4, 5, 8, 9]);
}
