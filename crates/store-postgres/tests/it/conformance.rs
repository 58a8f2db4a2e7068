//! The conformance suites.

use backstory_conformance::Fixture;
use backstory_store_postgres::{FindingKind, PostgresStore};
use backstory_test_postgres::TestDatabase;

struct Postgres {
    store: PostgresStore,
    database: TestDatabase,
}

impl Fixture for Postgres {
    type Store = PostgresStore;

    fn store(&self) -> PostgresStore {
        self.store.clone()
    }

    async fn elsewhere(&self) -> PostgresStore {
        PostgresStore::connect(self.database.url()).await.unwrap()
    }
}

/// Whatever a case did, its log is sound. Some cases make up checkpoints and snapshots.
impl Drop for Postgres {
    fn drop(&mut self) {
        if std::thread::panicking() {
            return;
        }
        let url = self.database.url().to_owned();
        let check = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(async {
                let mut connection = crate::kit::raw(&url).await;
                let verification = backstory_store_postgres::verify(&mut connection, "backstory");
                verification.await.unwrap()
            })
        });
        let mut verification = check.join().unwrap();
        verification.findings.retain(|finding| {
            use FindingKind::{ProgressBeyondLog, ProgressDiverged, SnapshotDiverged};
            ![ProgressBeyondLog, ProgressDiverged, SnapshotDiverged].contains(&finding.kind)
        });
        assert_eq!(verification.findings, [], "{verification}");
    }
}

async fn postgres() -> Postgres {
    let database = TestDatabase::create().await;
    let store = PostgresStore::connect(database.url()).await.unwrap();
    Postgres { store, database }
}

backstory_conformance::complete_suite!(crate::conformance::postgres());
