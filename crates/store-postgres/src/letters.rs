//! The dead letters of projections.

use async_trait::async_trait;
use backstory_event::{EventId, Position, StoreError, StreamId};
use backstory_projection::{
    DeadLetter, DeadLetters, LetterCount, LetterQuery, LetterWrite, Step, owner,
};
use sqlx::{Error, PgConnection, Row, postgres::PgRow};

use crate::{
    PostgresStore,
    append::column,
    documents::erased_owners,
    error::store_error,
    pool::{Lease, retry},
    sql::Statements,
};

/// The streams of the letters that a step puts.
pub(crate) fn streams(step: &Step) -> impl Iterator<Item = &StreamId> {
    step.letters.iter().filter_map(|write| match write {
        LetterWrite::Put(letter) => Some(&letter.stream),
        LetterWrite::Remove(_) => None,
    })
}

/// What a step does to the letters of its projection, once the step itself is made.
pub(crate) async fn write(
    connection: &mut PgConnection,
    sql: &Statements,
    step: &Step,
) -> Result<(), Error> {
    let projection = owner(&step.from.projection);
    if let Some(end) = step.drops_letters_behind() {
        sqlx::query(sql.rewind_letters.text())
            .bind(projection)
            .bind(end.get())
            .execute(&mut *connection)
            .await?;
    }
    let (mut put, mut removed) = (Vec::new(), Vec::new());
    for write in &step.letters {
        match write {
            LetterWrite::Put(letter) => put.push(letter),
            LetterWrite::Remove(position) => removed.push(position.get()),
        }
    }
    if !removed.is_empty() {
        sqlx::query(sql.remove_letters.text())
            .bind(projection)
            .bind(removed)
            .execute(&mut *connection)
            .await?;
    }
    if !put.is_empty() {
        // An erasure that comes now waits, and then finds these letters.
        erased_owners(&mut *connection, sql, streams(step).collect()).await?;
        sqlx::query(sql.put_letters.text())
            .bind(projection)
            .bind(column(&put, |letter| letter.position.get()))
            .bind(column(&put, |letter| letter.event_id.as_uuid()))
            .bind(column(&put, |letter| letter.name.as_str()))
            .bind(column(&put, |letter| letter.stream.category()))
            .bind(column(&put, |letter| letter.stream.key()))
            .bind(column(&put, |letter| letter.key.as_str()))
            .bind(column(&put, |letter| letter.reason.as_str()))
            .bind(column(&put, |letter| {
                i32::try_from(letter.attempts).unwrap_or(i32::MAX)
            }))
            .bind(column(&put, |letter| letter.at))
            .bind(column(&put, |letter| letter.parked))
            .execute(connection)
            .await?;
    }
    Ok(())
}

impl PostgresStore {
    async fn letters(&self, query: &LetterQuery) -> Result<Vec<DeadLetter>, Error> {
        let sql = self.sql();
        let statement = match &query.key {
            Some(_) => &sql.letters_of_key,
            None => &sql.letters,
        };
        let mut statement = sqlx::query(statement.text())
            .bind(&query.projection)
            .bind(query.after.get())
            .bind(i64::try_from(query.limit.max(1)).unwrap_or(i64::MAX));
        if let Some(key) = &query.key {
            statement = statement.bind(key);
        }
        let mut lease = Lease::of(self.pool()).await?;
        let rows = statement.fetch_all(&mut *lease).await;
        let rows = lease.done_with(rows).await?;
        rows.iter().map(letter).collect()
    }

    async fn letter_count(&self, projection: &str) -> Result<LetterCount, Error> {
        let mut lease = Lease::of(self.pool()).await?;
        let row = sqlx::query(self.sql().count_letters.text())
            .bind(projection)
            .fetch_one(&mut *lease)
            .await;
        let row = lease.done_with(row).await?;
        let (letters, keys): (i64, i64) = (row.try_get(0)?, row.try_get(1)?);
        Ok(LetterCount {
            letters: letters.unsigned_abs(),
            parked_keys: keys.unsigned_abs(),
        })
    }

    async fn parked(&self, projection: &str, keys: &[String]) -> Result<Vec<String>, Error> {
        let mut lease = Lease::of(self.pool()).await?;
        let rows = sqlx::query(self.sql().parked_keys.text())
            .bind(projection)
            .bind(keys)
            .fetch_all(&mut *lease)
            .await;
        let rows = lease.done_with(rows).await?;
        rows.iter().map(|row| row.try_get(0)).collect()
    }
}

fn letter(row: &PgRow) -> Result<DeadLetter, Error> {
    let (category, stream_key): (String, String) = (row.try_get(4)?, row.try_get(5)?);
    let attempts: i32 = row.try_get(8)?;
    Ok(DeadLetter {
        projection: row.try_get(0)?,
        position: Position::new(row.try_get(1)?),
        event_id: EventId::from_uuid(row.try_get(2)?),
        name: row.try_get(3)?,
        stream: StreamId::stored(category, stream_key),
        key: row.try_get(6)?,
        reason: row.try_get(7)?,
        attempts: attempts.unsigned_abs(),
        at: row.try_get(9)?,
        parked: row.try_get(10)?,
    })
}

#[async_trait]
impl DeadLetters for PostgresStore {
    async fn list_letters(&self, query: &LetterQuery) -> Result<Vec<DeadLetter>, StoreError> {
        self.check_open()?;
        retry(self.pool(), || Box::pin(self.letters(query)))
            .await
            .map_err(store_error)
    }

    async fn count_letters(&self, projection: &str) -> Result<LetterCount, StoreError> {
        self.check_open()?;
        retry(self.pool(), || Box::pin(self.letter_count(projection)))
            .await
            .map_err(store_error)
    }

    async fn parked_keys(
        &self,
        projection: &str,
        keys: &[String],
    ) -> Result<Vec<String>, StoreError> {
        self.check_open()?;
        retry(self.pool(), || Box::pin(self.parked(projection, keys)))
            .await
            .map_err(store_error)
    }
}
