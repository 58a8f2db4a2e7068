//! Through PgBouncer in transaction mode.

use backstory_conformance::Fixture;
use backstory_store_postgres::{Pooler, PostgresOptions, PostgresStore};
use backstory_test_postgres::{TestCluster, TestDatabase, TestPooler};
use tokio::sync::OnceCell;

fn pooled() -> PostgresOptions {
    PostgresOptions::default().with_pooler(Pooler::Transaction)
}

struct Pooled {
    store: PostgresStore,
    url: String,
    _database: TestDatabase,
}

impl Fixture for Pooled {
    type Store = PostgresStore;

    fn store(&self) -> PostgresStore {
        self.store.clone()
    }

    async fn elsewhere(&self) -> PostgresStore {
        PostgresStore::connect_with(&self.url, pooled())
            .await
            .unwrap()
    }
}

/// One pooler for all suites, with two connections to each database.
async fn fixture() -> Pooled {
    static SHARED: OnceCell<TestPooler> = OnceCell::const_new();
    let cluster = TestCluster::shared().await;
    let pooler = SHARED.get_or_init(|| TestPooler::start(cluster)).await;
    let database = cluster.create_database().await;
    let url = pooler.url(database.url());
    Pooled {
        store: PostgresStore::connect_with(&url, pooled()).await.unwrap(),
        url,
        _database: database,
    }
}

mod suites {
    backstory_conformance::complete_suite!(crate::pooler::fixture());
}
