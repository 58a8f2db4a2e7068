//! Loading history: in order, once, and as appends would have done it.

use std::time::Duration;

use backstory_event::{
    Append, Checkpoint, EventFilter, EventId, EventStore, EventStoreExt, ExpectedVersion,
    Lifecycle, Metadata, NewEvent, Payload, RecordedEvent, StoreErrorKind, StreamId, Tag,
    TagChange,
};
use backstory_store_postgres::{ImportError, Migrations, Pooler, PostgresOptions, PostgresStore};
use backstory_test_postgres::{TestCluster, TestDatabase, TestPooler};
use futures::{StreamExt, stream::iter};
use sqlx::PgConnection;

use crate::{
    crash::{LOSE_ANSWER, LOSE_COMMIT, Proxy},
    kit::{TAKE_LOCK, event, fresh, log, one, raw, run, scalar, stream, until_count, within},
};

type Events = Vec<(StreamId, NewEvent)>;

/// Events of 100 streams, in turns of three.
fn history(count: usize) -> Events {
    (0..count)
        .map(|number| {
            let json = format!(r#"{{"number":{number},"text":"hüllo"}}"#);
            let mut event = NewEvent::raw("todo.added", Payload::parse(&json).unwrap());
            if number % 5 == 0 {
                event.tags = vec![
                    Tag::pair("list", number % 7).unwrap(),
                    Tag::new(r#"{"odd", \tag}"#).unwrap(),
                ];
            }
            if number % 11 == 0 {
                event.metadata = Metadata::new().with_actor("old system").with("n", number);
            }
            (stream("todo", number / 3 % 100), event)
        })
        .collect()
}

/// The log holds these events, in this order, after so many others.
async fn assert_holds(store: &PostgresStore, before: usize, events: &Events) {
    let stored = log(store).await;
    assert_eq!(stored.len(), before + events.len());
    for (index, (stored, (stream, event))) in stored[before..].iter().zip(events).enumerate() {
        let position = i64::try_from(before + index + 1).unwrap();
        assert_eq!(stored.position().get(), position);
        assert_eq!(stored.stream(), stream);
        assert_same(stored, event);
    }
    assert!(stored.is_sorted_by_key(RecordedEvent::recorded_at));
}

fn assert_same(stored: &RecordedEvent, event: &NewEvent) {
    let mut tags = event.tags.clone();
    tags.sort();
    assert_eq!(stored.id(), event.id);
    assert_eq!(stored.name(), event.name);
    assert_eq!(stored.schema_version(), event.version);
    assert_eq!(stored.payload(), &event.payload);
    assert_eq!(stored.metadata(), &event.metadata);
    assert_eq!(stored.tags(), tags);
}

/// Positions and versions without holes, and no state of a stream without events.
const SOUND: &str = "SELECT \
    (SELECT count(*) = coalesce(max(position), 0) AND count(*) = count(DISTINCT id) FROM backstory.event) \
    AND NOT EXISTS (SELECT FROM backstory.event GROUP BY category, key HAVING count(*) <> max(version)) \
    AND NOT EXISTS (SELECT FROM (SELECT version - lag(version, 1, 0::bigint) \
        OVER (PARTITION BY category, key ORDER BY position) AS step FROM backstory.event) v WHERE step <> 1) \
    AND NOT EXISTS (SELECT FROM backstory.stream_state s LEFT JOIN backstory.event e USING (category, key) \
      WHERE e.position IS NULL)";

async fn assert_sound(database: &TestDatabase) {
    let sound: bool = scalar(&mut raw(database.url()).await, SOUND).await;
    assert!(sound, "the log is dense");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn history_is_stored_in_order_and_continues_its_streams() {
    let (database, store) = fresh().await;
    for number in 0..3 {
        store.append(one(&stream("todo", number))).await.unwrap();
    }
    let events = history(12_345);
    let imported = store.import(iter(events.clone())).await.unwrap();
    assert_eq!((imported.events, imported.skipped), (12_345, 0));
    assert_eq!(imported.head, store.head().await.unwrap());
    assert_eq!(imported.head.position.get(), 12_348);
    assert_holds(&store, 3, &events).await;
    assert_sound(&database).await;

    // What was imported is what the next append continues.
    let version = store
        .stream_info(&stream("todo", 2))
        .await
        .unwrap()
        .unwrap();
    let append = Append::to(
        stream("todo", 2),
        ExpectedVersion::Exact(version.version),
        [event("todo.done")],
    );
    assert_eq!(store.append(append).await.unwrap().position().get(), 12_349);
    let tagged =
        EventFilter::from(backstory_event::FilterItem::new().tag(Tag::new("list:5").unwrap()));
    let expected = events.iter().filter(|(_, event)| {
        let mut tags = event.tags.iter();
        tags.any(|tag| tag.as_str() == "list:5")
    });
    let found = store
        .collect(backstory_event::EventQuery::new(tagged))
        .await
        .unwrap();
    assert_eq!(found.len(), expected.count());
    let nothing = store.import(iter([])).await.unwrap();
    assert_eq!(
        (nothing.events, nothing.skipped, nothing.head),
        (0, 0, Checkpoint::START)
    );
}

/// The same numbers each time.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % limit
    }
}

/// Events of few streams, with all that changes their state, some twice.
fn lives(round: usize, numbers: &mut Numbers) -> Events {
    let mut events = Events::new();
    for _ in 0..numbers.below(60) {
        let tag = |number| Tag::pair("list", number).unwrap();
        let mut new = match numbers.below(14) {
            0 => Lifecycle::Deleted.event(),
            1 | 2 => Lifecycle::Restored.event(),
            3 => Lifecycle::Erased.event(),
            4 | 5 => TagChange {
                add: vec![tag(numbers.below(3)), tag(3)],
                remove: vec![tag(numbers.below(3))],
            }
            .event(),
            _ => event("todo.added"),
        };
        if numbers.below(3) == 0 {
            new.tags = vec![tag(2), tag(1), tag(2)];
        }
        let mut own = stream("todo", format!("{round}-{}", numbers.below(4)));
        if numbers.below(8) == 0 && !events.is_empty() {
            let known = usize::try_from(numbers.below(events.len() as u64)).unwrap();
            // The same again; or another event under its id.
            new.id = events[known].1.id;
            if numbers.below(6) > 0 {
                (own, new) = events[known].clone();
            }
        }
        events.push((own, new));
    }
    events
}

const CONTENT: &str = "SELECT concat(\
    (SELECT json_agg(json_build_array(position, category, key, version, id, name, payload, metadata, tags, \
      erased_at IS NOT NULL) ORDER BY position) FROM backstory.event), \
    (SELECT json_agg(to_json(s) ORDER BY key) FROM backstory.stream s))";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_import_equals_its_appends_one_after_another() {
    let (mut refused, mut erased) = (0, 0);
    let ((at, appended), (it, imported)) = (fresh().await, fresh().await);
    let mut numbers = Numbers(7);
    for round in 0..60 {
        let before = lives(round, &mut numbers);
        let events = lives(round, &mut numbers);
        for store in [&appended, &imported] {
            for (stream, event) in before.clone() {
                let append = Append::to(stream, ExpectedVersion::Any, [event]);
                // What is refused is refused by both.
                let _ = store.append(append).await;
            }
        }
        let outcome = imported.import(iter(events.clone())).await;
        let mut expected = None;
        for (number, (stream, event)) in (1..).zip(events) {
            erased += usize::from(event.name == Lifecycle::Erased.name());
            let append = Append::to(stream, ExpectedVersion::Any, [event]);
            if let Err(error) = appended.append(append).await {
                expected = Some((number, error.into_kind()));
                break;
            }
        }
        let got = outcome.err().map(|error| {
            assert!(matches!(error, ImportError::Event { .. }), "{error:?}");
            (error.event(), error.store_error().unwrap().kind().clone())
        });
        refused += usize::from(got.is_some());
        assert_eq!(got, expected, "round {round}");
        let one: String = scalar(&mut raw(at.url()).await, CONTENT).await;
        let two: String = scalar(&mut raw(it.url()).await, CONTENT).await;
        assert_eq!(one, two, "round {round}");
        assert_sound(&it).await;
    }
    assert!(refused > 9 && erased > 9, "{refused} {erased}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn appends_go_on_and_a_subscriber_sees_each_event_once() {
    let (database, store) = fresh().await;
    let reader = PostgresStore::connect(database.url()).await.unwrap();
    let other = PostgresStore::connect(database.url()).await.unwrap();
    let events = history(30_000);
    let importing = tokio::spawn({
        let (store, events) = (store.clone(), events.clone());
        async move { store.import(iter(events)).await.unwrap() }
    });
    let appending = tokio::spawn(async move {
        for number in 0..300 {
            // Also into streams that the import continues.
            other
                .append(one(&stream("todo", number % 200)))
                .await
                .unwrap();
        }
    });
    let mut seen = Vec::new();
    let subscription = reader.subscribe(Checkpoint::START, EventFilter::all());
    let mut live = std::pin::pin!(subscription.into_stream());
    while seen.len() < 30_300 {
        let event = within(live.next()).await.unwrap().unwrap();
        assert_eq!(
            event.position().get(),
            i64::try_from(seen.len()).unwrap() + 1
        );
        seen.push(event.id());
    }
    within(appending).await.unwrap();
    let imported = within(importing).await.unwrap();
    assert_eq!((imported.events, imported.skipped), (30_000, 0));
    let ids: Vec<_> = events.iter().map(|(_, event)| event.id).collect();
    assert_eq!(of_import(&seen, &ids), ids, "in the order given");
    // They were not kept waiting to its end.
    let first_foreign = seen.iter().position(|id| !ids.contains(id)).unwrap();
    assert!(first_foreign < 29_000, "{first_foreign}");
    assert_sound(&database).await;
}

fn of_import(seen: &[EventId], ids: &[EventId]) -> Vec<EventId> {
    let ids: std::collections::HashSet<_> = ids.iter().collect();
    let own = seen.iter().filter(|id| ids.contains(id));
    own.copied().collect()
}

async fn stored(connection: &mut PgConnection) -> i64 {
    scalar(
        connection,
        "SELECT coalesce(max(position), 0) FROM backstory.event",
    )
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_survives_kills_of_the_server() {
    let cluster = TestCluster::start().await;
    let database = cluster.create_database().await;
    let options = PostgresOptions::default().with_deadline(Duration::from_secs(60));
    let store = PostgresStore::connect_with(database.url(), options)
        .await
        .unwrap();
    let events = history(40_000);
    let importing = tokio::spawn({
        let (store, events) = (store.clone(), events.clone());
        async move { store.import(iter(events)).await }
    });
    for reached in [5_000, 20_000] {
        let mut watch = raw(database.url()).await;
        within(async { while stored(&mut watch).await < reached {} }).await;
        cluster.kill9().await;
        cluster.restart().await;
    }
    let imported = within(importing).await.unwrap().unwrap();
    assert_eq!((imported.events, imported.skipped), (40_000, 0));
    assert_holds(&store, 0, &events).await;
    assert_sound(&database).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dropped_import_continues_when_it_is_run_again() {
    let (database, store) = fresh().await;
    let mut watch = raw(database.url()).await;
    let events = history(30_000);
    for reached in [5_000, 15_000] {
        tokio::select! {
            imported = store.import(iter(events.clone())) => panic!("it ended: {imported:?}"),
            () = async { while stored(&mut watch).await < reached {} } => {}
        }
    }
    let imported = within(store.import(iter(events.clone()))).await.unwrap();
    assert_eq!(imported.events + imported.skipped, 30_000);
    assert!(imported.skipped >= 15_000, "{imported:?}");
    assert_holds(&store, 0, &events).await;
    let again = within(store.import(iter(events.clone()))).await.unwrap();
    assert_eq!((again.events, again.skipped), (0, 30_000));
    assert_eq!(again.head, store.head().await.unwrap());
    assert_holds(&store, 0, &events).await;
    assert_sound(&database).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_answer_to_a_commit_is_asked_for_again() {
    for (mode, pooled) in [
        (LOSE_ANSWER, false),
        (LOSE_COMMIT, false),
        (LOSE_ANSWER, true),
        (LOSE_COMMIT, true),
    ] {
        let cluster = TestCluster::start().await;
        let database = cluster.create_database().await;
        // Longer than the test: nobody but us ends the old backend.
        let mut options =
            PostgresOptions::default().with_append_idle_timeout(Duration::from_secs(300));
        let (mut url, mut _pooler) = (database.url().to_owned(), None);
        if pooled {
            let pooler = TestPooler::start(&cluster).await;
            url = pooler.url(&url);
            options = options.with_pooler(Pooler::Transaction);
            _pooler = Some(pooler);
        }
        let proxy = Proxy::start(&url, b"COMMIT\0").await;
        let store = PostgresStore::connect_with(&proxy.url, options)
            .await
            .unwrap();
        let events = history(6_000);
        proxy.arm(mode);
        let imported = within(store.import(iter(events.clone()))).await.unwrap();
        assert!(!proxy.is_armed(), "the fault happened");
        assert_eq!((imported.events, imported.skipped), (6_000, 0));
        assert_holds(&store, 0, &events).await;
        assert_sound(&database).await;
    }
}

/// Imports, and expects to hear of this event.
async fn refused_at(store: &PostgresStore, events: Events, number: u64) -> ImportError {
    let before = log(store).await.len();
    let error = store.import(iter(events.clone())).await.unwrap_err();
    assert_eq!(error.event(), number, "{error}");
    assert!(
        error.to_string().contains(&format!("event {number} ")),
        "{error}"
    );
    let stored = usize::try_from(number).unwrap() - 1;
    assert_holds(store, before, &events[..stored].to_vec()).await;
    error
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refused_event_is_named_and_all_before_it_are_stored() {
    let (database, store) = fresh().await;
    // What no store accepts.
    let mut events = history(5_500);
    events[5_207].1.payload = Payload::stored("{");
    let error = refused_at(&store, events, 5_208).await;
    assert!(error.store_error().unwrap().is_invalid(), "{error}");
    let mut events = history(3);
    events[0].0 = StreamId::stored("backstory.own", "1");
    refused_at(&store, events, 1).await;

    // What this log does not.
    let mut events = history(30);
    events[20].1.id = log(&store).await[0].id();
    events[20].1.name = "todo.other".into();
    let error = refused_at(&store, events, 21).await;
    let kind = error.store_error().unwrap().kind();
    assert!(
        matches!(kind, StoreErrorKind::EventIdReused { .. }),
        "{error}"
    );
    let gone = stream("todo", 7);
    let delete = Append::to(
        gone.clone(),
        ExpectedVersion::Any,
        [Lifecycle::Deleted.event()],
    );
    store.append(delete).await.unwrap();
    let error = refused_at(&store, history(30), 22).await;
    let kind = error.store_error().unwrap().kind();
    assert_eq!(*kind, StoreErrorKind::StreamDeleted { stream: gone });

    // What only the server refuses.
    let mut admin = raw(database.url()).await;
    run(
        &mut admin,
        "ALTER TABLE backstory.event ADD CHECK (name <> 'todo.bad')",
    )
    .await;
    let mut events = Events::new();
    for number in 0..300 {
        events.push((stream("list", number % 9), event("todo.added")));
    }
    events[176].1.name = "todo.bad".into();
    events[240].1.name = "todo.bad".into();
    let error = refused_at(&store, events, 177).await;
    assert!(error.to_string().contains("23514"), "{error}");

    // What could not be read.
    let source = iter(history(2))
        .map(Ok)
        .chain(iter([Err("the file ended")]));
    let before = log(&store).await.len();
    let error = store.try_import(source).await.unwrap_err();
    assert!(
        matches!(error, ImportError::Source { event: 3, .. }),
        "{error:?}"
    );
    assert!(error.to_string().contains("the file ended"), "{error}");
    assert_eq!(log(&store).await.len(), before + 2);
    assert_sound(&database).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_keeps_it_from_the_log_is_named() {
    let (database, store) = fresh().await;
    let options = PostgresOptions::default()
        .with_deadline(Duration::from_secs(1))
        .with_lock_timeout(Duration::from_millis(200));
    let named = format!("{}?application_name=hasty", database.url());
    let hasty = PostgresStore::connect_with(&named, options).await.unwrap();
    let mut other = raw(&format!("{}?application_name=dawdler", database.url())).await;
    run(&mut other, "BEGIN").await;
    run(&mut other, TAKE_LOCK).await;
    let error = within(hasty.import(iter(history(10)))).await.unwrap_err();
    assert!(
        matches!(error, ImportError::Store { event: 1, .. }),
        "{error:?}"
    );
    assert!(error.to_string().contains("dawdler"), "{error}");
    run(&mut other, "ROLLBACK").await;
    assert_eq!(log(&store).await.len(), 0);
    hasty.import(iter(history(10))).await.unwrap();
    hasty.close().await;
    let error = hasty.import(iter(history(10))).await.unwrap_err();
    assert!(error.store_error().unwrap().is_closed(), "{error:?}");
    // Its connections have gone, too.
    let query = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'hasty'";
    until_count(&mut other, query, 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_needs_no_rights_but_those_of_an_append() {
    let database = TestDatabase::create().await;
    let mut admin = raw(database.url()).await;
    let role = format!("importer_{}", std::process::id());
    let prepare = format!(
        "DROP ROLE IF EXISTS {role}; CREATE ROLE {role} LOGIN PASSWORD 'app'; {} {}; \
         DO $$ BEGIN EXECUTE format('REVOKE ALL ON DATABASE %I FROM PUBLIC; GRANT CONNECT ON DATABASE %I TO {role}', \
           current_database(), current_database()); END $$",
        PostgresStore::ddl("backstory").unwrap(),
        PostgresStore::grants("backstory", &role).unwrap(),
    );
    run(&mut admin, &prepare).await;
    let url = database
        .url()
        .replacen("postgres@", &format!("{role}:app@"), 1);
    let options = PostgresOptions::default().with_migrations(Migrations::Verify);
    let store = PostgresStore::connect_with(&url, options).await.unwrap();
    let mut events = history(100);
    events.push((stream("todo", 1), Lifecycle::Erased.event()));
    let imported = store.import(iter(events)).await.unwrap();
    assert_eq!(imported.events, 101);
    let erased = log(&store).await;
    let erased = erased.iter().filter(|event| event.is_erased()).count();
    assert_eq!(erased, 3);
    run(&mut admin, &format!("DROP OWNED BY {role}")).await;
}
