//! Lists of streams, by keyset.

use backstory_event::{
    Position, StreamCursor, StreamId, StreamInfo, StreamPage, StreamQuery, StreamState,
    StreamVersion, Tag,
};
use sqlx::{Error, Postgres, QueryBuilder, Row, postgres::PgRow};

use crate::{
    append::{column, storable},
    schema::Schema,
    session::{Lease, Pool},
};

pub(crate) async fn list(
    pool: &Pool,
    schema: &Schema,
    query: &StreamQuery,
) -> Result<StreamPage, Error> {
    let wanted = query
        .tags
        .iter()
        .map(Tag::as_str)
        .chain(query.category.as_deref());
    if !wanted.into_iter().all(storable) {
        return Ok(StreamPage {
            streams: Vec::new(),
            next: None,
        });
    }
    let size = query.page_size();
    let mut sql = statement(schema, query);
    let mut lease = Lease::of(pool).await?;
    let rows = sql.build().fetch_all(&mut *lease).await;
    let rows = lease.done_with(rows).await?;
    let mut streams = rows.iter().map(info).collect::<Result<Vec<_>, _>>()?;
    let more = streams.len() > size;
    streams.truncate(size);
    let last = streams.last().filter(|_| more);
    let next = last.map(|info| StreamCursor::behind(info.stream.clone()));
    Ok(StreamPage { streams, next })
}

/// The statement of a page, and of one stream more.
pub(crate) fn statement(schema: &Schema, query: &StreamQuery) -> QueryBuilder<Postgres> {
    let keys = query.keys.iter().filter(|key| storable(key));
    let keys = column(keys, String::as_str);
    let mut sql = QueryBuilder::new(
        "SELECT t.category, t.key, t.version, t.state, t.tags, t.first_position, t.last_position FROM ",
    );
    match &query.category {
        _ if !query.tags.is_empty() => {
            // Those with a tag are few: found by their index, then sorted.
            let source = "(SELECT s.* FROM {s}.stream s WHERE s.tags <> '{}' AND s.tags @> ";
            sql.push(schema.sql(source));
            sql.push_bind(column(&query.tags, Tag::as_str));
            sql.push(" OFFSET 0)");
        }
        Some(category) if !query.keys.is_empty() => {
            // One by one, or the server reads the category in order until it meets the keys.
            sql.push("(SELECT s.* FROM (SELECT DISTINCT unnest(");
            sql.push_bind(keys.clone());
            let source = ") AS key) k CROSS JOIN LATERAL (SELECT * FROM {s}.stream s \
                WHERE s.key = k.key AND s.category = ";
            sql.push(schema.sql(source)).push_bind(category);
            sql.push(" LIMIT 1) s OFFSET 0)");
        }
        _ => drop(sql.push(schema.sql("{s}.stream"))),
    }
    sql.push(" t WHERE t.state = ANY (");
    sql.push_bind(column(query.wanted_states(), StreamState::as_str));
    sql.push(")");
    if let Some(category) = &query.category {
        sql.push(" AND t.category = ").push_bind(category);
    }
    if !query.keys.is_empty() {
        sql.push(" AND t.key = ANY (").push_bind(keys).push(")");
    }
    if let Some(cursor) = &query.after {
        let stream = cursor.stream();
        sql.push(" AND (t.category, t.key) > (");
        sql.push_bind(stream.category()).push(", ");
        sql.push_bind(stream.key()).push(")");
    }
    sql.push(" ORDER BY t.category, t.key LIMIT ");
    sql.push_bind(i64::try_from(query.page_size() + 1).unwrap_or(i64::MAX));
    sql
}

fn info(row: &PgRow) -> Result<StreamInfo, Error> {
    let (category, key): (&str, &str) = (row.try_get(0)?, row.try_get(1)?);
    let state = StreamState::parse(row.try_get(3)?)
        .ok_or_else(|| Error::Decode("an unknown state of a stream".into()))?;
    let tags: Vec<String> = row.try_get(4)?;
    Ok(StreamInfo {
        stream: StreamId::stored(category, key),
        version: StreamVersion::new(row.try_get(2)?),
        state,
        tags: tags.into_iter().map(Tag::stored).collect(),
        first_position: Position::new(row.try_get(5)?),
        last_position: Position::new(row.try_get(6)?),
    })
}
