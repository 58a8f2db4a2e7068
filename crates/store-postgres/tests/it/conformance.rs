//! The conformance suites.

use backstory_conformance::Fixture;
use backstory_store_postgres::PostgresStore;
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

async fn postgres() -> Postgres {
    let database = TestDatabase::create().await;
    let store = PostgresStore::connect(database.url()).await.unwrap();
    Postgres { store, database }
}

backstory_conformance::complete_suite!(crate::conformance::postgres());
