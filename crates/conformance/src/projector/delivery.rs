//! Which events a projection is given: each that it wants, exactly once, in order.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicUsize, Ordering},
};

use async_trait::async_trait;
use backstory_event::{
    Checkpoint, DecodeError, DecodeEvent, Envelope, EventFilter, EventId, EventType, FilterItem,
    Lifecycle, NewEvent, Payload, Position, Upcasters,
};
use backstory_projection::{
    self as projection, Checkpoints, DocumentStore, Documents, List, Progress, Projection,
    ProjectionState, Projector, ProjectorErrorKind, Schedule, Step, Target,
};
use serde_json::json;

use super::ledger::{
    HOUR, LEDGER, Ledger, LedgerEvent, Switches, account, append, book, booked, noise, run, seen,
    status, until,
};
use crate::{Fixture, kit::within};

pub async fn each_event_is_projected_exactly_once<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    let mut expected = Vec::new();
    let mut projector = None;
    for round in 0..20 {
        let first = book(&store, 250).await.positions.unwrap().0.get();
        expected.extend(first..first + 250);
        noise(&store, 13).await;
        if round == 9 {
            projector = Some(run(&store, Schedule::continuous().max_batch(700)).await);
        }
    }
    let projector = projector.unwrap();
    within(projector.catch_up()).await.unwrap();
    assert_eq!(seen(&store).await, expected);
    let status = status(&projector);
    assert_eq!((status.events_projected, status.lag), (5_000, 0));
    assert_eq!(status.state, ProjectionState::Running);
    let report = within(projector.shutdown()).await.unwrap();
    assert_eq!(
        report.projections[0].checkpoint.position,
        Position::new(5_260)
    );
}

pub async fn an_event_that_does_not_decode_is_an_error_and_never_dropped<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    book(&store, 3).await;
    let broken = NewEvent::raw(
        "ledger.booked",
        Payload::parse(r#"{"amount":"much"}"#).unwrap(),
    );
    let id = broken.id;
    append(&store, "a", [broken]).await;
    let last = book(&store, 1).await;

    let projector = run(&store, Schedule::continuous()).await;
    let error = within(projector.caught_up(&last)).await.unwrap_err();
    assert!(error.is_stopped(), "{error}");
    let ProjectorErrorKind::Stopped {
        projection, after, ..
    } = error.kind()
    else {
        panic!("{error:?}");
    };
    assert_eq!((projection.as_str(), after.get()), (LEDGER, 3));
    let source = std::error::Error::source(&error).unwrap();
    let decode = source.downcast_ref::<DecodeError>().unwrap();
    assert_eq!((decode.position.get(), decode.event_id), (4, id));
    assert_eq!(decode.name, "ledger.booked");
    for part in ["ledger.booked", &id.to_string(), "position 4"] {
        assert!(error.to_string().contains(part), "{error}");
    }
    // What comes before it is in the read model, what comes behind it is not.
    assert_eq!(seen(&store).await, [1, 2, 3]);
    // Whoever lets it go on meets the same event.
    within(projector.resume(LEDGER)).await.unwrap();
    let error = within(projector.caught_up(&last)).await.unwrap_err();
    assert!(error.is_failing() || error.is_stopped(), "{error}");
    until(&projector, |status| {
        matches!(status.state, ProjectionState::Stopped { .. })
    })
    .await;
    assert_eq!(seen(&store).await, [1, 2, 3]);
}

/// Knows `ledger.booked` by hand, and remembers which names it was asked to decode.
struct Watchful;

static ASKED: Mutex<Vec<String>> = Mutex::new(Vec::new());

impl DecodeEvent for Watchful {
    fn types() -> Vec<EventType> {
        LedgerEvent::types()
    }

    fn decode(name: &str, payload: &Payload) -> Result<Option<Self>, serde_json::Error> {
        let decoded = LedgerEvent::decode(name, payload)?.map(|_| Self);
        ASKED.lock().unwrap().push(name.to_owned());
        Ok(decoded)
    }
}

struct Watching;

#[async_trait]
impl Projection<Documents> for Watching {
    type Event = Watchful;
    const NAME: &'static str = "watching";

    async fn project(&self, _: &[Envelope<Watchful>], _: &mut Documents) -> projection::Result {
        Ok(())
    }
}

/// Wants a category, whatever the names in it.
struct WholeCategory;

#[async_trait]
impl Projection<Documents> for WholeCategory {
    type Event = LedgerEvent;
    const NAME: &'static str = "whole_category";

    fn filter(&self) -> EventFilter {
        EventFilter::category("account")
    }

    async fn project(
        &self,
        batch: &[Envelope<LedgerEvent>],
        docs: &mut Documents,
    ) -> projection::Result {
        for e in batch {
            docs.put("whole", &e.position(), &e.event).await?;
        }
        Ok(())
    }
}

pub async fn unknown_names_are_never_decoded<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    let odd = || NewEvent::raw("elsewhere.happened", Payload::parse(r#"["odd"]"#).unwrap());
    append(&store, "a", [odd(), booked(1), odd()]).await;
    let projector = Projector::new(&store)
        .with(Watching, Schedule::continuous())
        .with(WholeCategory, Schedule::continuous());
    let projector = within(projector.start()).await.unwrap();
    append(&store, "a", [odd(), booked(1), odd()]).await;
    within(projector.catch_up()).await.unwrap();
    let asked: Vec<_> = ASKED.lock().unwrap().clone();
    assert!(
        !asked.is_empty() && asked.iter().all(|name| name == "ledger.booked"),
        "{asked:?}"
    );
    // A filter that lets them through passes over them all the same.
    let reader = projection::DocumentReader::from(&store);
    let page = reader.list::<LedgerEvent>(List::of("whole")).await.unwrap();
    let keys: Vec<_> = page.items.iter().map(|(key, _)| key.as_str()).collect();
    assert_eq!(keys, ["2", "5"]);
}

pub async fn erased_events_are_passed_over<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    append(&store, "gone", (0..3).map(booked)).await;
    append(&store, "kept", (0..2).map(booked)).await;
    append(&store, "gone", [Lifecycle::Erased.event()]).await;
    append(&store, "kept", [booked(3)]).await;
    let projector = run(&store, Schedule::continuous()).await;
    within(projector.catch_up()).await.unwrap();
    assert_eq!(seen(&store).await, [4, 5, 7]);
    assert_eq!(status(&projector).events_projected, 3);
}

/// What `ledger.moved` was split into.
struct Halves(i64);

impl DecodeEvent for Halves {
    fn types() -> Vec<EventType> {
        LedgerEvent::types()
    }

    fn decode(name: &str, payload: &Payload) -> Result<Option<Self>, serde_json::Error> {
        let decoded = LedgerEvent::decode(name, payload)?;
        Ok(decoded.map(|LedgerEvent::Booked { amount }| Self(amount)))
    }

    fn upcasters() -> &'static Upcasters {
        static UPCASTERS: std::sync::OnceLock<Upcasters> = std::sync::OnceLock::new();
        UPCASTERS.get_or_init(|| {
            Upcasters::new().split("ledger.moved", 1, |payload| {
                let amount = payload["amount"].as_i64().unwrap_or_default();
                Ok(vec![
                    ("ledger.booked", json!({ "amount": -amount })),
                    ("ledger.booked", json!({ "amount": amount })),
                ])
            })
        })
    }
}

struct Batches;

#[async_trait]
impl Projection<Documents> for Batches {
    type Event = Halves;
    const NAME: &'static str = "batches";

    async fn project(
        &self,
        batch: &[Envelope<Halves>],
        docs: &mut Documents,
    ) -> projection::Result {
        let amounts: Vec<_> = batch.iter().map(|e| e.event.0).collect();
        docs.put(
            "batches",
            &format!("{:03}", batch[0].position().get()),
            &amounts,
        )
        .await?;
        Ok(())
    }
}

pub async fn parts_of_a_split_event_stay_together<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    let moved = |amount| {
        let payload = Payload::encode(&json!({ "amount": amount })).unwrap();
        NewEvent::raw("ledger.moved", payload)
    };
    append(&store, "a", [booked(1), moved(2), moved(3), booked(4)]).await;
    let schedule = Schedule::continuous().max_batch(1);
    let projector = Projector::new(&store).with(Batches, schedule);
    let projector = within(projector.start()).await.unwrap();
    within(projector.catch_up()).await.unwrap();
    let reader = projection::DocumentReader::from(&store);
    let page = reader.list::<Vec<i64>>(List::of("batches")).await.unwrap();
    let batches: Vec<_> = page.items.into_iter().map(|(_, amounts)| amounts).collect();
    assert_eq!(batches, [vec![1], vec![-2, 2], vec![-3, 3], vec![4]]);
}

pub async fn two_projectors_share_one_projection<F: Fixture>(fixture: &F) {
    let (here, there) = (fixture.store(), fixture.elsewhere().await);
    book(&here, 100).await;
    let schedule = Schedule::continuous().max_batch(20);
    let one = run(&here, schedule).await;
    let two = run(&there, schedule).await;
    for round in 0..40 {
        let store = if round % 2 == 0 { &here } else { &there };
        book(store, 10).await;
    }
    within(one.catch_up()).await.unwrap();
    assert_eq!(seen(&there).await, (1..=500).collect::<Vec<_>>());
    within(two.catch_up()).await.unwrap();
    assert_eq!(seen(&here).await, (1..=500).collect::<Vec<_>>());
    let projected = status(&one).events_projected + status(&two).events_projected;
    assert_eq!(projected, 500, "what is fenced does not count");
    // When one ends, the other goes on alone.
    within(one.shutdown()).await.unwrap();
    let receipt = book(&here, 5).await;
    within(two.caught_up(&receipt)).await.unwrap();
    assert_eq!(seen(&here).await, (1..=505).collect::<Vec<_>>());
}

/// One of many projections of a projector: counts what it is given.
struct Counter<const N: usize>(Arc<AtomicUsize>);

const COUNTERS: [&str; 8] = ["c0", "c1", "c2", "c3", "c4", "c5", "c6", "c7"];

#[async_trait]
impl<const N: usize> Projection<Documents> for Counter<N> {
    type Event = LedgerEvent;
    const NAME: &'static str = COUNTERS[N];

    /// Each wants another account, and all want the shared one.
    fn filter(&self) -> EventFilter {
        FilterItem::new()
            .stream(account(COUNTERS[N]))
            .stream(account("shared"))
            .into()
    }

    async fn project(
        &self,
        batch: &[Envelope<LedgerEvent>],
        docs: &mut Documents,
    ) -> projection::Result {
        self.0.fetch_add(batch.len(), Ordering::SeqCst);
        let more = |count: Option<usize>| Some(count.unwrap_or_default() + batch.len());
        docs.update(COUNTERS[N], "count", more).await?;
        Ok(())
    }
}

pub async fn many_projections_share_one_projector<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    let all = Arc::new(AtomicUsize::new(0));
    let quick = Schedule::continuous();
    let slow = Schedule::continuous().debounce(HOUR);
    let rare = Schedule::every(HOUR);
    let projector = Projector::new(&store)
        .with(Counter::<0>(all.clone()), quick)
        .with(Counter::<1>(all.clone()), slow)
        .with(Counter::<2>(all.clone()), rare)
        .with(Counter::<3>(all.clone()), quick.max_batch(3))
        .with(Counter::<4>(all.clone()), slow)
        .with(Counter::<5>(all.clone()), rare.immediately())
        .with(Counter::<6>(all.clone()), quick)
        .with(Counter::<7>(all.clone()), slow.max_batch(7));
    let projector = within(projector.start()).await.unwrap();
    for round in 0..10 {
        append(&store, "shared", [booked(round), booked(round)]).await;
        for name in COUNTERS {
            append(&store, name, [booked(round)]).await;
        }
    }
    within(projector.catch_up()).await.unwrap();
    assert_eq!(all.load(Ordering::SeqCst), 8 * 30);
    let reader = projection::DocumentReader::from(&store);
    for name in COUNTERS {
        assert_eq!(
            reader.get::<usize>(name, "count").await.unwrap(),
            Some(30),
            "{name}"
        );
    }
    let names: Vec<_> = projector
        .status()
        .into_iter()
        .map(|status| status.name)
        .collect();
    assert_eq!(names, COUNTERS);
}

pub async fn a_restart_projects_nothing_old<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    book(&store, 50).await;
    let projector = run(&store, Schedule::continuous()).await;
    within(projector.catch_up()).await.unwrap();
    within(projector.shutdown()).await.unwrap();

    let projector = run(&fixture.elsewhere().await, Schedule::continuous()).await;
    within(projector.catch_up()).await.unwrap();
    assert_eq!(status(&projector).events_projected, 0);
    let receipt = book(&store, 1).await;
    within(projector.caught_up(&receipt)).await.unwrap();
    assert_eq!(status(&projector).events_projected, 1);
    // One that is not shut down but dropped repeats nothing either.
    drop(projector);
    let projector = run(&store, Schedule::continuous()).await;
    within(projector.catch_up()).await.unwrap();
    assert_eq!(status(&projector).events_projected, 0);
    assert_eq!(seen(&store).await, (1..=51).collect::<Vec<_>>());
}

pub async fn a_changed_past_stops_the_projection<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    // The read model was built from a log whose tail was lost: another event stands there now.
    for beyond_the_end in [-1, 0, 5] {
        let end = book(&store, 3).await.position().get();
        let from = store.load_progress(LEDGER).await.unwrap();
        let lost = Checkpoint {
            position: Position::new(end + beyond_the_end),
            event_id: EventId::new(),
        };
        let step = Step::new(from, Target::Advance(lost));
        store.commit_documents(Vec::new(), &step).await.unwrap();

        let projector = run(&store, Schedule::continuous()).await;
        until(&projector, |status| {
            matches!(status.state, ProjectionState::Stopped { .. })
        })
        .await;
        let receipt = book(&store, 6).await;
        let receipt = Checkpoint::from(&receipt);
        let error = within(projector.caught_up(receipt)).await.unwrap_err();
        assert!(error.is_stopped() && error.is_diverged(), "{error}");
        let untouched = store.load_progress(LEDGER).await.unwrap();
        assert_eq!(untouched.checkpoint, lost, "nothing is built on it");
        // Building it again is the way on.
        within(projector.reset(LEDGER)).await.unwrap();
        within(projector.catch_up()).await.unwrap();
        let head = receipt.position.get();
        assert_eq!(seen(&store).await, (1..=head).collect::<Vec<_>>());
        within(projector.shutdown()).await.unwrap();
        // For the next round.
        let from = store.load_progress(LEDGER).await.unwrap();
        let step = Step::new(from, Target::Reset);
        store.commit_documents(Vec::new(), &step).await.unwrap();
        assert_ne!(
            store.load_progress(LEDGER).await.unwrap(),
            Progress::start(LEDGER)
        );
    }
}

pub async fn a_failing_batch_leaves_nothing_and_is_tried_again<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    let switches = Switches::default();
    let projector = Projector::new(&store).with(Ledger(switches.clone()), Schedule::continuous());
    let projector = within(projector.start()).await.unwrap();
    let receipt = book(&store, 2).await;
    within(projector.caught_up(&receipt)).await.unwrap();
    switches.fail(true);
    book(&store, 3).await;
    let status = until(&projector, |status| {
        matches!(status.state, ProjectionState::Failing { attempts: 2.., .. })
    })
    .await;
    let ProjectionState::Failing { reason, .. } = &status.state else {
        panic!("{status:?}");
    };
    assert!(reason.ends_with(": the ledger is closed today"), "{reason}");
    for part in ["ledger.booked", "position 3"] {
        assert!(reason.contains(part), "{reason}");
    }
    assert_eq!((status.reached.get(), status.lag), (2, 3));
    assert_eq!(
        seen(&store).await,
        [1, 2],
        "a failed attempt leaves nothing"
    );
    switches.fail(false);
    let status = until(&projector, |status| status.lag == 0).await;
    assert_eq!(status.state, ProjectionState::Running);
    assert_eq!(seen(&store).await, [1, 2, 3, 4, 5]);
    assert_eq!(status.events_projected, 5);
}

pub async fn a_panic_is_a_failure_like_others<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    let switches = Switches::default();
    switches.panic(true);
    let projector = Projector::new(&store).with(Ledger(switches.clone()), Schedule::continuous());
    let projector = within(projector.start()).await.unwrap();
    let receipt = book(&store, 2).await;
    let error = within(projector.caught_up(&receipt)).await.unwrap_err();
    assert!(error.is_failing(), "{error}");
    assert!(error.to_string().contains("fell from the table"), "{error}");
    switches.panic(false);
    until(&projector, |status| status.lag == 0).await;
    assert_eq!(seen(&store).await, [1, 2]);
}
