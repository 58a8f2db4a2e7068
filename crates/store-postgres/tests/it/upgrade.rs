//! Old and new programs side by side: a later version of the schema that says it is readable.

use backstory_aggregate::{SnapshotRecord, SnapshotStore};
use backstory_event::{
    Append, EventFilter, EventQuery, EventStore, EventStoreExt, ExpectedVersion, Lifecycle,
    Payload, Position, RecordedEvent, StoreErrorKind, StreamState, StreamVersion, Tag, TagChange,
};
use backstory_projection::{
    Checkpoints, DocumentKey, DocumentStore, DocumentWrite, Host, Step, Target,
};
use backstory_store_postgres::{Migrations, PostgresOptions, PostgresStore};
use futures::{StreamExt, TryStreamExt};
use sqlx::PgConnection;

use crate::kit::{eventually, fresh, log, one, raw, run, scalar, stream, within};

/// What a later version may do: columns with defaults, tables, indexes, functions of their own. One
/// statement at a time locks one table at a time.
const NEXT: &[&str] = &[
    "ALTER TABLE backstory.event ADD COLUMN shard integer NOT NULL DEFAULT 0, ADD COLUMN note text",
    "ALTER TABLE backstory.stream_state ADD COLUMN pinned boolean NOT NULL DEFAULT false",
    "ALTER TABLE backstory.claim ADD COLUMN taken_at timestamptz DEFAULT now()",
    "ALTER TABLE backstory.snapshot ADD COLUMN codec text",
    "ALTER TABLE backstory.progress ADD COLUMN lease uuid",
    "ALTER TABLE backstory.dead_letter ADD COLUMN seen_at timestamptz",
    "ALTER TABLE backstory.collection ADD COLUMN building bigint",
    "ALTER TABLE backstory.document ADD COLUMN changed_at timestamptz DEFAULT now()",
    "ALTER TABLE backstory.document_index ADD COLUMN rank integer DEFAULT 0",
    "CREATE TABLE backstory.outbox (position bigint PRIMARY KEY)",
    "CREATE INDEX CONCURRENTLY event_shard ON backstory.event (shard, position)",
    "CREATE FUNCTION backstory.position_at_v2(time_ timestamptz, shard_ integer) RETURNS bigint \
      LANGUAGE sql STABLE AS 'SELECT max(position) FROM backstory.event WHERE recorded_at < time_ AND shard = shard_'",
    "CREATE FUNCTION backstory.append_v2(key_ text) RETURNS bigint LANGUAGE plpgsql AS $$ \
    DECLARE next_ bigint; \
    BEGIN \
      PERFORM pg_advisory_xact_lock(hashtextextended('backstory:backstory', 0)); \
      SELECT coalesce(max(position), 0) + 1 INTO next_ FROM backstory.event; \
      INSERT INTO backstory.event (position, category, key, version, id, name, schema_version, payload, metadata, \
          tags, recorded_at, shard) \
        VALUES (next_, 'next', key_, 1, gen_random_uuid(), 'next.added', 1, '{}', '{}', '{}', \
          greatest(clock_timestamp(), (SELECT recorded_at FROM backstory.event WHERE position = next_ - 1)), 7); \
      PERFORM pg_notify('backstory_backstory', next_::text); \
      RETURN next_; \
    END $$",
    "INSERT INTO backstory.migration (version, readable_from) VALUES (2, 1)",
];

/// All that a program does to one stream and its read model.
async fn everything_works(store: &PostgresStore, number: i64) {
    let todo = stream("todo", number);
    let claim = one(&todo).claim("title", number.to_string(), todo.clone());
    let receipt = store.append(claim).await.unwrap();
    let tags = TagChange {
        add: vec![Tag::new("urgent").unwrap()],
        remove: Vec::new(),
    };
    store
        .append(Append::to(
            todo.clone(),
            ExpectedVersion::Exact(StreamVersion::new(1)),
            [tags.event()],
        ))
        .await
        .unwrap();
    let snapshot = SnapshotRecord {
        stream: todo.clone(),
        version: StreamVersion::new(1),
        event_id: receipt.checkpoint.event_id,
        shape: 1,
        state: Payload::empty(),
    };
    store.save_snapshot(snapshot.clone()).await.unwrap();
    assert_eq!(
        store.latest_snapshot(&todo, None).await.unwrap(),
        Some(snapshot)
    );
    let key = DocumentKey {
        collection: "list".into(),
        key: number.to_string(),
    };
    let write = DocumentWrite::Put {
        key: key.clone(),
        body: Payload::empty(),
        indexed: vec![("done".into(), "no".into())],
        owner: Some(todo.clone()),
    };
    let from = store.load_progress("list").await.unwrap();
    let to = Target::Advance(receipt.checkpoint);
    let step = Step::new(from, to);
    store.commit_documents(vec![write], &step).await.unwrap();
    let mut unit = Host::<PgConnection>::begin(store, step.result())
        .await
        .unwrap();
    run(unit.context(), "SELECT 1").await;
    unit.commit(Target::Advance(receipt.checkpoint), Vec::new())
        .await
        .unwrap();
    assert!(
        store
            .get_documents(std::slice::from_ref(&key))
            .await
            .unwrap()[0]
            .is_some()
    );
    let read = store
        .collect(EventQuery::stream(todo.clone()))
        .await
        .unwrap();
    assert_eq!(read.len(), 2);
    if number % 2 == 0 {
        store
            .append(Append::to(
                todo.clone(),
                ExpectedVersion::Any,
                [Lifecycle::Erased.event()],
            ))
            .await
            .unwrap();
        assert!(store.get_documents(&[key]).await.unwrap()[0].is_none());
        let info = store.stream_info(&todo).await.unwrap().unwrap();
        assert_eq!(info.state, StreamState::Erased);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_program_works_on_while_a_newer_one_migrates_and_writes() {
    let (database, store) = fresh().await;
    // Statements are prepared and plans are kept before the tables change.
    for number in 1..=12 {
        everything_works(&store, number).await;
    }
    const ALL: usize = 74 * 2 + 74 / 2 + 40;
    let live = store.subscribe(Position::START, EventFilter::all());
    let live = tokio::spawn(live.into_stream().take(ALL).try_collect::<Vec<_>>());
    let busy = tokio::spawn({
        let store = store.clone();
        async move {
            for number in 13..=72 {
                everything_works(&store, number).await;
            }
        }
    });
    eventually(async || log(&store).await.len() > 40).await;
    let mut newer = raw(database.url()).await;
    for statement in NEXT {
        within(run(&mut newer, statement)).await;
    }
    for number in 0..40 {
        let append = format!("SELECT backstory.append_v2('{number}')");
        within(run(&mut newer, &append)).await;
    }
    within(busy).await.unwrap();
    // The old program starts anew on the new schema, with and without the right to change it.
    for (number, migrations) in [(73, Migrations::Apply), (74, Migrations::Verify)] {
        let options = PostgresOptions::default().with_migrations(migrations);
        let again = PostgresStore::connect_with(database.url(), options)
            .await
            .unwrap();
        everything_works(&again, number).await;
        again.close().await;
    }

    // Nothing is lost, repeated or out of order for anyone who reads.
    let events = log(&store).await;
    assert_eq!(events.len(), ALL);
    let seen = within(live).await.unwrap().unwrap();
    let places = |events: &[RecordedEvent]| -> Vec<_> {
        events.iter().map(RecordedEvent::checkpoint).collect()
    };
    assert_eq!(places(&seen), places(&events));
    let foreign = "SELECT count(*) FROM backstory.event WHERE shard = 7";
    assert_eq!(scalar::<i64>(&mut newer, foreign).await, 40);
    let verification = store.verify().await.unwrap();
    assert!(verification.is_sound(), "{verification}");
    assert_eq!(verification.version, 2);

    // Where the newer one says that the old can no longer read it, the old says what to do.
    run(
        &mut newer,
        "INSERT INTO backstory.migration (version, readable_from) VALUES (3, 2)",
    )
    .await;
    let refused = PostgresStore::connect(database.url()).await.unwrap_err();
    let unread = store.verify().await.unwrap_err();
    for error in [refused, unread] {
        let StoreErrorKind::Schema { reason } = error.kind() else {
            panic!("{error:?}");
        };
        assert!(reason.contains("knows version 2"), "{reason}");
        assert!(reason.contains("update it"), "{reason}");
    }
}
