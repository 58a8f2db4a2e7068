//! What operators do to a schema, without a store.

use std::{
    fmt::{self, Debug},
    time::Duration,
};

use backstory_event::StoreError;
use sqlx::{Connection, PgConnection, raw_sql};

use crate::{
    IndexChange, IndexInfo, OptionalIndex, PostgresOptions, Verification, error::store_error,
    indexes, parse, quiet, schema::Schema, session::Session, verify,
};

/// One connection to a schema, for operators: it starts no writer and changes no tables.
///
/// ```no_run
/// use backstory_store_postgres::{Maintenance, OptionalIndex};
///
/// # async fn run() -> Result<(), backstory_event::StoreError> {
/// let url = "postgres://user:password@localhost/app";
/// let mut maintenance = Maintenance::connect(url, "backstory").await?;
/// maintenance.create_index(OptionalIndex::Category).await?;
/// let verification = maintenance.verify().await?;
/// assert!(verification.is_sound(), "{verification}");
/// # Ok(()) }
/// ```
pub struct Maintenance {
    connection: PgConnection,
    schema: Schema,
}

impl Debug for Maintenance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Maintenance")
            .field("schema", &self.schema.name())
            .finish_non_exhaustive()
    }
}

impl Maintenance {
    /// Connects to the database itself: a pooler in transaction mode cannot keep what indexes need.
    ///
    /// # Errors
    /// `Config`, `Denied`, `Unavailable`.
    pub async fn connect(url: &str, schema: &str) -> Result<Self, StoreError> {
        let schema = Schema::new(schema)?;
        let options = quiet(parse(url)?);
        let own = PostgresOptions::default().with_connect_timeout(Duration::from_secs(10));
        let session = Session::open(&options, &own).await.map_err(store_error)?;
        let mut connection = session.connection;
        // What it does takes as long as it takes.
        raw_sql("SET statement_timeout = 0; SET lock_timeout = 0")
            .execute(&mut connection)
            .await
            .map_err(store_error)?;
        Ok(Self { connection, schema })
    }

    /// Checks the rows of the schema against its log. See [`verify`](crate::verify()).
    ///
    /// # Errors
    /// As [`verify`](crate::verify()).
    pub async fn verify(&mut self) -> Result<Verification, StoreError> {
        verify(&mut self.connection, self.schema.name()).await
    }

    /// The optional indexes, with their state.
    ///
    /// # Errors
    /// `Schema` when the tables are missing, `Unavailable` …
    pub async fn indexes(&mut self) -> Result<Vec<IndexInfo>, StoreError> {
        indexes::list(&mut self.connection, &self.schema).await
    }

    /// Makes sure that an index is there, and drops what an interrupted build has left. Appends
    /// and reads go on meanwhile; the server waits for the end of all transactions that are open.
    /// Dropping the future interrupts the build; call it again to repair that.
    ///
    /// # Errors
    /// `Denied` for a role that does not own the tables, `Unavailable` while somebody else
    /// builds, `Schema` …
    pub async fn create_index(&mut self, index: OptionalIndex) -> Result<IndexChange, StoreError> {
        indexes::create(&mut self.connection, &self.schema, index).await
    }

    /// Makes sure that an index is not there. Appends and reads go on meanwhile.
    ///
    /// # Errors
    /// As [`Maintenance::create_index`].
    pub async fn drop_index(&mut self, index: OptionalIndex) -> Result<IndexChange, StoreError> {
        indexes::drop(&mut self.connection, &self.schema, index).await
    }

    /// Ends the connection.
    ///
    /// # Errors
    /// `Unavailable`.
    pub async fn close(self) -> Result<(), StoreError> {
        self.connection.close().await.map_err(store_error)
    }
}
