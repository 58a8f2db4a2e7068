//! Starting, pausing, resetting and ending projections.

use std::time::Duration;

use async_trait::async_trait;
use backstory_event::{Envelope, Position};
use backstory_projection::{
    self as projection, Checkpoints, DocumentReader, Documents, Projection, ProjectionState,
    Projector, ProjectorErrorKind, ProjectorOptions, Schedule,
};

use super::ledger::{
    HOUR, LEDGER, Ledger, LedgerEvent, Switches, book, noise, run, run_by_hand, seen, status, until,
};
use crate::{Fixture, kit::within};

pub async fn a_reset_builds_the_read_model_again<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    let schedules: [Schedule; 2] = [
        Schedule::continuous().debounce(HOUR).into(),
        Schedule::every(HOUR).into(),
    ];
    for (schedule, round) in schedules.into_iter().zip(1..) {
        let (projector, _) = run_by_hand(&store, schedule).await;
        book(&store, 10).await;
        noise(&store, 5).await;
        within(projector.catch_up()).await.unwrap();
        let before = seen(&store).await;
        assert_eq!(before.len(), 10 * round);
        let epoch = store.load_progress(LEDGER).await.unwrap().epoch;
        within(projector.reset(LEDGER)).await.unwrap();
        // It builds again by itself, without waiting for its schedule.
        let all = 10 + 10 * round as u64;
        until(&projector, |status| status.events_projected == all).await;
        assert_eq!(seen(&store).await, before);
        let progress = store.load_progress(LEDGER).await.unwrap();
        assert_eq!(progress.epoch, epoch + 1);
        within(projector.shutdown()).await.unwrap();
    }
    let projector = run(&store, Schedule::continuous()).await;
    let error = within(projector.reset("leger")).await.unwrap_err();
    assert!(
        matches!(error.kind(), ProjectorErrorKind::UnknownProjection { .. }),
        "{error}"
    );
}

pub async fn a_paused_projection_rests_until_it_is_resumed<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    let (projector, clock) = run_by_hand(&store, Schedule::continuous()).await;
    book(&store, 2).await;
    within(projector.catch_up()).await.unwrap();
    within(projector.pause(LEDGER)).await.unwrap();
    within(projector.pause(LEDGER)).await.unwrap();
    assert_eq!(status(&projector).state, ProjectionState::Paused);
    book(&store, 3).await;
    until(&projector, |status| status.head.get() == 5).await;
    clock.advance(HOUR);
    let paused = status(&projector);
    assert_eq!(
        (paused.events_projected, paused.reached.get(), paused.lag),
        (2, 2, 3)
    );
    within(projector.resume(LEDGER)).await.unwrap();
    let resumed = until(&projector, |status| status.events_projected == 5).await;
    assert_eq!(resumed.state, ProjectionState::Running);
    // It can be emptied while it rests, and is built when it goes on.
    within(projector.pause(LEDGER)).await.unwrap();
    within(projector.reset(LEDGER)).await.unwrap();
    assert!(seen(&store).await.is_empty());
    assert_eq!(status(&projector).state, ProjectionState::Paused);
    within(projector.resume(LEDGER)).await.unwrap();
    within(projector.catch_up()).await.unwrap();
    assert_eq!(seen(&store).await, [1, 2, 3, 4, 5]);
}

pub async fn a_shutdown_projects_what_was_collected<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    let (projector, _) = run_by_hand(&store, Schedule::continuous().debounce(HOUR)).await;
    book(&store, 20).await;
    until(&projector, |status| status.buffered == 20).await;
    // Some of these it has not even read yet.
    book(&store, 20).await;
    noise(&store, 3).await;
    let report = within(projector.shutdown()).await.unwrap();
    assert_eq!(seen(&store).await, (1..=40).collect::<Vec<_>>());
    let [ledger] = &report.projections[..] else {
        panic!("{report:?}");
    };
    assert_eq!((ledger.lag, ledger.checkpoint.position.get()), (0, 43));
    assert!(matches!(ledger.state, ProjectionState::Stopped { .. }));
    // A second time changes nothing.
    assert_eq!(within(projector.shutdown()).await.unwrap(), report);
}

pub async fn a_shutdown_says_what_is_left<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    let switches = Switches::default();
    let projector = Projector::new(&store).with(Ledger(switches.clone()), Schedule::continuous());
    let projector = within(projector.start()).await.unwrap();
    book(&store, 2).await;
    within(projector.catch_up()).await.unwrap();
    switches.fail(true);
    book(&store, 3).await;
    until(&projector, |status| {
        matches!(status.state, ProjectionState::Failing { .. })
    })
    .await;
    let report = within(projector.shutdown()).await.unwrap();
    assert_eq!(
        (
            report.projections[0].lag,
            report.projections[0].reached.get()
        ),
        (3, 2)
    );
    let projector = run(&store, Schedule::continuous()).await;
    within(projector.catch_up()).await.unwrap();
    assert_eq!(status(&projector).events_projected, 3);
}

pub async fn a_shutdown_ends_with_its_grace<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    let switches = Switches::default();
    switches.hang(true);
    let projector = Projector::new(&store)
        .with(Ledger(switches), Schedule::continuous())
        .with_options(ProjectorOptions::default().with_grace(Duration::from_millis(50)));
    let projector = within(projector.start()).await.unwrap();
    book(&store, 2).await;
    until(&projector, |status| status.head.get() == 2).await;
    let error = within(projector.shutdown()).await.unwrap_err();
    let ProjectorErrorKind::Unfinished { projections } = error.kind() else {
        panic!("{error:?}");
    };
    assert_eq!(projections, &[LEDGER]);
    drop(projector);
    // Nothing of the batch is there, and nothing is lost.
    assert!(seen(&store).await.is_empty());
    let projector = run(&store, Schedule::continuous()).await;
    within(projector.catch_up()).await.unwrap();
    assert_eq!(seen(&store).await, [1, 2]);
}

pub async fn a_checkpoint_also_passes_events_of_others<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    let (projector, clock) = run_by_hand(&store, Schedule::continuous()).await;
    noise(&store, 50).await;
    within(projector.catch_up()).await.unwrap();
    let passed = status(&projector);
    assert_eq!(
        (passed.reached.get(), passed.lag, passed.batches),
        (50, 0, 0)
    );
    // It is not written for each of them, but it is written.
    assert_eq!(
        store
            .load_progress(LEDGER)
            .await
            .unwrap()
            .checkpoint
            .position,
        Position::START
    );
    clock.advance(Duration::from_secs(1));
    until(&projector, |status| status.checkpoint.position.get() == 50).await;
    noise(&store, 10).await;
    within(projector.catch_up()).await.unwrap();
    within(projector.shutdown()).await.unwrap();
    let stored = store.load_progress(LEDGER).await.unwrap();
    assert_eq!(stored.checkpoint.position.get(), 60);
}

/// Has a read model that documents know nothing of, and one name with the ledger.
struct Namesake;

#[async_trait]
impl Projection<Documents> for Namesake {
    type Event = LedgerEvent;
    const NAME: &'static str = LEDGER;

    async fn project(&self, _: &[Envelope<LedgerEvent>], _: &mut Documents) -> projection::Result {
        Ok(())
    }
}

/// Its name is none.
struct Nameless;

#[async_trait]
impl Projection<Documents> for Nameless {
    type Event = LedgerEvent;
    const NAME: &'static str = "";

    async fn project(&self, _: &[Envelope<LedgerEvent>], _: &mut Documents) -> projection::Result {
        Ok(())
    }
}

/// Does something of its own at a reset.
struct Resetting(bool);

#[async_trait]
impl Projection<Documents> for Resetting {
    type Event = LedgerEvent;
    const NAME: &'static str = "resetting";

    async fn project(
        &self,
        batch: &[Envelope<LedgerEvent>],
        docs: &mut Documents,
    ) -> projection::Result {
        for e in batch {
            docs.put("resetting", &e.position(), &1).await?;
        }
        Ok(())
    }

    async fn reset(&self, docs: &mut Documents) -> projection::Result {
        if self.0 {
            return Err("not today".into());
        }
        docs.put("resetting", "was reset", &true).await?;
        Ok(())
    }
}

pub async fn names_are_checked_at_the_start<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    let twice = Projector::new(&store)
        .with(Ledger::default(), Schedule::continuous())
        .with(Namesake, Schedule::continuous());
    let error = within(twice.start()).await.unwrap_err();
    assert!(
        matches!(error.kind(), ProjectorErrorKind::DuplicateName { .. }),
        "{error}"
    );
    assert!(error.to_string().contains(LEDGER));
    let nameless = Projector::new(&store).with(Nameless, Schedule::continuous());
    let error = within(nameless.start()).await.unwrap_err();
    assert!(
        matches!(error.kind(), ProjectorErrorKind::InvalidName(_)),
        "{error}"
    );
}

pub async fn a_reset_calls_the_projection<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    let reader = DocumentReader::from(&store);
    book(&store, 2).await;
    for (fails, is_reset) in [(true, None), (false, Some(true))] {
        let projector = Projector::new(&store).with(Resetting(fails), Schedule::continuous());
        let projector = within(projector.start()).await.unwrap();
        within(projector.catch_up()).await.unwrap();
        let reset = within(projector.reset("resetting")).await;
        assert_eq!(reset.is_err(), fails);
        if let Err(error) = reset {
            let text = error.to_string();
            assert!(
                text.contains("resetting") && text.contains("not today"),
                "{text}"
            );
        }
        within(projector.catch_up()).await.unwrap();
        let was_reset = reader.get::<bool>("resetting", "was reset").await.unwrap();
        assert_eq!(was_reset, is_reset);
        assert_eq!(reader.get::<u8>("resetting", "1").await.unwrap(), Some(1));
        within(projector.shutdown()).await.unwrap();
    }
}
