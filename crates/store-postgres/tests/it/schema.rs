//! Tables, rights, and what is said when something is wrong with them.

use std::{
    error::Error as _,
    time::{Duration, Instant},
};

use backstory_aggregate::{SnapshotRecord, SnapshotStore};
use backstory_event::{
    Append, EventStore, EventStoreExt, ExpectedVersion, Lifecycle, Payload, StoreError,
    StoreErrorKind, StreamState, StreamVersion,
};
use backstory_projection::{
    Checkpoints, DocumentKey, DocumentStore, DocumentWrite, Host, Step, Target,
};
use backstory_store_postgres::{Migrations, PostgresOptions, PostgresStore};
use backstory_test_postgres::{TestCluster, TestDatabase};
use sqlx::PgConnection;

use crate::kit::{
    LOCK_WAITERS, TAKE_LOCK, event, fresh, log, one, raw, refused, run, scalar, stream,
    until_count, within,
};

fn verify() -> PostgresOptions {
    PostgresOptions::default().with_migrations(Migrations::Verify)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_processes_start_at_once_on_an_empty_database() {
    let database = TestDatabase::create().await;
    let starts: Vec<_> = (0..12)
        .map(|number| {
            let url = database.url().to_owned();
            tokio::spawn(async move {
                let store = PostgresStore::connect(&url).await.unwrap();
                store.append(one(&stream("todo", number))).await.unwrap();
                store
            })
        })
        .collect();
    let mut stores = Vec::new();
    for start in starts {
        stores.push(within(start).await.unwrap());
    }
    assert_eq!(log(&stores[0]).await.len(), 12);
    let mut connection = raw(database.url()).await;
    let migrations: i64 = scalar(&mut connection, "SELECT count(*) FROM backstory.migration").await;
    assert_eq!(migrations, 1);
}

#[tokio::test]
async fn stores_in_two_schemas_do_not_mix() {
    let database = TestDatabase::create().await;
    let open = async |schema: &str| {
        let options = PostgresOptions::default().with_schema(schema);
        PostgresStore::connect_with(database.url(), options)
            .await
            .unwrap()
    };
    let (one_store, two) = (open("one").await, open("Two").await);
    // The lock of one is not that of the other.
    let mut connection = raw(database.url()).await;
    run(
        &mut connection,
        "BEGIN; SELECT pg_advisory_xact_lock(hashtextextended('backstory:Two', 0))",
    )
    .await;
    one_store.append(one(&stream("todo", 1))).await.unwrap();
    run(&mut connection, "COMMIT").await;
    assert_eq!(log(&two).await.len(), 0);
    let receipt = two.append(one(&stream("todo", 2))).await.unwrap();
    assert_eq!(receipt.position().get(), 1);
    assert_eq!(log(&one_store).await[0].stream().key(), "1");
    assert_eq!(log(&two).await[0].stream().key(), "2");
}

#[tokio::test]
async fn a_prepared_schema_needs_no_rights_to_change_it() {
    let database = TestDatabase::create().await;
    let mut admin = raw(database.url()).await;
    // On a shared server another run may have made the role.
    let role = format!("app_{}", std::process::id());
    run(
        &mut admin,
        &format!("DROP ROLE IF EXISTS {role}; CREATE ROLE {role} LOGIN PASSWORD 'app'"),
    )
    .await;
    let as_app = database
        .url()
        .replacen("postgres@", &format!("{role}:app@"), 1);

    let error = PostgresStore::connect_with(&as_app, verify())
        .await
        .unwrap_err();
    assert!(
        matches!(error.kind(), StoreErrorKind::Schema { .. }),
        "{error:?}"
    );
    let error = PostgresStore::connect(&as_app).await.unwrap_err();
    assert!(
        matches!(error.kind(), StoreErrorKind::Denied { .. }),
        "{error:?}"
    );

    run(&mut admin, &PostgresStore::ddl("backstory").unwrap()).await;
    let error = PostgresStore::connect_with(&as_app, verify())
        .await
        .unwrap_err();
    assert!(
        matches!(error.kind(), StoreErrorKind::Denied { .. }),
        "{error:?}"
    );
    run(
        &mut admin,
        &PostgresStore::grants("backstory", &role).unwrap(),
    )
    .await;

    for migrations in [Migrations::Verify, Migrations::Apply] {
        let options = PostgresOptions::default().with_migrations(migrations);
        let store = PostgresStore::connect_with(&as_app, options).await.unwrap();
        everything_works(&store).await;
    }
    let mut app = raw(&as_app).await;
    for statement in [
        "UPDATE backstory.event SET name = 'x'",
        "DELETE FROM backstory.event",
        "TRUNCATE backstory.event",
        "ALTER TABLE backstory.event DISABLE TRIGGER ALL",
        "CREATE TABLE backstory.x ()",
    ] {
        assert_eq!(refused(&mut app, statement).await, "42501", "{statement}");
    }
    run(&mut admin, &format!("DROP OWNED BY {role}")).await;
}

/// A walk through all that a program does.
async fn everything_works(store: &PostgresStore) {
    let key = uuid::Uuid::now_v7();
    let todo = stream("todo", key);
    let receipt = store
        .append(one(&todo).claim("title", key.to_string(), todo.clone()))
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
    let from = store.load_progress("list").await.unwrap();
    let document = DocumentKey {
        collection: "list".into(),
        key: key.to_string(),
    };
    let write = DocumentWrite::Put {
        key: document.clone(),
        body: Payload::empty(),
        indexed: vec![("done".into(), "no".into())],
        owner: Some(todo.clone()),
    };
    let step = Step::new(from, Target::Advance(receipt.checkpoint));
    store.commit_documents(vec![write], &step).await.unwrap();
    let mut unit = Host::<PgConnection>::begin(store, step.result())
        .await
        .unwrap();
    run(unit.context(), "SELECT 1").await;
    unit.commit(Target::Reset, Vec::new()).await.unwrap();
    let write = DocumentWrite::Delete {
        key: document.clone(),
    };
    let from = store.load_progress("list").await.unwrap();
    store
        .commit_documents(vec![write], &Step::new(from, Target::Reset))
        .await
        .unwrap();

    let erased = Append::to(
        todo.clone(),
        ExpectedVersion::Any,
        [Lifecycle::Erased.event()],
    );
    store.append(erased).await.unwrap();
    assert!(
        log(store)
            .await
            .iter()
            .any(|event| event.stream() == &todo && event.is_erased())
    );
    assert_eq!(store.latest_snapshot(&todo, None).await.unwrap(), None);
    let info = store.stream_info(&todo).await.unwrap().unwrap();
    assert_eq!(info.state, StreamState::Erased);
}

#[tokio::test]
async fn a_program_refuses_only_a_schema_that_it_cannot_read() {
    let (database, store) = fresh().await;
    drop(store);
    let mut admin = raw(database.url()).await;
    run(
        &mut admin,
        "INSERT INTO backstory.migration (version, readable_from) VALUES (2, 1)",
    )
    .await;
    let store = PostgresStore::connect(database.url()).await.unwrap();
    store.append(one(&stream("todo", 1))).await.unwrap();
    run(
        &mut admin,
        "INSERT INTO backstory.migration (version, readable_from) VALUES (3, 3)",
    )
    .await;
    for migrations in [Migrations::Verify, Migrations::Apply] {
        let options = PostgresOptions::default().with_migrations(migrations);
        let error = PostgresStore::connect_with(database.url(), options)
            .await
            .unwrap_err();
        assert!(
            matches!(error.kind(), StoreErrorKind::Schema { .. }),
            "{error:?}"
        );
    }
    // A program that runs already goes on: tables do not change under it in a harmful way.
    store.append(one(&stream("todo", 1))).await.unwrap();
}

#[tokio::test]
async fn the_printed_statements_make_the_same_schema() {
    const COLUMNS: &str = "SELECT string_agg(format('%s.%s %s', table_name, column_name, data_type), ', ' \
        ORDER BY table_name, ordinal_position) FROM information_schema.columns WHERE table_schema = 'backstory'";
    let (database, _store) = fresh().await;
    let by_hand = TestDatabase::create().await;
    let mut one = raw(database.url()).await;
    let mut two = raw(by_hand.url()).await;
    run(&mut two, &PostgresStore::ddl("backstory").unwrap()).await;
    let columns: String = scalar(&mut one, COLUMNS).await;
    assert_eq!(columns, scalar::<String>(&mut two, COLUMNS).await);
    assert!(columns.contains("event.payload jsonb"));
    PostgresStore::connect_with(by_hand.url(), verify())
        .await
        .unwrap();
}

#[tokio::test]
async fn the_past_cannot_be_changed() {
    let (database, store) = fresh().await;
    let todo = stream("todo", 1);
    store.append(one(&todo)).await.unwrap();
    store.append(one(&todo)).await.unwrap();
    let mut admin = raw(database.url()).await;
    let erasing = "UPDATE backstory.event SET payload = '{}', metadata = '{}', tags = '{}', erased_at = now() \
        WHERE position = 1";
    let attempts = [
        erasing,
        "UPDATE backstory.event SET payload = '{}'",
        "UPDATE backstory.event SET position = position + 10",
        "DELETE FROM backstory.event",
        "TRUNCATE backstory.event",
        "SELECT backstory.erase_v1('{todo}', '{1}')",
        "INSERT INTO backstory.event SELECT * FROM backstory.event ON CONFLICT (position) DO UPDATE SET name = 'x'",
    ];
    for replica in [
        "SET session_replication_role = origin",
        "SET session_replication_role = replica",
    ] {
        run(&mut admin, replica).await;
        for statement in attempts {
            assert_eq!(
                refused(&mut admin, statement).await,
                "23001",
                "{replica}: {statement}"
            );
        }
    }
    run(&mut admin, "RESET session_replication_role").await;
    let before = log(&store).await;
    assert_eq!(before.len(), 2);

    let erased = Append::to(
        todo.clone(),
        ExpectedVersion::Any,
        [Lifecycle::Erased.event()],
    );
    store.append(erased).await.unwrap();
    store
        .append(Append::to(
            todo,
            ExpectedVersion::Any,
            [Lifecycle::Restored.event(), event("todo.added")],
        ))
        .await
        .unwrap();
    // What came after the erasure is safe again, and so is what says that it happened.
    for position in [3, 4, 5] {
        let erasing = erasing.replace("position = 1", &format!("position = {position}"));
        assert_eq!(refused(&mut admin, &erasing).await, "23001");
    }
    let states: Vec<_> = log(&store)
        .await
        .iter()
        .map(|event| event.is_erased())
        .collect();
    assert_eq!(states, [true, true, false, false, false]);
    let tail = "SELECT count(*) FROM backstory.event WHERE payload <> '{}' AND position <= 2";
    assert_eq!(scalar::<i64>(&mut admin, tail).await, 0);
}

/// Everything that an error says, sources included.
fn said(error: &StoreError) -> String {
    let mut text = format!("{error} {error:?}");
    let mut source = error.source();
    while let Some(cause) = source {
        text += &format!(" {cause} {cause:?}");
        source = cause.source();
    }
    text
}

#[tokio::test]
async fn what_is_wrong_with_a_connection_is_said_without_secrets() {
    let cluster = TestCluster::start().await;
    let database = cluster.create_database().await;
    let mut admin = raw(database.url()).await;
    run(&mut admin, "CREATE ROLE app LOGIN PASSWORD 'right'").await;
    let rules = cluster.directory().join("data/pg_hba.conf");
    let old = std::fs::read_to_string(&rules).unwrap();
    std::fs::write(&rules, format!("host all app all scram-sha-256\n{old}")).unwrap();
    run(&mut admin, "SELECT pg_reload_conf()").await;

    let url = |user: &str| database.url().replacen("postgres@", user, 1);
    let is_denied = async || match PostgresStore::connect(&url("app:hunter2@")).await {
        Err(error) if matches!(error.kind(), StoreErrorKind::Denied { .. }) => {
            assert!(!said(&error).contains("hunter2"), "{}", said(&error));
            error.to_string().contains("28P01")
        }
        _ => false,
    };
    crate::kit::eventually(is_denied).await;

    let began = Instant::now();
    let gone = cluster.port();
    let unknown = cluster
        .url("no_such_database")
        .replacen("postgres@", "postgres:hunter2@", 1);
    let dead = format!(
        "postgres://postgres:hunter2@127.0.0.1:{}/x",
        if gone == 1 { 2 } else { 1 }
    );
    for (url, expected) in [
        (dead.as_str(), "Unavailable"),
        (
            "postgres://postgres:hunter2@no-such-host.invalid/x",
            "Unavailable",
        ),
        (unknown.as_str(), "Config"),
        ("mysql://root:hunter2@127.0.0.1/x", "Config"),
        ("postgres://postgres:hunter2@127.0.0.1:99999/x", "Config"),
        ("postgres://postgres:hunter2@127.0.0.1:notaport/x", "Config"),
        ("hunter2", "Config"),
    ] {
        let error = PostgresStore::connect(url).await.unwrap_err();
        assert!(
            format!("{:?}", error.kind()).starts_with(expected),
            "{url}: {error:?}"
        );
        assert!(!said(&error).contains("hunter2"), "{}", said(&error));
    }
    assert!(
        began.elapsed() < Duration::from_secs(20),
        "no endless attempts"
    );
    let options = PostgresOptions::default().with_schema("a\"; DROP SCHEMA x");
    let error = PostgresStore::connect_with(database.url(), options)
        .await
        .unwrap_err();
    assert!(
        matches!(error.kind(), StoreErrorKind::Config { .. }),
        "{error:?}"
    );

    run(&mut admin, &PostgresStore::ddl("backstory").unwrap()).await;
    run(
        &mut admin,
        &PostgresStore::grants("backstory", "app").unwrap(),
    )
    .await;
    let store = PostgresStore::connect(&url("app:right@")).await.unwrap();
    assert!(!format!("{store:?}").contains("right"));
    assert!(format!("{store:?}").contains("backstory"), "{store:?}");
}

#[tokio::test]
async fn a_missing_table_is_named() {
    let (database, store) = fresh().await;
    let mut admin = raw(database.url()).await;
    run(&mut admin, "DROP TABLE backstory.claim").await;
    let todo = stream("todo", 1);
    let append = one(&todo).claim("todo.title", "buy milk", todo);
    let error = store.append(append).await.unwrap_err();
    assert!(
        matches!(error.kind(), StoreErrorKind::Schema { .. }),
        "{error:?}"
    );
    assert!(error.to_string().contains("claim"), "{error}");
    assert_eq!(log(&store).await.len(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_append_that_lacks_a_right_does_not_disturb_the_others() {
    let cluster = TestCluster::start().await;
    let database = cluster.create_database().await;
    let mut admin = raw(database.url()).await;
    run(&mut admin, "CREATE ROLE app LOGIN").await;
    run(&mut admin, &PostgresStore::ddl("backstory").unwrap()).await;
    run(
        &mut admin,
        &PostgresStore::grants("backstory", "app").unwrap(),
    )
    .await;
    run(
        &mut admin,
        "REVOKE EXECUTE ON FUNCTION backstory.erase_v1(text[], text[]) FROM app",
    )
    .await;
    let url = database.url().replacen("postgres@", "app@", 1);
    let store = PostgresStore::connect(&url).await.unwrap();

    // While somebody holds the lock, all of them gather in one batch.
    run(&mut admin, "BEGIN").await;
    run(&mut admin, TAKE_LOCK).await;
    let lifecycle = Lifecycle::Erased;
    let calls: Vec<_> = (0..20)
        .map(|number| {
            let store = store.clone();
            let own = stream("todo", number);
            let append = match number {
                7 => Append::to(own, ExpectedVersion::Any, [lifecycle.event()]),
                _ => one(&own),
            };
            tokio::spawn(async move { store.append(append).await })
        })
        .collect();
    let mut watch = raw(database.url()).await;
    until_count(&mut watch, LOCK_WAITERS, 1).await;
    run(&mut admin, "COMMIT").await;
    for (number, call) in calls.into_iter().enumerate() {
        match within(call).await.unwrap() {
            Ok(_) => assert_ne!(number, 7),
            Err(error) => {
                assert_eq!(number, 7, "{error:?}");
                assert!(
                    matches!(error.kind(), StoreErrorKind::Denied { .. }),
                    "{error:?}"
                );
            }
        }
    }
    assert_eq!(log(&store).await.len(), 19);
}
