//! Documents: written set-based, with the projection's checkpoint in one short transaction.

use std::collections::BTreeSet;

use async_trait::async_trait;
use backstory_event::{Payload, StoreError, StreamId};
use backstory_projection::{
    CommitError, DocumentKey, DocumentList, DocumentRow, DocumentStore, DocumentWrite, Documents,
    Enlisted, InlineProjection, Progress, Step, Target, Turn, owner,
};
use sqlx::{Error, PgConnection, QueryBuilder, Row, postgres::PgRow};

use crate::{
    PostgresStore,
    append::column,
    error::store_error,
    letters,
    pool::{Lease, retry},
    projections::fenced,
    sql::Statements,
    turn::Model,
    writer::Inline,
};

/// The writes of a commit, sorted by key, so that two commits lock rows in the same order.
#[derive(Debug, Default)]
struct Writes {
    puts: Vec<Put>,
    deletes: Vec<DocumentKey>,
}

#[derive(Debug)]
struct Put {
    key: DocumentKey,
    body: Payload,
    indexed: Vec<(String, String)>,
    owner: Option<StreamId>,
}

impl Writes {
    /// Sorted, without what belongs to streams that are erased by now.
    fn living(list: &[DocumentWrite], erased: &[StreamId]) -> Self {
        let mut writes = Self::default();
        for write in list {
            match write.clone().without(erased) {
                DocumentWrite::Put {
                    key,
                    body,
                    indexed,
                    owner,
                } => writes.puts.push(Put {
                    key,
                    body,
                    indexed,
                    owner,
                }),
                DocumentWrite::Delete { key } => writes.deletes.push(key),
            }
        }
        writes.puts.sort_by(|one, two| one.key.cmp(&two.key));
        writes.deletes.sort();
        writes
    }
}

impl Writes {
    async fn flush(
        &self,
        connection: &mut PgConnection,
        sql: &Statements,
        projection: &str,
    ) -> Result<(), Error> {
        if !self.puts.is_empty() {
            let names: BTreeSet<_> = self.puts.iter().map(|put| &*put.key.collection).collect();
            sqlx::query(sql.make_collections.text())
                .bind(column(names, str::to_owned))
                .bind(projection)
                .execute(&mut *connection)
                .await?;
            let owner = |put: &Put, part: fn(&StreamId) -> &str| {
                put.owner.as_ref().map(|owner| part(owner).to_owned())
            };
            sqlx::query(sql.put_documents.text())
                .bind(column(&self.puts, |put| put.key.collection.as_str()))
                .bind(column(&self.puts, |put| put.key.key.as_str()))
                .bind(column(&self.puts, |put| put.body.as_str()))
                .bind(column(&self.puts, |put| owner(put, StreamId::category)))
                .bind(column(&self.puts, |put| owner(put, StreamId::key)))
                .execute(&mut *connection)
                .await?;
        }
        if !self.deletes.is_empty() {
            sqlx::query(sql.delete_documents.text())
                .bind(column(&self.deletes, |key| key.collection.as_str()))
                .bind(column(&self.deletes, |key| key.key.as_str()))
                .execute(&mut *connection)
                .await?;
        }
        if !self.puts.is_empty() || !self.deletes.is_empty() {
            self.index(connection, sql).await?;
        }
        Ok(())
    }

    async fn index(&self, connection: &mut PgConnection, sql: &Statements) -> Result<(), Error> {
        let puts = self.puts.iter().map(|put| &put.key);
        let keys: Vec<_> = puts.chain(&self.deletes).collect();
        let entries: Vec<_> = self
            .puts
            .iter()
            .flat_map(|put| put.indexed.iter().map(move |entry| (&put.key, entry)))
            .collect();
        sqlx::query(sql.index_documents.text())
            .bind(column(&keys, |key| key.collection.as_str()))
            .bind(column(&keys, |key| key.key.as_str()))
            .bind(column(&entries, |(key, _)| key.collection.as_str()))
            .bind(column(&entries, |(key, _)| key.key.as_str()))
            .bind(column(&entries, |(_, (field, _))| field.as_str()))
            .bind(column(&entries, |(_, (_, value))| value.as_str()))
            .execute(connection)
            .await?;
        Ok(())
    }
}

/// The first text behind all that begin with a prefix, if there is one.
fn behind_prefix(prefix: &str) -> Option<String> {
    let mut bound = prefix.to_owned();
    while let Some(last) = bound.pop() {
        // Behind the last letter before the surrogates comes the first one after them.
        let next = match last {
            '\u{d7ff}' => Some('\u{e000}'),
            _ => char::from_u32(u32::from(last) + 1),
        };
        if let Some(next) = next {
            bound.push(next);
            return Some(bound);
        }
    }
    None
}

impl PostgresStore {
    async fn documents(&self, keys: &[DocumentKey]) -> Result<Vec<Option<Payload>>, Error> {
        let mut lease = Lease::of(self.pool()).await?;
        let found = get_documents(&mut lease, self.sql(), keys).await;
        lease.done_with(found).await
    }

    async fn document_page(&self, list: &DocumentList) -> Result<Vec<DocumentRow>, Error> {
        let mut lease = Lease::of(self.pool()).await?;
        let rows = list_documents(&mut lease, self.schema(), list).await;
        lease.done_with(rows).await
    }

    async fn commit_writes(
        &self,
        writes: &[DocumentWrite],
        step: &Step,
    ) -> Result<Result<(), CommitError>, Error> {
        let sql = self.sql();
        let mut work = self.work().await?;
        if !work.step(sql, step).await? {
            return Ok(Err(fenced(&step.from)));
        }
        let projection = owner(&step.from.projection);
        if step.to == Target::Reset {
            sqlx::query(sql.empty_collections.text())
                .bind(projection)
                .execute(work.connection())
                .await?;
        }
        write_documents(work.connection(), sql, writes, step).await?;
        work.commit().await.map(Ok)
    }
}

/// The documents with these keys.
pub(crate) async fn get_documents(
    connection: &mut PgConnection,
    sql: &Statements,
    keys: &[DocumentKey],
) -> Result<Vec<Option<Payload>>, Error> {
    let rows = sqlx::query(sql.get_documents.text())
        .bind(column(keys, |key| key.collection.as_str()))
        .bind(column(keys, |key| key.key.as_str()))
        .fetch_all(connection)
        .await?;
    let mut found = vec![None; keys.len()];
    for row in rows {
        let number: i64 = row.try_get(0)?;
        let body: &str = row.try_get(1)?;
        let index = usize::try_from(number - 1).unwrap_or(usize::MAX);
        if let Some(place) = found.get_mut(index) {
            *place = Some(Payload::stored(body));
        }
    }
    Ok(found)
}

/// One page of documents.
pub(crate) async fn list_documents(
    connection: &mut PgConnection,
    schema: &crate::schema::Schema,
    list: &DocumentList,
) -> Result<Vec<DocumentRow>, Error> {
    let mut sql = list_statement(schema, list);
    let rows = sql.build().fetch_all(connection).await?;
    rows.iter().map(document_row).collect()
}

/// Writes documents and letters, once the step itself is made.
pub(crate) async fn write_documents(
    connection: &mut PgConnection,
    sql: &Statements,
    writes: &[DocumentWrite],
    step: &Step,
) -> Result<(), Error> {
    let owners = writes.iter().filter_map(DocumentWrite::owner);
    // Together with those of the letters, in one order.
    let owners = owners.chain(letters::streams(step)).collect();
    let erased = erased_owners(connection, sql, owners).await?;
    let writes = Writes::living(writes, &erased);
    let projection = owner(&step.from.projection);
    writes.flush(connection, sql, projection).await?;
    letters::write(connection, sql, step).await
}

/// Which owners of documents or letters are erased. They stay locked: an erasure that comes now
/// waits until these documents are there to be found.
pub(crate) async fn erased_owners(
    connection: &mut PgConnection,
    sql: &Statements,
    owners: BTreeSet<&StreamId>,
) -> Result<Vec<StreamId>, Error> {
    if owners.is_empty() {
        return Ok(Vec::new());
    }
    let rows = sqlx::query(sql.lock_owners.text())
        .bind(column(&owners, |owner| owner.category()))
        .bind(column(&owners, |owner| owner.key()))
        .fetch_all(connection)
        .await?;
    let erased = |row: &PgRow| {
        let (category, key): (String, String) = (row.try_get(0)?, row.try_get(1)?);
        Ok(StreamId::stored(category, key))
    };
    rows.iter().map(erased).collect()
}

fn list_statement(
    schema: &crate::schema::Schema,
    list: &DocumentList,
) -> QueryBuilder<sqlx::Postgres> {
    let (table, value) = match &list.index {
        None => ("document", "''"),
        Some(_) => ("document_index", "t.value"),
    };
    let mut sql = QueryBuilder::new(&*schema.sql(&format!(
        "SELECT t.key, t.value, d.body::text FROM (SELECT t.generation, t.key, {value} AS value \
         FROM {{s}}.{table} t \
         WHERE t.generation = (SELECT c.generation FROM {{s}}.collection c WHERE c.name = ",
    )));
    sql.push_bind(list.collection.clone()).push(")");
    if let Some(field) = &list.index {
        sql.push(" AND t.field = ").push_bind(field.clone());
        if let Some(wanted) = &list.equals {
            sql.push(" AND t.value = ").push_bind(wanted.clone());
        }
    }
    if !list.prefix.is_empty() {
        sql.push(" AND t.key >= ").push_bind(list.prefix.clone());
        if let Some(end) = behind_prefix(&list.prefix) {
            sql.push(" AND t.key < ").push_bind(end);
        }
    }
    let order = if list.index.is_some() {
        if let Some((value, key)) = &list.after {
            sql.push(" AND (t.value, t.key) > (")
                .push_bind(value.clone());
            sql.push(", ").push_bind(key.clone()).push(")");
        }
        "value, key"
    } else {
        if let Some((_, key)) = &list.after {
            sql.push(" AND t.key > ").push_bind(key.clone());
        }
        "key"
    };
    sql.push(format_args!(" ORDER BY {order} LIMIT "));
    sql.push_bind(i64::try_from(list.limit.max(1)).unwrap_or(i64::MAX));
    sql.push(schema.sql(&format!(
        ") t CROSS JOIN LATERAL (SELECT b.body FROM {{s}}.document b \
         WHERE b.generation = t.generation AND b.key = t.key LIMIT 1) d ORDER BY {order}"
    )));
    sql
}

fn document_row(row: &PgRow) -> Result<DocumentRow, Error> {
    let body: &str = row.try_get(2)?;
    Ok(DocumentRow {
        key: row.try_get(0)?,
        index_value: row.try_get(1)?,
        body: Payload::stored(body),
    })
}

#[async_trait]
impl DocumentStore for PostgresStore {
    async fn get_documents(
        &self,
        keys: &[DocumentKey],
    ) -> Result<Vec<Option<Payload>>, StoreError> {
        self.check_open()?;
        retry(self.pool(), || Box::pin(self.documents(keys)))
            .await
            .map_err(store_error)
    }

    async fn list_documents(&self, list: &DocumentList) -> Result<Vec<DocumentRow>, StoreError> {
        self.check_open()?;
        retry(self.pool(), || Box::pin(self.document_page(list)))
            .await
            .map_err(store_error)
    }

    async fn commit_documents(
        &self,
        writes: Vec<DocumentWrite>,
        step: &Step,
    ) -> Result<(), CommitError> {
        self.check_open()?;
        let span = tracing::debug_span!(
            "backstory.postgres.documents",
            projection = %step.from.projection,
            writes = writes.len()
        );
        let commit = self.commit_writes(&writes, step);
        tracing::Instrument::instrument(commit, span)
            .await
            .map_err(store_error)?
    }

    async fn turn_documents(&self, turn: &Turn) -> Result<Progress, CommitError> {
        self.turn_model(turn, Model::Collections).await
    }

    fn enlist_documents(
        &self,
        projection: InlineProjection<Documents>,
    ) -> Result<Enlisted, StoreError> {
        self.check_open()?;
        Ok(self.inlines().enlist(Inline::Documents(projection)))
    }
}

#[cfg(test)]
mod tests {
    use super::behind_prefix;

    #[test]
    fn the_bound_of_a_prefix_is_behind_all_that_begin_with_it() {
        for (prefix, bound) in [
            ("a", Some("b")),
            ("todo:", Some("todo;")),
            ("a\u{d7ff}", Some("a\u{e000}")),
            ("a\u{10ffff}", Some("b")),
            ("\u{10ffff}", None),
            ("", None),
        ] {
            assert_eq!(behind_prefix(prefix).as_deref(), bound);
        }
    }
}
