//! The conformance suites on SQLite, and what only SQLite has: files, processes, disks.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "test code: the helpers between the tests too"
)]

mod failures;
mod files;
mod inline;
mod processes;
mod store;

use std::path::PathBuf;

use backstory_conformance::Fixture;
use backstory_store_sqlite::SqliteStore;
use tempfile::TempDir;

struct Sqlite {
    directory: TempDir,
    store: SqliteStore,
}

impl Sqlite {
    fn path(&self) -> PathBuf {
        self.directory.path().join("log.db")
    }
}

impl Fixture for Sqlite {
    type Store = SqliteStore;

    fn store(&self) -> SqliteStore {
        self.store.clone()
    }

    async fn elsewhere(&self) -> SqliteStore {
        SqliteStore::connect(self.path().to_str().unwrap())
            .await
            .unwrap()
    }
}

async fn sqlite() -> Sqlite {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("log.db");
    let store = SqliteStore::connect(path.to_str().unwrap()).await.unwrap();
    Sqlite { directory, store }
}

backstory_conformance::complete_suite!(crate::sqlite());
