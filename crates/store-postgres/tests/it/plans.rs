//! No statement scans a table, whatever the server knows about it.

use std::ops::RangeInclusive;

use backstory_aggregate::{LookupFilter, LookupQuery, LookupStore, SnapshotStore};
use backstory_event::{
    Append, AppendCondition, Checkpoint, EventFilter, EventQuery, EventStore, EventStoreExt,
    ExpectedVersion, FilterItem, Lifecycle, NewEvent, Payload, Position, StreamQuery, Tag,
};
use backstory_projection::{
    Checkpoints, DocumentKey, DocumentList, DocumentStore, DocumentWrite, Step, Target,
};
use backstory_store_postgres::{PostgresOptions, PostgresStore};
use backstory_test_postgres::TestDatabase;
use sqlx::PgConnection;

use crate::kit::{event, fresh, raw, run, scalar, stream};

/// Rows that were read by scans of whole tables, by all sessions that have reported so far.
pub(crate) const SCANNED: &str = "SELECT coalesce(string_agg(format('%s: %s', relname, seq_tup_read), ', '), '') \
    FROM pg_stat_user_tables WHERE schemaname = 'backstory' AND relname <> 'migration' AND seq_tup_read > 200";

pub(crate) async fn without_statistics(connection: &mut PgConnection) {
    for table in [
        "event",
        "stream_state",
        "claim",
        "entry",
        "snapshot",
        "progress",
        "dead_letter",
        "collection",
        "document",
        "document_index",
    ] {
        // Analyzed while empty is the worst case: the server is sure that a scan costs nothing.
        run(
            connection,
            &format!("ALTER TABLE backstory.{table} SET (autovacuum_enabled = false); ANALYZE backstory.{table}"),
        )
        .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn appends_and_projections_scan_nothing_from_an_empty_table_on() {
    let (database, store) = fresh().await;
    let mut admin = raw(database.url()).await;
    without_statistics(&mut admin).await;
    let mut progress = store.load_progress("list").await.unwrap();
    let mut seen = Checkpoint::START;
    for round in 0..60 {
        let appends = (0..20).map(|number| {
            let own = stream("todo", format!("{round}-{number}"));
            let mut added = event("todo.added");
            added.tags = vec![
                Tag::pair("list", number).unwrap(),
                Tag::pair("round", round).unwrap(),
            ];
            let mine =
                FilterItem::new().tag(Tag::pair("round", format!("{round}-{number}")).unwrap());
            let named = FilterItem::new().name("todo.never");
            let append = Append::to(
                own.clone(),
                ExpectedVersion::NoStream,
                [added, event("todo.done")],
            )
            .fail_if(AppendCondition::new(mine.into(), Position::START))
            .fail_if(AppendCondition::new(named.into(), seen))
            .clear("title", own.clone())
            .claim("title", format!("{round}-{number}"), own.clone())
            .enter("round", round.to_string(), own);
            store.append(append)
        });
        let receipts = futures::future::join_all(appends).await;
        let receipts: Vec<_> = receipts.into_iter().map(Result::unwrap).collect();
        seen = receipts
            .iter()
            .map(|receipt| receipt.checkpoint)
            .max_by_key(|seen| seen.position)
            .unwrap();

        let writes = (0..20).map(|number| DocumentWrite::Put {
            key: DocumentKey {
                collection: "list".into(),
                key: format!("{round}-{number}"),
            },
            body: Payload::empty(),
            indexed: vec![("round".into(), round.to_string())],
            owner: Some(stream("todo", format!("{round}-{number}"))),
        });
        let gone = (0..20).map(|number| DocumentWrite::Delete {
            key: DocumentKey {
                collection: "list".into(),
                key: format!("{}-{number}", round - 1),
            },
        });
        let step = Step::new(progress, Target::Advance(seen));
        store
            .commit_documents(writes.chain(gone).collect(), &step)
            .await
            .unwrap();
        progress = step.result();
        read_all(&store, round, seen).await;
    }
    assert_eq!(seen.position.get(), 60 * 40);
    let list = DocumentList {
        collection: "list".into(),
        prefix: String::new(),
        index: Some("round".into()),
        equals: Some("59".into()),
        after: None,
        limit: 100,
    };
    assert_eq!(store.list_documents(&list).await.unwrap().len(), 20);
    store.close().await;
    // The sessions have ended and reported.
    crate::kit::until_count(
        &mut admin,
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()",
        0,
    )
    .await;
    let scanned: String = scalar(&mut admin, SCANNED).await;
    assert_eq!(scanned, "");
}

/// Everything that reads, as the plans are made once and kept.
async fn read_all(store: &PostgresStore, round: i32, seen: Checkpoint) {
    let own = stream("todo", format!("{round}-7"));
    let live = EventQuery::new(EventFilter::all()).after(Position::new(seen.position.get() - 10));
    assert_eq!(store.collect(live).await.unwrap().len(), 10);
    let named = FilterItem::new()
        .name("todo.done")
        .tag(Tag::pair("list", 7).unwrap());
    let last = EventQuery::new(named.into()).after(seen);
    assert_eq!(store.collect(last).await.unwrap().len(), 0);
    assert_eq!(
        store
            .collect(EventQuery::stream(own.clone()))
            .await
            .unwrap()
            .len(),
        2
    );
    let together = (0..20).map(|number| {
        store.collect(EventQuery::stream(stream(
            "todo",
            format!("{round}-{number}"),
        )))
    });
    for events in futures::future::join_all(together).await {
        assert_eq!(events.unwrap().len(), 2);
    }
    assert_eq!(store.head().await.unwrap(), seen);
    assert!(store.stream_info(&own).await.unwrap().is_some());
    for (scope, filter, expected) in [
        ("title", LookupFilter::Value(format!("{round}-7")), 1),
        ("title", LookupFilter::Owner(own.clone()), 1),
        ("title", LookupFilter::Prefix(format!("{round}-")), 20),
        ("round", LookupFilter::Value(round.to_string()), 20),
        ("round", LookupFilter::Owner(own.clone()), 1),
    ] {
        let query = LookupQuery {
            scope: scope.to_owned(),
            filter,
            after: None,
            limit: 30,
        };
        assert_eq!(store.lookup_rows(&query).await.unwrap().len(), expected);
    }
    assert_eq!(store.load_progress("list").await.unwrap().checkpoint, seen);
    assert_eq!(store.latest_snapshot(&own, None).await.unwrap(), None);
    let key = DocumentKey {
        collection: "list".into(),
        key: format!("{round}-7"),
    };
    assert!(store.get_documents(&[key]).await.unwrap()[0].is_some());
    let list = DocumentList {
        collection: "list".into(),
        prefix: format!("{round}-"),
        index: None,
        equals: None,
        after: None,
        limit: 30,
    };
    assert_eq!(store.list_documents(&list).await.unwrap().len(), 20);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_is_read_by_its_index() {
    let (database, store) = fresh().await;
    store.close().await;
    let mut admin = raw(database.url()).await;
    fill(
        &mut admin,
        "n, (n % 2000)::text, 1 + (n - 1) / 2000",
        "todo.added",
        1..=40_000,
    )
    .await;
    for analyzed in [false, true] {
        if analyzed {
            run(&mut admin, "ANALYZE backstory.event").await;
        }
        let two = FilterItem::new()
            .stream(stream("todo", 7))
            .stream(stream("todo", 1999));
        for (query, expected) in [
            (EventQuery::stream(stream("todo", 7)), 20),
            (EventQuery::stream(stream("todo", 7)).backward().limit(3), 3),
            (EventQuery::new(two.into()).after(Position::new(20_000)), 20),
            (
                EventQuery::new(EventFilter::stream(stream("todo", "none"))),
                0,
            ),
        ] {
            let rows = rows_read(&database, &mut admin, &query, expected).await;
            assert!(
                rows < 200,
                "{rows} rows for {query:?}, analyzed: {analyzed}"
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pages_of_a_long_stream_go_on_where_they_ended() {
    let (database, store) = fresh().await;
    store.close().await;
    let mut admin = raw(database.url()).await;
    fill(&mut admin, "n, '7', n", "todo.added", 1..=10_000).await;
    for analyzed in [false, true] {
        if analyzed {
            run(&mut admin, "ANALYZE backstory.event").await;
        }
        let all = EventQuery::stream(stream("todo", 7));
        for query in [all.clone(), all.backward()] {
            let rows = rows_read(&database, &mut admin, &query, 10_000).await;
            assert!(
                rows < 11_000,
                "{rows} rows for {query:?}, analyzed: {analyzed}"
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lists_of_live_streams_pass_over_many_deleted_ones_in_short_steps() {
    let (database, store) = fresh().await;
    let mut admin = raw(database.url()).await;
    fill(
        &mut admin,
        "n, to_char(n, 'FM00000'), 1",
        "todo.added",
        1..=25_001,
    )
    .await;
    run(
        &mut admin,
        "INSERT INTO backstory.stream_state SELECT 'todo', to_char(n, 'FM00000'), 'deleted', '{}' \
           FROM generate_series(2, 25000) AS n WHERE n <> 10000",
    )
    .await;
    let large: &[&[&str]] = &[&["00001", "10000"], &[], &["25001"]];
    let small: &[&[&str]] = &[&["00001"], &["10000"], &[], &["25001"]];
    for (query, expected) in [
        (StreamQuery::new().category("todo"), large),
        (StreamQuery::new().limit(1), small),
    ] {
        let mut pages = Vec::new();
        let mut next = Some(query);
        while let Some(query) = next {
            let page = store.streams(&query).await.unwrap();
            let keys = page.streams.iter().map(|info| info.stream.key().to_owned());
            pages.push(keys.collect::<Vec<_>>());
            next = page.next.map(|cursor| query.after(cursor));
        }
        assert_eq!(pages, expected);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_never_happened_is_found_out_by_few_rows() {
    let (database, store) = fresh().await;
    store.close().await;
    let mut admin = raw(database.url()).await;
    // All of one name, so that the planner takes the next event for a match; half of them of one stream.
    fill(
        &mut admin,
        "n, CASE WHEN n <= 20000 THEN '7' ELSE n::text END, CASE WHEN n <= 20000 THEN n ELSE 1 END",
        "todo.added",
        1..=40_000,
    )
    .await;
    let never: EventFilter = FilterItem::new().name("todo.never").into();
    let conditions = [
        (never.clone(), 5),
        (EventFilter::stream(stream("todo", 7)), 30_000),
    ];
    for analyzed in [false, true] {
        if analyzed {
            run(&mut admin, "ANALYZE backstory.event").await;
        }
        for (number, (fail_if, after)) in conditions.iter().enumerate() {
            let condition =
                AppendCondition::new(fail_if.clone(), Checkpoint::at(Position::new(*after)));
            let name = stream(if analyzed { "late" } else { "early" }, number);
            let append = Append::to(name, ExpectedVersion::NoStream, [event("list.opened")]);
            let append = async |store: &PostgresStore| {
                store.append(append.fail_if(condition)).await.unwrap();
            };
            let rows = rows_touched(&database, &mut admin, append).await;
            assert!(
                rows < 200,
                "{rows} rows for {fail_if:?}, analyzed: {analyzed}"
            );
        }
        let query = EventQuery::new(never.clone());
        let rows = rows_read(&database, &mut admin, &query, 0).await;
        assert!(
            rows < 200,
            "{rows} rows for {query:?}, analyzed: {analyzed}"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_erasure_does_not_go_through_those_before() {
    let (database, store) = fresh().await;
    store.close().await;
    let mut admin = raw(database.url()).await;
    // The server has learned of other events only, and then many streams were erased.
    let lives = "n, (n / 50)::text, 1 + n % 50";
    fill(&mut admin, lives, "todo.added", 50..=20_049).await;
    run(&mut admin, "ANALYZE backstory.event").await;
    let ends = "20048 + n, n::text, 51";
    fill(&mut admin, ends, "backstory.erased", 2..=400).await;
    let erase = async |store: &PostgresStore| {
        let erased = NewEvent::raw(Lifecycle::Erased.name(), Payload::empty());
        let append = Append::to(stream("todo", 1), ExpectedVersion::Any, [erased]);
        store.append(append).await.unwrap();
    };
    let rows = rows_touched(&database, &mut admin, erase).await;
    assert!(rows < 400, "{rows} rows");
    let left = "SELECT count(*) FROM backstory.event WHERE key = '1' AND erased_at IS NULL";
    assert_eq!(scalar::<i64>(&mut admin, left).await, 1);
}

/// Stores events of the category `todo`, one for each number `n`: their positions, keys and versions.
async fn fill(admin: &mut PgConnection, places: &str, name: &str, numbers: RangeInclusive<i64>) {
    let (first, last) = numbers.into_inner();
    let text = format!(
        "ALTER TABLE backstory.event SET (autovacuum_enabled = false); \
         INSERT INTO backstory.event (position, key, version, category, id, name, schema_version, payload, \
           metadata, tags, recorded_at) \
         SELECT {places}, 'todo', gen_random_uuid(), '{name}', 1, '{{}}', '{{}}', '{{}}', now() \
           FROM generate_series({first}, {last}) AS n"
    );
    run(admin, &text).await;
}

/// How many rows of events the server looks at for a query, with pages of 500.
async fn rows_read(
    database: &TestDatabase,
    admin: &mut PgConnection,
    query: &EventQuery,
    expected: usize,
) -> i64 {
    let read = async |reader: &PostgresStore| {
        assert_eq!(reader.collect(query.clone()).await.unwrap().len(), expected);
    };
    rows_touched(database, admin, read).await
}

/// How many rows of events the server looks at for what a store does.
async fn rows_touched(
    database: &TestDatabase,
    admin: &mut PgConnection,
    work: impl AsyncFnOnce(&PostgresStore),
) -> i64 {
    run(admin, "SELECT pg_stat_reset()").await;
    let options = PostgresOptions::default().with_page(500);
    let store = PostgresStore::connect_with(database.url(), options)
        .await
        .unwrap();
    work(&store).await;
    store.close().await;
    crate::kit::until_count(
        admin,
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() \
         AND pid <> pg_backend_pid() AND application_name = 'backstory'",
        0,
    )
    .await;
    let fetched = "SELECT (idx_tup_fetch + seq_tup_read)::bigint FROM pg_stat_user_tables WHERE relname = 'event'";
    scalar(admin, fetched).await
}
