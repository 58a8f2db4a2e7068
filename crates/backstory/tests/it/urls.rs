//! A store by its URL, and the mistakes that one can make with it.

use backstory::{Store, StoreErrorKind};

#[tokio::test]
async fn a_store_that_works_is_ready() {
    let store = Store::connect("memory:").await.unwrap();
    store.ready().await.unwrap();
}

#[cfg(feature = "sqlite")]
#[tokio::test]
async fn a_store_is_what_its_url_says_and_ready_until_it_is_closed() {
    let directory = tempfile::tempdir().unwrap();
    let url = format!("sqlite:{}", directory.path().join("log.db").display());
    let store = Store::connect(&url).await.unwrap();
    store.ready().await.unwrap();
    assert_eq!(store.sqlite().unwrap().stats().stored, 0);
    #[cfg(feature = "postgres")]
    assert!(store.postgres().is_none());
    store.close().await;
    assert!(store.ready().await.unwrap_err().is_closed());
}

#[cfg(feature = "postgres")]
#[tokio::test]
async fn a_read_only_database_is_not_ready() {
    let database = backstory_test_postgres::TestDatabase::create().await;
    let store = Store::connect(database.url()).await.unwrap();
    store.ready().await.unwrap();
    assert!(store.postgres().unwrap().health().await.ready);
    let separator = if database.url().contains('?') {
        '&'
    } else {
        '?'
    };
    let read_only = "options=-c%20default_transaction_read_only%3Don";
    let url = format!("{}{separator}{read_only}", database.url());
    let store = Store::connect(&url).await.unwrap();
    let error = store.ready().await.unwrap_err();
    assert!(error.to_string().contains("read-only"), "{error}");
}

async fn mistake(url: &str) -> (StoreErrorKind, String) {
    let error = Store::connect(url).await.unwrap_err();
    let text = format!("{error} {error:?}");
    (error.into_kind(), text)
}

#[tokio::test]
async fn an_unknown_scheme_says_which_ones_there_are() {
    for url in [
        "mysql://root:secret@localhost/db",
        "todo.db",
        "",
        "POSTGRES",
    ] {
        let (kind, text) = mistake(url).await;
        assert!(
            matches!(kind, StoreErrorKind::Config { .. }),
            "{url}: {kind:?}"
        );
        assert!(text.contains("postgres:"), "{text}");
        assert!(!text.contains("secret"), "{text}");
    }
}

#[cfg(feature = "postgres")]
#[tokio::test]
async fn an_unreachable_database_is_unavailable_and_shows_no_secret() {
    let (kind, text) = mistake("postgres://me:secret@127.0.0.1:1/db").await;
    assert!(
        matches!(kind, StoreErrorKind::Unavailable { .. }),
        "{kind:?}"
    );
    assert!(!text.contains("secret"), "{text}");
}

#[cfg(feature = "sqlite")]
#[tokio::test]
async fn a_file_in_a_missing_folder_says_so() {
    let (_, text) = mistake("sqlite:/nowhere/at/all/todo.db").await;
    assert!(text.contains("/nowhere/at/all"), "{text}");
}
