//! A store by its URL, and the mistakes that one can make with it.

use backstory::{Store, StoreErrorKind};

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
