//! The conformance suites.

use backstory_conformance::{Dyn, Fixture};
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

async fn dynamic() -> Dyn<Postgres> {
    Dyn(postgres().await)
}

macro_rules! suites {
    ($($module:ident: $suite:ident)*) => {
        mod direct {
            $(mod $module {
                backstory_conformance::$suite!(crate::conformance::postgres());
            })*
        }

        mod through_dyn {
            $(mod $module {
                backstory_conformance::$suite!(crate::conformance::dynamic());
            })*
        }
    };
}

suites! {
    event_store: event_store_suite
    bus: bus_suite
    subscription: subscription_suite
    properties: property_suite
    repository: repository_suite
    snapshots: snapshots_suite
    commands: commands_suite
    documents: documents_suite
    projector: projector_suite
}
