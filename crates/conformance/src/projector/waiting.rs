//! Reading one's own writes.

use std::time::{Duration, Instant};

use async_trait::async_trait;
use backstory_event::{Appended, Checkpoint, Envelope, Event, EventId, NewEvent, Position};
use backstory_projection::{
    self as projection, Documents, Projection, Projector, ProjectorErrorKind, Schedule,
};
use serde::{Deserialize, Serialize};

use super::ledger::{
    HOUR, LEDGER, Ledger, Switches, append, book, noise, run, run_by_hand, seen, status, until,
};
use crate::{
    Fixture,
    kit::{PATIENCE, within},
};

#[derive(Debug, Serialize, Deserialize, Event)]
#[event(prefix = "weather", crate = "backstory_event")]
enum WeatherEvent {
    Changed,
}

/// Wants other events than the ledger.
struct Weather;

#[async_trait]
impl Projection<Documents> for Weather {
    type Event = WeatherEvent;
    const NAME: &'static str = "weather";

    async fn project(
        &self,
        _: &[Envelope<WeatherEvent>],
        docs: &mut Documents,
    ) -> projection::Result {
        docs.put("weather", "changed", &true).await?;
        Ok(())
    }
}

pub async fn waiting_ends_the_debounce<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    // By hand: this clock never ends it.
    let (projector, _) = run_by_hand(&store, Schedule::continuous().debounce(HOUR)).await;
    for number in 1..=20 {
        let receipt = book(&store, 1).await;
        within(projector.caught_up(&receipt)).await.unwrap();
        assert_eq!(seen(&store).await.len(), number);
    }
    // Also for somebody who waits before the event is there.
    let next = Checkpoint::at(Position::new(21));
    let waits = projector.caught_up(next);
    let appends = async {
        book(&store, 1).await;
        Ok(())
    };
    within(futures::future::try_join(waits, appends))
        .await
        .unwrap();
    assert_eq!(seen(&store).await.len(), 21);
    // A periodic projection runs for somebody who waits.
    drop(projector);
    let (projector, _) = run_by_hand(&store, Schedule::every(HOUR)).await;
    let receipt = book(&store, 1).await;
    within(projector.caught_up(&receipt)).await.unwrap();
    assert_eq!(seen(&store).await.len(), 22);
}

pub async fn waiting_concerns_those_who_want_the_events<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    let projector = Projector::new(&store)
        .with(Ledger::default(), Schedule::continuous())
        .with(Weather, Schedule::continuous());
    let projector = within(projector.start()).await.unwrap();
    within(projector.pause("weather")).await.unwrap();
    let receipt = book(&store, 1).await;
    within(projector.caught_up(&receipt)).await.unwrap();
    // A checkpoint and a decision that appended nothing concern everybody.
    for awaited in [receipt.clone(), Appended::nothing(receipt.checkpoint)] {
        let all = projector.caught_up(Checkpoint::from(&awaited));
        assert!(within(all).await.unwrap_err().is_paused());
    }
    let nothing = Appended::nothing(receipt.checkpoint);
    assert!(
        within(projector.caught_up(&nothing))
            .await
            .unwrap_err()
            .is_paused()
    );
    // One alone can be asked, whatever it wants.
    within(projector.projection(LEDGER).caught_up(&receipt))
        .await
        .unwrap();
    let weather = projector.projection("weather");
    assert!(
        within(weather.caught_up(&receipt))
            .await
            .unwrap_err()
            .is_paused()
    );
    within(projector.resume("weather")).await.unwrap();
    within(weather.caught_up(&receipt)).await.unwrap();
    let changed = append(&store, "a", [NewEvent::of(&WeatherEvent::Changed).unwrap()]).await;
    within(projector.caught_up(&changed)).await.unwrap();

    let unknown = within(projector.projection("wether").caught_up(&receipt)).await;
    let text = unknown.unwrap_err().to_string();
    assert!(
        text.contains("wether") && text.contains("ledger, weather"),
        "{text}"
    );
}

pub async fn waiting_for_a_failing_projection_gets_its_error<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    let switches = Switches::default();
    let projector = Projector::new(&store).with(Ledger(switches.clone()), Schedule::continuous());
    let projector = within(projector.start()).await.unwrap();
    let good = book(&store, 1).await;
    within(projector.caught_up(&good)).await.unwrap();
    switches.fail(true);
    let bad = book(&store, 1).await;
    // Long before the deadline: with the first attempt, and also while it pauses after many.
    for attempts in [1, 4] {
        until(&projector, |status| {
            matches!(status.state, projection::ProjectionState::Failing { attempts: done, .. } if done >= attempts)
        })
        .await;
        let begin = Instant::now();
        let error = projector
            .caught_up_within(&bad, PATIENCE * 9)
            .await
            .unwrap_err();
        assert!(begin.elapsed() < PATIENCE, "{error}");
        let ProjectorErrorKind::Failing {
            projection,
            after,
            reason,
            ..
        } = error.kind()
        else {
            panic!("{error:?}");
        };
        assert_eq!((projection.as_str(), after.get()), (LEDGER, 1));
        assert!(reason.ends_with(": the ledger is closed today"), "{reason}");
    }
    // What is there is there.
    within(projector.caught_up(&good)).await.unwrap();
}

pub async fn waiting_for_a_paused_projection_gets_an_error<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    let (projector, _) = run_by_hand(&store, Schedule::continuous()).await;
    let future = Checkpoint::at(Position::new(9));
    let paused_meanwhile = async {
        let pause = projector.pause(LEDGER);
        let (waited, paused) = futures::future::join(projector.caught_up(future), pause).await;
        paused.unwrap();
        waited
    };
    let error = within(paused_meanwhile).await.unwrap_err();
    assert!(error.is_paused(), "{error}");
    let receipt = book(&store, 1).await;
    let error = within(projector.caught_up(&receipt)).await.unwrap_err();
    assert!(
        error.is_paused() && error.to_string().contains(LEDGER),
        "{error}"
    );
    within(projector.resume(LEDGER)).await.unwrap();
    within(projector.caught_up(&receipt)).await.unwrap();
    // And one that was shut down.
    within(projector.shutdown()).await.unwrap();
    let receipt = book(&store, 1).await;
    let error = within(projector.caught_up(&receipt)).await.unwrap_err();
    assert!(error.is_stopped(), "{error}");
}

pub async fn waiting_in_vain_ends_with_the_deadline<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    let projector = run(&store, Schedule::continuous()).await;
    book(&store, 2).await;
    within(projector.catch_up()).await.unwrap();
    let never = Checkpoint::at(Position::new(1_000));
    let error = projector
        .caught_up_within(never, Duration::from_millis(50))
        .await
        .unwrap_err();
    assert!(error.is_timed_out(), "{error}");
    let ProjectorErrorKind::TimedOut { awaited, after, .. } = error.kind() else {
        panic!("{error:?}");
    };
    assert_eq!((awaited.get(), after.get()), (1_000, 2));
    within(projector.shutdown()).await.unwrap();
    // A wait that is over wants nothing any more: the debounce holds again.
    let (projector, _) = run_by_hand(&store, Schedule::continuous().debounce(HOUR)).await;
    let waited = projector
        .caught_up_within(never, Duration::from_millis(20))
        .await;
    assert!(waited.is_err());
    book(&store, 2).await;
    let status = until(&projector, |status| status.buffered == 2).await;
    assert_eq!(status.batches, 0);
}

pub async fn a_foreign_receipt_is_refused<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    let projector = run(&store, Schedule::continuous()).await;
    let mut booked = book(&store, 3).await;
    let noise = noise(&store, 3).await;
    for position in [1, 3, 5, 6] {
        let foreign = Checkpoint {
            position: Position::new(position),
            event_id: EventId::new(),
        };
        let error = within(projector.caught_up(foreign)).await.unwrap_err();
        assert!(error.is_diverged(), "{error}");
    }
    within(projector.caught_up(&noise)).await.unwrap();
    within(projector.caught_up(&booked)).await.unwrap();
    booked.checkpoint.event_id = EventId::new();
    assert!(
        within(projector.caught_up(&booked))
            .await
            .unwrap_err()
            .is_diverged()
    );
}

pub async fn a_receipt_is_awaited_in_another_process<F: Fixture>(fixture: &F) {
    let (here, there) = (fixture.store(), fixture.elsewhere().await);
    let projector = run(&there, Schedule::continuous().debounce(HOUR)).await;
    for number in 1..=50 {
        let receipt = book(&here, 1).await;
        // As it travels in a header.
        let text = receipt.to_string();
        let checkpoint: Checkpoint = text.parse().unwrap();
        within(projector.caught_up(&checkpoint)).await.unwrap();
        assert_eq!(seen(&there).await.len(), number);
    }
    assert_eq!(status(&projector).events_projected, 50);
}
