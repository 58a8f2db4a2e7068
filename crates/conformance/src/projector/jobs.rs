//! Free-form jobs: what they are given, when, and what becomes of what they do.

use std::{
    collections::BTreeSet,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use backstory_event::{
    Aggregate, Append, Envelope, EventFilter, EventQuery, EventStore, ExpectedVersion, Fold,
    Folded, ManualClock, NewEvent, Payload, Position, StreamId,
};
use backstory_projection::{
    DocumentReader, Documents, Job, JobRun, LetterQuery, Letters, OnFailure, Operator,
    ProjectionState, Projector, ProjectorErrorKind, ReadModel, Result, RunningProjector, Schedule,
    Start,
};

use super::ledger::{
    HOUR, LEDGER, Ledger, LedgerEvent, account, append, book, booked, noise, seen, status, until,
};
use crate::{
    CompleteStore, Fixture,
    kit::{head, position, within},
};

struct Account;

impl Aggregate for Account {
    const CATEGORY: &'static str = "account";
    type Id = String;
    type Event = LedgerEvent;
    fn apply(&mut self, _: &LedgerEvent) {}
}

impl Default for Account {
    fn default() -> Self {
        Self
    }
}

fn amount(LedgerEvent::Booked { amount }: &LedgerEvent) -> i64 {
    *amount
}

fn bookings() -> EventFilter {
    EventFilter::of::<LedgerEvent>()
}

/// Writes the positions of a run down where the ledger does.
async fn write_down(job: &mut JobRun<Documents>) -> Result {
    let given = job.events().into_iter().map(|e| e.position().get());
    let write_down =
        |seen: Option<Vec<i64>>| Some(seen.into_iter().flatten().chain(given).collect());
    job.context().update(LEDGER, "seen", write_down).await?;
    Ok(())
}

/// A job that writes down what it is given.
fn scribe() -> Job {
    Job::new(LEDGER, bookings(), |mut job| async move {
        write_down(&mut job).await
    })
}

async fn run<S: CompleteStore + Clone>(
    store: &S,
    job: Job,
    schedule: impl Into<Schedule>,
) -> RunningProjector {
    let projector = Projector::new(store).with_job(job, schedule);
    within(projector.start()).await.unwrap()
}

/// Waits until it has passed all that is in the log.
async fn passed<S: EventStore>(store: &S, projector: &RunningProjector) {
    let end = head(store).await;
    until(projector, |status| status.reached >= end.position).await;
}

pub async fn a_job_runs_with_what_came<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    append(&store, "b", [booked(1)]).await;
    append(&store, "a", [booked(2)]).await;
    noise(&store, 1).await;
    append(&store, "b", [booked(3)]).await;
    let runs = Arc::new(Mutex::new(Vec::new()));
    let told = Arc::clone(&runs);
    let filter = bookings().merge(&EventFilter::category("other"));
    let job = Job::new(LEDGER, filter, move |mut job| {
        let told = Arc::clone(&told);
        async move {
            write_down(&mut job).await?;
            let amounts = job.envelopes::<LedgerEvent>()?.into_iter();
            let amounts: Vec<_> = amounts.map(|e| amount(&e.event)).collect();
            let streams = job.aggregates();
            assert_eq!(
                job.events_of("other").len(),
                streams.len() - job.aggregates_of("account").len()
            );
            told.lock()
                .unwrap()
                .push((amounts, streams, job.ids_of::<Account>()?));
            Ok(())
        }
    });
    let clock = ManualClock::default();
    let projector = Projector::new(&store)
        .with_job(job, Schedule::every(HOUR))
        .with_clock(Arc::new(clock.clone()));
    let projector = within(projector.start()).await.unwrap();
    clock.advance(HOUR);
    until(&projector, |status| status.batches == 1).await;
    let other = StreamId::new("other", "o").unwrap();
    let made = NewEvent::raw("other.made", Payload::empty());
    let made = Append::to(other.clone(), ExpectedVersion::Any, [made]);
    within(store.append(made)).await.unwrap();
    append(&store, "a", [booked(4)]).await;
    // All of it is known before the hour is over: else it might be two runs.
    until(&projector, |status| status.head.get() == 6).await;
    clock.advance(HOUR);
    until(&projector, |status| status.batches == 2).await;
    let names = |names: &[&str]| {
        names
            .iter()
            .map(|&name| name.to_owned())
            .collect::<Vec<_>>()
    };
    assert_eq!(
        *runs.lock().unwrap(),
        [
            (
                vec![1, 2, 3],
                vec![account("b"), account("a")],
                names(&["b", "a"])
            ),
            (vec![4], vec![other, account("a")], names(&["a"])),
        ]
    );
    assert_eq!(seen(&store).await, [1, 2, 4, 5, 6]);
    within(projector.shutdown()).await.unwrap();
    // It goes on where it was.
    let projector = run(&store, scribe(), Schedule::continuous()).await;
    let receipt = book(&store, 1).await;
    within(projector.projection(LEDGER).caught_up(&receipt))
        .await
        .unwrap();
    assert_eq!(seen(&store).await, [1, 2, 4, 5, 6, 7]);
}

pub async fn a_job_that_fails_gets_its_events_again<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    let refused = Arc::new(Mutex::new(BTreeSet::from([3])));
    let refuses = Arc::clone(&refused);
    let job = Job::new(LEDGER, bookings(), move |mut job| {
        let refuses = Arc::clone(&refuses);
        async move {
            write_down(&mut job).await?;
            for e in job.envelopes::<LedgerEvent>()? {
                let amount = amount(&e.event);
                if refuses.lock().unwrap().contains(&amount) {
                    return Err("it does not take that".into());
                }
                assert!(amount != 5, "that is too much");
            }
            Ok(())
        }
    });
    let at_once = Duration::from_millis(1);
    let job = job.on_failure(OnFailure::park().after(2).backoff(at_once, at_once));
    let job = job.key(|event| event.stream().key().to_owned());
    for amount in 1..=4 {
        let key = if amount == 3 { "b" } else { "a" };
        append(&store, key, [booked(amount)]).await;
    }
    append(&store, "c", [booked(5)]).await;
    append(&store, "b", [booked(6)]).await;
    // What does not decode is the failure of one event, and not tried again.
    let broken = NewEvent::raw(
        "ledger.booked",
        Payload::parse(r#"{"amount":"x"}"#).unwrap(),
    );
    append(&store, "d", [broken]).await;
    let projector = run(&store, job, Schedule::continuous()).await;
    until(&projector, |status| status.dead_letters == Some(4)).await;
    passed(&store, &projector).await;
    assert_eq!(seen(&store).await, [1, 2, 4]);
    let all = LetterQuery::of(LEDGER);
    let letters = within(projector.dead_letters(&all)).await.unwrap();
    let told: Vec<_> = letters
        .iter()
        .map(|letter| (letter.position.get(), letter.key.as_str(), letter.attempts))
        .collect();
    assert_eq!(told, [(3, "b", 2), (5, "c", 2), (6, "b", 0), (7, "d", 1)]);
    refused.lock().unwrap().clear();
    let replayed = within(projector.replay(LEDGER, Letters::Key("b".into()))).await;
    assert_eq!(replayed.unwrap().replayed, 2);
    assert_eq!(seen(&store).await, [1, 2, 4, 3, 6]);
}

pub async fn what_a_job_puts_off_happens_once_for_each_key<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    append(&store, "a", [booked(1), booked(2)]).await;
    append(&store, "b", [booked(3)]).await;
    let afterwards = Arc::new(Mutex::new(Vec::new()));
    let (told, reader) = (Arc::clone(&afterwards), store.clone());
    let attempts = Arc::new(AtomicUsize::new(0));
    let tried = Arc::clone(&attempts);
    let job = Job::new(LEDGER, bookings(), move |mut job| {
        let (told, reader, tried) = (Arc::clone(&told), reader.clone(), Arc::clone(&tried));
        async move {
            write_down(&mut job).await?;
            for event in job.events() {
                let (told, reader) = (Arc::clone(&told), reader.clone());
                let (key, position) = (event.stream().key().to_owned(), event.position().get());
                job.before_commit(event.stream(), move |mut job| async move {
                    let count = |sum: Option<i64>| Some(sum.unwrap_or_default() + 1);
                    job.context().update(LEDGER, "sums", count).await?;
                    // What is put off by what was put off comes last.
                    job.before_commit("last", |mut job| async move {
                        job.context().put(LEDGER, "last", &true).await?;
                        Ok(())
                    });
                    Ok(())
                });
                job.after_commit(key.clone(), async move {
                    // It is stored by now.
                    let seen = seen(&reader).await;
                    told.lock().unwrap().push((key, position, seen));
                    Err("nobody minds".into())
                });
            }
            job.before_commit("fails", move |_| async move {
                match tried.fetch_add(1, Ordering::SeqCst) {
                    0 => Err("the first time it fails".into()),
                    _ => Ok(()),
                }
            });
            Ok(())
        }
    });
    let projector = run(&store, job, Schedule::once().max_batch(10)).await;
    within(projector.finished()).await.ok();
    until(&projector, |status| {
        status.state == ProjectionState::Finished
    })
    .await;
    assert!(attempts.load(Ordering::SeqCst) >= 2);
    let reader = DocumentReader::from(&store);
    let all = seen(&store).await;
    assert_eq!(all, [1, 2, 3]);
    let last: Option<bool> = within(reader.get(LEDGER, "last")).await.unwrap();
    assert_eq!(last, Some(true));
    let told = afterwards.lock().unwrap().clone();
    let keys: Vec<_> = told.iter().map(|(key, ..)| key.as_str()).collect();
    let sums: Option<i64> = within(reader.get(LEDGER, "sums")).await.unwrap();
    let batches = status(&projector).batches as usize;
    match batches {
        1 => {
            assert_eq!(told, [("a".into(), 2, all.clone()), ("b".into(), 3, all)]);
            assert_eq!(sums, Some(2));
        }
        // The batch that failed was halved.
        _ => {
            assert!(keys.len() <= 3, "{keys:?}");
            assert_eq!(sums, Some(keys.len() as i64));
        }
    }
    assert!(
        told.iter()
            .all(|(_, position, seen)| seen.contains(position))
    );
}

#[derive(Debug, Default)]
struct Amounts(Vec<i64>);

impl Fold for Amounts {
    type Event = LedgerEvent;
    fn fold(&mut self, envelope: &Envelope<LedgerEvent>) {
        self.0.push(amount(&envelope.event));
    }
}

/// It does not know up to where it is.
#[derive(Debug, Default)]
struct Forgetful(Vec<i64>);

impl ReadModel for Forgetful {
    type Event = LedgerEvent;
    fn apply(&mut self, envelope: &Envelope<LedgerEvent>) {
        self.0.push(amount(&envelope.event));
    }
}

pub async fn a_read_model_in_memory_has_the_whole_history<F: Fixture>(fixture: &F) {
    type Both = (Folded<Amounts>, Forgetful);
    let store = fixture.store();
    let models = || {
        Arc::new(tokio::sync::Mutex::new((
            Folded::new(bookings()),
            Forgetful(Vec::new()),
        )))
    };
    let shared = |models: &Arc<tokio::sync::Mutex<Both>>| {
        let models = Arc::clone(models);
        Job::new(LEDGER, bookings(), move |mut job| {
            let models = Arc::clone(&models);
            async move {
                let mut models = models.lock().await;
                let (whole, forgetful) = &mut *models;
                job.apply(whole).await?;
                job.apply(forgetful).await?;
                // Nothing twice.
                assert_eq!(job.apply(whole).await?, 0);
                if job.events().len() > 1 {
                    return Err("the run fails, and its events come again".into());
                }
                Ok(())
            }
        })
    };
    append(&store, "a", (1..=5).map(booked)).await;
    noise(&store, 3).await;
    let first = models();
    let projector = run(&store, shared(&first), Schedule::continuous()).await;
    passed(&store, &projector).await;
    assert_eq!(first.lock().await.0.state.0, [1, 2, 3, 4, 5]);
    let receipt = append(&store, "a", [booked(6)]).await;
    within(projector.projection(LEDGER).caught_up(&receipt))
        .await
        .unwrap();
    assert_eq!(first.lock().await.0.state.0, [1, 2, 3, 4, 5, 6]);
    assert_eq!(first.lock().await.0.read_to, receipt.checkpoint);
    within(projector.shutdown()).await.unwrap();
    // A fresh one in another process has what the job has passed.
    let fresh = models();
    let projector = run(&store, shared(&fresh), Schedule::continuous()).await;
    let receipt = append(&store, "a", [booked(7)]).await;
    within(projector.projection(LEDGER).caught_up(&receipt))
        .await
        .unwrap();
    let fresh = fresh.lock().await;
    assert_eq!(fresh.0.state.0, [1, 2, 3, 4, 5, 6, 7]);
    assert_eq!(fresh.1.0, [7]);
}

pub async fn a_long_history_is_read_in_pages<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    for first in [0, 1_000, 2_000] {
        append(&store, "a", (first..first + 1_000).map(booked)).await;
    }
    let runs = Arc::new(Mutex::new(Vec::new()));
    let told = Arc::clone(&runs);
    let job = Job::new(LEDGER, bookings(), move |mut job| {
        let told = Arc::clone(&told);
        async move {
            let mut amounts = Folded::<Amounts>::new(bookings());
            job.apply(&mut amounts).await?;
            assert!(
                amounts
                    .state
                    .0
                    .iter()
                    .copied()
                    .eq(0..amounts.state.0.len() as i64)
            );
            let length = amounts.state.0.len();
            told.lock().unwrap().push((job.events().len(), length));
            Ok(())
        }
    });
    let schedule = Schedule::continuous()
        .max_batch(10_000)
        .start_at(Start::Now);
    let projector = run(&store, job, schedule).await;
    append(&store, "a", [booked(3_000)]).await;
    passed(&store, &projector).await;
    assert_eq!(*runs.lock().unwrap(), [(1, 3_001)]);
    let all = EventQuery::new(bookings()).limit(10);
    let report = within(projector.rerun(LEDGER, all)).await.unwrap();
    assert_eq!(report.events, 3_001);
    let runs = runs.lock().unwrap().split_off(1);
    assert!(runs.iter().all(|(_, history)| *history == 3_001));
    assert_eq!(runs.iter().map(|(events, _)| events).sum::<usize>(), 3_001);
}

pub async fn what_a_read_model_lacks_is_no_fault_of_an_event<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    let broken = NewEvent::raw(
        "ledger.booked",
        Payload::parse(r#"{"amount":"x"}"#).unwrap(),
    );
    append(&store, "a", [booked(1), broken]).await;
    let job = Job::new(LEDGER, bookings(), |mut job| async move {
        job.apply(&mut Folded::<Amounts>::new(bookings())).await?;
        Ok(())
    });
    let job = job.on_failure(OnFailure::skip().after(1));
    let start = Schedule::continuous().start_at(Start::Position(Position::new(2)));
    let projector = run(&store, job, start).await;
    let receipt = append(&store, "a", [booked(3)]).await;
    let error = within(projector.projection(LEDGER).caught_up(&receipt))
        .await
        .unwrap_err();
    assert!(
        error.is_failing() && error.to_string().contains("read model lacks"),
        "{error}"
    );
    assert_eq!(status(&projector).dead_letters, Some(0));
}

pub async fn a_job_runs_again_on_what_it_has_passed<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    for key in ["a", "b", "a", "b"] {
        append(&store, key, [booked(1)]).await;
    }
    noise(&store, 2).await;
    let hourly = Schedule::every(HOUR).immediately();
    let projector = run(&store, scribe(), hourly).await;
    passed(&store, &projector).await;
    assert_eq!(seen(&store).await, [1, 2, 3, 4]);
    let before = status(&projector).checkpoint;
    // What is behind its checkpoint will come to it anyway.
    append(&store, "b", [booked(2)]).await;
    let of_b = EventQuery::new(EventFilter::stream(account("b")));
    let report = within(projector.rerun(LEDGER, of_b)).await.unwrap();
    assert_eq!((report.events, report.runs, report.left_out), (2, 1, 0));
    assert!(
        report.complete && report.up_to.position == before.position,
        "{report:?}"
    );
    assert_eq!(seen(&store).await, [1, 2, 3, 4, 2, 4]);
    assert_eq!(status(&projector).checkpoint, before);
    // Within bounds; noise is nothing that it wants.
    let all = EventQuery::new(EventFilter::all())
        .after(position(1))
        .up_to(position(3));
    let report = within(projector.rerun(LEDGER, all)).await.unwrap();
    assert_eq!((report.events, report.runs), (2, 1));
    assert_eq!(seen(&store).await, [1, 2, 3, 4, 2, 4, 2, 3]);
    let end = head(&store).await;
    within(projector.projection(LEDGER).caught_up(end))
        .await
        .unwrap();
    assert_eq!(seen(&store).await, [1, 2, 3, 4, 2, 4, 2, 3, 7]);
    // Any process can do it, and it goes on where it was.
    let other = within(fixture.elsewhere()).await;
    let standby = run(&other, scribe(), Schedule::every(HOUR)).await;
    let of_b = EventQuery::new(EventFilter::stream(account("b")));
    let report = within(standby.rerun(LEDGER, of_b)).await.unwrap();
    assert_eq!(report.events, 3);
    assert_eq!(seen(&store).await[9..], [2, 4, 7]);
    let receipt = append(&store, "b", [booked(2)]).await;
    within(projector.projection(LEDGER).caught_up(&receipt))
        .await
        .unwrap();
    assert_eq!(seen(&store).await[9..], [2, 4, 7, 8]);
    // Also one that does not know the job.
    let of_a = EventQuery::new(EventFilter::stream(account("a"))).after(position(1));
    let done = within(Operator::new(&other).rerun(LEDGER, of_a)).await;
    let note = done.unwrap().note;
    assert_eq!(note.as_deref(), Some("1 given again, 0 left out"));
    assert_eq!(seen(&store).await[9..], [2, 4, 7, 8, 3]);
    let error = within(projector.rerun("other", EventQuery::new(EventFilter::all()))).await;
    let unknown = error.unwrap_err();
    assert!(
        matches!(unknown.kind(), ProjectorErrorKind::UnknownProjection { .. }),
        "{unknown}"
    );
}

pub async fn a_projection_does_not_run_again<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    book(&store, 2).await;
    let projector = super::ledger::run(&store, Schedule::continuous()).await;
    within(projector.catch_up()).await.unwrap();
    let error = within(projector.rerun(LEDGER, EventQuery::new(bookings())))
        .await
        .unwrap_err();
    assert!(error.to_string().contains("it is no job"), "{error}");
    assert_eq!(seen(&store).await, [1, 2]);
}

pub async fn what_a_job_left_out_does_not_run_again<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    let fails = Arc::new(Mutex::new(true));
    let failing = Arc::clone(&fails);
    let job = Job::new(LEDGER, bookings(), move |mut job| {
        let failing = Arc::clone(&failing);
        async move {
            write_down(&mut job).await?;
            let amounts = job.envelopes::<LedgerEvent>()?;
            let bad = amounts.iter().any(|e| amount(&e.event) < 0);
            match bad && *failing.lock().unwrap() {
                true => Err("less than nothing".into()),
                false => Ok(()),
            }
        }
    });
    let job = job.on_failure(OnFailure::park().after(1));
    append(&store, "a", [booked(1), booked(-2)]).await;
    append(&store, "b", [booked(3)]).await;
    let projector = run(&store, job, Schedule::continuous()).await;
    until(&projector, |status| status.dead_letters == Some(1)).await;
    passed(&store, &projector).await;
    *fails.lock().unwrap() = false;
    let report = within(projector.rerun(LEDGER, EventQuery::new(bookings())))
        .await
        .unwrap();
    // All of a parked key waits.
    assert_eq!((report.events, report.left_out), (1, 2));
    assert_eq!(seen(&store).await, [1, 3, 3]);
    *fails.lock().unwrap() = true;
    within(projector.discard(LEDGER, Letters::All))
        .await
        .unwrap();
    let error = within(projector.rerun(LEDGER, EventQuery::new(bookings())))
        .await
        .unwrap_err();
    assert!(error.to_string().contains("less than nothing"), "{error}");
    assert_eq!(seen(&store).await, [1, 3, 3]);
}

pub async fn a_job_is_reset<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    book(&store, 3).await;
    let emptied = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&emptied);
    let job = scribe().on_reset(move |mut job| {
        let counted = Arc::clone(&counted);
        async move {
            assert!(job.events().is_empty());
            job.context().put(LEDGER, "emptied", &true).await?;
            counted.fetch_add(1, Ordering::SeqCst);
            Ok(())
        }
    });
    let projector = run(&store, job, Schedule::continuous()).await;
    passed(&store, &projector).await;
    within(projector.reset(LEDGER)).await.unwrap();
    passed(&store, &projector).await;
    assert_eq!(seen(&store).await, [1, 2, 3]);
    assert_eq!(emptied.load(Ordering::SeqCst), 1);
    within(projector.shutdown()).await.unwrap();
    let plain = run(&store, scribe(), Schedule::continuous()).await;
    let error = within(Operator::new(&store).rebuild(LEDGER))
        .await
        .map(drop)
        .unwrap_err();
    assert!(error.to_string().contains("it is a job"), "{error}");
    within(plain.reset(LEDGER)).await.unwrap();
    passed(&store, &plain).await;
    assert_eq!(seen(&store).await, [1, 2, 3]);
}

pub async fn a_job_must_not_keep_its_run<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    book(&store, 1).await;
    let kept = Arc::new(Mutex::new(None));
    let keeps = Arc::clone(&kept);
    let job = Job::new(LEDGER, bookings(), move |job| {
        let keeps = Arc::clone(&keeps);
        async move {
            *keeps.lock().unwrap() = Some(job);
            Ok(())
        }
    });
    let job = job.on_failure(OnFailure::stop().after(1));
    let projector = run(&store, job, Schedule::continuous()).await;
    let end = head(&store).await;
    let named = projector.projection(LEDGER);
    let error = within(named.caught_up(end)).await.unwrap_err();
    assert!(
        error.is_stopped() && error.to_string().contains("kept a run"),
        "{error}"
    );
    assert_eq!(status(&projector).checkpoint.position, Position::START);
    drop(kept);
}

pub async fn jobs_and_projections_share_a_projector<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    let runs = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&runs);
    let job = Job::new("other", bookings(), move |job| {
        counted.fetch_add(job.events().len(), Ordering::SeqCst);
        async { Ok(()) }
    });
    let projector = Projector::new(&store)
        .with(Ledger::default(), Schedule::continuous())
        .with_job(job, Schedule::continuous());
    let projector = within(projector.start()).await.unwrap();
    let receipt = book(&store, 5).await;
    within(projector.caught_up(&receipt)).await.unwrap();
    let other = projector.projection("other");
    within(other.caught_up(&receipt)).await.unwrap();
    assert_eq!(seen(&store).await, [1, 2, 3, 4, 5]);
    assert_eq!(runs.load(Ordering::SeqCst), 5);
    within(projector.pause("other")).await.unwrap();
    let receipt = book(&store, 1).await;
    let error = within(other.caught_up(&receipt)).await.unwrap_err();
    assert!(error.is_paused(), "{error}");
    within(projector.resume("other")).await.unwrap();
    let end = head(&store).await;
    within(other.caught_up(end)).await.unwrap();
    let double = Projector::new(&store)
        .with(Ledger::default(), Schedule::continuous())
        .with_job(scribe(), Schedule::continuous());
    let error = within(double.start()).await.unwrap_err();
    assert!(
        matches!(error.kind(), ProjectorErrorKind::DuplicateName { .. }),
        "{error}"
    );
}
