//! Checks what a schema holds, read-only.

mod finding;
mod objects;
mod rows;

use std::{collections::BTreeMap, fmt, ops::DerefMut};

use backstory_event::{Position, StoreError, StoreErrorKind};
pub use finding::{Finding, FindingKind, Subject};
use serde::Serialize;
use sqlx::{AssertSqlSafe, Connection, Error, PgConnection, Row};
use tracing::Instrument;

use crate::{PostgresStore, error::store_error, pool::Lease, schema::Schema};

/// How many findings of one kind are listed; more are only counted.
const LISTED: u64 = 20;

// As `pg_dump` does: it takes as long as it takes. A client that freezes is ended all the same,
// and sorting takes a bounded part of the server's memory.
const SETTLE: &str = "SELECT set_config('statement_timeout', '0', true), \
    set_config('idle_in_transaction_session_timeout', '60s', true), \
    set_config('work_mem', '64MB', true), set_config('enable_seqscan', 'on', true), \
    set_config('jit', 'off', true), set_config('search_path', 'pg_catalog, pg_temp', true)";

const COUNTS: &str = "SELECT \
    (SELECT coalesce(max(e.position), 0) FROM {s}.event e), \
    (SELECT count(*) FROM {s}.event e), \
    (SELECT count(*) FROM (SELECT FROM {s}.event e GROUP BY e.category, e.key) s), \
    (SELECT count(*) FROM {s}.claim t), (SELECT count(*) FROM {s}.snapshot t), \
    (SELECT count(*) FROM {s}.progress t), (SELECT count(*) FROM {s}.document t), \
    (SELECT count(*) FROM {s}.entry t)";

/// What [`verify`] has seen and found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Verification {
    /// The name of the schema.
    pub schema: String,
    /// The version of its tables.
    pub version: i32,
    /// Up to where the log was trimmed; 0: it is complete.
    pub floor: Position,
    /// The newest position when the check began.
    pub head: Position,
    /// How many rows were checked.
    pub rows: RowCounts,
    /// What is wrong, at most 20 findings of each kind.
    pub findings: Vec<Finding>,
    /// How many findings of each kind there are, listed or not.
    pub found: BTreeMap<FindingKind, u64>,
}

/// How many rows were checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct RowCounts {
    /// Events.
    pub events: i64,
    /// Streams.
    pub streams: i64,
    /// Unique claims.
    pub claims: i64,
    /// Snapshots.
    pub snapshots: i64,
    /// Projections with progress.
    pub projections: i64,
    /// Documents.
    pub documents: i64,
    /// Values of lookups that are not unique.
    pub entries: i64,
}

impl Verification {
    /// True when nothing is wrong.
    pub fn is_sound(&self) -> bool {
        self.found.is_empty()
    }

    /// How many findings there are, listed or not.
    pub fn total(&self) -> u64 {
        self.found.values().sum()
    }
}

impl fmt::Display for Verification {
    /// A few lines for people.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let RowCounts {
            events,
            streams,
            claims,
            snapshots,
            projections,
            documents,
            entries,
        } = self.rows;
        writeln!(
            f,
            "schema `{}` (version {}), log up to position {}: {events} events, {streams} streams, \
             {claims} claims, {entries} entries, {snapshots} snapshots, {projections} projections, \
             {documents} documents",
            self.schema, self.version, self.head
        )?;
        for finding in &self.findings {
            writeln!(f, "{finding}")?;
        }
        for (kind, count) in &self.found {
            if *count > LISTED {
                writeln!(f, "{kind}: {} more", count - LISTED)?;
            }
        }
        match self.total() {
            0 => write!(f, "sound: nothing is wrong"),
            total => write!(f, "{total} findings"),
        }
    }
}

/// Collects findings.
#[derive(Debug, Default)]
struct Report {
    findings: Vec<Finding>,
    found: BTreeMap<FindingKind, u64>,
}

impl Report {
    fn add(&mut self, kind: FindingKind, subject: Subject, detail: String) {
        let count = self.found.entry(kind).or_default();
        *count += 1;
        if *count <= LISTED {
            self.findings.push(Finding {
                kind,
                subject,
                detail,
            });
        }
    }
}

/// Checks the rows of a schema against its log, and what guards them, without a store.
///
/// It needs rights to read, works on replicas, and disturbs no writer: one read-only transaction
/// sees the schema as it was at the beginning. It reads the whole log a few times and sorts it on
/// the server, in bounded memory and temporary files; while it runs, the server cannot clean up
/// after other transactions. When the future is dropped, close the connection: the server may
/// still be working for it.
///
/// # Errors
/// `Config` for a name that is none of a schema and for a connection inside of a transaction,
/// `Schema` when the tables are missing or need a newer program, `Denied`, `Unavailable` …
pub async fn verify(
    connection: &mut PgConnection,
    schema: &str,
) -> Result<Verification, StoreError> {
    run(connection, &Schema::new(schema)?).await
}

impl PostgresStore {
    /// Checks the rows of the store against its log, on a connection for reads. See [`verify`].
    ///
    /// # Errors
    /// As [`verify`], and `Closed`.
    pub async fn verify(&self) -> Result<Verification, StoreError> {
        self.check_open()?;
        let mut lease = Lease::bare(self.pool()).await.map_err(store_error)?;
        // An error leaves the connection in doubt: it is closed.
        let verification = run(lease.deref_mut(), self.schema()).await?;
        lease.done();
        Ok(verification)
    }
}

async fn run(connection: &mut PgConnection, schema: &Schema) -> Result<Verification, StoreError> {
    let span = tracing::debug_span!("backstory.postgres.verify");
    check(connection, schema).instrument(span).await
}

async fn check(connection: &mut PgConnection, schema: &Schema) -> Result<Verification, StoreError> {
    let mut transaction = connection
        .begin_with("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
        .await
        .map_err(begin_error)?;
    sqlx::query(SETTLE)
        .persistent(false)
        .execute(&mut *transaction)
        .await
        .map_err(store_error)?;
    let version = schema.require(&mut transaction).await?;
    let mut report = Report::default();
    let (floor, head, rows) = count(&mut transaction, schema).await.map_err(store_error)?;
    objects::check(&mut transaction, schema, version, &mut report)
        .await
        .map_err(store_error)?;
    let checks = rows::Rows {
        connection: &mut transaction,
        schema,
        floor,
        report: &mut report,
    };
    checks.check().await.map_err(store_error)?;
    transaction.rollback().await.map_err(store_error)?;
    Ok(Verification {
        schema: schema.name().to_owned(),
        version,
        floor: Position::new(floor),
        head,
        rows,
        findings: report.findings,
        found: report.found,
    })
}

fn begin_error(error: Error) -> StoreError {
    match error {
        Error::InvalidSavePointStatement => StoreError::new(StoreErrorKind::Config {
            reason: "the check needs a transaction of its own: commit first".to_owned(),
        }),
        error => store_error(error),
    }
}

async fn count(
    connection: &mut PgConnection,
    schema: &Schema,
) -> Result<(i64, Position, RowCounts), Error> {
    let floor = "SELECT t.floor FROM {s}.retention t";
    let floor: Option<i64> = sqlx::query_scalar(AssertSqlSafe(schema.sql(floor)))
        .persistent(false)
        .fetch_optional(&mut *connection)
        .await?;
    let row = sqlx::query(AssertSqlSafe(schema.sql(COUNTS)))
        .persistent(false)
        .fetch_one(connection)
        .await?;
    let rows = RowCounts {
        events: row.try_get(1)?,
        streams: row.try_get(2)?,
        claims: row.try_get(3)?,
        snapshots: row.try_get(4)?,
        projections: row.try_get(5)?,
        documents: row.try_get(6)?,
        entries: row.try_get(7)?,
    };
    Ok((floor.unwrap_or(0), Position::new(row.try_get(0)?), rows))
}
