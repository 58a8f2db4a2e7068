//! A log that grows costs the server the same work per append, also when it knows nothing about
//! its tables: counted in rows and pages, not in time.

use std::collections::BTreeMap;

use backstory_aggregate::{SnapshotRecord, SnapshotStore};
use backstory_event::{
    Append, AppendCondition, Appended, Checkpoint, EventFilter, EventQuery, EventStore,
    EventStoreExt, ExpectedVersion, FilterItem, Payload, Position, Tag,
};
use backstory_projection::{
    Checkpoints, DocumentKey, DocumentList, DocumentStore, DocumentWrite, Progress, Step, Target,
};
use backstory_store_postgres::{PostgresOptions, PostgresStore, Wake};
use backstory_test_postgres::TestDatabase;
use sqlx::{PgConnection, Row};

use crate::kit::{event, raw, run, stream, until_count};

const TABLES: [&str; 8] = [
    "event",
    "stream_state",
    "claim",
    "snapshot",
    "progress",
    "collection",
    "document",
    "document_index",
];
/// One tenth: so many rounds of so many appends of so many events.
const ROUNDS: usize = 14;
const APPENDS: usize = 20;
const EVENTS: usize = 10;

/// Rows and pages that were touched so far, per table.
type Work = BTreeMap<String, [i64; 4]>;
const KINDS: [&str; 4] = ["rows by scans", "rows by index", "index entries", "pages"];

async fn work(admin: &mut PgConnection) -> Work {
    let rows = sqlx::query(
        "SELECT t.relname::text, t.seq_tup_read, t.idx_tup_fetch, \
           (SELECT sum(i.idx_tup_read)::bigint FROM pg_stat_user_indexes i WHERE i.relid = t.relid), \
           p.heap_blks_hit + p.heap_blks_read + p.idx_blks_hit + p.idx_blks_read \
         FROM pg_stat_user_tables t JOIN pg_statio_user_tables p USING (relid) \
         WHERE t.schemaname = 'backstory' AND t.relname <> 'migration'",
    )
    .fetch_all(admin)
    .await
    .unwrap();
    rows.iter()
        .map(|row| (row.get(0), [row.get(1), row.get(2), row.get(3), row.get(4)]))
        .collect()
}

/// What one program does all day, round after round.
struct Day {
    store: PostgresStore,
    progress: Progress,
    seen: Checkpoint,
    round: usize,
}

impl Day {
    async fn round(&mut self) {
        self.round += 1;
        self.append().await;
        self.project().await;
        self.read().await;
    }

    async fn append(&mut self) {
        let round = self.round;
        let appends = (0..APPENDS).map(|number| {
            let own = stream("todo", format!("{round}-{number}"));
            let mut added = event("todo.added");
            added.tags = vec![
                Tag::pair("list", number).unwrap(),
                Tag::pair("round", round).unwrap(),
            ];
            let mut events = vec![event("todo.renamed"); EVENTS - 1];
            for event in &mut events {
                event.id = backstory_event::EventId::new();
            }
            events.push(added);
            let tag = Tag::pair("round", format!("{round}-{number}")).unwrap();
            let [tagged, named, streamed, sorted] = [
                FilterItem::new().tag(tag),
                FilterItem::new().name("todo.never"),
                FilterItem::new().stream(own.clone()),
                FilterItem::new().category("list"),
            ];
            let append = Append::to(own.clone(), ExpectedVersion::NoStream, events)
                .and(
                    stream("old", number),
                    ExpectedVersion::Any,
                    [event("old.seen")],
                )
                .fail_if(AppendCondition::new(tagged.into(), Position::START))
                .fail_if(AppendCondition::new(streamed.into(), Position::START))
                .fail_if(AppendCondition::new(named.into(), self.seen))
                .fail_if(AppendCondition::new(sorted.into(), self.seen))
                .claim("title", format!("{round}-{number}"), own);
            self.store.append(append)
        });
        let receipts = futures::future::join_all(appends).await;
        let receipts: Vec<Appended> = receipts.into_iter().map(Result::unwrap).collect();
        self.seen = receipts
            .iter()
            .map(|receipt| receipt.checkpoint)
            .max_by_key(|seen| seen.position)
            .unwrap();
    }

    async fn project(&mut self) {
        let round = self.round;
        let key = |round: usize, number| DocumentKey {
            collection: "list".into(),
            key: format!("{round}-{number}"),
        };
        let put = |round: usize, number: usize| DocumentWrite::Put {
            key: key(round, number),
            body: Payload::empty(),
            indexed: vec![("round".into(), round.to_string())],
            owner: Some(stream("todo", format!("{round}-{number}"))),
        };
        let before = round - 1;
        let writes = (0..APPENDS)
            .flat_map(|number| [put(round, number), put(before, number / 2)])
            .chain((0..5).map(|number| DocumentWrite::Delete {
                key: key(before, APPENDS - 1 - number),
            }));
        let step = Step::new(self.progress.clone(), Target::Advance(self.seen));
        // A document is written once in a step.
        let mut once = BTreeMap::new();
        for write in writes {
            let key = match &write {
                DocumentWrite::Put { key, .. } | DocumentWrite::Delete { key } => key.key.clone(),
            };
            once.insert(key, write);
        }
        let writes = once.into_values().collect();
        self.store.commit_documents(writes, &step).await.unwrap();
        self.progress = step.result();
        let own = stream("todo", format!("{round}-3"));
        let snapshot = SnapshotRecord {
            stream: own,
            version: 10.into(),
            event_id: backstory_event::EventId::new(),
            shape: 1,
            state: Payload::empty(),
        };
        self.store.save_snapshot(snapshot).await.unwrap();
    }

    async fn read(&mut self) {
        let (store, round) = (&self.store, self.round);
        for own in [
            stream("todo", format!("{round}-7")),
            stream("todo", format!("{}-7", round.div_ceil(2))),
        ] {
            let events = store.collect(EventQuery::stream(own.clone())).await;
            assert_eq!(events.unwrap().len(), EVENTS);
            assert!(store.stream_info(&own).await.unwrap().is_some());
        }
        let live =
            EventQuery::new(EventFilter::all()).after(Position::new(self.seen.position.get() - 10));
        assert_eq!(store.collect(live).await.unwrap().len(), 10);
        let own = stream("todo", format!("{}-3", round.div_ceil(2)));
        assert!(store.latest_snapshot(&own, None).await.unwrap().is_some());
        assert_eq!(
            store.load_progress("list").await.unwrap().checkpoint,
            self.seen
        );
        let key = DocumentKey {
            collection: "list".into(),
            key: format!("{round}-7"),
        };
        assert!(store.get_documents(&[key]).await.unwrap()[0].is_some());
        for (index, prefix) in [(None, format!("{round}-")), (Some("round"), String::new())] {
            let list = DocumentList {
                collection: "list".into(),
                prefix,
                index: index.map(Into::into),
                equals: index.map(|_| round.to_string()),
                after: None,
                limit: 30,
            };
            let found = store.list_documents(&list).await.unwrap();
            assert_eq!(found.len(), APPENDS);
        }
    }
}

/// What a program does in so many rounds, from empty tables on, in one session for each purpose.
async fn work_of(rounds: usize, prepare: &str) -> Work {
    let database = TestDatabase::create().await;
    let options = PostgresOptions::default()
        .with_wake(Wake::Off)
        .with_readers(1);
    let store = PostgresStore::connect_with(database.url(), options)
        .await
        .unwrap();
    let mut admin = raw(database.url()).await;
    for table in TABLES {
        let off = format!("ALTER TABLE backstory.{table} SET (autovacuum_enabled = false)");
        run(&mut admin, &off).await;
        run(&mut admin, &prepare.replace("{table}", table)).await;
    }
    let progress = store.load_progress("list").await.unwrap();
    let mut day = Day {
        store,
        progress,
        seen: Checkpoint::START,
        round: 0,
    };
    for _ in 0..rounds {
        day.round().await;
    }
    day.store.close().await;
    // Sessions report when they end.
    let others = "SELECT count(*) FROM pg_stat_activity \
        WHERE datname = current_database() AND pid <> pg_backend_pid()";
    until_count(&mut admin, others, 0).await;
    work(&mut admin).await
}

async fn grows_evenly(prepare: &str) {
    let first = work_of(ROUNDS, prepare).await;
    let all = work_of(10 * ROUNDS, prepare).await;
    let mut grown = Vec::new();
    for (table, counts) in &all {
        for (kind, name) in KINDS.iter().enumerate() {
            let begin = first[table][kind];
            // Per tenth, without the first.
            let rest = (counts[kind] - begin) / 9;
            let [begin, rest] = [begin, rest].map(|count| count / ROUNDS as i64);
            // An index gets a level or two; a scan would be ten times as much.
            if rest > 2 * begin + 10 {
                grown.push(format!(
                    "{table}: {name} per round: {begin} at first, then {rest}"
                ));
            }
        }
    }
    assert!(grown.is_empty(), "{grown:#?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn never_analyzed_tables_grow_evenly() {
    grows_evenly("").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tables_that_were_analyzed_while_empty_grow_evenly() {
    grows_evenly("ANALYZE backstory.{table}").await;
}
