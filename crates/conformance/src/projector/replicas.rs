//! Several processes that run the same projection, and somebody who tells them what to do.

use std::time::Duration;

use backstory_event::{Checkpoint, EventStoreExt, Position};
use backstory_projection::{
    Beat, Checkpoints, CommitError, Control, DocumentStore, Operator, OperatorError, ProjectionRow,
    ProjectionState, Projector, ProjectorOptions, Report, RowState, RunningProjector, Schedule,
    Seat, Step, Target,
};
use uuid::Uuid;

use super::ledger::{HOUR, LEDGER, Ledger, Switches, book, run, run_by_hand, seen, status, until};
use crate::{CompleteStore, Fixture, kit::within};

/// A process that is called so, with leases that end soon.
async fn process<S: CompleteStore + Clone>(store: &S, name: &str) -> RunningProjector {
    let options = ProjectorOptions::default()
        .with_process(name)
        .with_lease(Duration::from_millis(500));
    let projector = Projector::new(store)
        .with(Ledger::default(), Schedule::continuous())
        .with_options(options);
    within(projector.start()).await.unwrap()
}

fn beat(owner: Uuid, lease: Duration) -> Beat {
    Beat {
        owner,
        process: "by hand".to_owned(),
        origin: None,
        lease,
        reports: vec![Report {
            projection: LEDGER.to_owned(),
            state: RowState::Running,
            reason: None,
            reached: Position::START,
            head: Position::START,
            behind_since: None,
            rate: 0.0,
            rebuild: None,
        }],
        answers: Vec::new(),
    }
}

async fn seat<S: Control>(store: &S, owner: Uuid, lease: Duration) -> Seat {
    let seats = within(store.beat(&beat(owner, lease))).await.unwrap();
    assert_eq!(seats.len(), 1);
    seats.into_iter().next().unwrap()
}

async fn row<S: Control>(store: &S) -> ProjectionRow {
    let rows = within(store.list_projections()).await.unwrap();
    rows.into_iter()
        .find(|row| row.projection == LEDGER)
        .unwrap()
}

async fn row_until<S: Control>(store: &S, wanted: impl Fn(&ProjectionRow) -> bool) {
    within(async {
        while !wanted(&row(store).await) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
}

pub async fn one_process_leads_and_the_others_stand_by<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    let first = process(&store, "first").await;
    let elsewhere = fixture.elsewhere().await;
    let second = process(&elsewhere, "second").await;
    for _ in 0..5 {
        let receipt = book(&store, 2).await;
        // Reading one's own writes needs no luck with the process.
        within(second.caught_up(&receipt)).await.unwrap();
        within(first.caught_up(&receipt)).await.unwrap();
    }
    assert_eq!(status(&first).state, ProjectionState::Running);
    assert_eq!(status(&first).events_projected, 10);
    assert_eq!(status(&second).state, ProjectionState::Standby);
    assert_eq!(status(&second).batches, 0);
    assert_eq!(seen(&store).await, (1..=10).collect::<Vec<_>>());
}

pub async fn another_process_takes_over_after_a_shutdown<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    let long = ProjectorOptions::default().with_lease(HOUR);
    let first = Projector::new(&store)
        .with(Ledger::default(), Schedule::continuous())
        .with_options(long);
    let first = within(first.start()).await.unwrap();
    let second = process(&store, "second").await;
    within(first.caught_up(&book(&store, 3).await))
        .await
        .unwrap();
    assert_eq!(status(&second).state, ProjectionState::Standby);
    within(first.shutdown()).await.unwrap();
    // Its lease would last for an hour.
    let receipt = book(&store, 3).await;
    within(second.caught_up(&receipt)).await.unwrap();
    assert_eq!(status(&second).state, ProjectionState::Running);
    assert_eq!(seen(&store).await, [1, 2, 3, 4, 5, 6]);
}

pub async fn another_process_takes_over_from_a_silent_one<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    let silent = Uuid::now_v7();
    let lease = Duration::from_millis(700);
    let led = seat(&store, silent, lease).await;
    assert!(led.leads);
    let begun = tokio::time::Instant::now();
    let projector = process(&store, "second").await;
    assert_eq!(status(&projector).state, ProjectionState::Standby);
    let receipt = book(&store, 3).await;
    within(projector.caught_up(&receipt)).await.unwrap();
    assert!(begun.elapsed() >= lease / 2, "it waited for the lease");
    assert_eq!(row(&store).await.process.as_deref(), Some("second"));
    // It wakes and wants to go on.
    let late = seat(&store, silent, lease).await;
    assert!(!late.leads);
    assert!(late.term > led.term);
    assert!(late.progress.epoch > led.progress.epoch);
}

pub async fn a_leader_of_the_past_stores_nothing<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    book(&store, 1).await;
    let (old, new) = (Uuid::now_v7(), Uuid::now_v7());
    let led = seat(&store, old, HOUR).await;
    within(store.leave(old)).await.unwrap();
    let next = seat(&store, new, HOUR).await;
    assert!(next.leads);
    let head = within(store.head()).await.unwrap();
    let step = |from| Step::new(from, Target::Advance(head));
    let late = within(store.commit_documents(Vec::new(), &step(led.progress))).await;
    let fenced = CommitError::Fenced {
        projection: LEDGER.to_owned(),
    };
    assert_eq!(late.unwrap_err().to_string(), fenced.to_string());
    within(store.commit_documents(Vec::new(), &step(next.progress)))
        .await
        .unwrap();
    let stored = within(store.load_progress(LEDGER)).await.unwrap();
    assert_eq!(stored.checkpoint, head);
}

pub async fn a_lease_that_is_renewed_is_kept<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    let (one, other) = (Uuid::now_v7(), Uuid::now_v7());
    let led = seat(&store, one, HOUR).await;
    assert_eq!((led.leads, led.term), (true, 1));
    let epoch = led.progress.epoch;
    for _ in 0..3 {
        let still = seat(&store, one, HOUR).await;
        assert_eq!((still.leads, still.term), (true, 1));
        assert_eq!(still.progress.epoch, epoch);
        let waits = seat(&store, other, HOUR).await;
        assert!(!waits.leads);
        assert_eq!(waits.progress.epoch, epoch);
    }
    // A lease that ran out and that nobody took goes on.
    seat(&store, one, Duration::ZERO).await;
    assert_eq!(seat(&store, one, Duration::ZERO).await.term, 1);
    let taken = seat(&store, other, HOUR).await;
    assert_eq!((taken.leads, taken.term), (true, 2));
    assert_eq!(taken.progress.epoch, epoch + 1);
}

pub async fn orders_reach_the_process_that_leads<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    let options = ProjectorOptions::default()
        .with_process("first")
        .with_lease(Duration::from_millis(500));
    let first = Projector::new(&store)
        .with(Ledger::default(), Schedule::every(HOUR))
        .with_options(options);
    let first = within(first.start()).await.unwrap();
    let elsewhere = fixture.elsewhere().await;
    let second = process(&elsewhere, "second").await;
    let operator = Operator::new(&elsewhere);

    book(&store, 4).await;
    let triggered = within(operator.trigger(LEDGER)).await.unwrap();
    assert_eq!(triggered.process, "first");
    until(&first, |status| status.events_projected == 4).await;

    let paused = within(operator.pause(LEDGER)).await.unwrap();
    assert_eq!(paused.unwrap().process, "first");
    assert_eq!(status(&first).state, ProjectionState::Paused);
    row_until(&elsewhere, |row| {
        row.paused && row.state == RowState::Paused
    })
    .await;
    let receipt = book(&store, 1).await;
    until(&second, |status| status.state == ProjectionState::Paused).await;
    let refused = within(second.caught_up(&receipt)).await.unwrap_err();
    assert!(refused.is_paused(), "{refused}");
    let resumed = within(operator.resume(LEDGER)).await.unwrap();
    assert_eq!(resumed.unwrap().process, "first");
    within(first.caught_up(&receipt)).await.unwrap();

    let reset = within(operator.reset(LEDGER)).await.unwrap();
    assert_eq!(reset.process, "first");
    until(&first, |status| status.events_projected == 10).await;
    assert_eq!(seen(&store).await, [1, 2, 3, 4, 5]);
    // The process that stands by passes the same things on.
    within(second.reset(LEDGER)).await.unwrap();
    until(&first, |status| status.events_projected == 15).await;
    book(&store, 1).await;
    within(second.trigger(LEDGER)).await.unwrap();
    until(&first, |status| status.events_projected == 16).await;
    assert_eq!(seen(&store).await, [1, 2, 3, 4, 5, 6]);
}

pub async fn a_pause_outlives_processes<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    let projector = process(&store, "first").await;
    within(projector.pause(LEDGER)).await.unwrap();
    within(projector.shutdown()).await.unwrap();
    let projector = process(&store, "second").await;
    let receipt = book(&store, 2).await;
    assert_eq!(status(&projector).state, ProjectionState::Paused);
    let refused = within(projector.caught_up(&receipt)).await.unwrap_err();
    assert!(refused.is_paused(), "{refused}");
    within(projector.shutdown()).await.unwrap();
    // Nobody runs it, and yet it can be told.
    let operator = Operator::new(&store).with_patience(Duration::from_millis(200));
    assert_eq!(within(operator.resume(LEDGER)).await.unwrap(), None);
    assert!(!row(&store).await.paused);
    let projector = process(&store, "third").await;
    within(projector.caught_up(&receipt)).await.unwrap();
}

pub async fn orders_that_nobody_takes_are_taken_back<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    let operator = Operator::new(&store).with_patience(Duration::from_millis(200));
    let unknown = within(operator.reset("leger")).await.unwrap_err();
    assert!(
        matches!(unknown, OperatorError::Unknown { .. }),
        "{unknown}"
    );
    let projector = process(&store, "first").await;
    within(projector.caught_up(&book(&store, 3).await))
        .await
        .unwrap();
    within(projector.shutdown()).await.unwrap();
    assert_eq!(row(&store).await.state, RowState::Idle);
    for order in [
        within(operator.reset(LEDGER)).await,
        within(operator.trigger(LEDGER)).await,
    ] {
        let error = order.unwrap_err();
        assert!(matches!(error, OperatorError::Unanswered { .. }), "{error}");
    }
    let unknown = within(operator.pause("leger")).await.unwrap_err();
    assert!(
        unknown.to_string().contains("there are: ledger"),
        "{unknown}"
    );
    // Whoever starts next does not do what was wanted once.
    let projector = process(&store, "second").await;
    within(projector.caught_up(&book(&store, 1).await))
        .await
        .unwrap();
    assert_eq!(status(&projector).events_projected, 1);
}

pub async fn rows_say_how_projections_are_doing<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    let elsewhere = fixture.elsewhere().await;
    let switches = Switches::default();
    let options = ProjectorOptions::default()
        .with_process("pod-7\n")
        .with_lease(Duration::from_millis(500));
    let projector = Projector::new(&store)
        .with(Ledger(switches.clone()), Schedule::continuous())
        .with_options(options);
    let projector = within(projector.start()).await.unwrap();
    let receipt = book(&store, 3).await;
    within(projector.caught_up(&receipt)).await.unwrap();
    row_until(&elsewhere, |row| row.reached.get() == 3 && row.lag() == 0).await;
    let well = row(&elsewhere).await;
    assert_eq!(well.state, RowState::Running);
    assert_eq!(well.process.as_deref(), Some("pod-7"));
    assert_eq!(well.progress.checkpoint, receipt.checkpoint);
    assert_eq!((well.reason, well.behind_since), (None, None));
    assert!(well.seen_at.is_some());

    switches.fail(true);
    book(&store, 2).await;
    row_until(&elsewhere, |row| {
        row.state == RowState::Failing && row.lag() == 2
    })
    .await;
    let failing = row(&elsewhere).await;
    let reason = failing.reason.unwrap();
    assert!(reason.contains("closed today"), "{reason}");
    assert!(failing.behind_since.is_some());
    // A process that stands by says so too, at once.
    let second = process(&elsewhere, "second").await;
    let error = within(second.caught_up(&Checkpoint::at(Position::new(5)))).await;
    let error = error.unwrap_err();
    assert!(error.is_failing(), "{error}");
    assert!(error.to_string().contains("closed today"), "{error}");

    switches.fail(false);
    let operator = Operator::new(&elsewhere);
    within(operator.resume(LEDGER)).await.unwrap();
    until(&second, |status| status.state == ProjectionState::Standby).await;
    within(second.catch_up()).await.unwrap();
    row_until(&elsewhere, |row| row.lag() == 0 && row.reason.is_none()).await;
    drop(projector);
}

pub async fn a_process_that_is_dropped_gives_its_leases_back<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    let (projector, _) = run_by_hand(&store, Schedule::continuous()).await;
    within(projector.caught_up(&book(&store, 1).await))
        .await
        .unwrap();
    drop(projector);
    row_until(&store, |row| row.state == RowState::Idle).await;
    let projector = run(&store, Schedule::continuous()).await;
    assert_eq!(status(&projector).state, ProjectionState::Running);
}
