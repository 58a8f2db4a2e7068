//! Projections inside appends: up to date when the append returns, or the append is refused.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicI64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use backstory_event::{
    Append, Appended, Envelope, EventStore, ExpectedVersion, Lifecycle, NewEvent, Payload,
    StoreError, StoreErrorKind, StreamId,
};
use backstory_projection::{
    self as projection, Beat, Checkpoints, Control, DeadLetters, DocumentReader, DocumentStore,
    Documents, LetterQuery, Letters, OnFailure, Operator, Projection, Projector, Report, RowState,
    RunningProjector, Schedule,
};
use futures::future::join_all;
use uuid::Uuid;

use super::ledger::{
    HOUR, LEDGER, Ledger, LedgerEvent, Switches, account, append, book, booked, noise, run, seen,
    status, until,
};
use crate::{
    CompleteStore, Fixture,
    kit::{Background, event, within},
};

/// The account that everybody can read from events and documents.
const TELLER: &str = "teller";

/// What it says when the store is away, as far as it can tell.
const AWAY: i64 = 503;

/// An amount with which all of account `a` is copied.
const COPIES: i64 = 77;

/// Keeps the balance of each account in a document of its stream. It refuses to lose money, and
/// what it is told to.
#[derive(Debug, Default, Clone)]
struct Teller {
    refuses: Arc<AtomicI64>,
    parks: bool,
}

#[async_trait]
impl Projection<Documents> for Teller {
    type Event = LedgerEvent;
    const NAME: &'static str = TELLER;

    fn on_failure(&self) -> OnFailure {
        match self.parks {
            true => OnFailure::park().after(1),
            false => OnFailure::stop(),
        }
    }

    async fn project(
        &self,
        batch: &[Envelope<LedgerEvent>],
        docs: &mut Documents,
    ) -> projection::Result {
        for e in batch {
            let LedgerEvent::Booked { amount } = e.event;
            let copied: Option<Vec<i64>> = match amount {
                COPIES => docs.get(TELLER, "a").await?,
                _ => None,
            };
            let add = |balance: Option<Vec<i64>>| {
                let mut balance = balance.unwrap_or_default();
                balance.extend(copied.unwrap_or_default());
                balance.push(amount);
                Some(balance)
            };
            let key = e.stream().key();
            docs.update_owned(TELLER, key, e.stream(), add).await?;
            if amount == AWAY {
                let reason = "the other store is away".to_owned();
                return Err(StoreError::from(StoreErrorKind::Unavailable { reason }).into());
            }
            if amount < 0 || amount == self.refuses.load(Ordering::SeqCst) {
                return Err(format!("it does not take {amount}").into());
            }
        }
        Ok(())
    }
}

/// What was booked on an account, as the read model has it.
async fn balance<S: DocumentStore + Clone>(store: &S, key: &str) -> Vec<i64> {
    let reader = DocumentReader::from(store);
    within(reader.get(TELLER, key))
        .await
        .unwrap()
        .unwrap_or_default()
}

async fn start<S: CompleteStore + Clone>(
    store: &S,
    teller: &Teller,
    schedule: impl Into<Schedule>,
) -> RunningProjector {
    let projector = Projector::new(store).with(teller.clone(), schedule);
    within(projector.start()).await.unwrap()
}

async fn put<S: EventStore>(store: &S, key: &str, amount: i64) -> Result<Appended, StoreError> {
    let append = Append::to(account(key), ExpectedVersion::Any, [booked(amount)]);
    within(store.append(append)).await
}

/// A process that leads a projection and does nothing with it.
async fn silent_leader<S: Control>(store: &S, projection: &str) -> Uuid {
    let owner = Uuid::now_v7();
    let report = Report {
        projection: projection.to_owned(),
        state: RowState::Running,
        reason: None,
        reached: backstory_event::Position::START,
        head: backstory_event::Position::START,
        behind_since: None,
        rate: 0.0,
        rebuild: None,
    };
    let beat = Beat {
        owner,
        process: "silent".to_owned(),
        origin: None,
        lease: HOUR,
        reports: vec![report],
        answers: Vec::new(),
    };
    assert!(within(store.beat(&beat)).await.unwrap()[0].leads);
    owner
}

#[track_caller]
fn refusal(outcome: Result<Appended, StoreError>) -> String {
    match outcome.map_err(StoreError::into_kind) {
        Err(StoreErrorKind::ProjectionFailed { projection, reason }) => {
            format!("{projection}: {reason}")
        }
        other => panic!("{other:?}"),
    }
}

pub async fn an_inline_read_model_is_up_to_date_when_the_append_returns<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    book(&store, 2).await;
    let projector = run(&store, Schedule::inline()).await;
    let mut wanted = vec![1, 2];
    for round in 0..10 {
        if round % 3 == 0 {
            noise(&store, 2).await;
        }
        let receipt = book(&store, 2).await;
        let (first, last) = receipt.positions.unwrap();
        wanted.extend(first.get()..=last.get());
        assert_eq!(seen(&store).await, wanted);
        let progress = within(store.load_progress(LEDGER)).await.unwrap();
        assert_eq!(progress.checkpoint, receipt.checkpoint);
        within(projector.caught_up(&receipt)).await.unwrap();
    }
    // Its task counts what appends have done, and does it not again.
    until(&projector, |status| status.events_projected == 22).await;
    within(projector.catch_up()).await.unwrap();
    within(projector.shutdown()).await.unwrap();
    assert_eq!(seen(&store).await, wanted);
}

pub async fn an_inline_failure_fails_only_its_own_append<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    let teller = Teller::default();
    let projector = start(&store, &teller, Schedule::inline()).await;
    // Together, so that they share batches.
    let appends = (1..=40_i64).map(|number| {
        let store = store.clone();
        async move {
            let amount = if number % 10 == 0 { -number } else { number };
            (amount, put(&store, &format!("{number}"), amount).await)
        }
    });
    let outcomes = join_all(appends).await;
    for (amount, outcome) in outcomes {
        let key = amount.abs().to_string();
        if amount > 0 {
            outcome.unwrap();
            assert_eq!(balance(&store, &key).await, [amount]);
        } else {
            let reason = refusal(outcome);
            assert_eq!(reason, format!("teller: it does not take {amount}"));
            assert_eq!(balance(&store, &key).await, [] as [i64; 0]);
        }
    }
    let log = crate::kit::log(&store).await;
    assert_eq!(log.len(), 36, "a failed append left nothing");
    // The stream of a failed append is as it was.
    let again = Append::to(account("10"), ExpectedVersion::NoStream, [booked(10)]);
    within(store.append(again)).await.unwrap();
    assert_eq!(balance(&store, "10").await, [10]);
    within(projector.shutdown()).await.unwrap();
}

pub async fn a_slow_or_panicking_inline_projection_is_bounded<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    let switches = Switches::default();
    let limit = Duration::from_millis(200);
    let projector =
        Projector::new(&store).with(Ledger(switches.clone()), Schedule::inline().limit(limit));
    let projector = within(projector.start()).await.unwrap();
    book(&store, 1).await;

    switches.hang(true);
    let begun = tokio::time::Instant::now();
    let reason = refusal(put(&store, "a", 1).await);
    assert!(begun.elapsed() < Duration::from_secs(5), "{begun:?}");
    assert_eq!(reason, "ledger: it took longer than 200ms");
    // Whoever it does not concern waits no longer than that.
    let (hangs, other) = tokio::join!(put(&store, "a", 1), noise(&store, 1));
    refusal(hangs);
    assert_eq!(other.position().get(), 2);
    switches.hang(false);

    switches.panic(true);
    let reason = refusal(put(&store, "a", 1).await);
    assert!(reason.contains("fell from the table"), "{reason}");
    switches.panic(false);

    let receipt = book(&store, 1).await;
    assert_eq!(seen(&store).await, [1, 3]);
    within(projector.caught_up(&receipt)).await.unwrap();
    within(projector.shutdown()).await.unwrap();
}

pub async fn an_outage_that_an_inline_projection_meets_is_told_soon<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    let projector = start(&store, &Teller::default(), Schedule::inline()).await;
    // It may be over any time; but nobody waits for it for ever, and no other at all.
    let (away, fine) = tokio::join!(put(&store, "a", AWAY), put(&store, "b", 1));
    fine.unwrap();
    let away = away.unwrap_err();
    assert!(away.is_transient(), "{away}");
    assert!(away.to_string().contains("the other store"), "{away}");
    assert_eq!(balance(&store, "a").await, [] as [i64; 0]);
    assert_eq!(balance(&store, "b").await, [1]);
    within(projector.shutdown()).await.unwrap();
}

pub async fn a_refused_append_leaves_nothing_inline<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    let projector = start(&store, &Teller::default(), Schedule::inline()).await;
    put(&store, "a", 1).await.unwrap();
    let late = Append::to(account("a"), ExpectedVersion::NoStream, [booked(2)]);
    let (conflict, fine) = tokio::join!(store.append(late), put(&store, "b", 3));
    assert!(conflict.unwrap_err().is_conflict());
    fine.unwrap();
    assert_eq!(balance(&store, "a").await, [1]);
    assert_eq!(balance(&store, "b").await, [3]);
    // Sent again it is projected once.
    let twice = Append::to(account("c"), ExpectedVersion::NoStream, [booked(4)]);
    let first = within(store.append(twice.clone())).await.unwrap();
    assert_eq!(within(store.append(twice)).await.unwrap(), first);
    assert_eq!(balance(&store, "c").await, [4]);
    within(projector.shutdown()).await.unwrap();
}

pub async fn an_append_projects_first_what_others_have_left<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    // So that no task does it.
    silent_leader(&store, LEDGER).await;
    book(&store, 700).await;
    noise(&store, 50).await;
    book(&store, 300).await;
    let projector = run(&store, Schedule::inline()).await;
    let receipt = book(&store, 1).await;
    let wanted: Vec<_> = (1..=700).chain(751..=1_051).collect();
    assert_eq!(seen(&store).await, wanted);
    // The process that stands by knows, too.
    within(projector.caught_up(&receipt)).await.unwrap();
    within(projector.shutdown()).await.unwrap();
}

pub async fn an_append_does_not_make_up_for_too_much<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    let leader = silent_leader(&store, LEDGER).await;
    for _ in 0..4 {
        book(&store, 300).await;
    }
    let projector = run(&store, Schedule::inline()).await;
    let refused = put(&store, "b", 1).await.unwrap_err();
    assert!(refused.is_transient(), "{refused}");
    let StoreErrorKind::ProjectionBehind {
        projection,
        after,
        head,
    } = refused.into_kind()
    else {
        panic!("another error");
    };
    assert_eq!((&*projection, after.get(), head.get()), (LEDGER, 0, 1_200));
    noise(&store, 1).await;
    within(projector.shutdown()).await.unwrap();

    let lenient = run(&store, Schedule::inline().allow_behind()).await;
    put(&store, "b", 1).await.unwrap();
    assert_eq!(seen(&store).await, [] as [i64; 0]);
    // Its task brings it near, and then it is inline again.
    within(store.leave(leader)).await.unwrap();
    until(&lenient, |status| status.reached.get() >= 1_202).await;
    put(&store, "b", 1).await.unwrap();
    let wanted: Vec<_> = (1..=1_200).chain(1_202..=1_203).collect();
    assert_eq!(seen(&store).await, wanted);
    within(lenient.shutdown()).await.unwrap();
}

pub async fn what_other_processes_append_is_never_skipped_inline<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    let elsewhere = fixture.elsewhere().await;
    let projector = run(&store, Schedule::inline()).await;
    for _ in 0..10 {
        book(&elsewhere, 2).await;
        let receipt = book(&store, 1).await;
        let wanted: Vec<_> = (1..=receipt.position().get()).collect();
        assert_eq!(seen(&store).await, wanted);
    }
    // Without an append that makes up for it the task does.
    let receipt = book(&elsewhere, 3).await;
    within(projector.caught_up(&receipt)).await.unwrap();
    assert_eq!(seen(&store).await, (1..=33).collect::<Vec<_>>());
    book(&elsewhere, 3).await;
    until(&projector, |status| status.reached.get() == 36).await;
    assert_eq!(seen(&store).await, (1..=36).collect::<Vec<_>>());
    within(projector.shutdown()).await.unwrap();
}

pub async fn two_processes_run_one_inline_projection<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    let elsewhere = fixture.elsewhere().await;
    let first = run(&store, Schedule::inline()).await;
    let second = run(&elsewhere, Schedule::inline()).await;
    let appending = |store: F::Store, key: &'static str| {
        Background::spawn(async move {
            for _ in 0..25 {
                append(&store, key, [booked(1)]).await;
            }
        })
    };
    let both = [
        appending(store.clone(), "a"),
        appending(elsewhere.clone(), "b"),
    ];
    for appending in both {
        appending.join().await;
    }
    assert_eq!(seen(&store).await, (1..=50).collect::<Vec<_>>());
    within(second.catch_up()).await.unwrap();
    within(second.shutdown()).await.unwrap();
    // It ran in both; now it runs in one.
    append(&elsewhere, "b", [booked(1)]).await;
    append(&store, "a", [booked(1)]).await;
    assert_eq!(seen(&store).await, (1..=52).collect::<Vec<_>>());
    within(first.shutdown()).await.unwrap();
}

pub async fn a_projection_changes_between_inline_and_async_under_load<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    let over = Arc::new(AtomicBool::new(false));
    let load: Vec<_> = ["a", "b"]
        .map(|key| {
            let (store, over) = (store.clone(), over.clone());
            Background::spawn(async move {
                while !over.load(Ordering::SeqCst) {
                    match put(&store, key, 1).await {
                        Ok(_) => {}
                        Err(error) => assert!(error.is_transient(), "{error}"),
                    }
                    tokio::time::sleep(Duration::from_millis(2)).await;
                }
            })
        })
        .into();
    for round in 0..6 {
        let schedule: Schedule = match round % 2 {
            0 => Schedule::continuous().into(),
            _ => Schedule::inline().into(),
        };
        let projector = run(&store, schedule).await;
        until(&projector, |status| status.events_projected >= 20).await;
        // An orderly end and a sudden one.
        if round < 3 {
            within(projector.shutdown()).await.unwrap();
        }
    }
    over.store(true, Ordering::SeqCst);
    for appending in load {
        appending.join().await;
    }
    let projector = run(&store, Schedule::inline()).await;
    let receipt = book(&store, 1).await;
    let wanted: Vec<_> = (1..=receipt.position().get()).collect();
    assert_eq!(seen(&store).await, wanted);
    within(projector.shutdown()).await.unwrap();
}

pub async fn appends_go_on_while_an_inline_projection_rests<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    let projector = run(&store, Schedule::inline()).await;
    book(&store, 2).await;
    within(projector.pause(LEDGER)).await.unwrap();
    let receipt = book(&store, 2).await;
    assert_eq!(seen(&store).await, [1, 2]);
    let refused = within(projector.caught_up(&receipt)).await.unwrap_err();
    assert!(refused.is_paused(), "{refused}");
    within(projector.resume(LEDGER)).await.unwrap();
    within(projector.caught_up(&receipt)).await.unwrap();
    book(&store, 1).await;
    assert_eq!(seen(&store).await, [1, 2, 3, 4, 5]);
    within(projector.shutdown()).await.unwrap();
}

pub async fn a_reset_of_an_inline_projection_builds_it_again<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    let projector = run(&store, Schedule::inline()).await;
    book(&store, 5).await;
    within(projector.reset(LEDGER)).await.unwrap();
    // Whoever comes first, the task or an append.
    book(&store, 1).await;
    assert_eq!(seen(&store).await, [1, 2, 3, 4, 5, 6]);
    within(Operator::new(&store).reset(LEDGER)).await.unwrap();
    within(projector.catch_up()).await.unwrap();
    assert_eq!(seen(&store).await, [1, 2, 3, 4, 5, 6]);
    assert_eq!(status(&projector).checkpoint.position.get(), 6);
    within(projector.shutdown()).await.unwrap();
}

pub async fn an_inline_projection_is_rebuilt_beside_itself<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    let projector = run(&store, Schedule::inline()).await;
    book(&store, 5).await;
    within(projector.rebuild(LEDGER)).await.unwrap();
    let mut wanted: Vec<_> = (1..=5).collect();
    let over = AtomicBool::new(false);
    let rebuilt = async {
        within(projector.rebuilt(LEDGER)).await.unwrap();
        over.store(true, Ordering::SeqCst);
    };
    let appending = async {
        // What is read is up to date all the time, whichever read model it is.
        while !over.load(Ordering::SeqCst) {
            wanted.push(book(&store, 1).await.position().get());
            assert_eq!(seen(&store).await, wanted);
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    tokio::join!(rebuilt, appending);
    let rows = within(store.list_projections()).await.unwrap();
    assert!(rows[0].previous.is_some() && rows[0].rebuild.is_none());
    wanted.push(book(&store, 1).await.position().get());
    assert_eq!(seen(&store).await, wanted);
    within(projector.shutdown()).await.unwrap();
}

pub async fn events_of_a_parked_key_wait_inline_too<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    let teller = Teller {
        refuses: Arc::new(AtomicI64::new(13)),
        parks: true,
    };
    // Its task parks a key …
    put(&store, "a", 1).await.unwrap();
    put(&store, "a", 13).await.unwrap();
    let projector = start(&store, &teller, Schedule::inline()).await;
    within(projector.catch_up()).await.unwrap();
    let letters = LetterQuery::of(TELLER);
    assert_eq!(within(store.list_letters(&letters)).await.unwrap().len(), 1);
    // … and appends keep to it.
    let waits = put(&store, "a", 2).await.unwrap();
    put(&store, "b", 3).await.unwrap();
    assert_eq!(balance(&store, "a").await, [1]);
    assert_eq!(balance(&store, "b").await, [3]);
    let waiting = within(store.list_letters(&letters)).await.unwrap();
    assert!(waiting.len() == 2 && waiting[1].parked, "{waiting:?}");
    let left_out = within(projector.caught_up(&waits)).await.unwrap_err();
    assert!(left_out.is_left_out(), "{left_out}");

    teller.refuses.store(0, Ordering::SeqCst);
    let report = projector.replay(TELLER, Letters::All);
    assert!(within(report).await.unwrap().complete);
    put(&store, "a", 4).await.unwrap();
    assert_eq!(balance(&store, "a").await, [1, 13, 2, 4]);
    within(projector.shutdown()).await.unwrap();
}

pub async fn nothing_erased_comes_back_inline<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    let projector = start(&store, &Teller::default(), Schedule::inline()).await;
    put(&store, "a", 1).await.unwrap();
    put(&store, "b", 1).await.unwrap();
    let of = |lifecycle: Lifecycle| NewEvent::raw(lifecycle.name(), Payload::empty());
    // One stream is erased while another one grows.
    let append = Append::to(account("a"), ExpectedVersion::Any, [of(Lifecycle::Erased)]).and(
        account("b"),
        ExpectedVersion::Any,
        [booked(COPIES)],
    );
    within(store.append(append)).await.unwrap();
    assert_eq!(balance(&store, "a").await, [] as [i64; 0]);
    assert_eq!(balance(&store, "b").await, [1, COPIES]);
    let append = Append::to(
        account("a"),
        ExpectedVersion::Any,
        [of(Lifecycle::Restored)],
    );
    within(store.append(append)).await.unwrap();
    put(&store, "a", 3).await.unwrap();
    assert_eq!(balance(&store, "a").await, [3]);
    let append = Append::to(account("b"), ExpectedVersion::Any, [of(Lifecycle::Erased)]);
    within(store.append(append)).await.unwrap();
    assert_eq!(balance(&store, "b").await, [] as [i64; 0]);
    within(projector.shutdown()).await.unwrap();
}

pub async fn an_inline_projection_ends_with_its_projector<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    let projector = start(&store, &Teller::default(), Schedule::inline()).await;
    refusal(put(&store, "a", -1).await);
    within(projector.shutdown()).await.unwrap();
    put(&store, "a", -1).await.unwrap();
    let teller = Teller {
        parks: true,
        ..Teller::default()
    };
    let projector = start(&store, &teller, Schedule::inline()).await;
    within(projector.catch_up()).await.unwrap();
    refusal(put(&store, "b", -1).await);
    drop(projector);
    put(&store, "b", -1).await.unwrap();
}

pub async fn appends_that_an_inline_projection_does_not_want_are_not_touched<F: Fixture>(
    fixture: &F,
) {
    let store = fixture.store();
    let switches = Switches::default();
    switches.fail(true);
    let projector = Projector::new(&store).with(Ledger(switches.clone()), Schedule::inline());
    let projector = within(projector.start()).await.unwrap();
    // Together with appends that fail.
    let appends = (0..20).map(|number| {
        let store = store.clone();
        async move {
            let stream = StreamId::new("other", number).unwrap();
            let append = Append::to(stream, ExpectedVersion::NoStream, [event("other.thing")]);
            let (fails, stored) = tokio::join!(put(&store, "a", 1), store.append(append));
            refusal(fails);
            stored.unwrap();
        }
    });
    within(join_all(appends)).await;
    assert_eq!(crate::kit::log(&store).await.len(), 20);
    switches.fail(false);
    book(&store, 1).await;
    assert_eq!(seen(&store).await, [21]);
    within(projector.shutdown()).await.unwrap();
}
