//! Changing which collections of a projection are the live ones.

use backstory_projection::{CommitError, Progress, Slot, Turn, TurnKind};
use sqlx::SqliteConnection;

use crate::{SqliteStore, documents, letters, progress::progress};

const SLOTS: &str = "
SELECT projection, position, event_id, epoch FROM backstory_progress
WHERE projection IN (?1, ?1 || '~next', ?1 || '~previous')";

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
    Refused(String),
    Fenced,
    Store(sqlx::Error),
}

impl From<sqlx::Error> for Trouble {
    fn from(error: sqlx::Error) -> Self {
        Self::Store(error)
    }
}

impl SqliteStore {
    pub(crate) async fn turn(&self, turn: &Turn) -> Result<Progress, CommitError> {
        let mut transaction = self.begin().await?;
        let projection = turn.from.projection.clone();
        let turned = turned(&mut transaction, turn).await;
        let result = turned.map_err(|trouble| match trouble {
            Trouble::Fenced => CommitError::Fenced { projection },
            Trouble::Refused(reason) => CommitError::Refused { projection, reason },
            Trouble::Store(error) => self.failed(error).into(),
        })?;
        self.commit(transaction).await?;
        Ok(result)
    }
}

async fn turned(connection: &mut SqliteConnection, turn: &Turn) -> Result<Progress, Trouble> {
    let name = &turn.from.projection;
    let rows = sqlx::query(SLOTS)
        .bind(name)
        .fetch_all(&mut *connection)
        .await?;
    let found: Vec<_> = rows.iter().map(progress).collect::<Result<_, _>>()?;
    let [live, next, previous] = [Slot::Live, Slot::Next, Slot::Previous].map(|slot| {
        let wanted = slot.name(name);
        found.iter().find(|one| one.projection == wanted).cloned()
    });
    if live.unwrap_or_else(|| Progress::start(name)) != turn.from {
        return Err(Trouble::Fenced);
    }
    if let Some(reason) = turn.refusal(next.as_ref(), previous.as_ref()) {
        return Err(Trouble::Refused(reason));
    }
    let result = match turn.kind {
        TurnKind::Swap => {
            exchange(connection, turn, Slot::Next).await?;
            turn.result(next.as_ref())
        }
        TurnKind::RollBack => {
            exchange(connection, turn, Slot::Previous).await?;
            turn.result(previous.as_ref())
        }
        TurnKind::Abort => {
            clear(connection, &Slot::Next.name(name)).await?;
            turn.result(None)
        }
        TurnKind::DropPrevious => {
            clear(connection, &Slot::Previous.name(name)).await?;
            turn.result(None)
        }
        TurnKind::Begin => {
            clear(connection, &Slot::Next.name(name)).await?;
            clear(connection, &Slot::Previous.name(name)).await?;
            let result = turn.result(None);
            let mut next = Progress::start(Slot::Next.name(name));
            next.epoch = result.epoch;
            put(connection, &next).await?;
            result
        }
    };
    put(connection, &result).await?;
    Ok(result)
}

/// The read model of a slot becomes the live one, which becomes the previous one.
async fn exchange(
    connection: &mut SqliteConnection,
    turn: &Turn,
    beside: Slot,
) -> Result<(), Trouble> {
    let name = &turn.from.projection;
    if beside == Slot::Next {
        clear(connection, &Slot::Previous.name(name)).await?;
    }
    let (aside, kept) = (format!("{name}~"), Slot::Previous.name(name));
    let moves = [
        (name.clone(), "", aside.clone(), "~"),
        (beside.name(name), beside.suffix(), name.clone(), ""),
        (aside, "~", kept.clone(), Slot::Previous.suffix()),
    ];
    for (from, suffix, to, new_suffix) in moves {
        // Whatever is live has made room by then.
        if to == *name {
            let taken: Option<String> = sqlx::query_scalar(TAKEN)
                .bind(&from)
                .bind(suffix)
                .bind(&to)
                .fetch_optional(&mut *connection)
                .await?;
            if let Some(taken) = taken {
                return Err(Trouble::Refused(Turn::taken(&taken)));
            }
        }
        sqlx::query(RENAME)
            .bind(&from)
            .bind(suffix)
            .bind(&to)
            .bind(new_suffix)
            .execute(&mut *connection)
            .await?;
        sqlx::query(RENAME_LETTERS)
            .bind(&from)
            .bind(&to)
            .execute(&mut *connection)
            .await?;
    }
    run(connection, REMOVE, &beside.name(name)).await?;
    let previous = Progress {
        projection: kept,
        ..turn.from.clone()
    };
    Ok(put(connection, &previous).await?)
}

/// Drops a read model.
async fn clear(connection: &mut SqliteConnection, projection: &str) -> Result<(), sqlx::Error> {
    run(connection, REMOVE, projection).await?;
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
