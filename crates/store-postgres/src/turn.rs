//! Changing which read model of a projection is the live one: its collections or tables, its
//! progress and its letters, in one transaction.

use backstory_projection::{CommitError, Progress, Slot, Step, Turn, TurnKind, TurnRefusal, owner};
use sqlx::{Error, PgConnection, Row};

use crate::{PostgresStore, error::store_error, projections::progress, sql::Statements, tables};

/// What a read model consists of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Model {
    Collections,
    Tables,
}

/// Why it was not done.
#[derive(Debug)]
pub(crate) enum Trouble {
    Refused(TurnRefusal),
    Store(Error),
}

impl From<TurnRefusal> for Trouble {
    fn from(refusal: TurnRefusal) -> Self {
        Self::Refused(refusal)
    }
}

impl From<Error> for Trouble {
    fn from(error: Error) -> Self {
        Self::Store(error)
    }
}

impl PostgresStore {
    pub(crate) async fn turn_model(
        &self,
        turn: &Turn,
        model: Model,
    ) -> Result<Progress, CommitError> {
        self.check_open()?;
        let turned = async {
            if turn.kind == TurnKind::Begin {
                self.sweep(turn, model).await?;
            }
            self.turned(turn, model).await
        };
        turned.await.map_err(|trouble| match trouble {
            Trouble::Store(error) => store_error(error).into(),
            Trouble::Refused(refusal) => refusal.of(turn.projection()),
        })
    }

    /// Drops what is left of the last rebuild, which may take long, while the live one goes on.
    async fn sweep(&self, turn: &Turn, model: Model) -> Result<(), Trouble> {
        let mut work = self.work().await?;
        let rows = parts(work.connection(), self.sql(), turn.projection()).await?;
        work.commit().await?;
        turn.plan(&rows)?;
        let mut work = self.work().await?;
        clear(work.connection(), self, turn, Slot::Previous, model).await?;
        Ok(work.commit().await?)
    }

    async fn turned(&self, turn: &Turn, model: Model) -> Result<Progress, Trouble> {
        let mut work = self.work().await?;
        let connection = work.connection();
        let sql = self.sql();
        let plan = turn.plan(&parts(connection, sql, turn.projection()).await?)?;
        if turn.kind == TurnKind::Begin && model == Model::Tables {
            tables::copy(connection, self.schema().name(), turn.tables).await?;
        }
        if let Some(slot) = plan.clear {
            clear(connection, self, turn, slot, model).await?;
        }
        if let Some(slot) = plan.exchange {
            self.exchange(connection, turn, slot, model).await?;
        }
        for gone in &plan.remove {
            sqlx::query(sql.remove_progress.text())
                .bind(gone)
                .execute(&mut *connection)
                .await?;
        }
        for progress in &plan.put {
            put(connection, sql, progress).await?;
        }
        work.commit().await?;
        Ok(plan.result)
    }

    /// The read model of a slot becomes the live one, which becomes the previous one.
    async fn exchange(
        &self,
        connection: &mut PgConnection,
        turn: &Turn,
        beside: Slot,
        model: Model,
    ) -> Result<(), Trouble> {
        let sql = self.sql();
        for one in turn.renames(beside) {
            if model == Model::Collections && one.is_live {
                let taken = sqlx::query(sql.taken_collection.text())
                    .bind(&one.from)
                    .bind(one.from_suffix)
                    .bind(&one.to)
                    .fetch_optional(&mut *connection)
                    .await?;
                if let Some(taken) = taken {
                    return Err(TurnRefusal::Refused(Turn::taken(taken.try_get(0)?)).into());
                }
            }
            if model == Model::Collections {
                sqlx::query(sql.rename_collections.text())
                    .bind(&one.from)
                    .bind(one.from_suffix)
                    .bind(&one.to)
                    .bind(one.to_suffix)
                    .execute(&mut *connection)
                    .await?;
            }
            sqlx::query(sql.rename_letters.text())
                .bind(&one.from)
                .bind(&one.to)
                .execute(&mut *connection)
                .await?;
        }
        if model == Model::Tables {
            tables::exchange(connection, self.schema().name(), turn.tables, beside).await?;
        }
        Ok(())
    }
}

/// The progress of all parts and slots of a projection, locked.
async fn parts(
    connection: &mut PgConnection,
    sql: &Statements,
    projection: &str,
) -> Result<Vec<Progress>, Error> {
    let rows = sqlx::query(sql.parts.text())
        .bind(projection)
        .fetch_all(connection)
        .await?;
    rows.iter().map(progress).collect()
}

/// What a step changes of other parts.
pub(crate) async fn change_siblings(
    connection: &mut PgConnection,
    sql: &Statements,
    step: &Step,
) -> Result<(), Error> {
    if step.concerns_siblings() {
        let rows = parts(connection, sql, owner(&step.from.projection)).await?;
        for moved in rows.iter().filter_map(|row| step.of_sibling(row)) {
            put(connection, sql, &moved).await?;
        }
    }
    Ok(())
}

/// Drops the read model of a slot.
async fn clear(
    connection: &mut PgConnection,
    store: &PostgresStore,
    turn: &Turn,
    slot: Slot,
    model: Model,
) -> Result<(), Trouble> {
    let name = slot.name(turn.projection());
    let sql = store.sql();
    sqlx::query(sql.empty_letters.text())
        .bind(&name)
        .execute(&mut *connection)
        .await?;
    match model {
        Model::Collections => {
            sqlx::query(sql.empty_collections.text())
                .bind(&name)
                .execute(connection)
                .await?;
        }
        Model::Tables => {
            tables::remove(connection, store.schema().name(), turn.tables, slot).await?;
        }
    }
    Ok(())
}

async fn put(
    connection: &mut PgConnection,
    sql: &Statements,
    progress: &Progress,
) -> Result<(), Error> {
    sqlx::query(sql.put_progress.text())
        .bind(&progress.projection)
        .bind(progress.checkpoint.position.get())
        .bind(progress.checkpoint.event_id.as_uuid())
        .bind(progress.epoch)
        .execute(connection)
        .await
        .map(drop)
}
