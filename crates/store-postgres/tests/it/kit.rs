//! What the tests share.

use std::{future::Future, time::Duration};

use backstory_event::{
    Append, Appended, EventFilter, EventQuery, EventStoreExt, ExpectedVersion, NewEvent, Payload,
    RecordedEvent, StreamId, TagChange,
};
use backstory_store_postgres::{PostgresOptions, PostgresStore};
use backstory_test_postgres::TestDatabase;
use sqlx::{AssertSqlSafe, Connection, PgConnection};

pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

pub(crate) async fn fresh() -> (TestDatabase, PostgresStore) {
    let database = TestDatabase::create().await;
    let store = PostgresStore::connect(database.url()).await.unwrap();
    (database, store)
}

/// A store that hears of what others append only from the log itself.
pub(crate) async fn deaf(database: &TestDatabase) -> PostgresStore {
    let options = PostgresOptions::default().with_poll(Duration::from_secs(600));
    PostgresStore::connect_with(database.url(), options)
        .await
        .unwrap()
}

pub(crate) fn stream(category: &str, key: impl std::fmt::Display) -> StreamId {
    StreamId::new(category, key).unwrap()
}

pub(crate) fn event(name: &str) -> NewEvent {
    NewEvent::raw(name, Payload::parse(r#"{"title":"buy milk"}"#).unwrap())
}

/// An append of one event to a stream.
pub(crate) fn one(stream: &StreamId) -> Append {
    Append::to(stream.clone(), ExpectedVersion::Any, [event("todo.added")])
}

/// An append that is not stored by one call: what lifecycle events do depends on more than versions.
pub(crate) fn looked(stream: &StreamId) -> Append {
    let tagged = TagChange::default().event();
    Append::to(stream.clone(), ExpectedVersion::Any, [tagged])
}

pub(crate) async fn log(store: &PostgresStore) -> Vec<RecordedEvent> {
    let query = EventQuery::new(EventFilter::all());
    store.collect(query).await.unwrap()
}

pub(crate) async fn raw(url: &str) -> PgConnection {
    PgConnection::connect(url).await.unwrap()
}

pub(crate) async fn run(connection: &mut PgConnection, text: &str) {
    sqlx::raw_sql(AssertSqlSafe(text.to_owned()))
        .execute(connection)
        .await
        .unwrap();
}

/// The SQLSTATE that a statement fails with.
pub(crate) async fn refused(connection: &mut PgConnection, text: &str) -> String {
    let error = sqlx::raw_sql(AssertSqlSafe(text.to_owned()))
        .execute(connection)
        .await
        .unwrap_err();
    let error = error.as_database_error().unwrap();
    error.code().unwrap().into_owned()
}

/// The first column of the first row.
pub(crate) async fn scalar<T>(connection: &mut PgConnection, text: &str) -> T
where
    T: for<'r> sqlx::Decode<'r, sqlx::Postgres> + sqlx::Type<sqlx::Postgres> + Send + Unpin,
{
    sqlx::query_scalar(AssertSqlSafe(text.to_owned()))
        .fetch_one(connection)
        .await
        .unwrap()
}

/// Waits for what must come, but not for ever.
#[track_caller]
pub(crate) fn within<T>(future: impl Future<Output = T>) -> impl Future<Output = T> {
    let place = std::panic::Location::caller();
    async move {
        match tokio::time::timeout(PATIENCE, future).await {
            Ok(value) => value,
            Err(_) => panic!("nothing came within {PATIENCE:?} at {place}"),
        }
    }
}

/// Asks again and again until the answer is yes.
#[track_caller]
pub(crate) fn eventually<F: Future<Output = bool>>(
    mut ask: impl FnMut() -> F,
) -> impl Future<Output = ()> {
    within(async move {
        while !ask().await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
}

/// Waits until a query counts as many as wanted.
pub(crate) async fn until_count(connection: &mut PgConnection, text: &str, wanted: i64) {
    within(async {
        while scalar::<i64>(connection, text).await != wanted {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
}

/// Makes the server count calls of functions by sessions that begin from now on.
pub(crate) async fn count_calls(connection: &mut PgConnection) {
    let name: String = scalar(connection, "SELECT current_database()::text").await;
    let count = format!("ALTER DATABASE \"{name}\" SET track_functions = 'pl'");
    run(connection, &count).await;
}

/// How many batches were stored by a call, told when a session ends.
pub(crate) const CALLS: &str = "SELECT coalesce(sum(calls), 0)::bigint FROM pg_stat_user_functions \
    WHERE funcname = 'append_v1'";

/// How many sessions of this database wait for an advisory lock.
pub(crate) const LOCK_WAITERS: &str = "SELECT count(*) FROM pg_stat_activity \
    WHERE datname = current_database() AND wait_event_type = 'Lock' AND wait_event = 'advisory'";

/// Takes the lock of the log, as somebody else's append would.
pub(crate) const TAKE_LOCK: &str =
    "SELECT pg_advisory_xact_lock(hashtextextended('backstory:backstory', 0))";

/// Every acknowledged append is there once, in order, without holes.
pub(crate) async fn assert_stored_once(store: &PostgresStore, receipts: &[(Append, Appended)]) {
    let events = log(store).await;
    for (index, event) in events.iter().enumerate() {
        assert_eq!(event.position().get(), i64::try_from(index).unwrap() + 1);
    }
    for (append, receipt) in receipts {
        let (first, last) = receipt.positions.unwrap();
        let stored = &events
            [usize::try_from(first.get()).unwrap() - 1..usize::try_from(last.get()).unwrap()];
        let ids: Vec<_> = stored.iter().map(RecordedEvent::id).collect();
        assert_eq!(ids, append.event_ids());
    }
}
