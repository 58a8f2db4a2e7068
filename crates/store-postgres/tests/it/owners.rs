//! What is stored of a stream while it is erased: whichever comes first, nothing is left.

use backstory_aggregate::{SnapshotRecord, SnapshotStore};
use backstory_event::{
    Append, EventStore, EventStoreExt, ExpectedVersion, Lifecycle, NewEvent, Payload, StreamId,
    StreamVersion,
};
use backstory_projection::{
    Checkpoints, DeadLetter, DocumentKey, DocumentStore, DocumentWrite, LetterWrite, Step, Target,
};
use backstory_store_postgres::PostgresStore;
use backstory_test_postgres::TestDatabase;
use sqlx::PgConnection;
use tokio::task::JoinHandle;

use crate::kit::{event, fresh, log, raw, run, scalar, stream, until_count, within};

const KEPT: &str = "SELECT (SELECT count(*) FROM backstory.document) + (SELECT count(*) FROM backstory.snapshot) \
    + (SELECT count(*) FROM backstory.dead_letter)";

/// How many sessions wait until a transaction ends that has locked a row.
const ROW_WAITERS: &str = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() \
    AND wait_event_type = 'Lock' AND wait_event IN ('transactionid', 'tuple')";

/// How many sessions wait for a table.
const TABLE_WAITERS: &str = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() \
    AND wait_event_type = 'Lock' AND wait_event = 'relation'";

/// What a stream has behind it when it is erased.
const LIVES: &[&[Option<Lifecycle>]] = &[
    &[None],
    // Once more: its first event is erased already.
    &[
        None,
        Some(Lifecycle::Erased),
        Some(Lifecycle::Restored),
        None,
    ],
    // Its first event says that it is erased.
    &[Some(Lifecycle::Erased), Some(Lifecycle::Restored), None],
    &[
        Some(Lifecycle::Erased),
        Some(Lifecycle::Restored),
        Some(Lifecycle::Erased),
        Some(Lifecycle::Restored),
        None,
    ],
];

async fn append(store: &PostgresStore, own: &StreamId, events: Vec<NewEvent>) {
    let append = Append::to(own.clone(), ExpectedVersion::Any, events);
    within(store.append(append)).await.unwrap();
}

fn erase(store: &PostgresStore, own: &StreamId) -> JoinHandle<()> {
    let (store, own) = (store.clone(), own.clone());
    let erased = vec![Lifecycle::Erased.event()];
    tokio::spawn(async move { append(&store, &own, erased).await })
}

/// What is stored of a stream.
#[derive(Debug, Clone, Copy)]
enum Kept {
    Document,
    Letter,
    Snapshot,
}

impl Kept {
    /// The table, that of which a lock keeps it waiting once it has locked the stream.
    fn table(self) -> &'static str {
        match self {
            Self::Document => "document",
            Self::Letter => "dead_letter",
            Self::Snapshot => "snapshot",
        }
    }

    /// Stores it of the newest event.
    async fn keep(self, store: PostgresStore, own: StreamId) {
        let last = log(&store).await.pop().unwrap();
        let from = store.load_progress("list").await.unwrap();
        let step = Step::new(from, Target::Advance(last.checkpoint()));
        match self {
            Self::Document => {
                let write = DocumentWrite::Put {
                    key: DocumentKey {
                        collection: "list".into(),
                        key: "a".into(),
                    },
                    body: Payload::empty(),
                    indexed: Vec::new(),
                    owner: Some(own),
                };
                within(store.commit_documents(vec![write], &step))
                    .await
                    .unwrap();
            }
            Self::Letter => {
                let letter = DeadLetter::new("list", &last, "k", last.recorded_at());
                let step = step.with_letters(vec![LetterWrite::Put(letter.because("why not", 1))]);
                within(store.commit_documents(Vec::new(), &step))
                    .await
                    .unwrap();
            }
            Self::Snapshot => {
                let snapshot = SnapshotRecord {
                    stream: own,
                    version: last.version(),
                    event_id: last.id(),
                    shape: 1,
                    state: Payload::empty(),
                };
                within(store.save_snapshot(snapshot)).await.unwrap();
            }
        }
    }
}

async fn lived(
    life: &[Option<Lifecycle>],
) -> (TestDatabase, PostgresStore, StreamId, PgConnection) {
    let (database, store) = fresh().await;
    let own = stream("todo", "1");
    for what in life {
        let next = what.map_or_else(|| event("todo.added"), |lifecycle| lifecycle.event());
        append(&store, &own, vec![next]).await;
    }
    let holder = raw(database.url()).await;
    (database, store, own, holder)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_erasure_waits_for_what_is_being_stored_and_takes_it() {
    for life in LIVES {
        for kept in [Kept::Document, Kept::Letter, Kept::Snapshot] {
            let (database, store, own, mut holder) = lived(life).await;
            let mut watch = raw(database.url()).await;
            let stop = format!("BEGIN; LOCK TABLE backstory.{} IN SHARE MODE", kept.table());
            run(&mut holder, &stop).await;
            let keeping = tokio::spawn(kept.keep(store.clone(), own.clone()));
            until_count(&mut watch, TABLE_WAITERS, 1).await;
            let erasing = erase(&store, &own);
            until_count(&mut watch, ROW_WAITERS, 1).await;
            run(&mut holder, "COMMIT").await;
            within(keeping).await.unwrap();
            within(erasing).await.unwrap();
            assert_eq!(
                scalar::<i64>(&mut watch, KEPT).await,
                0,
                "{kept:?}, {life:?}"
            );
            let verification = store.verify().await.unwrap();
            assert!(verification.is_sound(), "{verification}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_stored_during_an_erasure_waits_and_is_left_out() {
    for life in LIVES {
        for kept in [Kept::Document, Kept::Letter, Kept::Snapshot] {
            let (database, store, own, mut holder) = lived(life).await;
            let mut watch = raw(database.url()).await;
            // An erasure deletes claims, after it has locked the stream.
            run(
                &mut holder,
                "BEGIN; LOCK TABLE backstory.claim IN SHARE MODE",
            )
            .await;
            let before = log(&store).await.len();
            let erasing = erase(&store, &own);
            until_count(&mut watch, TABLE_WAITERS, 1).await;
            let keeping = tokio::spawn(kept.keep(store.clone(), own.clone()));
            until_count(&mut watch, ROW_WAITERS, 1).await;
            run(&mut holder, "COMMIT").await;
            within(erasing).await.unwrap();
            within(keeping).await.unwrap();
            assert_eq!(
                scalar::<i64>(&mut watch, KEPT).await,
                0,
                "{kept:?}, {life:?}"
            );
            assert_eq!(log(&store).await.len(), before + 1);
            let verification = store.verify().await.unwrap();
            assert!(verification.is_sound(), "{verification}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn erasures_of_several_streams_and_writers_of_their_documents_never_block_each_other() {
    // The first stream that a projection has locked when the erasures begin.
    for first in ["1", "2"] {
        let (database, store) = fresh().await;
        let (one, two) = (stream("todo", "1"), stream("todo", "2"));
        for own in [&one, &two] {
            append(&store, own, vec![event("todo.added")]).await;
        }
        Kept::Document.keep(store.clone(), one.clone()).await;
        let mut projection = raw(database.url()).await;
        let lock = |key| format!("SELECT backstory.lock_owners_v1('{{todo}}', '{{{key}}}')");
        run(&mut projection, &format!("BEGIN; {}", lock(first))).await;
        // In another order than that in which they are locked.
        let erasures = Append::to(two, ExpectedVersion::Any, [Lifecycle::Erased.event()]);
        let erasures = erasures.and(one, ExpectedVersion::Any, [Lifecycle::Erased.event()]);
        let erasing = tokio::spawn({
            let store = store.clone();
            async move { store.append(erasures).await.unwrap() }
        });
        let mut watch = raw(database.url()).await;
        until_count(&mut watch, ROW_WAITERS, 1).await;
        let change = "UPDATE backstory.document SET owner_key = '2'";
        run(&mut projection, &format!("{}; {change}; COMMIT", lock("2"))).await;
        within(erasing).await.unwrap();
        assert_eq!(scalar::<i64>(&mut watch, KEPT).await, 0);
        let deadlocks = "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()";
        assert_eq!(scalar::<i64>(&mut watch, deadlocks).await, 0);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn appends_do_not_wait_for_what_is_stored_of_their_streams() {
    let (database, store) = fresh().await;
    let own = stream("todo", "1");
    append(&store, &own, vec![event("todo.added")]).await;
    let mut projection = raw(database.url()).await;
    run(
        &mut projection,
        "BEGIN; SELECT backstory.lock_owners_v1('{todo,todo}', '{1,none}')",
    )
    .await;
    append(&store, &own, vec![event("todo.done")]).await;
    append(&store, &own, vec![Lifecycle::Deleted.event()]).await;
    append(&store, &stream("todo", "none"), vec![event("todo.added")]).await;
    run(&mut projection, "COMMIT").await;
    let info = store.stream_info(&own).await.unwrap().unwrap();
    assert_eq!(info.version, StreamVersion::new(3));
    assert_eq!(store.head().await.unwrap().position.get(), 4);
}
