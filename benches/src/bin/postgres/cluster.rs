//! The server under test and its databases.

use std::{
    error::Error,
    path::PathBuf,
    sync::atomic::{AtomicU32, Ordering},
};

use backstory::{BoxError, postgres::PostgresStore};
use backstory_test_postgres::TestCluster;
use sqlx::{AssertSqlSafe, Connection, PgConnection, raw_sql};

/// A throwaway server with the durability of production.
pub struct Cluster {
    server: TestCluster,
    databases: AtomicU32,
}

/// A database with the tables of the store.
#[derive(Debug, Clone)]
pub struct Database {
    name: String,
    /// Where it is.
    pub url: String,
}

impl Cluster {
    /// Starts it.
    pub async fn start(shared_buffers: &str) -> Result<Self, BoxError> {
        let settings = [
            ("fsync", "on"),
            ("full_page_writes", "on"),
            ("synchronous_commit", "on"),
            ("max_wal_size", "1GB"), // the server's own default
            ("min_wal_size", "1GB"), // keeps the files of `make_wal_files`
            ("shared_buffers", shared_buffers),
        ];
        let cluster = Self {
            server: TestCluster::start_with(&settings).await,
            databases: AtomicU32::new(0),
        };
        cluster.make_wal_files().await?;
        Ok(cluster)
    }

    /// Makes the files of the write-ahead log, which a server reuses once it has run for a while: a
    /// writer that has to make one writes 16 MiB of zeros first.
    async fn make_wal_files(&self) -> Result<(), BoxError> {
        const FILES: usize = 60;
        let mut admin = self.admin().await?;
        let next_file = "SELECT pg_logical_emit_message(false, '', ''); SELECT pg_switch_wal()";
        for _ in 0..FILES {
            raw_sql(next_file).execute(&mut admin).await?;
        }
        admin.close().await?;
        self.checkpoint().await
    }

    /// The process id of the server.
    pub fn pid(&self) -> Result<u32, BoxError> {
        self.server
            .pid()
            .ok_or_else(|| "the server does not run".into())
    }

    /// A new database with the empty tables of the store.
    pub async fn create(&self) -> Result<Database, BoxError> {
        let name = format!("bench_{}", self.databases.fetch_add(1, Ordering::Relaxed));
        self.run(format!(
            "CREATE DATABASE {name} TEMPLATE template0 ENCODING 'UTF8'"
        ))
        .await?;
        let url = self.server.url(&name);
        PostgresStore::connect(&url).await?.close().await;
        Ok(Database { name, url })
    }

    /// Removes a database, and waits for it and for the checkpoint that the server makes then: the
    /// next measurement begins like this one.
    pub async fn remove(&self, database: Database) -> Result<(), BoxError> {
        self.run(format!("DROP DATABASE {} WITH (FORCE)", database.name))
            .await
    }

    /// Writes out what earlier work left behind.
    pub async fn checkpoint(&self) -> Result<(), BoxError> {
        self.run("CHECKPOINT".to_owned()).await
    }

    /// One line on what is measured.
    pub async fn describe(&self) -> Result<String, BoxError> {
        let mut admin = self.admin().await?;
        let shown = "SELECT 'PostgreSQL ' || current_setting('server_version') || string_agg(format(', %s %s', \
            name, current_setting(name)), '' ORDER BY name) FROM unnest(ARRAY['fsync', 'full_page_writes', \
            'synchronous_commit', 'shared_buffers', 'max_wal_size']) AS name";
        let text = sqlx::query_scalar(shown).fetch_one(&mut admin).await?;
        admin.close().await?;
        Ok(text)
    }

    /// The folder of the server's programs.
    pub async fn programs(&self) -> Result<PathBuf, BoxError> {
        let mut admin = self.admin().await?;
        let folder: String =
            sqlx::query_scalar("SELECT setting FROM pg_config WHERE name = 'BINDIR'")
                .fetch_one(&mut admin)
                .await?;
        admin.close().await?;
        Ok(folder.into())
    }

    /// How many events there are behind a position, counted by the server.
    pub async fn count(&self, database: &Database, after: i64) -> Result<u64, BoxError> {
        let mut connection = PgConnection::connect(&database.url).await?;
        let count: i64 =
            sqlx::query_scalar("SELECT count(*) FROM backstory.event WHERE position > $1")
                .bind(after)
                .fetch_one(&mut connection)
                .await?;
        connection.close().await?;
        Ok(u64::try_from(count)?)
    }

    /// A connection to a database that no measurement uses.
    pub async fn admin(&self) -> Result<PgConnection, BoxError> {
        Ok(PgConnection::connect(&self.server.url("postgres")).await?)
    }

    async fn run(&self, statement: String) -> Result<(), BoxError> {
        let mut admin = self.admin().await?;
        let done = sqlx::raw_sql(AssertSqlSafe(statement.clone()))
            .execute(&mut admin)
            .await;
        done.map_err(|error| -> Box<dyn Error + Send + Sync> {
            format!("{statement}: {error}").into()
        })?;
        Ok(admin.close().await?)
    }
}
