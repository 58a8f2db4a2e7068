//! Random appends and queries against a naive model: seeded, so that a failure comes again.

use std::cmp::Reverse;

use backstory_aggregate::{LookupFilter, LookupQuery, LookupRow, LookupStore};
use backstory_event::{
    Append, Appended, Direction, EventQuery, EventStore, RecordedEvent, StoreErrorKind,
};
use futures::future::join_all;

use crate::{
    Fixture,
    kit::{log, position, read, stream_rows, within},
};

mod generate;
mod known;
mod model;

pub use generate::Generator;
pub use known::{Receipts, Seen};
pub use model::Stored;
use model::{Model, StreamTags, same};

type Outcome = Result<Appended, StoreErrorKind>;

async fn send(store: &impl EventStore, append: &Append) -> Outcome {
    within(store.append(append.clone()))
        .await
        .map_err(backstory_event::StoreError::into_kind)
}

/// All values of the scope that the generator uses.
pub async fn values(store: &impl LookupStore) -> Vec<LookupRow> {
    let query = LookupQuery {
        scope: "scope".to_owned(),
        filter: LookupFilter::Prefix(String::new()),
        after: None,
        limit: 1_000,
    };
    within(store.lookup_rows(&query)).await.unwrap()
}

/// The store holds exactly what the model holds.
async fn compare(store: &impl LookupStore, model: &Model, tags: &StreamTags, what: &str) {
    let stored: Vec<_> = log(store).await.iter().map(Stored::of).collect();
    for (index, (stored, expected)) in stored.iter().zip(&model.events).enumerate() {
        assert_eq!(stored, expected, "{what}: position {}", index + 1);
    }
    assert_eq!(stored.len(), model.events.len(), "{what}");
    let rows = model.rows(|stream| tags.of(stream));
    assert_eq!(stream_rows(store).await, rows, "{what}");
    assert_eq!(values(store).await, model.rows_of("scope"), "{what}");
}

const LOG_SEED: u64 = 2_000;
const QUERY_SEED: u64 = 500;

/// 2,000 events: several categories, names and tags; deleted, restored and erased streams.
async fn seeded_log(store: &impl LookupStore) -> Vec<RecordedEvent> {
    let mut generator = Generator::new(LOG_SEED, 6);
    let (mut model, mut tags) = (Model::default(), StreamTags::default());
    while model.events.len() < 2_000 {
        let append = generator.filling(24);
        let (found, expected) = (send(store, &append).await, model.append(&append));
        assert!(
            same(&found, &expected),
            "{append:?}\ngave {found:?}\ninstead of {expected:?}"
        );
        if expected.is_ok() {
            tags.stored(&append);
        }
    }
    compare(store, &model, &tags, "the seeded log").await;
    log(store).await
}

/// What a query means, computed from the whole list.
fn answer(log: &[RecordedEvent], query: &EventQuery) -> Vec<RecordedEvent> {
    let mut events: Vec<_> = log
        .iter()
        .filter(|event| query.matches(event))
        .cloned()
        .collect();
    if query.direction == Direction::Backward {
        events.reverse();
    }
    events.truncate(query.limit.unwrap_or(usize::MAX));
    events
}

pub async fn random_queries_give_what_their_filter_means<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    let log = seeded_log(&store).await;
    assert!(
        log.iter().any(RecordedEvent::is_erased),
        "the log has erased events"
    );
    let mut generator = Generator::new(QUERY_SEED, 6);
    let mut found_something = 0;
    for number in 0..500 {
        let query = generator.query(&log);
        let (found, expected) = (read(&store, query.clone()).await, answer(&log, &query));
        found_something += usize::from(!expected.is_empty());
        assert!(
            found == expected,
            "query {number} of seed {QUERY_SEED} found {} events instead of {}: {query:#?}",
            found.len(),
            expected.len(),
        );
    }
    assert!(
        found_something > 200,
        "the queries find something: {found_something}"
    );
}

pub async fn random_appends_have_the_outcome_of_the_model<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    let other = within(fixture.elsewhere()).await;
    let seed = 2;
    let mut generator = Generator::new(seed, 2);
    let (mut model, mut tags) = (Model::default(), StreamTags::default());
    let (mut stored, mut kinds) = (0, std::collections::BTreeSet::new());
    for number in 0..450 {
        let append = generator.append(&model);
        let handle = if generator.dice.once_in(4) {
            &other
        } else {
            &store
        };
        let length = model.events.len();
        let (found, expected) = (send(handle, &append).await, model.append(&append));
        assert!(
            same(&found, &expected),
            "append {number} of seed {seed}: {append:#?}\ngave {found:?}\ninstead of {expected:?}"
        );
        if model.events.len() > length {
            tags.stored(&append);
            stored += 1;
        }
        kinds.insert(expected.map_or_else(kind_name, |_| "stored"));
    }
    compare(&store, &model, &tags, "after random appends").await;
    assert!(stored > 60, "{stored} appends were stored");
    let expected = [
        "claim",
        "condition",
        "deleted",
        "diverged",
        "erased",
        "invalid",
        "reused",
        "stored",
        "version",
    ];
    assert_eq!(
        kinds.into_iter().collect::<Vec<_>>(),
        expected,
        "every outcome occurred"
    );
}

fn kind_name(kind: StoreErrorKind) -> &'static str {
    use backstory_event::Conflict;
    match kind {
        StoreErrorKind::Conflict(Conflict::Version { .. }) => "version",
        StoreErrorKind::Conflict(Conflict::Condition { .. }) => "condition",
        StoreErrorKind::Conflict(Conflict::Claim { .. }) => "claim",
        StoreErrorKind::StreamDeleted { .. } => "deleted",
        StoreErrorKind::StreamErased { .. } => "erased",
        StoreErrorKind::EventIdReused { .. } => "reused",
        StoreErrorKind::Invalid(_) => "invalid",
        StoreErrorKind::Diverged { .. } => "diverged",
        other => panic!("unexpected {other:?}"),
    }
}

/// Finds an order in which the appends, one after another, have these outcomes: those that were
/// stored in the order of their positions, each other one at some place between them.
fn explain(model: &mut Model, tags: &mut StreamTags, appends: &[Append], outcomes: &[Outcome]) {
    let mut winners: Vec<usize> = Vec::new();
    let mut others: Vec<usize> = Vec::new();
    // An append whose events are a part of another's is the same again, if it came later.
    let positions = |index: usize| outcomes[index].as_ref().ok()?.positions;
    let mut order: Vec<usize> = (0..appends.len()).collect();
    order.sort_by_key(|index| positions(*index).map(|(first, last)| (first, Reverse(last))));
    let mut seen = position(model.events.len());
    for index in order {
        match positions(index) {
            Some((first, last)) if first > seen => {
                seen = last;
                winners.push(index);
            }
            _ => others.push(index),
        }
    }
    let mut states = vec![model.clone()];
    for index in winners {
        let expected = model.append(&appends[index]);
        assert!(
            same(&outcomes[index], &expected),
            "in the order of positions {:#?}\ngave {:?}\ninstead of {expected:?}",
            appends[index],
            outcomes[index],
        );
        tags.stored(&appends[index]);
        states.push(model.clone());
    }
    for index in others {
        let explained = states
            .iter_mut()
            .any(|state| same(&outcomes[index], &state.clone().append(&appends[index])));
        assert!(
            explained,
            "at no point {:#?}\ncould give {:?}",
            appends[index], outcomes[index]
        );
    }
}

pub async fn concurrent_appends_equal_some_order_of_them<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    let other = within(fixture.elsewhere()).await;
    let mut generator = Generator::new(3, 2);
    let (mut model, mut tags) = (Model::default(), StreamTags::default());
    for round in 0..20 {
        let mut appends: Vec<_> = (0..24).map(|_| generator.append(&model)).collect();
        // The same one twice at once.
        appends.push(appends[0].clone());
        let sent = appends.iter().enumerate().map(|(index, append)| {
            let handle = if index % 4 == 3 {
                other.clone()
            } else {
                store.clone()
            };
            async move { send(&handle, append).await }
        });
        let outcomes = join_all(sent).await;
        explain(&mut model, &mut tags, &appends, &outcomes);
        compare(&store, &model, &tags, &format!("round {round}")).await;
    }
}

pub async fn one_callers_appends_are_decided_in_the_order_they_were_sent<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    let mut generator = Generator::new(4, 2);
    let (mut model, mut tags) = (Model::default(), StreamTags::default());
    for round in 0..15 {
        let appends: Vec<_> = (0..30).map(|_| generator.ordered(&model)).collect();
        let outcomes = join_all(appends.iter().map(|append| send(&store, append))).await;
        for (append, found) in appends.iter().zip(&outcomes) {
            let length = model.events.len();
            let expected = model.append(append);
            assert!(
                same(found, &expected),
                "round {round}: {append:#?}\ngave {found:?}\ninstead of {expected:?}"
            );
            if model.events.len() > length {
                tags.stored(append);
            }
        }
        compare(&store, &model, &tags, &format!("round {round}")).await;
    }
}

#[macro_export]
macro_rules! property_suite {
    ($make:expr) => {
        $crate::cases!($make, $crate::properties, [
            random_queries_give_what_their_filter_means
            random_appends_have_the_outcome_of_the_model
            concurrent_appends_equal_some_order_of_them
            one_callers_appends_are_decided_in_the_order_they_were_sent
        ]);
    };
}
