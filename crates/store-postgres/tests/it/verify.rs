//! What `verify` finds in a database, and that it finds nothing in a sound one.

use backstory_aggregate::{SnapshotRecord, SnapshotStore};
use backstory_event::{
    Append, Appended, Checkpoint, EventFilter, EventQuery, EventStore, EventStoreExt,
    ExpectedVersion, Lifecycle, NewEvent, Payload, Position, StoreErrorKind, Tag, TagChange,
};
use backstory_projection::{
    Checkpoints, DeadLetter, DocumentKey, DocumentStore, DocumentWrite, Host, LetterWrite, Step,
    Target,
};
use backstory_store_postgres::{
    FindingKind, Pooler, PostgresOptions, PostgresStore, Verification, verify,
};
use backstory_test_postgres::{TestCluster, TestDatabase, TestPooler};
use futures::{StreamExt, stream};
use sqlx::PgConnection;

use crate::kit::{self, fresh, one, raw, run, scalar, until_count, within};

fn todo(key: u32) -> backstory_event::StreamId {
    kit::stream("todo", key)
}

async fn append(
    store: &PostgresStore,
    key: u32,
    events: impl IntoIterator<Item = NewEvent>,
) -> Appended {
    let append = Append::to(todo(key), ExpectedVersion::Any, events);
    store.append(append).await.unwrap()
}

fn tags(add: &[&str], remove: &[&str]) -> NewEvent {
    let list = |names: &[&str]| names.iter().map(|name| Tag::new(name).unwrap()).collect();
    TagChange {
        add: list(add),
        remove: list(remove),
    }
    .event()
}

fn added() -> NewEvent {
    kit::event("todo.added")
}

async fn put(store: &PostgresStore, owner: u32, up_to: Checkpoint) {
    let write = DocumentWrite::Put {
        key: DocumentKey {
            collection: "list".into(),
            key: owner.to_string(),
        },
        body: Payload::empty(),
        indexed: vec![("done".into(), "no".into())],
        owner: Some(todo(owner)),
    };
    let from = store.load_progress("list").await.unwrap();
    let to = Target::Advance(up_to);
    store
        .commit_documents(vec![write], &Step::new(from, to))
        .await
        .unwrap();
}

/// Fills a store by all kinds of appends. The tests below know the positions.
async fn fill(store: &PostgresStore) {
    let mut tagged = added();
    tagged.tags = vec![Tag::new("list:1").unwrap()];
    append(store, 1, [tagged, added()]).await; // 1, 2
    let claim = Append::to(todo(2), ExpectedVersion::NoStream, [added()]);
    // A claim may be for a stream that has no events.
    let claim = claim
        .claim("title", "two", todo(2))
        .claim("title", "none", todo(77))
        .enter("list", "home", todo(2))
        .enter("list", "home", todo(77));
    let third = store.append(claim).await.unwrap(); // 3
    let fourth = append(store, 1, [tags(&["urgent", "home"], &["none"])]).await; // 4
    append(store, 1, [tags(&["{,\"}"], &["home"])]).await; // 5
    append(
        store,
        2,
        [Lifecycle::Deleted.event(), Lifecycle::Restored.event()],
    )
    .await; // 6, 7
    let claim = Append::to(todo(3), ExpectedVersion::NoStream, [added()]);
    let eighth = store
        .append(
            claim
                .claim("title", "three", todo(3))
                .enter("list", "home", todo(3)),
        )
        .await
        .unwrap();
    for (key, version, receipt) in [(1, 3, &fourth), (3, 1, &eighth)] {
        let snapshot = SnapshotRecord {
            stream: todo(key),
            version: backstory_event::StreamVersion::new(version),
            event_id: receipt.checkpoint.event_id,
            shape: 1,
            state: Payload::empty(),
        };
        store.save_snapshot(snapshot).await.unwrap();
    }
    put(store, 1, third.checkpoint).await;
    put(store, 3, eighth.checkpoint).await;
    append(store, 3, [Lifecycle::Erased.event()]).await; // 9
    append(store, 3, [Lifecycle::Restored.event(), added()]).await; // 10, 11
    append(store, 4, [added(), Lifecycle::Deleted.event()]).await; // 12, 13
    append(store, 5, [added(), tags(&["gone"], &[])]).await; // 14, 15
    append(store, 5, [Lifecycle::Erased.event()]).await; // 16
    let from = store.load_progress("counter").await.unwrap();
    let mut unit = Host::<PgConnection>::begin(store, from).await.unwrap();
    run(unit.context(), "SELECT 1").await;
    let left_out = EventQuery::new(EventFilter::all()).after(Position::new(1));
    let left_out = store.collect(left_out.limit(1)).await.unwrap();
    let letter = DeadLetter::new("counter", &left_out[0], "k", left_out[0].recorded_at());
    let letters = vec![LetterWrite::Put(letter.because("why not", 1))];
    unit.commit(Target::Advance(third.checkpoint), letters)
        .await
        .unwrap();
    let from = store.load_progress("fresh").await.unwrap();
    let unit = Host::<PgConnection>::begin(store, from).await.unwrap();
    unit.commit(Target::Reset, Vec::new()).await.unwrap();
    let last = append(store, 6, [added(), added()]).await; // 17, 18
    assert_eq!(last.position().get(), 18);
}

async fn filled() -> (TestDatabase, PgConnection) {
    let (database, store) = fresh().await;
    fill(&store).await;
    store.close().await;
    let admin = raw(database.url()).await;
    (database, admin)
}

fn said(verification: &Verification) -> Vec<String> {
    let findings = verification.findings.iter();
    findings
        .map(|finding| format!("{}: {}", finding.kind, finding.subject))
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sound_database_has_no_findings() {
    let (database, store) = fresh().await;
    let empty = store.verify().await.unwrap();
    assert!(empty.is_sound(), "{empty}");
    assert_eq!(empty.rows.events, 0);
    fill(&store).await;
    // Erased in the batch of their own events, while others write.
    let appends = (100..140).map(|key| {
        let store = store.clone();
        async move {
            let own = todo(key);
            let claimed = one(&own).claim("title", key.to_string(), own.clone());
            let erase = Append::to(own, ExpectedVersion::Any, [Lifecycle::Erased.event()]);
            let (claimed, erased) = tokio::join!(store.append(claimed), store.append(erase));
            claimed.unwrap_or_else(|error| {
                assert!(
                    matches!(error.kind(), StoreErrorKind::StreamErased { .. }),
                    "{error:?}"
                );
                erased.unwrap()
            });
        }
    });
    futures::future::join_all(appends).await;
    let verification = store.verify().await.unwrap();
    assert!(verification.is_sound(), "{verification}");
    let rows = verification.rows;
    assert!(rows.events >= 58, "{rows:?}");
    assert_eq!((rows.streams, rows.snapshots), (46, 1));
    assert_eq!((rows.projections, rows.documents), (3, 1));
    assert_eq!(verification.head.get(), rows.events);
    assert!(
        verification
            .to_string()
            .ends_with("sound: nothing is wrong")
    );

    let mut connection = raw(database.url()).await;
    let same = verify(&mut connection, "backstory").await.unwrap();
    assert_eq!(same, verification);
    assert_eq!(
        scalar::<String>(&mut connection, "SHOW work_mem").await,
        "4MB"
    );
}

/// Damage, and exactly what is found then.
const DAMAGES: &[(&str, &[&str])] = &[
    (
        "UPDATE backstory.event SET position = 100 WHERE position = 18",
        &["position_gap: event at position 100"],
    ),
    (
        "UPDATE pg_index SET indisunique = false WHERE indexrelid = 'backstory.event_pkey'::regclass; \
         INSERT INTO backstory.event SELECT position, category, '99', 1, gen_random_uuid(), name, \
           schema_version, payload, metadata, tags, recorded_at FROM backstory.event WHERE position = 18; \
         UPDATE pg_index SET indisunique = true WHERE indexrelid = 'backstory.event_pkey'::regclass",
        &["position_repeated: event at position 18"],
    ),
    (
        "UPDATE backstory.event SET recorded_at = recorded_at - interval '1 hour' WHERE position = 3",
        &["time_decreased: event at position 3"],
    ),
    (
        "UPDATE pg_index SET indisunique = false WHERE indexrelid = 'backstory.event_id_key'::regclass; \
         UPDATE backstory.event SET id = '0192f0c8-0000-7000-8000-000000000001' WHERE position IN (11, 17); \
         UPDATE pg_index SET indisunique = true WHERE indexrelid = 'backstory.event_id_key'::regclass",
        &["id_repeated: event id 0192f0c8-0000-7000-8000-000000000001"],
    ),
    (
        "UPDATE backstory.event SET id = '00000000-0000-0000-0000-000000000000' WHERE position = 17",
        &["id_nil: event at position 17"],
    ),
    (
        "UPDATE backstory.event SET schema_version = 0 WHERE position = 3; \
         UPDATE backstory.event SET metadata = '[]' WHERE position = 11; \
         UPDATE backstory.event SET tags = ARRAY[NULL] WHERE position = 17; \
         UPDATE backstory.event SET recorded_at = 'infinity' WHERE position = 18",
        &[
            "event_unreadable: event at position 3",
            "event_unreadable: event at position 11",
            "event_unreadable: event at position 17",
            "event_unreadable: event at position 18",
        ],
    ),
    (
        "UPDATE backstory.event SET transform = 'zstd' WHERE position IN (3, 8)",
        &["transform_unknown: event at position 3"],
    ),
    (
        "UPDATE backstory.event SET version = 9 WHERE position = 18",
        &["version_gap: event at position 18"],
    ),
    (
        "UPDATE backstory.event SET version = version + 1 WHERE position = 18; \
         UPDATE backstory.event SET version = version + 1 WHERE position = 17",
        &["version_gap: event at position 17"],
    ),
    (
        "UPDATE pg_index SET indisunique = false WHERE indexrelid = 'backstory.event_version_key'::regclass; \
         UPDATE backstory.event SET version = 1 WHERE position = 18; \
         UPDATE pg_index SET indisunique = true WHERE indexrelid = 'backstory.event_version_key'::regclass",
        &["version_repeated: event at position 18"],
    ),
    (
        "UPDATE backstory.event SET version = 9 WHERE position = 17; \
         UPDATE backstory.event SET version = 1 WHERE position = 18; \
         UPDATE backstory.event SET version = 2 WHERE position = 17",
        &["version_disordered: event at position 17"],
    ),
    (
        "UPDATE backstory.event SET payload = '{\"title\":\"secret\"}' WHERE position = 8; \
         UPDATE backstory.event SET metadata = '{\"actor\":\"secret\"}' WHERE position = 14; \
         UPDATE backstory.event SET tags = '{secret}' WHERE position = 15",
        &[
            "erased_content: event at position 8",
            "erased_content: event at position 14",
            "erased_content: event at position 15",
        ],
    ),
    (
        "UPDATE backstory.event SET erased_at = NULL, payload = '{\"title\":\"secret\"}' WHERE position = 8",
        &["not_erased: event at position 8"],
    ),
    (
        "UPDATE backstory.event SET erased_at = recorded_at, payload = '{}' WHERE position IN (3, 11)",
        &[
            "erased_without_cause: event at position 3",
            "erased_without_cause: event at position 11",
        ],
    ),
    (
        "DELETE FROM backstory.stream_state WHERE key IN ('1', '4')",
        &[
            "state_missing: stream todo/1",
            "state_missing: stream todo/4",
        ],
    ),
    (
        "INSERT INTO backstory.stream_state VALUES ('todo', '2', 'deleted', '{}'), ('todo', '6', 'live', '{urgent}'), \
           ('todo', '99', 'erased', '{}')",
        &[
            "state_superfluous: stream todo/2",
            "state_superfluous: stream todo/6",
            "state_superfluous: stream todo/99",
        ],
    ),
    (
        "UPDATE backstory.stream_state SET state = 'erased' WHERE key = '4'; \
         UPDATE backstory.stream_state SET state = 'deleted' WHERE key IN ('1', '5')",
        &[
            "state_differs: stream todo/1",
            "state_differs: stream todo/4",
            "state_differs: stream todo/5",
        ],
    ),
    (
        "UPDATE backstory.stream_state SET tags = '{urgent}' WHERE key = '1'; \
         UPDATE backstory.stream_state SET tags = '{gone}' WHERE key = '5'; \
         UPDATE backstory.stream_state SET tags = ARRAY[NULL] WHERE key = '4'",
        &[
            "state_differs: stream todo/1",
            "state_differs: stream todo/4",
            "state_differs: stream todo/5",
        ],
    ),
    (
        "UPDATE backstory.progress SET position = 19 WHERE projection = 'list'",
        &["progress_beyond_log: projection `list`"],
    ),
    (
        "UPDATE backstory.progress SET event_id = gen_random_uuid() WHERE projection IN ('list', 'fresh'); \
         UPDATE backstory.progress SET position = 4 WHERE projection = 'counter'",
        &[
            "progress_diverged: projection `counter`",
            "progress_diverged: projection `list`",
        ],
    ),
    (
        "UPDATE backstory.retention SET floor = 4; DELETE FROM backstory.event WHERE position <= 4",
        &["progress_trimmed: projection `counter`"],
    ),
    (
        "UPDATE backstory.snapshot SET event_id = gen_random_uuid()",
        &["snapshot_diverged: snapshot of todo/1 at version 3"],
    ),
    (
        "UPDATE backstory.snapshot SET version = 50",
        &["snapshot_diverged: snapshot of todo/1 at version 50"],
    ),
    (
        "INSERT INTO backstory.snapshot SELECT category, key, version, id, 1, '{}' \
         FROM backstory.event WHERE position = 8",
        &["snapshot_erased: snapshot of todo/3 at version 1"],
    ),
    (
        "UPDATE backstory.claim SET key = '5' WHERE value = 'two'",
        &["claim_of_erased: claim `two` in `title`"],
    ),
    (
        "UPDATE backstory.dead_letter SET event_id = gen_random_uuid()",
        &["letter_diverged: dead letter of `counter` at position 2"],
    ),
    (
        "INSERT INTO backstory.dead_letter SELECT 'counter', position, id, name, category, key, 'k', '', 1, now(), false \
         FROM backstory.event WHERE position = 8",
        &["letter_of_erased: dead letter of `counter` at position 8"],
    ),
    (
        "UPDATE backstory.entry SET key = '5' WHERE key = '2'",
        &["entry_of_erased: entry `home` of todo/5 in `list`"],
    ),
    (
        "UPDATE backstory.document SET owner_key = '5'; \
         INSERT INTO backstory.document VALUES (77, 'lost', '{}', 'todo', '5')",
        &[
            "document_of_erased: document `1` in `list`",
            "document_of_erased: document `lost` in `(without a name)`",
        ],
    ),
    (
        "DROP TRIGGER guard_table ON backstory.event",
        &["guard_missing: `guard_table`"],
    ),
    (
        "ALTER TABLE backstory.event ENABLE TRIGGER guard_table",
        &["guard_off: `guard_table`"],
    ),
    (
        "ALTER TABLE backstory.event DISABLE TRIGGER guard_table",
        &["guard_off: `guard_table`"],
    ),
    (
        "CREATE OR REPLACE TRIGGER guard_row BEFORE DELETE ON backstory.event \
           FOR EACH ROW EXECUTE FUNCTION backstory.guard_event_v1()",
        &["guard_off: `guard_row`"],
    ),
    (
        "CREATE OR REPLACE TRIGGER guard_row BEFORE UPDATE OR DELETE ON backstory.event \
           FOR EACH ROW WHEN (OLD.version > 1) EXECUTE FUNCTION backstory.guard_event_v1()",
        &["guard_off: `guard_row`"],
    ),
    (
        "DROP FUNCTION backstory.position_at_v1",
        &["function_missing: `position_at_v1`"],
    ),
    (
        "CREATE OR REPLACE FUNCTION backstory.guard_event_v1() RETURNS trigger LANGUAGE plpgsql \
           SET search_path = pg_catalog, pg_temp AS 'BEGIN RETURN NEW; END'",
        &["function_changed: `guard_event_v1`"],
    ),
    (
        "ALTER FUNCTION backstory.erase_v1 SECURITY INVOKER",
        &["function_changed: `erase_v1`"],
    ),
    (
        "ALTER FUNCTION backstory.erase_v1 RESET search_path",
        &["function_changed: `erase_v1`"],
    ),
    (
        "DROP INDEX backstory.event_tags; \
         UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'backstory.claim_owner'::regclass; \
         ALTER TABLE backstory.event DROP CONSTRAINT event_id_key; \
         CREATE INDEX event_id_key ON backstory.event (id)",
        &[
            "index_missing: `event_id_key`",
            "index_missing: `event_tags`",
            "index_missing: `claim_owner`",
        ],
    ),
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_streams_can_be_seen_and_only_those_that_are_not_plain_have_a_row() {
    let (_database, mut admin) = filled().await;
    let seen = "SELECT string_agg(concat_ws(' ', key, version, state, tags::text, first_position, last_position), ', ' \
        ORDER BY key) FROM backstory.stream WHERE category = 'todo'";
    assert_eq!(
        scalar::<String>(&mut admin, seen).await,
        r#"1 4 live {urgent,"{,\"}"} 1 5, 2 3 live {} 3 7, 3 4 live {} 8 11, 4 2 deleted {} 12 13, 5 3 erased {} 14 16, 6 2 live {} 17 18"#
    );
    let rows = "SELECT string_agg(key, ' ' ORDER BY key) FROM backstory.stream_state";
    assert_eq!(scalar::<String>(&mut admin, rows).await, "1 4 5");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_damage_is_found_and_named() {
    let results: Vec<_> = stream::iter(DAMAGES)
        .map(|(damage, expected)| async move {
            let (_database, mut admin) = filled().await;
            let guarded = damage.contains("guard_row");
            if !guarded {
                run(
                    &mut admin,
                    "ALTER TABLE backstory.event DISABLE TRIGGER guard_row",
                )
                .await;
            }
            run(&mut admin, damage).await;
            if !guarded {
                run(
                    &mut admin,
                    "ALTER TABLE backstory.event ENABLE ALWAYS TRIGGER guard_row",
                )
                .await;
            }
            let verification = verify(&mut admin, "backstory").await.unwrap();
            assert!(!verification.is_sound());
            (damage, expected, verification)
        })
        .buffer_unordered(4)
        .collect()
        .await;
    let mut found = std::collections::BTreeSet::new();
    let mut wrong = String::new();
    for (damage, expected, verification) in results {
        found.extend(verification.found.keys().copied());
        let (mut said, mut expected) = (said(&verification), expected.to_vec());
        said.sort();
        expected.sort_unstable();
        if said != expected {
            wrong += &format!("{damage}\nexpected {expected:?}\n{verification}\n\n");
        }
    }
    assert_eq!(wrong, "");
    let all = FindingKind::ALL.to_vec();
    assert_eq!(
        found.into_iter().collect::<Vec<_>>(),
        all,
        "kinds without a damage"
    );
}

#[tokio::test]
async fn of_many_findings_some_are_listed_and_all_are_counted() {
    let (_database, mut admin) = filled().await;
    run(
        &mut admin,
        "INSERT INTO backstory.claim SELECT 'mail', 'nr ' || n, 'todo', '5' FROM generate_series(1, 45) n",
    )
    .await;
    let verification = verify(&mut admin, "backstory").await.unwrap();
    assert_eq!(
        (verification.findings.len(), verification.total()),
        (20, 45)
    );
    let text = verification.to_string();
    assert!(
        text.contains("claim_of_erased: 25 more\n45 findings"),
        "{text}"
    );
    let json = serde_json::to_value(&verification).unwrap();
    assert_eq!(json["found"]["claim_of_erased"], 45);
    assert_eq!(json["findings"][0]["subject"]["claim"]["scope"], "mail");
}

#[tokio::test]
async fn a_trimmed_log_is_dense_from_its_floor() {
    let (_database, mut admin) = filled().await;
    run(
        &mut admin,
        "ALTER TABLE backstory.event DISABLE TRIGGER guard_row; \
         DELETE FROM backstory.event WHERE position <= 4; \
         ALTER TABLE backstory.event ENABLE ALWAYS TRIGGER guard_row; \
         UPDATE backstory.retention SET floor = 4; \
         UPDATE backstory.progress SET position = 4 WHERE projection = 'counter'",
    )
    .await;
    let verification = verify(&mut admin, "backstory").await.unwrap();
    assert!(verification.is_sound(), "{verification}");
    assert_eq!(
        (verification.floor.get(), verification.rows.events),
        (4, 14)
    );
    run(&mut admin, "UPDATE backstory.retention SET floor = 3").await;
    let verification = verify(&mut admin, "backstory").await.unwrap();
    assert!(
        said(&verification).contains(&"position_gap: event at position 5".to_owned()),
        "{verification}"
    );
}

#[tokio::test]
async fn rights_to_read_are_enough() {
    let (database, mut admin) = filled().await;
    let role = format!("reader_{}", std::process::id());
    run(
        &mut admin,
        &format!("DROP ROLE IF EXISTS {role}; CREATE ROLE {role} LOGIN PASSWORD 'reader'"),
    )
    .await;
    let url = database
        .url()
        .replacen("postgres@", &format!("{role}:reader@"), 1);
    let mut reader = raw(&url).await;
    let error = verify(&mut reader, "backstory").await.unwrap_err();
    assert!(
        matches!(error.kind(), StoreErrorKind::Denied { .. }),
        "{error:?}"
    );
    run(
        &mut admin,
        &format!(
            "GRANT USAGE ON SCHEMA backstory TO {role}; \
             GRANT SELECT ON ALL TABLES IN SCHEMA backstory TO {role}"
        ),
    )
    .await;
    let verification = verify(&mut reader, "backstory").await.unwrap();
    assert!(verification.is_sound(), "{verification}");
    run(&mut admin, &format!("DROP OWNED BY {role}")).await;
}

#[tokio::test]
async fn what_cannot_be_checked_is_said() {
    let (database, store) = fresh().await;
    let mut connection = raw(database.url()).await;
    let error = verify(&mut connection, "no-schema").await.unwrap_err();
    assert!(
        matches!(error.kind(), StoreErrorKind::Config { .. }),
        "{error:?}"
    );
    let error = verify(&mut connection, "orders").await.unwrap_err();
    assert!(
        matches!(error.kind(), StoreErrorKind::Schema { .. }),
        "{error:?}"
    );
    assert!(error.to_string().contains("no schema `orders`"), "{error}");

    let mut transaction = sqlx::Connection::begin(&mut connection).await.unwrap();
    let error = verify(&mut transaction, "backstory").await.unwrap_err();
    assert!(
        matches!(error.kind(), StoreErrorKind::Config { .. }),
        "{error:?}"
    );
    assert!(error.to_string().contains("commit first"), "{error}");
    transaction.rollback().await.unwrap();

    run(&mut connection, "DROP TABLE backstory.claim").await;
    let error = store.verify().await.unwrap_err();
    assert!(
        matches!(error.kind(), StoreErrorKind::Schema { .. }),
        "{error:?}"
    );
    assert!(error.to_string().contains("claim"), "{error}");
    store.close().await;
    let error = store.verify().await.unwrap_err();
    assert!(error.is_closed(), "{error:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writers_go_on_while_a_check_runs() {
    let (database, store) = fresh().await;
    fill(&store).await;
    // The check stops halfway: somebody changes a table that it needs.
    let mut holder = raw(database.url()).await;
    run(&mut holder, "BEGIN; LOCK TABLE backstory.document").await;
    let check = tokio::spawn({
        let store = store.clone();
        async move { store.verify().await.unwrap() }
    });
    let mut watch = raw(database.url()).await;
    let waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = 'backstory.document'::regclass";
    until_count(&mut watch, waiting, 1).await;
    let strong = "SELECT count(*) FROM pg_locks l WHERE l.mode <> 'AccessShareLock' AND l.locktype <> 'virtualxid' \
        AND l.pid IN (SELECT w.pid FROM pg_locks w WHERE NOT w.granted AND w.relation = 'backstory.document'::regclass)";
    assert_eq!(scalar::<i64>(&mut watch, strong).await, 0);
    append(&store, 6, [added()]).await;
    run(&mut holder, "COMMIT").await;
    let verification = within(check).await.unwrap();
    assert!(verification.is_sound(), "{verification}");
    assert_eq!(verification.rows.events, 18);
    assert_eq!(store.verify().await.unwrap().rows.events, 19);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_check_that_is_dropped_leaves_nothing_behind() {
    let (database, store) = fresh().await;
    fill(&store).await;
    let mut holder = raw(database.url()).await;
    run(&mut holder, "BEGIN; LOCK TABLE backstory.document").await;
    let check = tokio::spawn({
        let store = store.clone();
        async move { store.verify().await }
    });
    let mut watch = raw(database.url()).await;
    let waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = 'backstory.document'::regclass";
    until_count(&mut watch, waiting, 1).await;
    check.abort();
    until_count(&mut watch, waiting, 0).await;
    run(&mut holder, "COMMIT").await;
    assert!(store.verify().await.unwrap().is_sound());
}

#[tokio::test]
async fn a_payload_in_an_unknown_form_is_an_error_and_never_given_out() {
    let (database, store) = fresh().await;
    fill(&store).await;
    let mut admin = raw(database.url()).await;
    run(
        &mut admin,
        "ALTER TABLE backstory.event DISABLE TRIGGER guard_row; \
         UPDATE backstory.event SET transform = 'zstd' WHERE position IN (8, 12); \
         ALTER TABLE backstory.event ENABLE ALWAYS TRIGGER guard_row",
    )
    .await;
    // What is erased has no form any more; what comes before is read as ever.
    let before = EventQuery::new(EventFilter::all()).up_to(Position::new(11));
    assert_eq!(store.collect(before).await.unwrap().len(), 11);
    for query in [
        EventQuery::new(EventFilter::all()),
        EventQuery::new(EventFilter::all()).backward(),
        EventQuery::stream(todo(4)),
    ] {
        let error = store.collect(query).await.unwrap_err();
        let StoreErrorKind::UnknownTransform {
            position,
            transform,
            ..
        } = error.kind()
        else {
            panic!("{error:?}");
        };
        assert_eq!((position.get(), transform.as_str()), (12, "zstd"));
        assert!(error.to_string().contains("update it"), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_schema_is_checked_through_a_pooler() {
    let cluster = TestCluster::shared().await;
    let pooler = TestPooler::start(cluster).await;
    let database = cluster.create_database().await;
    let options = PostgresOptions::default().with_pooler(Pooler::Transaction);
    let store = PostgresStore::connect_with(&pooler.url(database.url()), options)
        .await
        .unwrap();
    fill(&store).await;
    // More checks than the pooler has connections, while appends go on.
    let checks = (0..6).map(|_| store.verify());
    let appends = (50..70).map(|key| {
        let store = &store;
        async move { append(store, key, [added()]).await }
    });
    let (checks, _) = tokio::join!(
        futures::future::join_all(checks),
        futures::future::join_all(appends)
    );
    for verification in checks {
        let verification = verification.unwrap();
        assert!(verification.is_sound(), "{verification}");
    }
    assert_eq!(store.verify().await.unwrap().rows.events, 38);
}
