//! Optional indexes: built while others write, again after an interrupted build, one at a time.

use backstory_event::{EventFilter, EventQuery, EventStoreExt, FilterItem, StoreErrorKind};
use backstory_store_postgres::{IndexChange, IndexState, Maintenance, OptionalIndex};
use sqlx::PgConnection;

use crate::kit::{fresh, log, one, raw, run, scalar, stream, until_count, within};

async fn state(maintenance: &mut Maintenance, index: OptionalIndex) -> IndexState {
    let list = maintenance.indexes().await.unwrap();
    assert_eq!(list.len(), OptionalIndex::ALL.len());
    list.into_iter()
        .find(|info| info.index == index)
        .unwrap()
        .state
}

#[tokio::test]
async fn an_index_is_made_and_dropped_on_request() {
    let (database, store) = fresh().await;
    backstory_event::EventStore::append(&store, one(&stream("todo", 1)))
        .await
        .unwrap();
    let mut maintenance = Maintenance::connect(database.url(), "backstory")
        .await
        .unwrap();
    for index in OptionalIndex::ALL {
        assert_eq!(state(&mut maintenance, index).await, IndexState::Absent);
        assert_eq!(
            maintenance.drop_index(index).await.unwrap(),
            IndexChange::Unchanged
        );
        for expected in [IndexChange::Created, IndexChange::Unchanged] {
            assert_eq!(maintenance.create_index(index).await.unwrap(), expected);
            assert_eq!(state(&mut maintenance, index).await, IndexState::Ready);
        }
        assert_eq!(
            maintenance.drop_index(index).await.unwrap(),
            IndexChange::Dropped
        );
    }
    assert!(maintenance.verify().await.unwrap().is_sound());
    maintenance.close().await.unwrap();
}

const BUILDING: &str = "SELECT count(*) FROM pg_stat_progress_create_index \
    WHERE datname = current_database()";

/// A transaction that every build waits for.
async fn old_transaction(url: &str) -> PgConnection {
    let mut old = raw(url).await;
    run(
        &mut old,
        "BEGIN; INSERT INTO backstory.event SELECT 1000, 'todo', '77', 1, gen_random_uuid(), 'x', 1, '{}', '{}', \
         '{}', now(); SAVEPOINT kept",
    )
    .await;
    old
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_an_interrupted_build_has_left_is_built_again() {
    let (database, store) = fresh().await;
    let index = OptionalIndex::Category;
    let mut old = old_transaction(database.url()).await;
    let building = tokio::spawn({
        let mut maintenance = Maintenance::connect(database.url(), "backstory")
            .await
            .unwrap();
        async move { maintenance.create_index(index).await }
    });
    let mut watch = raw(database.url()).await;
    until_count(&mut watch, BUILDING, 1).await;

    // Appends go on, and nobody takes the unfinished index for one that is left over.
    let mut second = Maintenance::connect(database.url(), "backstory")
        .await
        .unwrap();
    assert_eq!(state(&mut second, index).await, IndexState::Building);
    for refused in [
        second.create_index(index).await,
        second.drop_index(index).await,
    ] {
        let error = refused.unwrap_err();
        assert!(error.is_transient(), "{error:?}");
        assert!(error.to_string().contains("somebody else"), "{error}");
    }
    run(
        &mut watch,
        "SELECT pg_terminate_backend(pid) FROM pg_stat_progress_create_index WHERE datname = current_database()",
    )
    .await;
    let error = within(building).await.unwrap().unwrap_err();
    assert!(error.is_transient(), "{error:?}");
    run(&mut old, "ROLLBACK").await;
    assert_eq!(state(&mut second, index).await, IndexState::Invalid);

    assert_eq!(
        within(second.create_index(index)).await.unwrap(),
        IndexChange::Rebuilt
    );
    assert_eq!(state(&mut second, index).await, IndexState::Ready);
    let definition = "SELECT pg_get_indexdef('backstory.event_category_position'::regclass)";
    let definition: String = scalar(&mut watch, definition).await;
    assert!(
        definition.ends_with("(category, \"position\")"),
        "{definition}"
    );
    assert_eq!(log(&store).await.len(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writers_and_readers_go_on_while_an_index_is_built() {
    let (database, store) = fresh().await;
    let mut old = old_transaction(database.url()).await;
    run(&mut old, "ROLLBACK TO SAVEPOINT kept").await;
    let building = tokio::spawn({
        let mut maintenance = Maintenance::connect(database.url(), "backstory")
            .await
            .unwrap();
        async move { maintenance.create_index(OptionalIndex::Category).await }
    });
    let mut watch = raw(database.url()).await;
    until_count(&mut watch, BUILDING, 1).await;
    for number in 0..20 {
        let append = backstory_event::EventStore::append(&store, one(&stream("note", number)));
        within(append).await.unwrap();
    }
    let notes = || EventQuery::new(EventFilter::from(FilterItem::new().category("note")));
    assert_eq!(store.collect(notes()).await.unwrap().len(), 20);
    run(&mut old, "ROLLBACK").await;
    assert_eq!(
        within(building).await.unwrap().unwrap(),
        IndexChange::Created
    );
    assert_eq!(store.collect(notes()).await.unwrap().len(), 20);
}

#[tokio::test]
async fn a_role_that_does_not_own_the_tables_is_denied() {
    let (database, _store) = fresh().await;
    let mut admin = raw(database.url()).await;
    let role = format!("indexer_{}", std::process::id());
    run(
        &mut admin,
        &format!(
            "DROP ROLE IF EXISTS {role}; CREATE ROLE {role} LOGIN PASSWORD 'x'; \
             GRANT USAGE ON SCHEMA backstory TO {role}; \
             GRANT SELECT ON ALL TABLES IN SCHEMA backstory TO {role}"
        ),
    )
    .await;
    let url = database
        .url()
        .replacen("postgres@", &format!("{role}:x@"), 1);
    let mut maintenance = Maintenance::connect(&url, "backstory").await.unwrap();
    for _ in 0..2 {
        let error = maintenance
            .create_index(OptionalIndex::Causation)
            .await
            .unwrap_err();
        assert!(
            matches!(error.kind(), StoreErrorKind::Denied { .. }),
            "{error:?}"
        );
    }
    let mut other = Maintenance::connect(&url, "orders").await.unwrap();
    let error = other.indexes().await.unwrap_err();
    assert!(
        matches!(error.kind(), StoreErrorKind::Schema { .. }),
        "{error:?}"
    );
    run(&mut admin, &format!("DROP OWNED BY {role}")).await;
}
