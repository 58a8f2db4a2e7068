//! Projections that run in several parts, which processes share.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use async_trait::async_trait;
use backstory_event::{Envelope, Position};
use backstory_projection::{
    self as projection, Checkpoints, Control, DocumentReader, DocumentStore, Documents,
    LetterQuery, Letters, List, OnFailure, Operator, Part, Projection, ProjectionState, Projector,
    ProjectorErrorKind, ProjectorOptions, RowState, RunningProjector, Schedule, Start, owner,
};

use super::ledger::{LedgerEvent, append, booked};
use crate::{CompleteStore, Fixture, kit::within};

const PAGES: &str = "pages";
const PARTS: u32 = 4;
const ACCOUNTS: i64 = 12;

/// Writes down, for each account, the positions that it is given.
#[derive(Debug, Clone, Default)]
struct Pages {
    refused: Option<i64>,
    healed: Arc<std::sync::atomic::AtomicBool>,
}

#[async_trait]
impl Projection<Documents> for Pages {
    type Event = LedgerEvent;
    const NAME: &'static str = PAGES;

    fn on_failure(&self) -> OnFailure {
        OnFailure::park().after(1)
    }

    async fn project(
        &self,
        batch: &[Envelope<LedgerEvent>],
        docs: &mut Documents,
    ) -> projection::Result {
        for e in batch {
            let LedgerEvent::Booked { amount } = e.event;
            let healed = self.healed.load(std::sync::atomic::Ordering::SeqCst);
            if Some(amount) == self.refused && !healed {
                return Err("it does not take that".into());
            }
            docs.update(PAGES, e.stream(), |seen: Option<Vec<i64>>| {
                let mut seen = seen.unwrap_or_default();
                seen.push(e.position().get());
                Some(seen)
            })
            .await?;
        }
        Ok(())
    }
}

async fn process<S: CompleteStore + Clone>(
    store: &S,
    pages: &Pages,
    name: &str,
) -> RunningProjector {
    let options = ProjectorOptions::default()
        .with_process(name)
        .with_lease(Duration::from_millis(500));
    let schedule = Schedule::continuous().partitions(PARTS).max_batch(7);
    let projector = Projector::new(store)
        .with(pages.clone(), schedule)
        .with_options(options);
    within(projector.start()).await.unwrap()
}

/// One event more for each account; says where they are.
async fn round<S: CompleteStore>(store: &S, amount: i64) -> backstory_event::Appended {
    let mut last = None;
    for account in 0..ACCOUNTS {
        last = Some(append(store, &account.to_string(), [booked(amount)]).await);
    }
    last.unwrap()
}

/// All positions, each in its account's page once and in order.
async fn seen<S: DocumentStore + Clone>(store: &S) -> Vec<i64> {
    let reader = DocumentReader::from(store);
    let list = List::of(PAGES).limit(List::MAX_LIMIT);
    let page = within(reader.list::<Vec<i64>>(list)).await.unwrap();
    let mut all = Vec::new();
    for (account, seen) in page.items {
        assert!(seen.is_sorted(), "{account}: {seen:?}");
        all.extend(seen);
    }
    all.sort_unstable();
    all
}

fn up_to(rounds: i64) -> Vec<i64> {
    (1..=rounds * ACCOUNTS).collect()
}

/// How many parts each process leads.
async fn shares<S: CompleteStore>(store: &S) -> BTreeMap<String, usize> {
    let rows = within(store.list_projections()).await.unwrap();
    let mut shares = BTreeMap::new();
    for row in rows.iter().filter(|row| owner(&row.projection) == PAGES) {
        if let Some(process) = &row.process {
            *shares.entry(process.clone()).or_default() += 1;
        }
    }
    shares
}

async fn until_shared<S: CompleteStore>(store: &S, wanted: &[(&str, usize)]) {
    let wanted: BTreeMap<_, _> = wanted
        .iter()
        .map(|(name, parts)| ((*name).to_owned(), *parts))
        .collect();
    within(async {
        while shares(store).await != wanted {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
}

pub async fn parts_project_each_event_once_in_the_order_of_its_key<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    for _ in 0..3 {
        round(&store, 1).await;
    }
    let projector = process(&store, &Pages::default(), "first").await;
    for rounds in 4..=10 {
        let receipt = round(&store, 1).await;
        within(projector.caught_up(&receipt)).await.unwrap();
        assert_eq!(seen(&store).await, up_to(rounds));
    }
    let statuses = projector.status();
    assert_eq!(statuses.len(), 1);
    let status = projector.projection(PAGES).status().unwrap();
    assert_eq!(status.events_projected, 10 * ACCOUNTS.unsigned_abs());
    assert_eq!((status.lag, status.state), (0, ProjectionState::Running));
    within(projector.shutdown()).await.unwrap();
    let progress = within(store.list_progress()).await.unwrap();
    let parts = progress.iter().map(|one| Part::split(&one.projection));
    assert!(
        parts
            .clone()
            .all(|(name, part)| name == PAGES && part.count == PARTS)
    );
    assert_eq!(parts.count(), PARTS as usize);

    let other = Projector::new(&store).with(Pages::default(), Schedule::continuous());
    let refused = within(other.start()).await.unwrap_err();
    let kind = refused.kind();
    assert!(
        matches!(
            kind,
            ProjectorErrorKind::OtherPartitions {
                stored: 4,
                partitions: 1,
                ..
            }
        ),
        "{refused}"
    );
}

pub async fn processes_share_the_parts<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    let elsewhere = fixture.elsewhere().await;
    let first = process(&store, &Pages::default(), "first").await;
    within(first.caught_up(&round(&store, 1).await))
        .await
        .unwrap();
    until_shared(&store, &[("first", 4)]).await;
    let second = process(&elsewhere, &Pages::default(), "second").await;
    let third = process(&store, &Pages::default(), "third").await;
    let receipt = round(&store, 1).await;
    within(second.caught_up(&receipt)).await.unwrap();
    within(async {
        loop {
            let shares = shares(&store).await;
            let most = shares.values().max().copied().unwrap_or_default();
            if shares.values().sum::<usize>() == 4 && most <= 2 && shares.len() >= 2 {
                break;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
    within(third.shutdown()).await.unwrap();
    until_shared(&store, &[("first", 2), ("second", 2)]).await;
    let receipt = round(&store, 1).await;
    within(first.caught_up(&receipt)).await.unwrap();
    within(second.caught_up(&receipt)).await.unwrap();
    assert_eq!(seen(&store).await, up_to(3));
    // Whoever falls silent loses its parts.
    drop(first);
    until_shared(&store, &[("second", 4)]).await;
    within(second.caught_up(&round(&store, 1).await))
        .await
        .unwrap();
    assert_eq!(seen(&store).await, up_to(4));
}

pub async fn a_reset_of_parts_concerns_all_of_them<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    let elsewhere = fixture.elsewhere().await;
    let first = process(&store, &Pages::default(), "first").await;
    let second = process(&elsewhere, &Pages::default(), "second").await;
    until_shared(&store, &[("first", 2), ("second", 2)]).await;
    for _ in 0..3 {
        round(&store, 1).await;
    }
    within(first.catch_up()).await.unwrap();
    within(second.reset(PAGES)).await.unwrap();
    let complete = async |rounds| {
        while seen(&store).await != up_to(rounds) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    within(complete(3)).await;
    round(&store, 1).await;
    within(complete(4)).await;
    // Nobody has projected again what another part has.
    let operator = Operator::new(&elsewhere);
    within(operator.rewind(PAGES, Start::Position(Position::new(4 * ACCOUNTS))))
        .await
        .unwrap();
    within(first.catch_up()).await.unwrap();
    assert_eq!(seen(&store).await, up_to(4));

    let paused = within(operator.pause(PAGES)).await.unwrap().unwrap();
    assert_eq!(paused.process, "first, second");
    let receipt = round(&store, 1).await;
    let refused = within(first.caught_up(&receipt)).await.unwrap_err();
    assert!(refused.is_paused(), "{refused}");
    within(first.resume(PAGES)).await.unwrap();
    within(complete(5)).await;
    within(operator.trigger(PAGES)).await.unwrap();
}

pub async fn a_rebuild_of_parts_takes_the_place_of_all<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    let elsewhere = fixture.elsewhere().await;
    let first = process(&store, &Pages::default(), "first").await;
    let second = process(&elsewhere, &Pages::default(), "second").await;
    until_shared(&store, &[("first", 2), ("second", 2)]).await;
    for _ in 0..5 {
        round(&store, 1).await;
    }
    within(first.catch_up()).await.unwrap();
    within(second.rebuild(PAGES)).await.unwrap();
    round(&store, 1).await;
    within(first.rebuilt(PAGES)).await.unwrap();
    let receipt = round(&store, 1).await;
    let complete = async |rounds| {
        while seen(&store).await != up_to(rounds) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    within(complete(7)).await;
    within(first.caught_up(&receipt)).await.unwrap();
    within(first.roll_back(PAGES)).await.unwrap();
    round(&store, 1).await;
    within(complete(8)).await;
    within(first.roll_back(PAGES)).await.unwrap();
    within(complete(8)).await;
    within(second.drop_previous(PAGES)).await.unwrap();
    let progress = within(store.list_progress()).await.unwrap();
    assert_eq!(progress.len(), PARTS as usize);
    let rows = within(store.list_projections()).await.unwrap();
    assert!(rows.iter().all(|row| row.state == RowState::Running));
}

pub async fn letters_of_parts_are_those_of_the_projection<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    let pages = Pages {
        refused: Some(13),
        ..Pages::default()
    };
    let projector = process(&store, &pages, "first").await;
    round(&store, 1).await;
    round(&store, 13).await;
    round(&store, 2).await;
    within(projector.catch_up()).await.unwrap();
    assert_eq!(seen(&store).await, up_to(1));
    let query = LetterQuery::of(PAGES).limit(1_000);
    let letters = within(projector.dead_letters(&query)).await.unwrap();
    let places = letters.iter().map(|letter| letter.position.get());
    assert_eq!(places.collect::<Vec<_>>(), (13..=36).collect::<Vec<_>>());
    assert!(letters.iter().all(|letter| letter.projection == PAGES));
    let one = Letters::Key(letters[0].key.clone());
    assert_eq!(within(projector.discard(PAGES, one)).await.unwrap(), 2);
    pages
        .healed
        .store(true, std::sync::atomic::Ordering::SeqCst);
    let elsewhere = fixture.elsewhere().await;
    let done = within(Operator::new(&elsewhere).replay(PAGES, Letters::All)).await;
    assert_eq!(done.unwrap().note.as_deref(), Some("22 replayed"));
    let mut wanted = up_to(3);
    wanted.retain(|at| *at <= ACCOUNTS || (at - letters[0].position.get()) % ACCOUNTS != 0);
    assert_eq!(seen(&store).await, wanted);
    let left = within(projector.dead_letters(&query)).await.unwrap();
    assert!(left.is_empty(), "{left:?}");
}
