//! Reactors: what they do happens at least once, in the order of each key, and never again.

use std::{
    collections::BTreeSet,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use backstory_event::{
    Envelope, EventFilter, EventQuery, EventStore, NewEvent, Payload, StoreErrorKind,
};
use backstory_projection::{
    self as projection, Checkpoints, Effect, Job, Letters, NeverReplayed, OnFailure, Operator,
    Projector, ProjectorErrorKind, Reactor, RunningProjector, Schedule, Start,
};
use tokio::sync::Semaphore;

use super::ledger::{
    LEDGER, Ledger, LedgerEvent, append, book, booked, noise, seen, status, until,
};
use crate::{
    CompleteStore, Fixture,
    kit::{PATIENCE, head, within},
};

/// What was done: position, key of the effect.
type Done = Vec<(i64, String)>;

#[derive(Debug, Clone)]
struct Mailer {
    policy: OnFailure,
    concurrency: usize,
    done: Arc<Mutex<Done>>,
    /// Amounts that it fails on, and one that it panics at.
    refused: Arc<Mutex<BTreeSet<i64>>>,
    /// While it has no permits, nothing is done.
    gate: Arc<Semaphore>,
    /// What is being done, and the most at a time.
    now: Arc<AtomicUsize>,
    most: Arc<AtomicUsize>,
    tried: Arc<AtomicUsize>,
}

const PANICS: i64 = 1_000;
const AWAY: i64 = 2_000;

impl Mailer {
    fn new() -> Self {
        Self {
            policy: OnFailure::stop(),
            concurrency: 4,
            done: Arc::default(),
            refused: Arc::default(),
            gate: Arc::new(Semaphore::new(1_000)),
            now: Arc::default(),
            most: Arc::default(),
            tried: Arc::default(),
        }
    }

    fn refusing(self, amounts: impl IntoIterator<Item = i64>, policy: OnFailure) -> Self {
        self.refused.lock().unwrap().extend(amounts);
        let at_once = Duration::from_millis(1);
        let policy = policy.backoff(at_once, at_once);
        Self { policy, ..self }
    }

    fn heal(&self) {
        self.refused.lock().unwrap().clear();
    }

    fn positions(&self) -> Vec<i64> {
        let done = self.done.lock().unwrap();
        done.iter().map(|(position, _)| *position).collect()
    }

    fn sorted(&self) -> Vec<i64> {
        let mut positions = self.positions();
        positions.sort_unstable();
        positions
    }
}

#[async_trait]
impl Reactor for Mailer {
    type Event = LedgerEvent;
    const NAME: &'static str = LEDGER;

    fn on_failure(&self) -> OnFailure {
        self.policy
    }

    fn concurrency(&self) -> usize {
        self.concurrency
    }

    async fn react(&self, e: &Envelope<LedgerEvent>, effect: &Effect) -> projection::Result {
        self.tried.fetch_add(1, Ordering::SeqCst);
        let now = self.now.fetch_add(1, Ordering::SeqCst) + 1;
        self.most.fetch_max(now, Ordering::SeqCst);
        self.gate.acquire().await?.forget();
        self.now.fetch_sub(1, Ordering::SeqCst);
        let LedgerEvent::Booked { amount } = e.event;
        if self.refused.lock().unwrap().contains(&amount) {
            self.gate.add_permits(1);
            assert!(amount != PANICS, "that is too much");
            if amount == AWAY {
                let reason = "simulated".to_owned();
                return Err(
                    backstory_event::StoreError::new(StoreErrorKind::Unavailable { reason }).into(),
                );
            }
            return Err(format!("it does not mail {amount}").into());
        }
        let key = effect.idempotency_key().to_owned();
        self.done.lock().unwrap().push((e.position().get(), key));
        self.gate.add_permits(1);
        Ok(())
    }
}

async fn run<S: CompleteStore + Clone>(
    store: &S,
    mailer: &Mailer,
    schedule: impl Into<Schedule>,
) -> RunningProjector {
    let projector = Projector::new(store).with_reactor(mailer.clone(), schedule);
    within(projector.start()).await.unwrap()
}

/// Waits until it has passed all that is in the log.
async fn passed<S: EventStore>(store: &S, projector: &RunningProjector) {
    let end = head(store).await;
    until(projector, |status| status.reached >= end.position).await;
}

async fn eventually(there: impl Fn() -> bool) {
    let patience = tokio::time::timeout(PATIENCE, async {
        while !there() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    });
    patience.await.expect("it never got there");
}

pub async fn a_reactor_begins_with_what_comes<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    book(&store, 3).await;
    let mailer = Mailer::new();
    let projector = run(&store, &mailer, Schedule::continuous()).await;
    noise(&store, 1).await;
    let receipt = book(&store, 2).await;
    within(projector.projection(LEDGER).caught_up(&receipt))
        .await
        .unwrap();
    assert_eq!(mailer.positions(), [5, 6]);
    within(projector.shutdown()).await.unwrap();
    // It goes on where it was: nothing twice, and nothing missed that came meanwhile.
    book(&store, 1).await;
    let projector = run(&store, &mailer, Schedule::continuous()).await;
    passed(&store, &projector).await;
    assert_eq!(mailer.positions(), [5, 6, 7]);
    let done = mailer.done.lock().unwrap().clone();
    let keys: BTreeSet<_> = done.iter().map(|(_, key)| key).collect();
    assert_eq!(keys.len(), 3);
    let events = crate::kit::find(&store, EventFilter::of::<LedgerEvent>()).await;
    assert_eq!(done[0].1, format!("{LEDGER}/{}", events[3].id()));
}

pub async fn a_reactor_misses_nothing_after_its_start<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    let mailer = Mailer::new();
    // It crashes at once, in an empty log …
    drop(run(&store, &mailer, Schedule::continuous()).await);
    book(&store, 3).await;
    // … and another process takes what came for new.
    let other = within(fixture.elsewhere()).await;
    let projector = run(&other, &mailer, Schedule::continuous()).await;
    passed(&store, &projector).await;
    assert_eq!(mailer.sorted(), [1, 2, 3]);
    drop(projector);
    // Where it began is stored before its start returns.
    let name = format!("{LEDGER}~start");
    let mark = within(store.load_progress(&name)).await.unwrap();
    assert_eq!((mark.checkpoint.position.get(), mark.epoch), (0, 1));
}

pub async fn a_reactor_begins_where_it_is_told<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    book(&store, 3).await;
    let mailer = Mailer::new();
    let schedule = Schedule::continuous().start_at(Start::Beginning);
    let projector = run(&store, &mailer, schedule).await;
    passed(&store, &projector).await;
    assert_eq!(mailer.positions(), [1, 2, 3]);
}

pub async fn a_reactor_goes_on_with_other_keys<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    let mailer = Mailer::new().refusing([2, PANICS], OnFailure::stop().after(100_000));
    append(&store, "a", [booked(1), booked(2), booked(3)]).await;
    append(&store, "b", [booked(4), booked(PANICS), booked(5)]).await;
    append(&store, "c", [booked(6)]).await;
    let schedule = Schedule::continuous().start_at(Start::Beginning);
    let projector = run(&store, &mailer, schedule).await;
    until(&projector, |status| status.checkpoint.position.get() == 1).await;
    // What is behind the failing ones in their keys waits.
    assert_eq!(mailer.sorted(), [1, 4, 7]);
    eventually(|| mailer.tried.load(Ordering::SeqCst) > 8).await;
    mailer.heal();
    passed(&store, &projector).await;
    let done = mailer.positions();
    assert_eq!(
        mailer.sorted(),
        [1, 2, 3, 4, 5, 6, 7],
        "each once: {done:?}"
    );
    let of = |key: std::ops::RangeInclusive<i64>| {
        done.iter()
            .copied()
            .filter(move |at| key.contains(at))
            .collect::<Vec<_>>()
    };
    assert_eq!((of(1..=3), of(4..=6)), (vec![1, 2, 3], vec![4, 5, 6]));
}

pub async fn a_reactor_reacts_to_several_keys_at_once<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    let mut mailer = Mailer::new();
    mailer.concurrency = 3;
    mailer.gate = Arc::new(Semaphore::new(0));
    for key in ["a", "b", "c", "d", "e"] {
        append(&store, key, [booked(1), booked(2)]).await;
    }
    let schedule = Schedule::continuous().start_at(Start::Beginning);
    let projector = run(&store, &mailer, schedule).await;
    eventually(|| mailer.now.load(Ordering::SeqCst) == 3).await;
    // It dies with three effects that nobody knows the end of.
    drop(projector);
    let tried = mailer.tried.load(Ordering::SeqCst);
    assert_eq!((tried, mailer.positions()), (3, vec![]));
    mailer.now.store(0, Ordering::SeqCst);
    mailer.gate.add_permits(3);
    let projector = run(&store, &mailer, schedule).await;
    passed(&store, &projector).await;
    assert_eq!(mailer.sorted(), (1..=10).collect::<Vec<_>>());
    assert_eq!(mailer.most.load(Ordering::SeqCst), 3);
}

pub async fn what_a_reactor_leaves_out_can_be_replayed<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    let mailer = Mailer::new().refusing([2, PANICS], OnFailure::park().after(2));
    append(&store, "a", [booked(1), booked(2), booked(3)]).await;
    append(&store, "b", [booked(PANICS)]).await;
    let broken = NewEvent::raw(
        "ledger.booked",
        Payload::parse(r#"{"amount":"x"}"#).unwrap(),
    );
    append(&store, "c", [broken, booked(4)]).await;
    append(&store, "d", [booked(5)]).await;
    let schedule = Schedule::continuous().start_at(Start::Beginning);
    let projector = run(&store, &mailer, schedule).await;
    passed(&store, &projector).await;
    assert_eq!(mailer.sorted(), [1, 7]);
    let all = projection::LetterQuery::of(LEDGER);
    let letters = within(projector.dead_letters(&all)).await.unwrap();
    let told: Vec<_> = letters
        .iter()
        .map(|letter| (letter.position.get(), letter.attempts))
        .collect();
    assert_eq!(told, [(2, 2), (3, 0), (4, 2), (5, 1), (6, 0)]);
    // One of them still fails: the others of the page are not done twice.
    mailer.refused.lock().unwrap().remove(&2);
    let report = within(projector.replay(LEDGER, Letters::All))
        .await
        .unwrap();
    assert_eq!((report.replayed, report.failed, report.waiting), (2, 2, 1));
    assert_eq!(mailer.sorted(), [1, 2, 3, 7]);
    mailer.heal();
    within(projector.discard(LEDGER, Letters::At(projection_position(5))))
        .await
        .unwrap();
    let report = within(projector.replay(LEDGER, Letters::All))
        .await
        .unwrap();
    assert_eq!(report.replayed, 2);
    assert_eq!(mailer.sorted(), [1, 2, 3, 4, 6, 7]);
    assert_eq!(status(&projector).dead_letters, Some(0));
}

fn projection_position(position: i64) -> backstory_event::Position {
    backstory_event::Position::new(position)
}

pub async fn a_store_that_is_away_is_no_failure_of_an_effect<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    let mailer = Mailer::new().refusing([AWAY], OnFailure::skip().after(1));
    append(&store, "a", [booked(AWAY)]).await;
    append(&store, "b", [booked(1)]).await;
    let schedule = Schedule::continuous().start_at(Start::Beginning);
    let projector = run(&store, &mailer, schedule).await;
    eventually(|| mailer.tried.load(Ordering::SeqCst) >= 3).await;
    assert_eq!(status(&projector).dead_letters, Some(0));
    mailer.heal();
    passed(&store, &projector).await;
    assert_eq!(mailer.sorted(), [1, 2]);
}

pub async fn a_reactor_is_never_replayed<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    let mailer = Mailer::new();
    let projector = run(&store, &mailer, Schedule::continuous()).await;
    book(&store, 2).await;
    passed(&store, &projector).await;
    let error = within(projector.reset(LEDGER)).await.unwrap_err();
    let ProjectorErrorKind::NotReset { reason, .. } = error.kind() else {
        panic!("{error}");
    };
    assert!(reason.contains("start_at"), "{reason}");
    let source = std::error::Error::source(&error).unwrap();
    let refusal: &NeverReplayed = source.downcast_ref().unwrap();
    assert_eq!(refusal.reactor, LEDGER);
    let all = EventQuery::new(EventFilter::all());
    let error = within(projector.rerun(LEDGER, all)).await.unwrap_err();
    assert!(error.to_string().contains("never replayed"), "{error}");
    let operator = Operator::new(&store);
    for error in [
        within(operator.reset(LEDGER)).await.map(drop).unwrap_err(),
        within(operator.rebuild(LEDGER))
            .await
            .map(drop)
            .unwrap_err(),
        within(operator.rewind(LEDGER, Start::Beginning))
            .await
            .map(drop)
            .unwrap_err(),
    ] {
        assert!(error.to_string().contains("never replayed"), "{error}");
    }
    let receipt = book(&store, 1).await;
    within(projector.projection(LEDGER).caught_up(&receipt))
        .await
        .unwrap();
    assert_eq!(mailer.positions(), [1, 2, 3]);
}

pub async fn one_process_reacts<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    let other = within(fixture.elsewhere()).await;
    let mailer = Mailer::new();
    let one = run(&store, &mailer, Schedule::continuous()).await;
    let two = run(&other, &mailer, Schedule::continuous()).await;
    for _ in 0..10 {
        book(&store, 1).await;
    }
    let end = head(&store).await;
    within(two.projection(LEDGER).caught_up(end)).await.unwrap();
    assert_eq!(mailer.positions(), (1..=10).collect::<Vec<_>>());
    within(one.shutdown()).await.unwrap();
    book(&store, 1).await;
    let end = head(&store).await;
    within(two.projection(LEDGER).caught_up(end)).await.unwrap();
    assert_eq!(mailer.positions(), (1..=11).collect::<Vec<_>>());
}

pub async fn who_reads_does_not_wait_for_jobs_and_reactors<F: Fixture>(fixture: &F) {
    #[derive(Debug)]
    struct Slow;

    #[async_trait]
    impl Reactor for Slow {
        type Event = LedgerEvent;
        const NAME: &'static str = "slow";
        async fn react(&self, _: &Envelope<LedgerEvent>, _: &Effect) -> projection::Result {
            futures::future::pending().await
        }
    }

    let store = fixture.store();
    let job = Job::new("job", EventFilter::of::<LedgerEvent>(), |_| {
        futures::future::pending()
    });
    let projector = Projector::new(&store)
        .with(Ledger::default(), Schedule::continuous())
        .with_reactor(Slow, Schedule::continuous())
        .with_job(job, Schedule::continuous());
    let projector = within(projector.start()).await.unwrap();
    let receipt = book(&store, 2).await;
    within(projector.caught_up(&receipt)).await.unwrap();
    within(projector.catch_up()).await.unwrap();
    assert_eq!(seen(&store).await, [1, 2]);
    for name in ["slow", "job"] {
        let named = projector.projection(name);
        let soon = Duration::from_millis(50);
        let error = within(named.caught_up_within(&receipt, soon))
            .await
            .unwrap_err();
        assert!(error.is_timed_out(), "{error}");
    }
}
