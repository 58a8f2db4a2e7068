//! Events that a projection fails on: none is lost, and none blocks more than it may.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use backstory_event::{
    Appended, Envelope, EventStore, Lifecycle, ManualClock, NewEvent, Payload, Position,
    RecordedEvent,
};
use backstory_projection::{
    self as projection, Checkpoints, DeadLetter, DocumentReader, DocumentStore, Documents,
    LetterQuery, Letters, OnFailure, Projection, ProjectionState, ProjectionStatus, Projector,
    ProjectorErrorKind, RunningProjector, Schedule, Step, Target,
};

use super::ledger::{LedgerEvent, append, booked, noise};
use crate::{
    CompleteStore, Fixture,
    kit::{PATIENCE, within},
};

pub const PICKY: &str = "picky";

/// Writes down the positions that it is given, by account, and does not take every amount.
#[derive(Debug, Clone)]
pub struct Picky {
    policy: OnFailure,
    refused: Arc<Mutex<BTreeSet<i64>>>,
}

/// An amount that it panics at, and one that makes its key panic.
const PANICS: i64 = 1_000;
const KEYLESS: i64 = 1_001;

impl Picky {
    pub fn new(policy: OnFailure, refused: impl IntoIterator<Item = i64>) -> Self {
        let refused = Arc::new(Mutex::new(refused.into_iter().collect()));
        Self { policy, refused }
    }

    pub fn heal(&self) {
        self.refused.lock().unwrap().clear();
    }
}

#[async_trait]
impl Projection<Documents> for Picky {
    type Event = LedgerEvent;
    const NAME: &'static str = PICKY;

    fn on_failure(&self) -> OnFailure {
        self.policy
    }

    fn key(&self, event: &RecordedEvent) -> String {
        assert!(
            !event.payload().as_str().contains("1001"),
            "there is no such key"
        );
        event.stream().key().to_owned()
    }

    async fn project(
        &self,
        batch: &[Envelope<LedgerEvent>],
        docs: &mut Documents,
    ) -> projection::Result {
        for e in batch {
            let write_down = |seen: Option<Vec<i64>>| {
                let mut seen = seen.unwrap_or_default();
                seen.push(e.position().get());
                Some(seen)
            };
            docs.update(PICKY, e.stream().key(), write_down).await?;
            let LedgerEvent::Booked { amount } = e.event;
            if self.refused.lock().unwrap().contains(&amount) {
                assert!(amount < PANICS, "{amount} is too much");
                return Err(format!("it does not take {amount}").into());
            }
        }
        Ok(())
    }
}

async fn run<S: CompleteStore + Clone>(store: &S, picky: &Picky) -> RunningProjector {
    let projector = Projector::new(store).with(picky.clone(), Schedule::continuous());
    within(projector.start()).await.unwrap()
}

/// With a time that stands still until the case moves it.
async fn run_by_hand<S: CompleteStore + Clone>(
    store: &S,
    picky: &Picky,
) -> (RunningProjector, ManualClock) {
    let clock = ManualClock::default();
    let projector = Projector::new(store)
        .with(picky.clone(), Schedule::continuous())
        .with_clock(Arc::new(clock.clone()));
    (within(projector.start()).await.unwrap(), clock)
}

fn status(projector: &RunningProjector) -> ProjectionStatus {
    projector.projection(PICKY).status().unwrap()
}

/// Waits until the status is as wanted.
async fn until(projector: &RunningProjector, wanted: impl Fn(&ProjectionStatus) -> bool) {
    let patience = tokio::time::timeout(PATIENCE, async {
        while !wanted(&status(projector)) {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    });
    if patience.await.is_err() {
        panic!("it never got there: {:#?}", status(projector));
    }
}

/// The positions that it was given of an account.
async fn seen<S: DocumentStore + Clone>(store: &S, key: &str) -> Vec<i64> {
    let seen = DocumentReader::from(store);
    within(seen.get(PICKY, key))
        .await
        .unwrap()
        .unwrap_or_default()
}

async fn letters(projector: &RunningProjector) -> Vec<DeadLetter> {
    let all = LetterQuery::of(PICKY).limit(10_000);
    within(projector.dead_letters(&all)).await.unwrap()
}

fn places(letters: &[DeadLetter]) -> Vec<i64> {
    letters.iter().map(|letter| letter.position.get()).collect()
}

async fn book<S: EventStore>(store: &S, key: &str, amount: i64) -> Appended {
    append(store, key, [booked(amount)]).await
}

fn once(policy: OnFailure) -> OnFailure {
    policy.after(1)
}

pub async fn a_skipped_event_becomes_a_letter_and_the_rest_flows<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    append(&store, "a", (1..=200).map(booked)).await;
    let picky = Picky::new(once(OnFailure::skip()), [37, 38, 120, 200]);
    let projector = run(&store, &picky).await;
    within(projector.catch_up()).await.unwrap();
    let left_out = letters(&projector).await;
    assert_eq!(places(&left_out), [37, 38, 120, 200]);
    let taken: Vec<_> = (1..=200)
        .filter(|n| ![37, 38, 120, 200].contains(n))
        .collect();
    assert_eq!(seen(&store, "a").await, taken);
    let first = &left_out[0];
    assert_eq!(
        (first.projection.as_str(), first.key.as_str()),
        (PICKY, "a")
    );
    assert_eq!((first.name.as_str(), first.attempts), ("ledger.booked", 1));
    assert_eq!(first.reason, "it does not take 37");
    assert_eq!(first.stream.to_string(), "account/a");
    assert!(!first.parked && first.event_id != left_out[1].event_id);
    let status = status(&projector);
    assert_eq!(
        (status.dead_letters, status.parked_keys, status.lag),
        (Some(4), Some(0), 0)
    );
    assert_eq!(
        (status.events_projected, status.state),
        (196, ProjectionState::Running)
    );
    // Whoever waits for an event learns that it was left out.
    let receipt = append(&store, "a", [booked(1), booked(37), booked(2)]).await;
    let error = within(projector.caught_up(&receipt)).await.unwrap_err();
    let ProjectorErrorKind::Skipped { position, .. } = error.kind() else {
        panic!("{error:?}");
    };
    assert_eq!(position.get(), 202);
    let receipt = append(&store, "a", [booked(3)]).await;
    within(projector.caught_up(&receipt)).await.unwrap();
}

pub async fn a_parked_key_waits_and_the_others_go_on<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    let picky = Picky::new(once(OnFailure::park()), [7, PANICS]);
    let projector = run(&store, &picky).await;
    for (key, amount) in [("a", 1), ("b", 1), ("a", 7), ("b", 2), ("a", 3)] {
        book(&store, key, amount).await;
    }
    noise(&store, 3).await;
    within(projector.catch_up()).await.unwrap();
    assert_eq!(seen(&store, "a").await, [1]);
    assert_eq!(seen(&store, "b").await, [2, 4]);
    let waits = book(&store, "a", 4).await;
    let begin = std::time::Instant::now();
    let error = within(projector.caught_up(&waits)).await.unwrap_err();
    let ProjectorErrorKind::Parked {
        projection,
        key,
        position,
        ..
    } = error.kind()
    else {
        panic!("{error:?}");
    };
    assert_eq!((projection.as_str(), key.as_str()), (PICKY, "a"));
    assert_eq!(*position, waits.position());
    assert!(error.is_left_out() && begin.elapsed() < PATIENCE / 2);
    let fine = book(&store, "b", 3).await;
    within(projector.caught_up(&fine)).await.unwrap();
    assert_eq!(seen(&store, "b").await, [2, 4, 10]);

    let left_out = letters(&projector).await;
    assert_eq!(places(&left_out), [3, 5, 9]);
    let attempts: Vec<_> = left_out.iter().map(|letter| letter.attempts).collect();
    assert_eq!(attempts, [1, 0, 0]);
    assert!(
        left_out
            .iter()
            .all(|letter| letter.parked && letter.key == "a")
    );
    // A panic parks like an error does.
    let panics = book(&store, "c", PANICS).await;
    let error = within(projector.caught_up(&panics)).await.unwrap_err();
    assert!(error.to_string().contains("1000 is too much"), "{error}");
    let status = status(&projector);
    assert_eq!(
        (status.dead_letters, status.parked_keys),
        (Some(4), Some(2))
    );
    assert_eq!(status.state, ProjectionState::Running);
}

pub async fn parked_keys_stay_parked_after_a_restart<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    let picky = Picky::new(once(OnFailure::park()), [7]);
    let projector = run(&store, &picky).await;
    append(&store, "a", [booked(1), booked(7)]).await;
    within(projector.catch_up()).await.unwrap();
    within(projector.shutdown()).await.unwrap();
    append(&store, "a", [booked(2), booked(3)]).await;
    append(&store, "b", [booked(2), booked(3)]).await;
    // Also when it is another process, whose policy is another one, and the cause is gone.
    let picky = Picky::new(OnFailure::stop(), []);
    let there = fixture.elsewhere().await;
    let projector = run(&there, &picky).await;
    assert_eq!(status(&projector).parked_keys, Some(1));
    within(projector.catch_up()).await.unwrap();
    assert_eq!(places(&letters(&projector).await), [2, 3, 4]);
    assert_eq!(seen(&there, "a").await, [1]);
    assert_eq!(seen(&there, "b").await, [5, 6]);
}

pub async fn what_is_replayed_is_projected_once<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    let picky = Picky::new(once(OnFailure::park()), [7]);
    let projector = run(&store, &picky).await;
    append(&store, "a", [booked(1), booked(7), booked(2)]).await;
    append(&store, "b", (0..50).map(|_| booked(7))).await;
    within(projector.catch_up()).await.unwrap();
    assert_eq!(status(&projector).parked_keys, Some(2));
    picky.heal();
    // One behind another one of its key waits.
    let second = within(projector.replay(PICKY, Position::new(3)))
        .await
        .unwrap();
    assert_eq!((second.replayed, second.waiting), (0, 1));
    let first = within(projector.replay(PICKY, Position::new(2)))
        .await
        .unwrap();
    assert_eq!((first.replayed, first.waiting), (1, 0));
    assert_eq!(seen(&store, "a").await, [1, 2]);
    assert_eq!(
        status(&projector).parked_keys,
        Some(2),
        "one of its letters is left"
    );
    let rest = within(projector.replay(PICKY, Letters::Key("a".into())));
    assert_eq!(rest.await.unwrap().replayed, 1);
    assert_eq!(seen(&store, "a").await, [1, 2, 3]);
    assert_eq!(status(&projector).parked_keys, Some(1));
    // It is not parked any more.
    let next = book(&store, "a", 9).await;
    within(projector.caught_up(&next)).await.unwrap();
    assert_eq!(seen(&store, "a").await, [1, 2, 3, 54]);

    let all = within(projector.replay(PICKY, Letters::All)).await.unwrap();
    assert!(all.complete);
    assert_eq!((all.replayed, all.failed, all.erased), (50, 0, 0));
    assert_eq!(seen(&store, "b").await, (4..54).collect::<Vec<_>>());
    let again = within(projector.replay(PICKY, Letters::All)).await.unwrap();
    assert_eq!((again.replayed, again.waiting), (0, 0));
    assert_eq!(seen(&store, "b").await.len(), 50);
    let status = status(&projector);
    assert_eq!(
        (status.dead_letters, status.parked_keys),
        (Some(0), Some(0))
    );
    within(projector.caught_up(&next)).await.unwrap();
    let unknown = within(projector.replay("pickey", Letters::All)).await;
    assert!(unknown.unwrap_err().to_string().contains("pickey"));
}

pub async fn a_letter_that_fails_again_stays<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    let picky = Picky::new(once(OnFailure::park()), [7, 8]);
    let projector = run(&store, &picky).await;
    append(
        &store,
        "a",
        [booked(1), booked(7), booked(2), booked(8), booked(3)],
    )
    .await;
    append(&store, "b", [booked(8), booked(1)]).await;
    within(projector.catch_up()).await.unwrap();
    let report = within(projector.replay(PICKY, Letters::All)).await.unwrap();
    assert_eq!((report.replayed, report.failed, report.waiting), (0, 2, 4));
    let first = &letters(&projector).await[0];
    assert_eq!((first.position.get(), first.attempts), (2, 2));
    // One of them is mended: its key goes on up to the next one.
    picky.refused.lock().unwrap().remove(&7);
    let report = within(projector.replay(PICKY, Letters::All)).await.unwrap();
    assert_eq!((report.replayed, report.failed, report.waiting), (2, 2, 2));
    assert_eq!(seen(&store, "a").await, [1, 2, 3]);
    let left = letters(&projector).await;
    assert_eq!(places(&left), [4, 5, 6, 7]);
    let attempts: Vec<_> = left.iter().map(|letter| letter.attempts).collect();
    assert_eq!(attempts, [1, 0, 3, 0]);
    assert_eq!(left[0].reason, "it does not take 8");
    assert_eq!(status(&projector).parked_keys, Some(2));
    // A failed replay stops nothing.
    let fine = book(&store, "c", 1).await;
    within(projector.caught_up(&fine)).await.unwrap();
}

pub async fn discarded_letters_are_gone<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    let picky = Picky::new(once(OnFailure::park()), [7]);
    let projector = run(&store, &picky).await;
    append(&store, "a", [booked(1), booked(7), booked(2)]).await;
    append(&store, "b", (0..70).map(|_| booked(7))).await;
    within(projector.catch_up()).await.unwrap();
    // The one that fails goes, the one that waits for it can be replayed.
    let one = within(projector.discard(PICKY, Position::new(2))).await;
    assert_eq!(one.unwrap(), 1);
    let rest = within(projector.replay(PICKY, Letters::Key("a".into()))).await;
    assert_eq!(rest.unwrap().replayed, 1);
    assert_eq!(seen(&store, "a").await, [1, 3]);
    let next = book(&store, "a", 4).await;
    within(projector.caught_up(&next)).await.unwrap();
    for expected in [70, 0] {
        let all = within(projector.discard(PICKY, Letters::All)).await;
        assert_eq!(all.unwrap(), expected);
    }
    assert_eq!(seen(&store, "b").await, [] as [i64; 0]);
    assert_eq!(status(&projector).dead_letters, Some(0));
}

pub async fn what_does_not_decode_is_left_out_at_once<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    let broken = |_| {
        let payload = Payload::parse(r#"{"amount":"much"}"#).unwrap();
        NewEvent::raw("ledger.booked", payload)
    };
    append(&store, "a", [booked(1)]).await;
    append(&store, "a", (0..2).map(broken)).await;
    append(&store, "b", [booked(2)]).await;
    append(&store, "a", [booked(3), booked(KEYLESS)]).await;
    for (policy, left_out, parked) in [
        (OnFailure::skip(), vec![2, 3, 6], 0),
        (OnFailure::park(), vec![2, 3, 5, 6], 2),
    ] {
        // Its time stands still: no attempt waits for another one.
        let picky = Picky::new(policy, [KEYLESS]);
        let (projector, clock) = run_by_hand(&store, &picky).await;
        until(&projector, |status| status.dead_letters >= Some(2)).await;
        let head = Position::new(6);
        while status(&projector).reached < head {
            clock.advance(Duration::from_secs(1));
            tokio::task::yield_now().await;
        }
        let letters = letters(&projector).await;
        assert_eq!(places(&letters), left_out);
        assert_eq!(letters[0].attempts, 1);
        for part in [
            "ledger.booked",
            &letters[0].event_id.to_string(),
            "position 2",
        ] {
            assert!(letters[0].reason.contains(part), "{}", letters[0].reason);
        }
        assert_eq!(
            letters.last().unwrap().key,
            "account/a",
            "the stream instead"
        );
        assert_eq!(status(&projector).parked_keys, Some(parked));
        assert_eq!(seen(&store, "b").await, [4]);
        within(projector.shutdown()).await.unwrap();
        // For the next round.
        let from = store.load_progress(PICKY).await.unwrap();
        let step = Step::new(from, Target::Reset);
        store.commit_documents(Vec::new(), &step).await.unwrap();
    }
}

pub async fn attempts_are_used_up_before_it_stops<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    append(&store, "a", [booked(1), booked(7), booked(2)]).await;
    let policy = OnFailure::stop()
        .after(3)
        .backoff(Duration::from_secs(60), Duration::from_secs(90));
    let picky = Picky::new(policy, [7]);
    let (projector, clock) = run_by_hand(&store, &picky).await;
    for done in 1..3 {
        let failing = |status: &ProjectionStatus| matches!(status.state, ProjectionState::Failing { attempts, .. } if attempts == done);
        until(&projector, failing).await;
        clock.advance(Duration::from_secs(29));
        assert!(failing(&status(&projector)), "{:?}", status(&projector));
        clock.advance(Duration::from_secs(61));
    }
    until(&projector, |status| {
        matches!(status.state, ProjectionState::Stopped { .. })
    })
    .await;
    let head = backstory_event::Checkpoint::at(Position::new(3));
    let error = within(projector.caught_up(head)).await.unwrap_err();
    assert!(
        error.is_stopped() && error.to_string().contains("it does not take 7"),
        "{error}"
    );
    assert_eq!(seen(&store, "a").await, [1]);
    assert_eq!(
        status(&projector).dead_letters,
        Some(0),
        "it leaves nothing out"
    );
    picky.heal();
    within(projector.resume(PICKY)).await.unwrap();
    within(projector.catch_up()).await.unwrap();
    assert_eq!(seen(&store, "a").await, [1, 2, 3]);
}

pub async fn two_projectors_leave_an_event_out_once<F: Fixture>(fixture: &F) {
    let (here, there) = (fixture.store(), fixture.elsewhere().await);
    let picky = Picky::new(once(OnFailure::park()), [7]);
    let one = run(&here, &picky).await;
    let two = run(&there, &picky).await;
    for round in 0..20 {
        let store = if round % 2 == 0 { &here } else { &there };
        append(store, "a", (0..5).map(booked)).await;
        append(store, "b", (5..9).map(booked)).await;
    }
    within(one.catch_up()).await.unwrap();
    within(two.catch_up()).await.unwrap();
    let left_out = letters(&one).await;
    // All of one account, and of the other one those in front of the first that fails.
    assert_eq!(seen(&there, "a").await.len(), 100);
    assert_eq!(seen(&there, "b").await, [6, 7]);
    assert_eq!(left_out.len(), 78);
    picky.heal();
    let replays = futures::future::join(
        one.replay(PICKY, Letters::All),
        two.replay(PICKY, Letters::All),
    );
    let (one_did, two_did) = within(replays).await;
    let replayed = one_did.unwrap().replayed + two_did.unwrap().replayed;
    assert_eq!(replayed, 78, "each by one of them");
    let both = seen(&here, "b").await;
    assert_eq!(both.len(), 80);
    assert!(both.is_sorted());
    // The other one knows too.
    let receipt = book(&here, "b", 1).await;
    within(one.caught_up(&receipt)).await.unwrap();
    within(two.caught_up(&receipt)).await.unwrap();
    assert_eq!(seen(&here, "b").await.len(), 81);
}

pub async fn a_reset_drops_the_letters<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    let picky = Picky::new(once(OnFailure::park()), [7]);
    let projector = run(&store, &picky).await;
    append(&store, "a", [booked(1), booked(7), booked(2)]).await;
    within(projector.catch_up()).await.unwrap();
    assert_eq!(status(&projector).dead_letters, Some(2));
    within(projector.reset(PICKY)).await.unwrap();
    within(projector.catch_up()).await.unwrap();
    // It fails on the same event again.
    assert_eq!(places(&letters(&projector).await), [2, 3]);
    picky.heal();
    within(projector.reset(PICKY)).await.unwrap();
    within(projector.catch_up()).await.unwrap();
    assert_eq!(seen(&store, "a").await, [1, 2, 3]);
    let status = status(&projector);
    assert_eq!(
        (status.dead_letters, status.parked_keys),
        (Some(0), Some(0))
    );
}

pub async fn what_is_erased_is_not_replayed<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    let picky = Picky::new(once(OnFailure::park()), [7]);
    let projector = run(&store, &picky).await;
    append(&store, "a", [booked(1), booked(7), booked(2)]).await;
    append(&store, "b", [booked(7)]).await;
    within(projector.catch_up()).await.unwrap();
    append(&store, "a", [Lifecycle::Erased.event()]).await;
    assert_eq!(places(&letters(&projector).await), [4]);
    picky.heal();
    let report = within(projector.replay(PICKY, Letters::All)).await.unwrap();
    assert_eq!((report.replayed, report.waiting), (1, 0));
    assert_eq!(seen(&store, "a").await, [1]);
    assert_eq!(status(&projector).parked_keys, Some(0));
}
