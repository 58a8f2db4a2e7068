//! A new read model that is built beside the live one, and takes its place.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicI64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use backstory_event::{Envelope, Position};
use backstory_projection::{
    self as projection, Checkpoints, DocumentReader, DocumentStore, Documents, LetterQuery, List,
    OnFailure, Operator, OperatorError, Projection, ProjectionRow, ProjectionState,
    ProjectionStatus, Projector, ProjectorErrorKind, ProjectorOptions, RowState, RunningProjector,
    Schedule,
};
use tokio::sync::watch;

use super::ledger::{LedgerEvent, book};
use crate::{CompleteStore, Fixture, kit::within};

const SHELF: &str = "shelf";

/// Writes the version of its code beside the position of each event.
#[derive(Debug, Clone)]
struct Shelf(Arc<Program>);

#[derive(Debug)]
struct Program {
    version: AtomicI64,
    /// While it is shut, nobody gets past the first event: a rebuild, but not the live one.
    gate: watch::Sender<bool>,
    fails: AtomicBool,
    policy: OnFailure,
}

impl Shelf {
    fn new(version: i64) -> Self {
        Self::with_policy(version, OnFailure::default())
    }

    fn with_policy(version: i64, policy: OnFailure) -> Self {
        Self(Arc::new(Program {
            version: version.into(),
            gate: watch::Sender::new(true),
            fails: AtomicBool::new(false),
            policy,
        }))
    }

    fn shut(&self) {
        self.0.gate.send_replace(false);
    }

    fn open(&self) {
        self.0.gate.send_replace(true);
    }
}

#[async_trait]
impl Projection<Documents> for Shelf {
    type Event = LedgerEvent;
    const NAME: &'static str = SHELF;

    fn on_failure(&self) -> OnFailure {
        self.0.policy
    }

    async fn project(
        &self,
        batch: &[Envelope<LedgerEvent>],
        docs: &mut Documents,
    ) -> projection::Result {
        let version = self.0.version.load(Ordering::SeqCst);
        for e in batch {
            if e.position().get() == 1 {
                let mut gate = self.0.gate.subscribe();
                gate.wait_for(|open| *open).await?;
                if self.0.fails.load(Ordering::SeqCst) {
                    return Err("the first one is broken".into());
                }
            }
            let key = format!("{:04}", e.position().get());
            // Twice the same event would show.
            docs.update(SHELF, &key, |seen: Option<(i64, i64)>| {
                Some((version, seen.map_or(1, |(_, times)| times + 1)))
            })
            .await?;
        }
        Ok(())
    }
}

/// A process that is called so.
async fn process<S: CompleteStore + Clone>(
    store: &S,
    shelf: &Shelf,
    name: &str,
) -> RunningProjector {
    let options = ProjectorOptions::default()
        .with_process(name)
        .with_lease(Duration::from_millis(500));
    let projector = Projector::new(store)
        .with(shelf.clone(), Schedule::continuous().max_batch(10))
        .with_options(options);
    within(projector.start()).await.unwrap()
}

/// The version of the code that has written each position, once.
async fn read<S: DocumentStore + Clone>(store: &S) -> BTreeMap<i64, i64> {
    let reader = DocumentReader::from(store);
    let list = List::of(SHELF).limit(List::MAX_LIMIT);
    let page = within(reader.list::<(i64, i64)>(list)).await.unwrap();
    let rows = page.items.into_iter().map(|(key, (version, times))| {
        assert_eq!(times, 1, "position {key} was projected {times} times");
        (key.parse().unwrap(), version)
    });
    rows.collect()
}

fn all(positions: impl IntoIterator<Item = i64>, version: i64) -> BTreeMap<i64, i64> {
    positions.into_iter().map(|at| (at, version)).collect()
}

async fn row<S: CompleteStore>(store: &S) -> ProjectionRow {
    let rows = within(store.list_projections()).await.unwrap();
    rows.into_iter()
        .find(|row| row.projection == SHELF)
        .unwrap()
}

async fn row_until<S: CompleteStore>(store: &S, wanted: impl Fn(&ProjectionRow) -> bool) {
    within(async {
        while !wanted(&row(store).await) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
}

/// A read model of version 1 over so many events, and a program of version 2 that runs it now.
async fn upgraded<S: CompleteStore + Clone>(
    store: &S,
    events: i64,
    policy: OnFailure,
) -> (Shelf, RunningProjector) {
    let old = process(store, &Shelf::new(1), "old").await;
    within(old.caught_up(&book(store, events).await))
        .await
        .unwrap();
    within(old.shutdown()).await.unwrap();
    let shelf = Shelf::with_policy(2, policy);
    let projector = process(store, &shelf, "new").await;
    (shelf, projector)
}

pub async fn a_rebuild_takes_the_place_of_what_is_read<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    let (_, projector) = upgraded(&store, 50, OnFailure::default()).await;
    assert_eq!(read(&store).await, all(1..=50, 1));
    within(projector.rebuild(SHELF)).await.unwrap();
    within(projector.rebuilt(SHELF)).await.unwrap();
    assert_eq!(read(&store).await, all(1..=50, 2));
    let after = row(&store).await;
    assert!(after.rebuild.is_none());
    assert_eq!(after.previous.unwrap().checkpoint.position.get(), 50);

    within(projector.caught_up(&book(&store, 5).await))
        .await
        .unwrap();
    assert_eq!(read(&store).await, all(1..=55, 2));
    // What was read before goes on from where it was left.
    within(projector.roll_back(SHELF)).await.unwrap();
    within(projector.catch_up()).await.unwrap();
    let mixed = || {
        let mut mixed = all(1..=50, 1);
        mixed.extend(all(51..=55, 2));
        mixed
    };
    assert_eq!(read(&store).await, mixed());
    within(projector.roll_back(SHELF)).await.unwrap();
    within(projector.catch_up()).await.unwrap();
    assert_eq!(read(&store).await, all(1..=55, 2));
    within(projector.drop_previous(SHELF)).await.unwrap();
    assert!(row(&store).await.previous.is_none());
    assert_eq!(read(&store).await, all(1..=55, 2));
    // Nothing is left of it.
    let progress = within(store.list_progress()).await.unwrap();
    let names = progress.iter().map(|one| one.projection.as_str());
    assert_eq!(names.collect::<Vec<_>>(), [SHELF]);
}

pub async fn what_is_read_goes_on_during_a_rebuild<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    let (shelf, projector) = upgraded(&store, 30, OnFailure::default()).await;
    shelf.shut();
    within(projector.rebuild(SHELF)).await.unwrap();
    row_until(&store, |row| {
        let rebuild = row.rebuild.as_ref();
        rebuild.is_some_and(|rebuild| rebuild.state == RowState::Running)
    })
    .await;
    let rebuild = row(&store).await.rebuild.unwrap();
    assert_eq!(rebuild.reached, Position::START);
    // Nobody has to wait for it.
    let receipt = book(&store, 5).await;
    within(projector.caught_up(&receipt)).await.unwrap();
    let mut mixed = all(1..=30, 1);
    mixed.extend(all(31..=35, 2));
    assert_eq!(read(&store).await, mixed);
    let status = projector.projection(SHELF).status().unwrap();
    assert_eq!(status.state, ProjectionState::Running);
    assert_eq!(status.rebuild.unwrap().reached, Position::START);
    let again = within(projector.rebuild(SHELF)).await.unwrap_err();
    assert!(again.to_string().contains("already"), "{again}");

    shelf.open();
    within(projector.rebuilt(SHELF)).await.unwrap();
    assert_eq!(read(&store).await, all(1..=35, 2));
    within(projector.caught_up(&book(&store, 1).await))
        .await
        .unwrap();
    assert_eq!(read(&store).await, all(1..=36, 2));
}

pub async fn a_rebuild_that_is_aborted_leaves_nothing<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    let elsewhere = fixture.elsewhere().await;
    let operator = Operator::new(&elsewhere);
    let (shelf, projector) = upgraded(&store, 30, OnFailure::default()).await;
    for _ in 0..3 {
        shelf.shut();
        within(operator.rebuild(SHELF)).await.unwrap();
        within(operator.abort_rebuild(SHELF)).await.unwrap();
        let aborted = within(operator.rebuilt(SHELF, |_| {})).await.unwrap_err();
        assert!(aborted.to_string().contains("aborted"), "{aborted}");
        shelf.open();
        assert!(row(&store).await.rebuild.is_none());
        assert_eq!(read(&store).await, all(1..=30, 1));
    }
    // One that has got past the gate by now stores nothing.
    within(operator.rebuild(SHELF)).await.unwrap();
    let mut seen = 0;
    within(operator.rebuilt(SHELF, |_| seen += 1))
        .await
        .unwrap();
    assert!(seen > 0);
    assert_eq!(read(&store).await, all(1..=30, 2));
    let status = projector.projection(SHELF).status().unwrap();
    assert_eq!(status.rebuild, None);
}

pub async fn a_rebuild_that_fails_leaves_what_is_read_alone<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    let policy = OnFailure::stop()
        .after(2)
        .backoff(Duration::from_millis(1), Duration::from_millis(1));
    let (shelf, projector) = upgraded(&store, 30, policy).await;
    shelf.0.fails.store(true, Ordering::SeqCst);
    within(projector.rebuild(SHELF)).await.unwrap();
    let error = within(projector.rebuilt(SHELF)).await.unwrap_err();
    assert!(
        error.to_string().contains("the first one is broken"),
        "{error}"
    );
    let rebuild = row(&store).await.rebuild.unwrap();
    assert_eq!(rebuild.state, RowState::Stopped);
    let receipt = book(&store, 5).await;
    within(projector.caught_up(&receipt)).await.unwrap();

    // With code that is better it goes on.
    shelf.0.fails.store(false, Ordering::SeqCst);
    within(projector.resume(SHELF)).await.unwrap();
    row_until(&store, |row| row.rebuild.is_none()).await;
    within(projector.rebuilt(SHELF)).await.unwrap();
    assert_eq!(read(&store).await, all(1..=35, 2));
}

pub async fn a_rebuild_goes_on_in_another_process<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    let elsewhere = fixture.elsewhere().await;
    let (shelf, first) = upgraded(&store, 200, OnFailure::default()).await;
    let late = Shelf::new(3);
    late.shut();
    let second = process(&elsewhere, &late, "second").await;
    shelf.shut();
    // Any process can be asked.
    within(second.rebuild(SHELF)).await.unwrap();
    row_until(&store, |row| row.rebuild.is_some()).await;
    drop(first);
    late.open();
    let receipt = book(&store, 5).await;
    within(second.rebuilt(SHELF)).await.unwrap();
    within(second.caught_up(&receipt)).await.unwrap();
    assert_eq!(read(&store).await, all(1..=205, 3));
    assert_eq!(row(&store).await.process.as_deref(), Some("second"));
    shelf.open();
}

pub async fn a_rebuild_swaps_the_letters_too<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    let policy = OnFailure::skip().after(1);
    let (shelf, projector) = upgraded(&store, 5, policy).await;
    let letters = async || {
        let query = LetterQuery::of(SHELF);
        let letters = within(projector.dead_letters(&query)).await.unwrap();
        let places = letters.iter().map(|letter| {
            assert_eq!(letter.projection, SHELF);
            letter.position.get()
        });
        places.collect::<Vec<_>>()
    };
    assert!(letters().await.is_empty());
    shelf.0.fails.store(true, Ordering::SeqCst);
    within(projector.rebuild(SHELF)).await.unwrap();
    within(projector.rebuilt(SHELF)).await.unwrap();
    assert_eq!(read(&store).await, all(2..=5, 2));
    assert_eq!(letters().await, [1]);
    within(projector.roll_back(SHELF)).await.unwrap();
    assert!(letters().await.is_empty());
    assert_eq!(read(&store).await, all(1..=5, 1));
    within(projector.roll_back(SHELF)).await.unwrap();
    shelf.0.fails.store(false, Ordering::SeqCst);
    let replayed = within(projector.replay(SHELF, Position::new(1))).await;
    assert_eq!(replayed.unwrap().replayed, 1);
    assert_eq!(read(&store).await, all(1..=5, 2));
}

/// Writes into a collection of the shelf.
struct Guest;

#[async_trait]
impl Projection<Documents> for Guest {
    type Event = LedgerEvent;
    const NAME: &'static str = "guest";

    async fn project(
        &self,
        batch: &[Envelope<LedgerEvent>],
        docs: &mut Documents,
    ) -> projection::Result {
        for e in batch {
            docs.put("guests", &e.position(), &()).await?;
            docs.put(SHELF, "guest", &(0, 1)).await?;
        }
        Ok(())
    }
}

pub async fn what_cannot_change_places_says_so<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    let (_, projector) = upgraded(&store, 5, OnFailure::default()).await;
    for refused in [
        within(projector.abort_rebuild(SHELF)).await,
        within(projector.roll_back(SHELF)).await,
        within(projector.drop_previous(SHELF)).await,
    ] {
        let refused = refused.unwrap_err();
        let kind = refused.kind();
        assert!(
            matches!(kind, ProjectorErrorKind::Refused { .. }),
            "{refused}"
        );
    }
    let unknown = within(Operator::new(&store).rebuild("shlef")).await;
    assert!(matches!(unknown, Err(OperatorError::Unknown { .. })));
    within(projector.shutdown()).await.unwrap();

    // A guest may write to it, but not take it over.
    let guest = Projector::new(&store).with(Guest, Schedule::continuous());
    let guest = within(guest.start()).await.unwrap();
    within(guest.catch_up()).await.unwrap();
    within(guest.rebuild("guest")).await.unwrap();
    let refused = |status: ProjectionStatus| match status.rebuild.map(|rebuild| rebuild.state) {
        Some(ProjectionState::Failing { reason, .. }) => {
            reason.contains("belongs to another projection")
        }
        _ => false,
    };
    within(async {
        while !refused(guest.projection("guest").status().unwrap()) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
    within(guest.abort_rebuild("guest")).await.unwrap();
    let reader = DocumentReader::from(&store);
    let kept: Option<(i64, i64)> = within(reader.get(SHELF, "0001")).await.unwrap();
    assert_eq!(kept, Some((1, 1)));
}
