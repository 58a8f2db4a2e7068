//! Files that are full, read-only, damaged, of another program or of another time.

use std::{
    os::unix::{
        fs::{MetadataExt, PermissionsExt},
        process::CommandExt,
    },
    path::Path,
    process::Command,
};

use backstory_conformance::kit::{any, event, log, stream, within};
use backstory_event::{
    Append, EventFilter, EventQuery, EventStore, EventStoreExt, ExpectedVersion, Lifecycle,
    NewEvent, Payload, StoreError, StoreErrorKind, Tag,
};
use backstory_store_sqlite::{SqliteOptions, SqliteStore};
use sqlx::{AssertSqlSafe, Connection, SqliteConnection};
use tempfile::TempDir;

use crate::sqlite;

async fn connect(path: &Path) -> Result<SqliteStore, StoreError> {
    within(SqliteStore::connect(path.to_str().unwrap())).await
}

async fn plain(path: &Path) -> SqliteConnection {
    SqliteConnection::connect(path.to_str().unwrap())
        .await
        .unwrap()
}

fn large(bytes: usize) -> NewEvent {
    NewEvent::raw("large", Payload::encode(&"x".repeat(bytes)).unwrap())
}

fn names(error: &StoreError, path: &Path) {
    let text = error.to_string();
    assert!(text.contains(path.to_str().unwrap()), "{text}");
}

#[tokio::test]
async fn everything_is_there_after_a_restart() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("with space, \"quotes\" and %41.db");
    let store = connect(&path).await.unwrap();
    for number in 0..5 {
        let own = stream("todo", &number.to_string());
        store
            .append(any(&own, [event("added"), event("done")]))
            .await
            .unwrap();
    }
    let (before, head) = (log(&store).await, store.head().await.unwrap());
    store.close().await;
    assert!(path.is_file(), "the path is the path");
    assert!(
        !path.with_extension("db-wal").exists(),
        "close leaves one file"
    );
    let store = connect(&path).await.unwrap();
    assert_eq!(log(&store).await, before);
    assert_eq!(store.head().await.unwrap(), head);
    let receipt = store
        .append(any(&stream("todo", "0"), [event("more")]))
        .await
        .unwrap();
    assert_eq!(receipt.position().get(), 11);
}

#[tokio::test]
async fn urls_and_paths_name_the_same_file() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("log.db");
    let store = connect(&path).await.unwrap();
    store
        .append(any(&stream("todo", "1"), [event("added")]))
        .await
        .unwrap();
    for url in ["sqlite:", "sqlite://"].map(|scheme| format!("{scheme}{}", path.display())) {
        for url in [url.clone(), format!("{url}?mode=rwc")] {
            let again = SqliteStore::connect(&url).await.unwrap();
            assert_eq!(log(&again).await.len(), 1, "{url}");
        }
    }
    for url in [
        "",
        "sqlite:",
        "sqlite::memory:",
        "sqlite://:memory:",
        "sqlite:a.db?mode=memory",
        "file:a.db",
    ] {
        let error = SqliteStore::connect(url).await.unwrap_err();
        assert!(
            matches!(error.kind(), StoreErrorKind::Config { .. }),
            "{url}: {error}"
        );
    }
}

#[tokio::test]
async fn a_missing_directory_is_named() {
    let directory = TempDir::new().unwrap();
    let missing = directory.path().join("missing");
    let error = connect(&missing.join("log.db")).await.unwrap_err();
    assert!(
        matches!(error.kind(), StoreErrorKind::Config { .. }),
        "{error}"
    );
    names(&error, &missing);
    let error = connect(directory.path()).await.unwrap_err();
    assert!(
        matches!(error.kind(), StoreErrorKind::Config { .. }),
        "{error}"
    );
}

#[tokio::test]
async fn plain_sql_cannot_change_the_past() {
    let fixture = sqlite().await;
    let (store, own) = (&fixture.store, stream("todo", "1"));
    let tagged = event("added").with_tag(Tag::new("list:1").unwrap());
    store
        .append(any(&own, [tagged, event("done")]))
        .await
        .unwrap();
    let before = log(store).await;
    let mut connection = plain(&fixture.path()).await;
    let columns = "category, key, version, id, name, schema_version, recorded_at, erased_at, \
                   tags, metadata, payload";
    let copy = |position: &str, id: &str, version: &str| {
        format!(
            "INTO backstory_event (position, {columns})
             SELECT {position}, category, key, {version}, {id}, name, schema_version,
                 recorded_at, erased_at, tags, metadata, '{{\"other\":1}}'
             FROM backstory_event WHERE position = 1"
        )
    };
    let new_id = "randomblob(16)";
    for statement in [
        "DELETE FROM backstory_event".to_owned(),
        "DELETE FROM backstory_event WHERE position = 2".to_owned(),
        "UPDATE backstory_event SET payload = '{}'".to_owned(),
        "UPDATE backstory_event SET position = position + 10".to_owned(),
        "UPDATE OR REPLACE backstory_event SET position = 2 WHERE position = 1".to_owned(),
        // An erasure, without the event that says so.
        "UPDATE backstory_event SET erased_at = 1, payload = '{}', metadata = '{}', tags = '[]'"
            .to_owned(),
        "UPDATE backstory_event_tag SET tag = 'list:2'".to_owned(),
        "DELETE FROM backstory_event_tag".to_owned(),
        format!("INSERT OR REPLACE {}", copy("1", new_id, "3")),
        format!("INSERT OR REPLACE {}", copy("3", "id", "3")),
        format!("INSERT OR REPLACE {}", copy("3", new_id, "1")),
        format!("INSERT {}", copy("4", new_id, "3")),
        format!("INSERT {}", copy("3", new_id, "4")),
        format!("INSERT OR IGNORE {}", copy("2", new_id, "3")),
    ] {
        let outcome = sqlx::raw_sql(AssertSqlSafe(statement.clone()))
            .execute(&mut connection)
            .await;
        let code = outcome
            .as_ref()
            .err()
            .and_then(|error| error.as_database_error()?.code());
        // SQLITE_CONSTRAINT_TRIGGER
        assert_eq!(code.as_deref(), Some("1811"), "{statement}: {outcome:?}");
    }
    assert_eq!(log(store).await, before);
    // The guard knows the real thing.
    store
        .append(any(&own, [Lifecycle::Erased.event()]))
        .await
        .unwrap();
    let after = log(store).await;
    assert!(after[0].is_erased() && after[1].is_erased() && !after[2].is_erased());
    let found = store.collect(EventQuery::new(EventFilter::tag(
        Tag::new("list:1").unwrap(),
    )));
    assert_eq!(found.await.unwrap(), []);
    let changed = sqlx::raw_sql("UPDATE backstory_event SET erased_at = 7 WHERE position = 1");
    changed.execute(&mut connection).await.unwrap_err();
}

#[tokio::test]
async fn a_file_of_a_newer_program_is_refused() {
    let fixture = sqlite().await;
    let path = fixture.path();
    fixture.store.close().await;
    let set = async |version: i64, readable_from: i64| {
        sqlx::query("UPDATE backstory_schema SET version = ?1, readable_from = ?2")
            .bind(version)
            .bind(readable_from)
            .execute(&mut plain(&path).await)
            .await
            .unwrap();
    };
    set(99, 99).await;
    let error = connect(&path).await.unwrap_err();
    assert!(
        matches!(error.kind(), StoreErrorKind::Schema { .. }),
        "{error}"
    );
    names(&error, &path);
    // Newer, and still good for this program.
    set(99, 1).await;
    let store = connect(&path).await.unwrap();
    store
        .append(any(&stream("todo", "1"), [event("added")]))
        .await
        .unwrap();
}

#[tokio::test]
async fn a_file_of_another_kind_is_refused() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("log.db");
    let content = "this is no database at all, ".repeat(1_000);
    std::fs::write(&path, &content).unwrap();
    let error = connect(&path).await.unwrap_err();
    assert!(
        matches!(error.kind(), StoreErrorKind::Corrupt { .. }),
        "{error}"
    );
    names(&error, &path);
    assert_eq!(
        std::fs::read_to_string(&path).unwrap(),
        content,
        "it is not touched"
    );

    let path = directory.path().join("utf16.db");
    let mut connection = SqliteConnection::connect(&format!("sqlite:{}?mode=rwc", path.display()))
        .await
        .unwrap();
    sqlx::raw_sql("PRAGMA encoding = 'UTF-16le'; CREATE TABLE mine (a TEXT)")
        .execute(&mut connection)
        .await
        .unwrap();
    let error = connect(&path).await.unwrap_err();
    assert!(
        matches!(error.kind(), StoreErrorKind::Schema { .. }),
        "{error}"
    );
}

#[tokio::test]
async fn a_damaged_file_is_told() {
    let fixture = sqlite().await;
    let path = fixture.path();
    for number in 0..50 {
        let own = stream("todo", &number.to_string());
        fixture
            .store
            .append(any(&own, [large(4_000)]))
            .await
            .unwrap();
    }
    fixture.store.close().await;
    // All but the first page, which holds the schema.
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[4_096..].fill(0x5a);
    std::fs::write(&path, bytes).unwrap();
    let outcome = async {
        let store = connect(&path).await?;
        store.collect(EventQuery::new(EventFilter::all())).await
    };
    let error = outcome.await.unwrap_err();
    assert!(
        matches!(error.kind(), StoreErrorKind::Corrupt { .. }),
        "{error}"
    );
    names(&error, &path);
}

#[tokio::test]
async fn a_value_that_cannot_be_read_is_told() {
    let fixture = sqlite().await;
    let own = stream("todo", "1");
    fixture
        .store
        .append(any(&own, [event("added")]))
        .await
        .unwrap();
    let mut connection = plain(&fixture.path()).await;
    sqlx::raw_sql(
        "DROP TRIGGER backstory_event_update;
         UPDATE backstory_event SET metadata = '{\"correlation_id\":\"none\"}'",
    )
    .execute(&mut connection)
    .await
    .unwrap();
    let error = fixture
        .store
        .collect(EventQuery::stream(own))
        .await
        .unwrap_err();
    assert!(
        matches!(error.kind(), StoreErrorKind::Corrupt { .. }),
        "{error}"
    );
    assert!(error.to_string().contains("event 1"), "{error}");
}

#[tokio::test]
async fn a_full_disk_refuses_what_does_not_fit_and_nothing_else() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("log.db");
    let options = SqliteOptions::default().with_pragma("max_page_count", "120");
    let store = SqliteStore::connect_with(path.to_str().unwrap(), options)
        .await
        .unwrap();
    let too_large = Append::to(
        stream("large", "1"),
        ExpectedVersion::NoStream,
        [event("small"), large(900_000)],
    );
    // They wait together and go into one batch.
    let small = (0..10).map(|number| {
        let own = stream("small", &number.to_string());
        store.append(any(&own, [event("added")]))
    });
    let (refused, stored) = within(futures::future::join(
        store.append(too_large.clone()),
        futures::future::join_all(small),
    ))
    .await;
    let error = refused.unwrap_err();
    assert!(
        matches!(error.kind(), StoreErrorKind::NotWritable { .. }),
        "{error}"
    );
    names(&error, &path);
    stored
        .into_iter()
        .for_each(|outcome| drop(outcome.unwrap()));
    assert_eq!(log(&store).await.len(), 10, "nothing of it is stored");
    store
        .append(any(&stream("small", "0"), [event("more")]))
        .await
        .unwrap();
    store.close().await;
    // With room, the same request is as good as new.
    let store = connect(&path).await.unwrap();
    assert_eq!(store.append(too_large).await.unwrap().position().get(), 13);
}

/// The right to write means nothing to root, so root runs the test once more as nobody.
#[tokio::test]
async fn a_read_only_file_can_be_read_and_says_so() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("log.db");
    if std::fs::metadata(directory.path()).unwrap().uid() == 0 {
        let program = directory.path().join("it");
        std::fs::copy(std::env::current_exe().unwrap(), &program).unwrap();
        allow(directory.path(), 0o755);
        let status = Command::new(program)
            .args(["--exact", "files::a_read_only_file_can_be_read_and_says_so"])
            .current_dir(directory.path())
            .uid(65_534)
            .status()
            .unwrap();
        assert!(status.success());
    } else {
        let store = connect(&path).await.unwrap();
        store
            .append(any(&stream("todo", "1"), [event("added")]))
            .await
            .unwrap();
        store.close().await;

        allow(&path, 0o444);
        let store = connect(&path).await.unwrap();
        let error = store
            .append(any(&stream("todo", "1"), [event("done")]))
            .await
            .unwrap_err();
        assert!(
            matches!(error.kind(), StoreErrorKind::NotWritable { .. }),
            "{error}"
        );
        names(&error, &path);
        assert_eq!(log(&store).await.len(), 1);
        store.close().await;

        allow(directory.path(), 0o555);
        let error = connect(&directory.path().join("new.db")).await.unwrap_err();
        assert!(
            matches!(error.kind(), StoreErrorKind::NotWritable { .. }),
            "{error}"
        );

        allow(directory.path(), 0o755);
        // SQLite gives the files that it puts beside it the same rights.
        for file in std::fs::read_dir(directory.path()).unwrap() {
            allow(&file.unwrap().path(), 0o644);
        }
        let store = connect(&path).await.unwrap();
        store
            .append(any(&stream("todo", "1"), [event("done")]))
            .await
            .unwrap();
    }
}

fn allow(path: &Path, mode: u32) {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
}
