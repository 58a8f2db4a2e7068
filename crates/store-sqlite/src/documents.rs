//! Documents, written a batch at a time.

use async_trait::async_trait;
use backstory_event::{Payload, StoreError, StreamId};
use backstory_projection::{
    CommitError, DocumentKey, DocumentList, DocumentRow, DocumentStore, DocumentWrite, Documents,
    Enlisted, InlineProjection, Progress, Step, Target, Turn, owner,
};
use sqlx::{QueryBuilder, Row, SqliteConnection};

use crate::{
    SqliteStore,
    bind::{json, pair},
    error::Failure,
    inline::Inline,
    letters,
    progress::{advance, fenced},
};

#[async_trait]
impl DocumentStore for SqliteStore {
    async fn get_documents(
        &self,
        keys: &[DocumentKey],
    ) -> Result<Vec<Option<Payload>>, StoreError> {
        if keys.is_empty() {
            return Ok(Vec::new());
        }
        let mut reader = self.reader().await?;
        get(&mut reader, keys)
            .await
            .map_err(|failure| self.failed(failure))
    }

    async fn list_documents(&self, query: &DocumentList) -> Result<Vec<DocumentRow>, StoreError> {
        let mut reader = self.reader().await?;
        list(&mut reader, query)
            .await
            .map_err(|failure| self.failed(failure))
    }

    async fn commit_documents(
        &self,
        writes: Vec<DocumentWrite>,
        step: &Step,
    ) -> Result<(), CommitError> {
        let mut transaction = self.begin().await?;
        let moved = advance(&mut transaction, step).await;
        if !moved.map_err(|error| self.failed(error))? {
            return Err(fenced(step));
        }
        let written = write(&mut transaction, &writes, step).await;
        written.map_err(|failure| self.failed(failure))?;
        let written = letters::write(&mut transaction, step).await;
        written.map_err(|error| self.failed(error))?;
        Ok(self.commit(transaction).await?)
    }

    async fn turn_documents(&self, turn: &Turn) -> Result<Progress, CommitError> {
        self.turn(turn).await
    }

    fn enlist_documents(
        &self,
        projection: InlineProjection<Documents>,
    ) -> Result<Enlisted, StoreError> {
        self.check_open()?;
        Ok(self.0.inlines.enlist(Inline::Documents(projection)))
    }
}

pub(crate) async fn get(
    connection: &mut SqliteConnection,
    keys: &[DocumentKey],
) -> Result<Vec<Option<Payload>>, Failure> {
    let wanted: Vec<_> = keys.iter().map(|key| (&key.collection, &key.key)).collect();
    let rows = sqlx::query(
        "SELECT w.key, d.body FROM json_each(?1) w
         CROSS JOIN backstory_collection c ON c.name = w.value ->> 0
         CROSS JOIN backstory_document d ON d.generation = c.generation AND d.key = w.value ->> 1",
    )
    .bind(json(&wanted)?)
    .fetch_all(connection)
    .await?;
    let mut found = vec![None; keys.len()];
    for row in rows {
        let place = usize::try_from(row.try_get::<i64, _>(0)?).unwrap_or(usize::MAX);
        if let Some(place) = found.get_mut(place) {
            *place = Some(Payload::stored(row.try_get::<&str, _>(1)?));
        }
    }
    Ok(found)
}

pub(crate) async fn list(
    connection: &mut SqliteConnection,
    query: &DocumentList,
) -> Result<Vec<DocumentRow>, Failure> {
    let mut sql = QueryBuilder::new("SELECT d.key, ");
    // The table whose key gives the order.
    let place = match &query.index {
        None => {
            sql.push("'', d.body FROM backstory_document d WHERE ");
            "d"
        }
        Some(field) => {
            sql.push(
                "i.value, d.body FROM backstory_document_index i CROSS JOIN backstory_document d
                     ON d.generation = i.generation AND d.key = i.key WHERE i.field = ",
            );
            sql.push_bind(field.clone()).push(" AND ");
            if let Some(value) = &query.equals {
                sql.push("i.value = ")
                    .push_bind(value.clone())
                    .push(" AND ");
            }
            "i"
        }
    };
    sql.push(format_args!(
        "{place}.generation = (SELECT generation FROM backstory_collection WHERE name = "
    ));
    sql.push_bind(query.collection.clone()).push(")");
    if !query.prefix.is_empty() {
        sql.push(format_args!(" AND {place}.key >= "));
        sql.push_bind(query.prefix.clone());
        if let Some(end) = end_of_prefix(&query.prefix) {
            sql.push(format_args!(" AND {place}.key < "));
            sql.push_bind(end);
        }
    }
    if let Some((value, key)) = &query.after {
        if query.index.is_some() {
            sql.push(" AND (i.value, i.key) > (");
            sql.push_bind(value.clone())
                .push(", ")
                .push_bind(key.clone())
                .push(")");
        } else {
            sql.push(" AND d.key > ").push_bind(key.clone());
        }
    }
    sql.push(match &query.index {
        None => " ORDER BY d.key LIMIT ",
        Some(_) => " ORDER BY i.value, i.key LIMIT ",
    });
    sql.push_bind(i64::try_from(query.limit).unwrap_or(i64::MAX));
    let rows = sql.build().fetch_all(connection).await?;
    let rows = rows.iter().map(|row| {
        Ok(DocumentRow {
            key: row.try_get(0)?,
            index_value: row.try_get(1)?,
            body: Payload::stored(row.try_get::<&str, _>(2)?),
        })
    });
    rows.collect()
}

/// The first text behind all texts with this prefix, in byte order, which in UTF-8 is that of
/// characters.
fn end_of_prefix(prefix: &str) -> Option<String> {
    let mut end = prefix.to_owned();
    while let Some(last) = end.pop() {
        let mut following = (last..=char::MAX).skip(1);
        if let Some(next) = following.next() {
            end.push(next);
            return Some(end);
        }
    }
    None
}

const OPEN_COLLECTIONS: &str = "
INSERT INTO backstory_collection (name, projection, generation)
SELECT
    value, ?2,
    (SELECT coalesce(max(generation), 0) FROM backstory_collection) + row_number() OVER ()
FROM json_each(?1)
WHERE true
ON CONFLICT (name) DO NOTHING";

const PUT: &str = "
INSERT INTO backstory_document (generation, key, body, indexed, owner_category, owner_key)
SELECT
    c.generation, w.value ->> 1, w.value ->> 2, w.value ->> 3, w.value ->> 4, w.value ->> 5
FROM json_each(?1) w CROSS JOIN backstory_collection c ON c.name = w.value ->> 0
WHERE true
ON CONFLICT (generation, key) DO UPDATE SET
    body = excluded.body, indexed = excluded.indexed,
    owner_category = excluded.owner_category, owner_key = excluded.owner_key";

const DELETE: &str = "
DELETE FROM backstory_document
WHERE rowid IN (
    SELECT d.rowid
    FROM json_each(?1) w
    CROSS JOIN backstory_collection c ON c.name = w.value ->> 0
    CROSS JOIN backstory_document d ON d.generation = c.generation AND d.key = w.value ->> 1
)";

pub(crate) const EMPTY: [&str; 2] = [
    "
DELETE FROM backstory_document WHERE generation IN (
    SELECT generation FROM backstory_collection WHERE projection = ?1
)",
    "
DELETE FROM backstory_collection WHERE projection = ?1",
];

const ERASED: &str = "
SELECT s.category, s.key
FROM json_each(?1) w
CROSS JOIN backstory_stream s ON s.category = w.value ->> 0 AND s.key = w.value ->> 1
WHERE s.state = 'erased'";

/// The writes, without what belongs to streams that are erased by now.
async fn living(
    connection: &mut SqliteConnection,
    writes: &[DocumentWrite],
) -> Result<Vec<DocumentWrite>, Failure> {
    let owners: Vec<_> = writes.iter().filter_map(DocumentWrite::owner).collect();
    let mut erased = Vec::new();
    if !owners.is_empty() {
        let owners: Vec<_> = owners.into_iter().map(pair).collect();
        let rows = sqlx::query(ERASED).bind(json(&owners)?);
        for row in rows.fetch_all(connection).await? {
            let (category, key): (String, String) = (row.try_get(0)?, row.try_get(1)?);
            erased.push(StreamId::stored(category, key));
        }
    }
    let writes = writes.iter().cloned();
    Ok(writes.map(|write| write.without(&erased)).collect())
}

pub(crate) async fn write(
    connection: &mut SqliteConnection,
    writes: &[DocumentWrite],
    step: &Step,
) -> Result<(), Failure> {
    let projection = owner(&step.from.projection);
    if step.to == Target::Reset {
        for statement in EMPTY {
            sqlx::query(statement)
                .bind(projection)
                .execute(&mut *connection)
                .await?;
        }
    }
    let writes = living(&mut *connection, writes).await?;
    let (mut puts, mut deletes, mut collections) = (Vec::new(), Vec::new(), Vec::new());
    for write in &writes {
        match write {
            DocumentWrite::Put {
                key,
                body,
                indexed,
                owner,
            } => {
                if !collections.contains(&&key.collection) {
                    collections.push(&key.collection);
                }
                puts.push((
                    &key.collection,
                    &key.key,
                    body.as_str(),
                    indexed,
                    owner.as_ref().map(|owner| owner.category()),
                    owner.as_ref().map(|owner| owner.key()),
                ));
            }
            DocumentWrite::Delete { key } => deletes.push((&key.collection, &key.key)),
        }
    }
    if !puts.is_empty() {
        sqlx::query(OPEN_COLLECTIONS)
            .bind(json(&collections)?)
            .bind(projection)
            .execute(&mut *connection)
            .await?;
        sqlx::query(PUT)
            .bind(json(&puts)?)
            .execute(&mut *connection)
            .await?;
    }
    if !deletes.is_empty() {
        sqlx::query(DELETE)
            .bind(json(&deletes)?)
            .execute(connection)
            .await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_ends_before_the_next_character() {
        for (prefix, end) in [
            ("a", Some("b")),
            ("ab\u{10FFFF}", Some("ac")),
            ("\u{D7FF}", Some("\u{E000}")),
            ("\u{10FFFF}", None),
        ] {
            assert_eq!(end_of_prefix(prefix).as_deref(), end, "{prefix:?}");
        }
    }
}
