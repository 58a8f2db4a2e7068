//! Orders that say more than a word: where to go back to, which letters.

use std::time::Duration;

use backstory_event::{Checkpoint, EventFilter, EventQuery, EventStore, EventStoreExt, Position};
use backstory_projection::{
    LetterQuery, Letters, OnFailure, Operator, OperatorError, Projector, ProjectorErrorKind,
    Schedule, Start,
};

use super::{
    failures::{PICKY, Picky},
    ledger::{LEDGER, append, book, booked, run, seen, status, until},
};
use crate::{Fixture, kit::within};

pub async fn a_rewind_projects_again_what_is_behind<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    let projector = run(&store, Schedule::continuous()).await;
    for _ in 0..5 {
        book(&store, 1).await;
        // Another microsecond.
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    within(projector.catch_up()).await.unwrap();
    let at = |position| Start::Position(Position::new(position));
    within(projector.rewind(LEDGER, at(3))).await.unwrap();
    until(&projector, |status| status.reached.get() == 5).await;
    assert_eq!(seen(&store).await, [1, 2, 3, 4, 5, 4, 5]);
    assert_eq!(status(&projector).checkpoint.position.get(), 5);

    let elsewhere = fixture.elsewhere().await;
    let operator = Operator::new(&elsewhere);
    let fifth = EventQuery::new(EventFilter::all()).after(Checkpoint::at(Position::new(4)));
    let page = within(store.read(&fifth.limit(1))).await.unwrap();
    let time = page.events[0].recorded_at();
    let done = within(operator.rewind(LEDGER, Start::Time(time)))
        .await
        .unwrap();
    assert_eq!(done.note.as_deref(), Some("back at position 4"));
    until(&projector, |status| status.events_projected == 8).await;
    assert_eq!(seen(&store).await, [1, 2, 3, 4, 5, 4, 5, 5]);

    // What was not projected yet cannot be passed over.
    within(projector.pause(LEDGER)).await.unwrap();
    book(&store, 3).await;
    let refused = within(projector.rewind(LEDGER, at(7))).await.unwrap_err();
    assert!(
        matches!(refused.kind(), ProjectorErrorKind::Refused { .. }),
        "{refused}"
    );
    assert!(refused.to_string().contains("7 is ahead"), "{refused}");
    within(projector.resume(LEDGER)).await.unwrap();
    within(projector.catch_up()).await.unwrap();
    assert_eq!(
        seen(&store).await,
        [1, 2, 3, 4, 5, 4, 5, 5, 6, 7, 8].map(i64::from)
    );
    assert_eq!(within(store.head()).await.unwrap().position.get(), 8);
}

pub async fn letters_are_replayed_and_discarded_by_order<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    let picky = Picky::new(OnFailure::skip().after(1), [7, 8]);
    let projector = Projector::new(&store).with(picky.clone(), Schedule::continuous());
    let projector = within(projector.start()).await.unwrap();
    append(&store, "a", [1, 7, 8, 2, 7].map(booked)).await;
    within(projector.catch_up()).await.unwrap();
    let elsewhere = fixture.elsewhere().await;
    let operator = Operator::new(&elsewhere);
    let note = |done: backstory_projection::Done| done.note.unwrap();

    let again = within(operator.replay(PICKY, Letters::All)).await.unwrap();
    assert_eq!(note(again), "3 failed again");
    let gone = within(operator.discard(PICKY, Position::new(3))).await;
    assert_eq!(note(gone.unwrap()), "1 discarded");
    picky.heal();
    let healed = within(operator.replay(PICKY, Letters::Key("a".into()))).await;
    assert_eq!(note(healed.unwrap()), "2 replayed");
    let none = within(operator.replay(PICKY, Letters::All)).await.unwrap();
    assert_eq!(note(none), "no letters to replay");
    let left = within(projector.dead_letters(&LetterQuery::of(PICKY))).await;
    assert!(left.unwrap().is_empty());
    let unknown = within(operator.replay("pikcy", Letters::All)).await;
    assert!(matches!(unknown, Err(OperatorError::Unknown { .. })));
}
