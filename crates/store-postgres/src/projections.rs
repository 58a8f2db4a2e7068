//! The progress of projections, and transactions for them.

use std::{error::Error as StdError, sync::Arc};

use async_trait::async_trait;
use backstory_event::{Checkpoint, EventId, Position, StoreError};
use backstory_projection::{
    Checkpoints, CommitError, Enlisted, Host, InlineProjection, LetterWrite, Progress, Slot, Step,
    Target, Turn, Unit,
};
use sqlx::{AssertSqlSafe, Error, PgConnection, Row, postgres::PgRow, raw_sql};
use tracing::Instrument;
use uuid::Uuid;

use crate::{
    PostgresStore,
    error::{is_outage, store_error},
    letters,
    pool::{Lease, retry},
    sql::Statements,
    tables,
    turn::{self, Model},
    writer::Inline,
};

/// A transaction of a projection; one that the user begins inside becomes a savepoint. Dropped before its end the connection is closed: the server
/// rolls back at once and stops what it was doing.
#[derive(Debug)]
pub(crate) struct Work {
    lease: Lease,
}

impl Work {
    /// When the client does nothing in it for the store's idle time, the server ends it.
    async fn begin(store: &PostgresStore, settings: &str) -> Result<Self, Error> {
        let begin = format!(
            "SET TRANSACTION READ WRITE; SET LOCAL idle_in_transaction_session_timeout = {}; {settings}",
            store.options().projection_idle_timeout.as_millis()
        );
        let pool = store.pool();
        let lease = retry(pool, || Box::pin(Lease::begin(pool, &begin))).await?;
        Ok(Self { lease })
    }

    pub(crate) fn connection(&mut self) -> &mut PgConnection {
        &mut self.lease
    }

    pub(crate) async fn commit(self) -> Result<(), Error> {
        self.lease.commit().await
    }

    /// Moves the progress of a projection, in its own statement: false when somebody else did.
    pub(crate) async fn step(&mut self, sql: &Statements, step: &Step) -> Result<bool, Error> {
        advance(self.connection(), sql, step).await
    }
}

/// Moves the progress of a projection: false when somebody else did.
pub(crate) async fn advance(
    connection: &mut PgConnection,
    sql: &Statements,
    step: &Step,
) -> Result<bool, Error> {
    let (from, to) = (&step.from, step.result());
    // Nobody has a row before its first step.
    let statement = if *from == Progress::start(&*from.projection) {
        &sql.first_step
    } else {
        &sql.step
    };
    let moved = sqlx::query(statement.text())
        .bind(&from.projection)
        .bind(to.checkpoint.position.get())
        .bind(to.checkpoint.event_id.as_uuid())
        .bind(to.epoch)
        .bind(from.checkpoint.position.get())
        .bind(from.checkpoint.event_id.as_uuid())
        .bind(from.epoch)
        .execute(&mut *connection)
        .await?;
    let moved = moved.rows_affected() == 1;
    if moved {
        turn::change_siblings(connection, sql, step).await?;
    }
    Ok(moved)
}

/// The error that a projection was moved meanwhile.
pub(crate) fn fenced(progress: &Progress) -> CommitError {
    CommitError::Fenced {
        projection: progress.projection.clone(),
    }
}

impl PostgresStore {
    /// A transaction for statements of our own.
    pub(crate) async fn work(&self) -> Result<Work, Error> {
        Work::begin(self, self.sql().settle.as_str()).await
    }

    /// A transaction for statements of the user: they are planned as in any session.
    async fn work_of_user(&self) -> Result<Work, Error> {
        Work::begin(self, "SET LOCAL enable_seqscan TO DEFAULT").await
    }

    async fn progress(&self, projection: Option<&str>) -> Result<Vec<Progress>, Error> {
        let mut lease = Lease::of(self.pool()).await?;
        let rows = sqlx::query(self.sql().progress.text())
            .bind(projection)
            .fetch_all(&mut *lease)
            .await;
        let rows = lease.done_with(rows).await?;
        rows.iter().map(progress).collect()
    }
}

/// The progress in the first four columns of a row.
pub(crate) fn progress(row: &PgRow) -> Result<Progress, Error> {
    let event_id: Uuid = row.try_get(2)?;
    Ok(Progress {
        projection: row.try_get(0)?,
        checkpoint: Checkpoint {
            position: Position::new(row.try_get(1)?),
            event_id: EventId::from_uuid(event_id),
        },
        epoch: row.try_get(3)?,
    })
}

#[async_trait]
impl Checkpoints for PostgresStore {
    async fn load_progress(&self, projection: &str) -> Result<Progress, StoreError> {
        self.check_open()?;
        let found = retry(self.pool(), || Box::pin(self.progress(Some(projection)))).await;
        let first = found.map_err(store_error)?.into_iter().next();
        Ok(first.unwrap_or_else(|| Progress::start(projection)))
    }

    async fn list_progress(&self) -> Result<Vec<Progress>, StoreError> {
        self.check_open()?;
        retry(self.pool(), || Box::pin(self.progress(None)))
            .await
            .map_err(store_error)
    }
}

/// A batch of a projection that works with SQL.
struct SqlUnit {
    work: Work,
    sql: Arc<Statements>,
    from: Progress,
}

#[async_trait]
impl Host<PgConnection> for PostgresStore {
    fn enlist(&self, projection: InlineProjection<PgConnection>) -> Result<Enlisted, StoreError> {
        self.check_open()?;
        Ok(self.inlines().enlist(Inline::Sql(projection)))
    }

    /// Begins a transaction on a connection of the pool. When the process freezes in it, the
    /// server ends it after the [idle timeout](crate::PostgresOptions::with_projection_idle_timeout).
    async fn begin(&self, from: Progress) -> Result<Box<dyn Unit<PgConnection>>, StoreError> {
        self.check_open()?;
        let mut work = self.work_of_user().await.map_err(store_error)?;
        if Slot::split(&from.projection).1 == Slot::Next {
            let path = tables::search_path(self.schema().name());
            let led = raw_sql(AssertSqlSafe(path)).execute(work.connection());
            led.await.map_err(store_error)?;
        }
        Ok(Box::new(SqlUnit {
            work,
            sql: self.sql().clone(),
            from,
        }))
    }

    async fn turn(&self, turn: &Turn) -> Result<Progress, CommitError> {
        self.turn_model(turn, Model::Tables).await
    }
}

#[async_trait]
impl Unit<PgConnection> for SqlUnit {
    fn context(&mut self) -> &mut PgConnection {
        self.work.connection()
    }

    fn is_outage(&self, error: &(dyn StdError + 'static)) -> bool {
        is_outage(error)
    }

    async fn commit(
        self: Box<Self>,
        to: Target,
        letters: Vec<LetterWrite>,
    ) -> Result<(), CommitError> {
        let Self {
            mut work,
            sql,
            from,
        } = *self;
        let span =
            tracing::debug_span!("backstory.postgres.projection", projection = %from.projection);
        let step = Step::new(from, to).with_letters(letters);
        let commit = async {
            if !work.step(&sql, &step).await.map_err(store_error)? {
                return Err(fenced(&step.from));
            }
            let written = letters::write(work.connection(), &sql, &step).await;
            written.map_err(store_error)?;
            Ok(work.commit().await.map_err(store_error)?)
        };
        commit.instrument(span).await
    }
}
