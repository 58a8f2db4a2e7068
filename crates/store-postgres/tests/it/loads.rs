//! Loads that are pending together share statements, and nobody notices.

use std::time::Duration;

use backstory_event::{
    Append, EventId, EventQuery, EventStore, EventStoreExt, ExpectedVersion, FilterItem, Page,
    Position, RecordedEvent, StoreError, StoreErrorKind, StreamVersion,
};
use backstory_store_postgres::{PostgresOptions, PostgresStore};
use backstory_test_postgres::TestDatabase;
use futures::future::join_all;
use sqlx::PgConnection;
use tokio::task::JoinHandle;

use crate::kit::{event, fresh, log, raw, run, scalar, stream, until_count, within};

/// Loads that wait for [`LOCK`]. A transaction sees the same ones until it ends.
const BLOCKED: &str = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() \
    AND wait_event_type = 'Lock' AND wait_event = 'relation' AND query NOT LIKE '%max(e.position)%'";
const TERMINATE: &str = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
    WHERE datname = current_database() AND wait_event_type = 'Lock' AND wait_event = 'relation'";
const LOCK: &str = "BEGIN; LOCK TABLE backstory.event IN ACCESS EXCLUSIVE MODE";

/// One who asks alone, and a task.
const STATEMENTS: i64 = 2;
const LONG: usize = 250;

/// Streams of 0, 1, 2 … events, and a long one; their events are mixed in the log.
async fn fill(store: &PostgresStore) {
    for number in 0..20 {
        let appends = (number + 1..20).map(|key| {
            let append = Append::to(
                stream("todo", key),
                ExpectedVersion::Any,
                [event("todo.added")],
            );
            store.append(append)
        });
        for outcome in join_all(appends).await {
            outcome.unwrap();
        }
    }
    let long = (0..LONG).map(|_| event("todo.added"));
    let append = Append::to(stream("todo", "long"), ExpectedVersion::NoStream, long);
    store.append(append).await.unwrap();
    let append = Append::to(
        stream("todo", 1),
        ExpectedVersion::Any,
        [event("todo.done")],
    );
    store.append(append).await.unwrap();
}

fn version(number: usize) -> StreamVersion {
    StreamVersion::new(i64::try_from(number).unwrap())
}

/// Loads of all streams, whole and in parts, and of one that is not there.
fn queries() -> Vec<EventQuery> {
    let mut queries = vec![EventQuery::stream(stream("todo", "none"))];
    for key in (1..20).map(|key| key.to_string()).chain(["long".into()]) {
        let whole = EventQuery::stream(stream("todo", key));
        queries.push(whole.clone().from_version(version(2)));
        queries.push(whole.clone().to_version(version(3)));
        queries.push(whole.clone().from_version(version(2)).limit(1));
        queries.push(whole.clone().limit(120));
        queries.push(whole);
    }
    queries
}

/// The same query by the statement of all queries: it also means a stream that is not there.
async fn plainly(store: &PostgresStore, query: &EventQuery) -> Result<Page, StoreError> {
    let mut plain = query.clone();
    let nobody = FilterItem::new().stream(stream("todo", "nobody"));
    plain.filter = plain.filter.or(nobody);
    let mut page = store.read(&plain).await?;
    if let Some(next) = &mut page.next {
        next.filter = query.filter.clone();
    }
    Ok(page)
}

fn load(
    store: &PostgresStore,
    query: EventQuery,
) -> JoinHandle<Result<Vec<RecordedEvent>, StoreError>> {
    let store = store.clone();
    tokio::spawn(async move { store.collect(query).await })
}

/// Loads that wait for the lock of the table.
struct Blocked {
    loads: Vec<JoinHandle<Result<Vec<RecordedEvent>, StoreError>>>,
    locker: PgConnection,
    watch: PgConnection,
}

async fn blocked(store: &PostgresStore, database: &TestDatabase) -> Blocked {
    let mut locker = raw(database.url()).await;
    let mut watch = raw(database.url()).await;
    run(&mut locker, LOCK).await;
    let loads = queries().into_iter().map(|query| load(store, query));
    let loads = loads.collect();
    until_count(&mut watch, BLOCKED, STATEMENTS).await;
    Blocked {
        loads,
        locker,
        watch,
    }
}

fn expected(log: &[RecordedEvent], query: &EventQuery) -> Vec<RecordedEvent> {
    let matching = log.iter().filter(|event| query.matches(event));
    let limit = query.limit.unwrap_or(usize::MAX);
    matching.take(limit).cloned().collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_load_alone_is_pages_like_any_other() {
    let database = TestDatabase::create().await;
    let options = PostgresOptions::default().with_page(7);
    let store = PostgresStore::connect_with(database.url(), options)
        .await
        .unwrap();
    let empty = EventQuery::stream(stream("todo", 1));
    let behind_the_end = empty.clone().after(Position::new(9));
    for query in [empty, behind_the_end.clone()] {
        let page = store.read(&query).await.unwrap();
        assert_eq!(page, plainly(&store, &query).await.unwrap(), "{query:?}");
    }
    fill(&store).await;
    let log = log(&store).await;
    let somewhere = |query: EventQuery| {
        let places = [5, 190, 191, 300, log.len(), log.len() + 1];
        let places = places.map(|place| query.clone().after(Position::new(place as i64)));
        let proved = query.clone().after(log[200].checkpoint());
        [vec![query], places.to_vec(), vec![proved]].concat()
    };
    for query in queries().into_iter().flat_map(somewhere) {
        let mut next = Some(query);
        while let Some(query) = next {
            let page = store.read(&query).await.unwrap();
            assert_eq!(page, plainly(&store, &query).await.unwrap(), "{query:?}");
            next = page.next;
        }
    }
    let mut other = log[200].checkpoint();
    other.event_id = EventId::new();
    let mut gone = other;
    gone.position = Position::new(1_000_000);
    for wrong in [other, gone] {
        let query = behind_the_end.clone().after(wrong);
        let error = store.read(&query).await.unwrap_err();
        assert!(matches!(error.kind(), StoreErrorKind::Diverged { .. }));
        assert_eq!(
            error.kind(),
            plainly(&store, &query).await.unwrap_err().kind()
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pending_loads_share_a_few_statements_and_each_gets_its_own() {
    let (database, store) = fresh().await;
    fill(&store).await;
    let log = log(&store).await;
    let Blocked {
        loads,
        mut locker,
        mut watch,
    } = blocked(&store, &database).await;
    // More would come at once if they went one by one: the pool has more connections.
    for _ in 0..20 {
        assert_eq!(scalar::<i64>(&mut watch, BLOCKED).await, STATEMENTS);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    run(&mut locker, "COMMIT").await;
    for (load, query) in loads.into_iter().zip(queries()) {
        let events = within(load).await.unwrap().unwrap();
        assert_eq!(events, expected(&log, &query), "{query:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pages_of_shared_statements_are_pages_like_any_other() {
    let (database, store) = fresh().await;
    fill(&store).await;
    let short = || {
        queries()
            .into_iter()
            .filter(|query| query.limit != Some(120))
    };
    let mut pages = Vec::new();
    for query in short() {
        pages.push(plainly(&store, &query).await.unwrap());
    }
    let mut locker = raw(database.url()).await;
    let mut watch = raw(database.url()).await;
    run(&mut locker, LOCK).await;
    let loads: Vec<_> = short()
        .map(|query| {
            let store = store.clone();
            tokio::spawn(async move { store.read(&query).await })
        })
        .collect();
    until_count(&mut watch, BLOCKED, STATEMENTS).await;
    run(&mut locker, "COMMIT").await;
    for ((load, query), plain) in loads.into_iter().zip(short()).zip(pages) {
        let page = within(load).await.unwrap().unwrap();
        if plain.events.len() <= 100 {
            assert_eq!(page, plain, "{query:?}");
        } else {
            assert!(page.events.len() >= 100 && page.next.is_some(), "{query:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_connection_harms_no_load() {
    let (database, store) = fresh().await;
    fill(&store).await;
    let log = log(&store).await;
    let Blocked {
        loads,
        mut locker,
        mut watch,
    } = blocked(&store, &database).await;
    run(&mut watch, TERMINATE).await;
    run(&mut locker, "COMMIT").await;
    for (load, query) in loads.into_iter().zip(queries()) {
        let events = within(load).await.unwrap().unwrap();
        assert_eq!(events, expected(&log, &query), "{query:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_stops_waiting_disturbs_no_other_load() {
    let (database, store) = fresh().await;
    fill(&store).await;
    let log = log(&store).await;
    let Blocked {
        loads, mut locker, ..
    } = blocked(&store, &database).await;
    for load in loads.iter().step_by(2) {
        load.abort();
    }
    run(&mut locker, "COMMIT").await;
    for (index, (load, query)) in loads.into_iter().zip(queries()).enumerate() {
        let outcome = within(load).await;
        if index % 2 == 1 {
            assert_eq!(outcome.unwrap().unwrap(), expected(&log, &query));
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn statements_that_nobody_waits_for_are_stopped() {
    let (database, store) = fresh().await;
    fill(&store).await;
    let Blocked {
        loads,
        mut locker,
        mut watch,
    } = blocked(&store, &database).await;
    for load in &loads {
        load.abort();
    }
    until_count(&mut watch, BLOCKED, 0).await;
    run(&mut locker, "COMMIT").await;
    let again = EventQuery::stream(stream("todo", 19));
    assert_eq!(
        within(load(&store, again)).await.unwrap().unwrap().len(),
        19
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pending_loads_end_with_the_store() {
    let (database, store) = fresh().await;
    fill(&store).await;
    let Blocked {
        loads,
        locker,
        mut watch,
    } = blocked(&store, &database).await;
    let close = tokio::spawn({
        let store = store.clone();
        async move { store.close().await }
    });
    run(&mut watch, TERMINATE).await;
    drop(locker);
    for load in loads {
        // Those in flight may still be answered; the others are told.
        if let Err(error) = within(load).await.unwrap() {
            assert_eq!(error.kind(), &StoreErrorKind::Closed);
        }
    }
    within(close).await.unwrap();
    let late = within(store.read(&EventQuery::stream(stream("todo", 1)))).await;
    assert_eq!(late.unwrap_err().kind(), &StoreErrorKind::Closed);
}
