use std::process;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, SystemTime};

use sqlx::{AssertSqlSafe, Connection, PgConnection};

use crate::cluster::TestCluster;

/// A fresh, empty database of one test; dropped, connections and all, with this value.
#[derive(Debug)]
pub struct TestDatabase {
    url: String,
    server: String,
    name: String,
    outlives_us: bool,
}

impl TestDatabase {
    /// A new database on the server of `TEST_DATABASE_URL` if that is set, else on the [shared
    /// cluster](TestCluster::shared).
    ///
    /// # Panics
    /// When there is no server to be had or it refuses; the message says what to do.
    pub async fn create() -> Self {
        match std::env::var("TEST_DATABASE_URL") {
            Ok(server) if !server.is_empty() => Self::create_on(&server).await,
            _ => TestCluster::shared().await.create_database().await,
        }
    }

    /// A new database on a server that is not ours; its user needs the right to create them.
    ///
    /// # Panics
    /// When the server cannot be reached or refuses.
    pub async fn create_on(server: &str) -> Self {
        Self::create_at(server, true).await
    }

    /// The URL of this database.
    pub fn url(&self) -> &str {
        &self.url
    }

    pub(crate) async fn create_at(server: &str, outlives_us: bool) -> Self {
        let name = unique_name();
        let statement = format!("CREATE DATABASE {name} TEMPLATE template0 ENCODING 'UTF8'");
        if let Err(error) = execute(server, statement).await {
            let whose = if outlives_us {
                "TEST_DATABASE_URL or of the command line"
            } else {
                "the throwaway cluster"
            };
            panic!("cannot create a test database on the server of {whose}: {error}");
        }
        Self {
            url: with_database(server, &name),
            server: server.to_owned(),
            name,
            outlives_us,
        }
    }
}

impl Drop for TestDatabase {
    fn drop(&mut self) {
        let server = self.server.clone();
        let statement = format!("DROP DATABASE IF EXISTS {} WITH (FORCE)", self.name);
        let dropper = thread::spawn(move || {
            let Ok(runtime) = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
            else {
                return;
            };
            let work = async {
                tokio::time::timeout(Duration::from_secs(10), execute(&server, statement)).await
            };
            let _ = runtime.block_on(work); // the server may have been stopped by its test
        });
        // Our own cluster goes with the process. On another server the process must not end before the database.
        if self.outlives_us {
            let _ = dropper.join();
        }
    }
}

async fn execute(server: &str, statement: String) -> Result<(), sqlx::Error> {
    let mut connection = PgConnection::connect(server).await?;
    sqlx::raw_sql(AssertSqlSafe(statement))
        .execute(&mut connection)
        .await?;
    connection.close().await
}

fn unique_name() -> String {
    static COUNTER: AtomicU64 = AtomicU64::new(0);
    let count = COUNTER.fetch_add(1, Ordering::Relaxed);
    let now = SystemTime::UNIX_EPOCH
        .elapsed()
        .unwrap_or_default()
        .as_micros();
    format!("backstory_test_{}_{now}_{count}", process::id())
}

/// The same URL with another database; user, password, host and query stay as they were written.
fn with_database(url: &str, name: &str) -> String {
    let (rest, query) = match url.find('?') {
        Some(at) => url.split_at(at),
        None => (url, ""),
    };
    let host = rest.find("://").map_or(0, |at| at + "://".len());
    let end = rest[host..].find('/').map_or(rest.len(), |at| host + at);
    format!("{}/{name}{query}", &rest[..end])
}

#[cfg(test)]
mod tests {
    use sqlx::{Connection, PgConnection};

    use super::{TestDatabase, with_database};
    use crate::TestCluster;

    #[tokio::test]
    async fn a_database_on_a_server_that_outlives_us_is_gone_when_drop_returns() {
        let cluster = TestCluster::start().await;
        let database = TestDatabase::create_on(&cluster.url("template1")).await;
        let url = database.url().to_owned();
        let _open = PgConnection::connect(&url).await.unwrap();
        drop(database);
        let error = PgConnection::connect(&url).await.unwrap_err();
        let code = error
            .as_database_error()
            .and_then(|error| error.code())
            .map(String::from);
        assert_eq!(code.as_deref(), Some("3D000"), "{error}");
    }

    #[test]
    fn only_the_database_of_a_url_is_replaced() {
        for (url, expected) in [
            ("postgres://localhost", "postgres://localhost/new"),
            (
                "postgres://u:p%2F@[::1]:5433/old",
                "postgres://u:p%2F@[::1]:5433/new",
            ),
            (
                "postgres:///old?host=/run/postgresql",
                "postgres:///new?host=/run/postgresql",
            ),
            (
                "postgres://h?sslmode=disable",
                "postgres://h/new?sslmode=disable",
            ),
        ] {
            assert_eq!(with_database(url, "new"), expected);
        }
    }
}
