//! The dead letters of projections.

use async_trait::async_trait;
use backstory_event::{EventId, Position, StoreError, StreamId};
use backstory_projection::{
    DeadLetter, DeadLetters, LetterCount, LetterQuery, LetterWrite, Step, owner,
};
use chrono::DateTime;
use sqlx::{Row, SqliteConnection, sqlite::SqliteRow};

use crate::{
    SqliteStore,
    bind::json,
    error::{Failure, corrupt},
};

const PUT: &str = "
INSERT INTO backstory_dead_letter (
    projection, position, event_id, name, category, stream_key, key, reason, attempts, at, parked
)
SELECT ?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11
WHERE NOT EXISTS (
    SELECT 1 FROM backstory_event WHERE position = ?2 AND erased_at IS NOT NULL
)
ON CONFLICT (projection, position) DO UPDATE SET
    event_id = excluded.event_id, name = excluded.name, category = excluded.category,
    stream_key = excluded.stream_key, key = excluded.key, reason = excluded.reason,
    attempts = excluded.attempts, at = excluded.at, parked = excluded.parked";

const REMOVE: &str = "DELETE FROM backstory_dead_letter WHERE projection = ?1 AND position = ?2";

const REWIND: &str = "DELETE FROM backstory_dead_letter WHERE projection = ?1 AND position > ?2";

pub(crate) const EMPTY: &str = "DELETE FROM backstory_dead_letter WHERE projection = ?1";

const LIST: &str = "
SELECT projection, position, event_id, name, category, stream_key, key, reason, attempts, at, parked
FROM backstory_dead_letter WHERE projection = ?1 AND position > ?2";

const COUNT: &str = "
SELECT count(*), count(DISTINCT CASE WHEN parked THEN key END)
FROM backstory_dead_letter WHERE projection = ?1";

pub(crate) const PARKED: &str = "
SELECT value FROM json_each(?2) w
WHERE EXISTS (
    SELECT 1 FROM backstory_dead_letter
    WHERE projection = ?1 AND key = w.value AND parked
)";

/// What a step does to the letters of its projection.
pub(crate) async fn write(
    connection: &mut SqliteConnection,
    step: &Step,
) -> Result<(), sqlx::Error> {
    let projection = owner(&step.from.projection);
    if let Some(end) = step.drops_letters_behind() {
        sqlx::query(REWIND)
            .bind(projection)
            .bind(end.get())
            .execute(&mut *connection)
            .await?;
    }
    for write in &step.letters {
        let statement = match write {
            LetterWrite::Remove(position) => {
                sqlx::query(REMOVE).bind(projection).bind(position.get())
            }
            LetterWrite::Put(letter) => sqlx::query(PUT)
                .bind(projection)
                .bind(letter.position.get())
                .bind(letter.event_id.as_uuid())
                .bind(&letter.name)
                .bind(letter.stream.category())
                .bind(letter.stream.key())
                .bind(&letter.key)
                .bind(&letter.reason)
                .bind(i64::from(letter.attempts))
                .bind(letter.at.timestamp_micros())
                .bind(letter.parked),
        };
        statement.execute(&mut *connection).await?;
    }
    Ok(())
}

fn letter(row: &SqliteRow) -> Result<DeadLetter, Failure> {
    let (category, stream_key): (String, String) = (row.try_get(4)?, row.try_get(5)?);
    let attempts: i64 = row.try_get(8)?;
    let at = DateTime::from_timestamp_micros(row.try_get(9)?);
    Ok(DeadLetter {
        projection: row.try_get(0)?,
        position: Position::new(row.try_get(1)?),
        event_id: EventId::from_uuid(row.try_get(2)?),
        name: row.try_get(3)?,
        stream: StreamId::stored(category, stream_key),
        key: row.try_get(6)?,
        reason: row.try_get(7)?,
        attempts: u32::try_from(attempts).unwrap_or(u32::MAX),
        at: at.ok_or_else(|| corrupt("a dead letter is of a time that does not exist"))?,
        parked: row.try_get(10)?,
    })
}

#[async_trait]
impl DeadLetters for SqliteStore {
    async fn list_letters(&self, query: &LetterQuery) -> Result<Vec<DeadLetter>, StoreError> {
        let mut reader = self.reader().await?;
        let text = match &query.key {
            Some(_) => format!("{LIST} AND key = ?4 ORDER BY position LIMIT ?3"),
            None => format!("{LIST} ORDER BY position LIMIT ?3"),
        };
        let mut statement = sqlx::query(sqlx::AssertSqlSafe(text))
            .bind(&query.projection)
            .bind(query.after.get())
            .bind(i64::try_from(query.limit.max(1)).unwrap_or(i64::MAX));
        if let Some(key) = &query.key {
            statement = statement.bind(key);
        }
        let rows = statement.fetch_all(&mut *reader).await;
        let rows = rows.map_err(|error| self.failed(error))?;
        let letters: Result<_, _> = rows.iter().map(letter).collect();
        letters.map_err(|failure| self.failed(failure))
    }

    async fn count_letters(&self, projection: &str) -> Result<LetterCount, StoreError> {
        let mut reader = self.reader().await?;
        let row = sqlx::query_as(COUNT).bind(projection);
        let (letters, keys): (i64, i64) = row
            .fetch_one(&mut *reader)
            .await
            .map_err(|error| self.failed(error))?;
        Ok(LetterCount {
            letters: letters.unsigned_abs(),
            parked_keys: keys.unsigned_abs(),
        })
    }

    async fn parked_keys(
        &self,
        projection: &str,
        keys: &[String],
    ) -> Result<Vec<String>, StoreError> {
        let keys = json(keys).map_err(|failure| self.failed(failure))?;
        let mut reader = self.reader().await?;
        let parked = sqlx::query_scalar(PARKED).bind(projection).bind(keys);
        let parked = parked.fetch_all(&mut *reader).await;
        parked.map_err(|error| self.failed(error))
    }
}
