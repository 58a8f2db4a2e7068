//! Changing which read model of a projection is the live one: its collections or tables, its
//! progress and its letters, in one transaction.

use backstory_projection::{CommitError, Progress, Slot, Turn, TurnKind};
use sqlx::{AssertSqlSafe, Error, PgConnection, Row, raw_sql};

use crate::{
    PostgresStore,
    error::store_error,
    projections::{Work, fenced, progress},
    sql::Statements,
    tables,
};

/// What a read model consists of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Model {
    Collections,
    Tables,
}

/// Why it was not done.
#[derive(Debug)]
pub(crate) enum Trouble {
    Refused(String),
    Fenced,
    Store(Error),
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
            Trouble::Fenced => fenced(&turn.from),
            Trouble::Store(error) => store_error(error).into(),
            Trouble::Refused(reason) => CommitError::Refused {
                projection: turn.from.projection.clone(),
                reason,
            },
        })
    }

    /// Drops what is left of earlier rebuilds, which may take long, while the live one goes on.
    async fn sweep(&self, turn: &Turn, model: Model) -> Result<(), Trouble> {
        let mut work = self.work().await?;
        let [_, next, previous] = self.slots(work.connection(), turn).await?;
        if let Some(reason) = turn.refusal(next.as_ref(), previous.as_ref()) {
            return Err(Trouble::Refused(reason));
        }
        work.commit().await?;
        let mut work = self.work().await?;
        let connection = work.connection();
        clear(connection, self, turn, Slot::Next, model).await?;
        clear(connection, self, turn, Slot::Previous, model).await?;
        Ok(work.commit().await?)
    }

    async fn turned(&self, turn: &Turn, model: Model) -> Result<Progress, Trouble> {
        let mut work = self.work().await?;
        let connection = work.connection();
        let [live, next, previous] = self.slots(connection, turn).await?;
        let name = &turn.from.projection;
        if live.unwrap_or_else(|| Progress::start(name)) != turn.from {
            return Err(Trouble::Fenced);
        }
        if let Some(reason) = turn.refusal(next.as_ref(), previous.as_ref()) {
            return Err(Trouble::Refused(reason));
        }
        let (result, beside) = match turn.kind {
            TurnKind::Swap => (turn.result(next.as_ref()), Some(Slot::Next)),
            TurnKind::RollBack => (turn.result(previous.as_ref()), Some(Slot::Previous)),
            _ => (turn.result(None), None),
        };
        match (turn.kind, beside) {
            (_, Some(beside)) => self.exchange(connection, turn, beside, model).await?,
            (TurnKind::Abort, _) => clear(connection, self, turn, Slot::Next, model).await?,
            (TurnKind::DropPrevious, _) => {
                clear(connection, self, turn, Slot::Previous, model).await?;
            }
            _ => {
                if model == Model::Tables {
                    tables::copy(connection, self.schema().name(), turn.tables).await?;
                }
                let mut next = Progress::start(Slot::Next.name(name));
                next.epoch = result.epoch;
                put(connection, self.sql(), &next).await?;
            }
        }
        put(connection, self.sql(), &result).await?;
        work.commit().await?;
        Ok(result)
    }

    /// The read model of a slot becomes the live one, which becomes the previous one.
    async fn exchange(
        &self,
        connection: &mut PgConnection,
        turn: &Turn,
        beside: Slot,
        model: Model,
    ) -> Result<(), Trouble> {
        let name = &turn.from.projection;
        let sql = self.sql();
        if beside == Slot::Next {
            clear(connection, self, turn, Slot::Previous, model).await?;
        }
        let (aside, kept) = (format!("{name}~"), Slot::Previous.name(name));
        let moves = [
            (name.clone(), "", aside.clone(), "~"),
            (beside.name(name), beside.suffix(), name.clone(), ""),
            (aside, "~", kept.clone(), Slot::Previous.suffix()),
        ];
        for (from, suffix, to, new_suffix) in moves {
            if model == Model::Collections {
                let taken = sqlx::query(sql.taken_collection.text())
                    .bind(&from)
                    .bind(suffix)
                    .bind(&to)
                    .fetch_optional(&mut *connection)
                    .await?;
                // Whatever is live has made room by then.
                if let Some(taken) = taken.filter(|_| to == *name) {
                    return Err(Trouble::Refused(Turn::taken(taken.try_get(0)?)));
                }
                sqlx::query(sql.rename_collections.text())
                    .bind(&from)
                    .bind(suffix)
                    .bind(&to)
                    .bind(new_suffix)
                    .execute(&mut *connection)
                    .await?;
            }
            sqlx::query(sql.rename_letters.text())
                .bind(&from)
                .bind(&to)
                .execute(&mut *connection)
                .await?;
        }
        if model == Model::Tables {
            tables::exchange(connection, self.schema().name(), turn.tables, beside).await?;
        }
        remove(connection, sql, &beside.name(name)).await?;
        let previous = Progress {
            projection: kept,
            ..turn.from.clone()
        };
        Ok(put(connection, sql, &previous).await?)
    }

    async fn work(&self) -> Result<Work, Error> {
        let idle = self.options().projection_idle_timeout;
        let mut work = Work::begin(self.pool(), idle).await?;
        raw_sql(AssertSqlSafe(self.sql().settle.as_str()))
            .execute(work.connection())
            .await?;
        Ok(work)
    }

    async fn slots(
        &self,
        connection: &mut PgConnection,
        turn: &Turn,
    ) -> Result<[Option<Progress>; 3], Error> {
        let name = &turn.from.projection;
        let rows = sqlx::query(self.sql().slots.text())
            .bind(name)
            .fetch_all(connection)
            .await?;
        let found: Vec<_> = rows.iter().map(progress).collect::<Result<_, _>>()?;
        Ok([Slot::Live, Slot::Next, Slot::Previous].map(|slot| {
            let wanted = slot.name(name);
            found.iter().find(|one| one.projection == wanted).cloned()
        }))
    }
}

/// Drops the read model of a slot.
async fn clear(
    connection: &mut PgConnection,
    store: &PostgresStore,
    turn: &Turn,
    slot: Slot,
    model: Model,
) -> Result<(), Trouble> {
    let name = slot.name(&turn.from.projection);
    let sql = store.sql();
    remove(connection, sql, &name).await?;
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

async fn remove(
    connection: &mut PgConnection,
    sql: &Statements,
    projection: &str,
) -> Result<(), Error> {
    sqlx::query(sql.remove_progress.text())
        .bind(projection)
        .execute(connection)
        .await
        .map(drop)
}
