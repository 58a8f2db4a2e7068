//! Changing which collections of a projection are the live ones.

use backstory_projection::{CommitError, Progress, Rename, Step, Turn, TurnRefusal, owner};
use sqlx::SqliteConnection;

use crate::{SqliteStore, documents, letters, progress::progress};

/// No name of a projection holds a `~`.
const PARTS: &str = "
SELECT projection, position, event_id, epoch FROM backstory_progress
WHERE projection = ?1 OR substr(projection, 1, length(?1) + 1) = ?1 || '~'";

const PUT: &str = "
INSERT INTO backstory_progress (projection, position, event_id, epoch) VALUES (?1, ?2, ?3, ?4)
ON CONFLICT (projection) DO UPDATE SET
    position = excluded.position, event_id = excluded.event_id, epoch = excluded.epoch";

const REMOVE: &str = "DELETE FROM backstory_progress WHERE projection = ?1";

/// Collections change their projection and the end of their name: ?1 and ?2 before, ?3 and ?4 after.
const RENAME: &str = "
UPDATE backstory_collection
SET projection = ?3, name = substr(name, 1, length(name) - length(?2)) || ?4
WHERE projection = ?1";

const RENAME_LETTERS: &str = "
UPDATE backstory_dead_letter SET projection = ?2 WHERE projection = ?1";

/// A collection of ?1, whose names end with ?2, that has the name of another projection's.
const TAKEN: &str = "
SELECT l.name FROM backstory_collection c
JOIN backstory_collection l ON l.name = substr(c.name, 1, length(c.name) - length(?2))
WHERE c.projection = ?1 AND l.projection <> ?3 LIMIT 1";

/// Why it was not done.
enum Trouble {
    Refused(TurnRefusal),
    Store(sqlx::Error),
}

impl From<TurnRefusal> for Trouble {
    fn from(refusal: TurnRefusal) -> Self {
        Self::Refused(refusal)
    }
}

impl From<sqlx::Error> for Trouble {
    fn from(error: sqlx::Error) -> Self {
        Self::Store(error)
    }
}

impl SqliteStore {
    pub(crate) async fn turn(&self, turn: &Turn) -> Result<Progress, CommitError> {
        let mut transaction = self.begin().await?;
        let turned = turned(&mut transaction, turn).await;
        let result = turned.map_err(|trouble| match trouble {
            Trouble::Refused(refusal) => refusal.of(turn.projection()),
            Trouble::Store(error) => self.failed(error).into(),
        })?;
        self.commit(transaction).await?;
        Ok(result)
    }
}

async fn turned(connection: &mut SqliteConnection, turn: &Turn) -> Result<Progress, Trouble> {
    let name = turn.projection();
    let rows = parts(connection, name).await?;
    let plan = turn.plan(&rows)?;
    if let Some(slot) = plan.clear {
        clear(connection, &slot.name(name)).await?;
    }
    if let Some(slot) = plan.exchange {
        for one in &turn.renames(slot) {
            rename(connection, one).await?;
        }
    }
    for gone in &plan.remove {
        run(connection, REMOVE, gone).await?;
    }
    for progress in &plan.put {
        put(connection, progress).await?;
    }
    Ok(plan.result)
}

/// The progress of all parts and slots of a projection.
async fn parts(
    connection: &mut SqliteConnection,
    projection: &str,
) -> Result<Vec<Progress>, sqlx::Error> {
    let rows = sqlx::query(PARTS).bind(projection);
    let rows = rows.fetch_all(connection).await?;
    rows.iter().map(progress).collect()
}

/// What a step changes of other parts.
pub(crate) async fn change_siblings(
    connection: &mut SqliteConnection,
    step: &Step,
) -> Result<(), sqlx::Error> {
    if step.concerns_siblings() {
        let rows = parts(connection, owner(&step.from.projection)).await?;
        for moved in rows.iter().filter_map(|row| step.of_sibling(row)) {
            put(connection, &moved).await?;
        }
    }
    Ok(())
}

async fn rename(connection: &mut SqliteConnection, one: &Rename) -> Result<(), Trouble> {
    if one.is_live {
        let taken: Option<String> = sqlx::query_scalar(TAKEN)
            .bind(&one.from)
            .bind(one.from_suffix)
            .bind(&one.to)
            .fetch_optional(&mut *connection)
            .await?;
        if let Some(taken) = taken {
            return Err(TurnRefusal::Refused(Turn::taken(&taken)).into());
        }
    }
    sqlx::query(RENAME)
        .bind(&one.from)
        .bind(one.from_suffix)
        .bind(&one.to)
        .bind(one.to_suffix)
        .execute(&mut *connection)
        .await?;
    sqlx::query(RENAME_LETTERS)
        .bind(&one.from)
        .bind(&one.to)
        .execute(connection)
        .await?;
    Ok(())
}

/// Drops a read model.
async fn clear(connection: &mut SqliteConnection, projection: &str) -> Result<(), sqlx::Error> {
    run(connection, letters::EMPTY, projection).await?;
    for statement in documents::EMPTY {
        run(connection, statement, projection).await?;
    }
    Ok(())
}

async fn run(
    connection: &mut SqliteConnection,
    statement: &'static str,
    projection: &str,
) -> Result<(), sqlx::Error> {
    let done = sqlx::query(statement).bind(projection).execute(connection);
    done.await.map(drop)
}

async fn put(connection: &mut SqliteConnection, progress: &Progress) -> Result<(), sqlx::Error> {
    sqlx::query(PUT)
        .bind(&progress.projection)
        .bind(progress.checkpoint.position.get())
        .bind(progress.checkpoint.event_id.as_uuid())
        .bind(progress.epoch)
        .execute(connection)
        .await
        .map(drop)
}
