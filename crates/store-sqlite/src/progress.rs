//! How far projections have come, and projections that write their own tables.

use std::error::Error;

use async_trait::async_trait;
use backstory_event::{Checkpoint, EventId, Position, StoreError};
use backstory_projection::{
    Checkpoints, CommitError, Enlisted, Host, InlineProjection, LetterWrite, Progress, Step,
    Target, Unit,
};
use sqlx::{Row, SqliteConnection, sqlite::SqliteRow};

use crate::{SqliteStore, error::is_outage, inline::Inline, letters, lock::WriteTransaction, turn};

#[async_trait]
impl Checkpoints for SqliteStore {
    async fn load_progress(&self, projection: &str) -> Result<Progress, StoreError> {
        let mut reader = self.reader().await?;
        let row = sqlx::query(
            "SELECT projection, position, event_id, epoch FROM backstory_progress
             WHERE projection = ?1",
        )
        .bind(projection)
        .fetch_optional(&mut *reader)
        .await;
        match row.map_err(|error| self.failed(error))? {
            Some(row) => progress(&row).map_err(|error| self.failed(error)),
            None => Ok(Progress::start(projection)),
        }
    }

    async fn list_progress(&self) -> Result<Vec<Progress>, StoreError> {
        let mut reader = self.reader().await?;
        let rows = sqlx::query(
            "SELECT projection, position, event_id, epoch FROM backstory_progress
             ORDER BY projection",
        )
        .fetch_all(&mut *reader)
        .await;
        let rows = rows.map_err(|error| self.failed(error))?;
        let all: Result<_, _> = rows.iter().map(progress).collect();
        all.map_err(|error| self.failed(error))
    }
}

/// The progress in the first four columns of a row.
pub(crate) fn progress(row: &SqliteRow) -> Result<Progress, sqlx::Error> {
    Ok(Progress {
        projection: row.try_get(0)?,
        checkpoint: Checkpoint {
            position: Position::new(row.try_get(1)?),
            event_id: EventId::from_uuid(row.try_get(2)?),
        },
        epoch: row.try_get(3)?,
    })
}

/// Moves a projection; false when it is not where the step begins.
pub(crate) async fn advance(
    connection: &mut SqliteConnection,
    step: &Step,
) -> Result<bool, sqlx::Error> {
    let (from, to) = (&step.from, step.result());
    let has_never_run = *from == Progress::start(from.projection.as_str());
    let moved = sqlx::query(
        "INSERT INTO backstory_progress (projection, position, event_id, epoch)
         SELECT ?1, ?2, ?3, ?4
         WHERE ?8 OR EXISTS (SELECT 1 FROM backstory_progress WHERE projection = ?1)
         ON CONFLICT (projection) DO UPDATE SET
             position = excluded.position, event_id = excluded.event_id, epoch = excluded.epoch
         WHERE position = ?5 AND event_id = ?6 AND epoch = ?7",
    )
    .bind(&to.projection)
    .bind(to.checkpoint.position.get())
    .bind(to.checkpoint.event_id.as_uuid())
    .bind(to.epoch)
    .bind(from.checkpoint.position.get())
    .bind(from.checkpoint.event_id.as_uuid())
    .bind(from.epoch)
    .bind(has_never_run)
    .execute(&mut *connection)
    .await?;
    let moved = moved.rows_affected() == 1;
    if moved {
        turn::change_siblings(connection, step).await?;
    }
    Ok(moved)
}

/// The error that a projection is not where a step begins.
pub(crate) fn fenced(step: &Step) -> CommitError {
    CommitError::Fenced {
        projection: step.from.projection.clone(),
    }
}

/// Runs projections that write their own tables with sqlx.
///
/// The write lock of the file is held from the first to the last line of
/// [`project`](backstory_projection::Projection::project): nobody else can write meanwhile, also
/// no other process. Keep it short, and append nothing from within.
#[async_trait]
impl Host<SqliteConnection> for SqliteStore {
    fn enlist(
        &self,
        projection: InlineProjection<SqliteConnection>,
    ) -> Result<Enlisted, StoreError> {
        self.check_open()?;
        Ok(self.0.inlines.enlist(Inline::Sql(projection)))
    }

    async fn begin(&self, from: Progress) -> Result<Box<dyn Unit<SqliteConnection>>, StoreError> {
        let transaction = SqliteStore::begin(self).await?;
        Ok(Box::new(SqlUnit {
            store: self.clone(),
            transaction,
            from,
        }))
    }
}

struct SqlUnit {
    store: SqliteStore,
    transaction: WriteTransaction,
    from: Progress,
}

#[async_trait]
impl Unit<SqliteConnection> for SqlUnit {
    fn context(&mut self) -> &mut SqliteConnection {
        &mut self.transaction
    }

    fn is_outage(&self, error: &(dyn Error + 'static)) -> bool {
        is_outage(error)
    }

    async fn commit(
        mut self: Box<Self>,
        to: Target,
        letters: Vec<LetterWrite>,
    ) -> Result<(), CommitError> {
        let step = Step::new(self.from, to).with_letters(letters);
        let moved = advance(&mut self.transaction, &step).await;
        if !moved.map_err(|error| self.store.failed(error))? {
            return Err(fenced(&step));
        }
        let written = letters::write(&mut self.transaction, &step).await;
        written.map_err(|error| self.store.failed(error))?;
        Ok(self.store.commit(self.transaction).await?)
    }
}
