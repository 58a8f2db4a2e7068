//! Pages of events and of streams.

use std::sync::Arc;

use backstory_event::{
    EventId, EventQuery, Metadata, Page, Payload, Position, Recorded, RecordedEvent, StreamCursor,
    StreamId, StreamInfo, StreamPage, StreamQuery, StreamVersion, Tag,
};
use backstory_store_kit::Scan;
use chrono::{DateTime, Utc};
use sqlx::{QueryBuilder, Row, SqliteConnection, sqlite::SqliteRow};

use crate::{
    append::stream_state,
    bind::json,
    error::{Failure, corrupt},
    filter, schema,
};

/// Reads one page. The log only grows, so the newest position needs no transaction with it.
pub(crate) async fn events(
    connection: &mut SqliteConnection,
    query: &EventQuery,
    window: i64,
    page: usize,
) -> Result<Page, Failure> {
    let head = Position::new(schema::head(connection).await?);
    let scan = Scan::plan(query, head, window, page);
    let mut sql = filter::page(query, &scan, COLUMNS)?;
    let rows = sql.build().fetch_all(connection).await?;
    let rows = rows.iter().map(event).collect::<Result<_, _>>()?;
    Ok(scan.page(query, rows)?)
}

const COLUMNS: &str = "e.position, e.category, e.key, e.version, e.id, e.name, e.schema_version, \
                       e.recorded_at, e.erased_at, e.tags, e.metadata, e.payload";

fn event(row: &SqliteRow) -> Result<RecordedEvent, Failure> {
    let position = Position::new(row.try_get(0)?);
    let damaged = |what: &str| corrupt(format!("{what} of event {position} cannot be read"));
    let time = |micros| DateTime::<Utc>::from_timestamp_micros(micros);
    let erased_at = match row.try_get::<Option<i64>, _>(8)? {
        Some(micros) => Some(time(micros).ok_or_else(|| damaged("the time"))?),
        None => None,
    };
    Ok(RecordedEvent::new(Recorded {
        position,
        stream: StreamId::stored(text(row, 1)?, text(row, 2)?),
        version: StreamVersion::new(row.try_get(3)?),
        id: EventId::from_uuid(row.try_get(4)?),
        name: text(row, 5)?,
        schema_version: row.try_get(6)?,
        payload: Payload::stored(text(row, 11)?),
        metadata: match row.try_get(10)? {
            "{}" => Metadata::default(),
            metadata => serde_json::from_str(metadata).map_err(|_| damaged("the metadata"))?,
        },
        tags: tags(row.try_get(9)?).ok_or_else(|| damaged("a tag"))?,
        recorded_at: time(row.try_get(7)?).ok_or_else(|| damaged("the time"))?,
        erased_at,
    }))
}

fn text(row: &SqliteRow, index: usize) -> Result<Arc<str>, sqlx::Error> {
    row.try_get::<&str, _>(index).map(Arc::from)
}

fn tags(json: &str) -> Option<Vec<Tag>> {
    if json == "[]" {
        return Some(Vec::new());
    }
    let texts: Vec<String> = serde_json::from_str(json).ok()?;
    Some(texts.into_iter().map(Tag::stored).collect())
}

/// Lists streams, by their first tag if any is wanted.
pub(crate) async fn streams(
    connection: &mut SqliteConnection,
    query: &StreamQuery,
) -> Result<StreamPage, Failure> {
    let mut sql = QueryBuilder::new(
        "SELECT s.category, s.key, s.version, s.state, s.tags, s.first_position, s.last_position \
         FROM ",
    );
    let mut tags = query.tags.iter();
    match tags.next() {
        None => {
            sql.push("backstory_stream s WHERE true");
        }
        Some(tag) => {
            sql.push(
                "backstory_stream_tag t CROSS JOIN backstory_stream s
                     ON s.category = t.category AND s.key = t.key WHERE t.tag = ",
            );
            sql.push_bind(tag.as_str().to_owned());
        }
    }
    // The table whose key gives the order.
    let place = if query.tags.is_empty() { "s" } else { "t" };
    for tag in tags {
        sql.push(
            " AND EXISTS (SELECT 1 FROM backstory_stream_tag o
             WHERE o.category = s.category AND o.key = s.key AND o.tag = ",
        );
        sql.push_bind(tag.as_str().to_owned()).push(")");
    }
    if let Some(category) = &query.category {
        sql.push(format_args!(" AND {place}.category = "));
        sql.push_bind(category.clone());
    }
    if !query.keys.is_empty() {
        sql.push(format_args!(
            " AND {place}.key IN (SELECT value FROM json_each("
        ));
        sql.push_bind(json(&query.keys)?).push("))");
    }
    if let Some(cursor) = &query.after {
        sql.push(format_args!(" AND ({place}.category, {place}.key) > ("));
        sql.push_bind(cursor.stream().category().to_owned())
            .push(", ");
        sql.push_bind(cursor.stream().key().to_owned()).push(")");
    }
    let states: Vec<_> = query
        .wanted_states()
        .iter()
        .map(|state| state.as_str())
        .collect();
    sql.push(" AND s.state IN (SELECT value FROM json_each(");
    sql.push_bind(json(&states)?).push("))");
    sql.push(format_args!(
        " ORDER BY {place}.category, {place}.key LIMIT "
    ));
    let size = query.page_size();
    sql.push_bind(i64::try_from(size).unwrap_or(i64::MAX).saturating_add(1));
    let rows = sql.build().fetch_all(connection).await?;
    let mut streams = rows.iter().map(stream).collect::<Result<Vec<_>, _>>()?;
    let more = streams.len() > size;
    streams.truncate(size);
    let last = streams.last().filter(|_| more);
    let next = last.map(|info| StreamCursor::behind(info.stream.clone()));
    Ok(StreamPage { streams, next })
}

fn stream(row: &SqliteRow) -> Result<StreamInfo, Failure> {
    let stream = StreamId::stored(text(row, 0)?, text(row, 1)?);
    Ok(StreamInfo {
        version: StreamVersion::new(row.try_get(2)?),
        state: stream_state(&stream, row.try_get(3)?)?,
        tags: tags(row.try_get(4)?)
            .ok_or_else(|| corrupt(format!("a tag of stream {stream} cannot be read")))?,
        first_position: Position::new(row.try_get(5)?),
        last_position: Position::new(row.try_get(6)?),
        stream,
    })
}
