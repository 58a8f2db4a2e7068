//! Pages of events, one statement each.

use std::{
    cmp::Reverse,
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use backstory_event::{
    Checkpoint, Direction, EventFilter, EventId, EventQuery, FilterItem, Metadata, Page, Payload,
    Position, Recorded, RecordedEvent, StoreError, StoreErrorKind, StreamId, StreamVersion, Tag,
};
use backstory_store_kit::Scan;
use chrono::{DateTime, Utc};
use futures::{Stream, TryStreamExt};
use sqlx::{
    Error, Postgres, QueryBuilder, Row,
    postgres::{PgRow, PgValueFormat},
};
use uuid::Uuid;

use crate::{
    append::{column, storable, texts},
    error::store_error,
    outage::Outage,
    ring::weight,
    schema::Schema,
    session::{Lease, Pool, retry},
    sql::Statements,
};

/// What the events of a page may weigh together. Only one that is heavier is read nevertheless.
pub(crate) const PAGE_BYTES: usize = 8 << 20;
/// How many events a page is planned for at least.
const FEWEST: usize = 16;

/// Reads pages.
#[derive(Debug, Clone)]
pub(crate) struct Reader {
    pub(crate) pool: Pool,
    pub(crate) schema: Schema,
    pub(crate) sql: Arc<Statements>,
    pub(crate) outage: Outage,
    pub(crate) window: i64,
    pub(crate) page: usize,
    pub(crate) server: Server,
    // About how many bytes an event has, as the last page tells.
    pub(crate) weight: Arc<AtomicUsize>,
}

/// What answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Server {
    Primary,
    /// Only as long as it is one: after its promotion its log seems to be empty.
    Standby,
}

impl Server {
    /// How far the log reaches.
    fn head(self) -> &'static str {
        match self {
            Self::Primary => "coalesce(max(e.position), 0)",
            Self::Standby => {
                "CASE WHEN pg_is_in_recovery() THEN coalesce(max(e.position), 0) ELSE 0 END"
            }
        }
    }
}

impl Reader {
    pub(crate) async fn read(&self, query: &EventQuery) -> Result<Page, StoreError> {
        let narrow = self.narrow(query).await?;
        self.page(&narrow).await
    }

    /// The page of a query without bounds in time.
    pub(crate) async fn page(&self, query: &EventQuery) -> Result<Page, StoreError> {
        let limit = self.limit();
        let found = retry(&self.pool, || Box::pin(self.found(query, limit)))
            .await
            .map_err(store_error)??;
        let mut scan = Scan::plan(query, found.head, self.window, limit);
        let mut asked = query.clone();
        if found.cut {
            // What was found is all that this page has room for.
            let matching =
                |event: &&RecordedEvent| event.position() > scan.low && query.matches(event);
            let count = found.events.iter().filter(matching).count();
            scan.limit = count.min(scan.limit);
            if query.direction == Direction::Backward {
                // The proof comes last: with the last page.
                asked.after.event_id = EventId::NIL;
            }
        }
        let mut page = scan.page(&asked, found.events)?;
        if query.direction == Direction::Backward {
            page.checkpoint = query.after;
            if let Some(next) = &mut page.next {
                next.after = query.after;
            }
        }
        Ok(page)
    }

    /// Bounds in time become bounds in the order, which follows it.
    pub(crate) async fn narrow(&self, query: &EventQuery) -> Result<EventQuery, StoreError> {
        let mut narrow = query.clone();
        if query.since.is_none() && query.until.is_none() {
            return Ok(narrow);
        }
        let (since, until) = retry(&self.pool, || {
            Box::pin(self.positions_at(query.since, query.until))
        })
        .await
        .map_err(store_error)?;
        if query.until.is_some() {
            let end = Position::new(until - 1);
            narrow.up_to = Some(query.up_to.map_or(end, |bound| bound.min(end)));
        }
        // A named event stays the first row: it has to be proved.
        if query.since.is_some() && query.after.event_id.is_nil() {
            let start = Position::new(since - 1);
            narrow.after = Checkpoint::at(query.after.position.max(start));
        }
        Ok(narrow)
    }

    async fn positions_at(
        &self,
        since: Option<DateTime<Utc>>,
        until: Option<DateTime<Utc>>,
    ) -> Result<(i64, i64), Error> {
        let mut lease = Lease::of(&self.pool).await?;
        let found = sqlx::query_as(self.sql.positions_at.text())
            .bind(since.unwrap_or_default())
            .bind(until.unwrap_or_default())
            .fetch_one(&mut *lease)
            .await;
        lease.done_with(found).await
    }

    /// How many events make a page, so that it has about the wanted bytes.
    fn limit(&self) -> usize {
        let weight = self.weight.load(Ordering::Relaxed).max(1);
        (PAGE_BYTES / weight)
            .clamp(FEWEST, self.page.max(FEWEST))
            .min(self.page)
    }

    async fn found(
        &self,
        query: &EventQuery,
        limit: usize,
    ) -> Result<Result<Found, StoreError>, Error> {
        let mut statement = statement(&self.schema, query, self.window, limit, self.server);
        let read = async {
            let mut lease = Lease::of(&self.pool).await?;
            let mut found = Found::default();
            let result = found
                .take(statement.build().fetch(&mut *lease), query.direction)
                .await;
            if found.cut || matches!(result, Ok(Err(_))) {
                // There may be much more to come on this connection: it is not given back.
                return result.map(|taken| taken.map(|()| found));
            }
            let result = lease.done_with(result).await?;
            Ok(result.map(|()| found))
        };
        let found = self.outage.unless_found(read).await?;
        if let Ok(found) = &found
            && !found.events.is_empty()
        {
            let weight = found.bytes / found.events.len();
            self.weight.store(weight, Ordering::Relaxed);
        }
        Ok(found)
    }
}

/// What a statement has found.
#[derive(Default)]
struct Found {
    head: Position,
    events: Vec<RecordedEvent>,
    bytes: usize,
    /// There may be more, but not for one page.
    cut: bool,
}

impl Found {
    /// Decodes rows as they come, while the server makes the next.
    async fn take(
        &mut self,
        mut rows: impl Stream<Item = Result<PgRow, Error>> + Unpin,
        direction: Direction,
    ) -> Result<Result<(), StoreError>, Error> {
        let mut decoder = Decoder::default();
        while let Some(row) = rows.try_next().await? {
            self.head = Position::new(row.try_get(0)?);
            match decoder.decode(&row) {
                Ok(Some(event)) => {
                    self.bytes += weight(&event);
                    self.events.push(event);
                }
                Ok(None) => {}
                Err(error) => return Ok(Err(error)),
            }
            if self.bytes > PAGE_BYTES && self.events.len() > 1 {
                self.cut = true;
                break;
            }
        }
        // They come in order, but for the ends if the server works in parallel: that is quick.
        match direction {
            Direction::Forward => self.events.sort_by_key(RecordedEvent::position),
            Direction::Backward => {
                let position = |event: &RecordedEvent| Reverse(event.position());
                self.events.sort_by_key(position);
            }
        }
        Ok(Ok(()))
    }
}

/// The statement of a page. It knows the head by itself, so that one round trip is enough; the
/// bounds are those of [`Scan::plan`].
pub(crate) fn statement(
    schema: &Schema,
    query: &EventQuery,
    window: i64,
    page: usize,
    server: Server,
) -> QueryBuilder<Postgres> {
    let streams = streams_only(&query.filter);
    let window = if streams.is_some() {
        i64::MAX
    } else {
        window.max(1)
    };
    let limit = query.limit.unwrap_or(page).min(page);
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let after = query.after.position.get();
    let up_to = query.up_to.map_or(i64::MAX, Position::get);
    let (descending, order) = match query.direction {
        Direction::Forward => (false, ""),
        Direction::Backward => (true, " DESC"),
    };

    let head = server.head();
    let mut sql = QueryBuilder::new(&*schema.sql(&format!(
        "WITH head AS MATERIALIZED (SELECT {head} AS head FROM {{s}}.event e), \
         bounds AS MATERIALIZED (SELECT head, ",
    )));
    if descending {
        sql.push("greatest(").push_bind(after);
        sql.push(", ends.high - ").push_bind(window);
        sql.push(") AS low, ends.high");
    } else {
        sql.push_bind(after).push("::bigint AS low, ends.high");
    }
    let cap = if descending {
        up_to
    } else {
        up_to.min(after.saturating_add(window))
    };
    sql.push(" FROM head CROSS JOIN LATERAL (SELECT greatest(least(head, ");
    sql.push_bind(cap).push("), ").push_bind(after);
    sql.push(schema.sql(
        ") AS high) ends) \
         SELECT bounds.head, r.position, r.category, r.key, r.version, r.id, r.name, r.schema_version, \
           r.payload::text, r.metadata::text, r.tags, r.recorded_at, r.erased_at, r.transform \
         FROM bounds LEFT JOIN LATERAL ( \
           SELECT e.* FROM {s}.event e WHERE e.position = ",
    ));
    let (first, last) = match query.direction {
        Direction::Forward => ("bounds.low", "bounds.high"),
        Direction::Backward => ("bounds.high", "bounds.low"),
    };
    sql.push(first).push(" UNION ALL (");
    match streams {
        None => {
            sql.push(schema.sql(
                "SELECT e.* FROM {s}.event e WHERE e.position > bounds.low AND e.position < bounds.high",
            ));
            restrict(&mut sql, query);
            sql.push(format_args!(" ORDER BY e.position{order} LIMIT "));
            sql.push_bind(limit);
        }
        Some(streams) => {
            sql.push("SELECT f.* FROM unnest(");
            sql.push_bind(column(&streams, |stream| stream.category()));
            sql.push(", ");
            sql.push_bind(column(&streams, |stream| stream.key()));
            sql.push(schema.sql(
                ") AS q(category, key) CROSS JOIN LATERAL (SELECT e.* FROM {s}.event e \
                 WHERE e.category = q.category AND e.key = q.key \
                   AND e.position + 0 > bounds.low AND e.position + 0 < bounds.high",
            ));
            // `+ 0`: the index of positions is no way to a stream. A page begins where the one before ended: its last event tells the version.
            let (sign, bound, none) = if descending {
                ("<", "least(bounds.high, 9223372036854775806) + 1", i64::MAX)
            } else {
                (">", "bounds.low", 0)
            };
            sql.push(schema.sql(&format!(
                " AND e.version {sign} coalesce((SELECT CASE WHEN b.category = q.category AND b.key = q.key \
                   THEN b.version END FROM {{s}}.event b WHERE b.position = {bound}), {none})",
            )));
            restrict(&mut sql, query);
            // A limit that the planner cannot see: it walks along the index, and never sorts a stream.
            sql.push(format_args!(" ORDER BY e.version{order} LIMIT (SELECT "));
            sql.push_bind(limit);
            sql.push(format_args!(")) f ORDER BY f.position{order} LIMIT "));
            sql.push_bind(limit);
        }
    }
    // No ORDER BY around it: the server would finish all rows before it sends the first.
    sql.push(schema.sql(&format!(
        ") UNION ALL SELECT e.* FROM {{s}}.event e WHERE e.position = {last} AND bounds.low <> bounds.high) r ON true",
    )));
    sql
}

/// The streams of a filter that means nothing but streams: their index finds the events.
pub(crate) fn streams_only(filter: &EventFilter) -> Option<Vec<&StreamId>> {
    let only =
        |item: &FilterItem| item.get_categories().is_empty() && !item.get_streams().is_empty();
    let items = filter.items();
    if items.is_empty() || !items.iter().all(only) {
        return None;
    }
    let mut streams = possible(items.iter().flat_map(FilterItem::get_streams));
    streams.sort_unstable();
    streams.dedup();
    Some(streams)
}

/// The streams that there can be.
fn possible<'a>(streams: impl IntoIterator<Item = &'a StreamId>) -> Vec<&'a StreamId> {
    let streams = streams.into_iter();
    streams
        .filter(|stream| storable(stream.category()) && storable(stream.key()))
        .collect()
}

/// Adds what the query asks of an event `e`.
fn restrict(sql: &mut QueryBuilder<Postgres>, query: &EventQuery) {
    if let Some(version) = query.from_version {
        sql.push(" AND e.version >= ").push_bind(version.get());
    }
    if let Some(version) = query.to_version {
        sql.push(" AND e.version <= ").push_bind(version.get());
    }
    if let Some(time) = query.since {
        sql.push(" AND e.recorded_at >= ").push_bind(time);
    }
    if let Some(time) = query.until {
        sql.push(" AND e.recorded_at < ").push_bind(time);
    }
    if query.filter.is_all() {
        return;
    }
    sql.push(" AND (false");
    for item in query.filter.items() {
        sql.push(" OR (true");
        if !item.get_names().is_empty() {
            sql.push(" AND e.name = ANY (");
            sql.push_bind(texts(item.get_names())).push(")");
        }
        let (categories, streams) = (item.get_categories(), item.get_streams());
        if !categories.is_empty() || !streams.is_empty() {
            sql.push(" AND (e.category = ANY (");
            sql.push_bind(texts(categories)).push(")");
            if !streams.is_empty() {
                let streams = possible(streams);
                sql.push(" OR (e.category, e.key) IN (SELECT * FROM unnest(");
                sql.push_bind(column(&streams, |stream| stream.category()));
                sql.push(", ");
                sql.push_bind(column(&streams, |stream| stream.key()));
                sql.push("))");
            }
            sql.push(")");
        }
        if !item.get_tags().iter().all(|tag| storable(tag.as_str())) {
            sql.push(" AND false");
        } else if !item.get_tags().is_empty() {
            sql.push(" AND e.tags <> '{}' AND e.tags @> ");
            sql.push_bind(texts(item.get_tags()));
        }
        sql.push(")");
    }
    sql.push(")");
}

/// Makes events of rows. Texts that repeat within a page are kept once.
#[derive(Default)]
pub(crate) struct Decoder {
    texts: HashMap<String, Arc<str>>,
}

impl Decoder {
    fn text(&mut self, text: &str) -> Arc<str> {
        if let Some(known) = self.texts.get(text) {
            return known.clone();
        }
        let new: Arc<str> = text.into();
        self.texts.insert(text.to_owned(), new.clone());
        new
    }

    /// The event of a row; nothing for the row that says only how far the log reaches.
    pub(crate) fn decode(&mut self, row: &PgRow) -> Result<Option<RecordedEvent>, StoreError> {
        let position: Option<i64> = row.try_get(1).map_err(store_error)?;
        let Some(position) = position else {
            return Ok(None);
        };
        let recorded = self
            .fields(row, Position::new(position))
            .map_err(|error| damaged(position, error))?;
        // No transform is known yet. Of an erased event nothing is left that has a form.
        let transform: Option<String> = row.try_get(13).map_err(store_error)?;
        match transform {
            Some(transform) if recorded.erased_at.is_none() => {
                Err(StoreError::new(StoreErrorKind::UnknownTransform {
                    position: recorded.position,
                    event_id: recorded.id,
                    transform,
                }))
            }
            _ => Ok(Some(RecordedEvent::new(recorded))),
        }
    }

    /// Tags repeat, too.
    fn tags(&mut self, row: &PgRow) -> Result<Vec<Tag>, Error> {
        let value = row.try_get_raw(10)?;
        if value.format() == PgValueFormat::Text {
            let tags: Vec<String> = row.try_get(10)?;
            return Ok(tags.iter().map(|tag| Tag::stored(self.text(tag))).collect());
        }
        let bytes = value.as_bytes().map_err(Error::Decode)?;
        let texts =
            elements(bytes).ok_or_else(|| Error::Decode("a damaged list of tags".into()))?;
        Ok(texts.map(|tag| Tag::stored(self.text(tag))).collect())
    }

    fn fields(&mut self, row: &PgRow, position: Position) -> Result<Recorded, Error> {
        let category = self.text(row.try_get(2)?);
        let key: &str = row.try_get(3)?;
        let id: Uuid = row.try_get(5)?;
        let schema_version: i32 = row.try_get(7)?;
        let payload: &str = row.try_get(8)?;
        let metadata = match row.try_get(9)? {
            "{}" => Metadata::default(),
            text => serde_json::from_str(text).map_err(|error| Error::Decode(error.into()))?,
        };
        let tags = self.tags(row)?;
        Ok(Recorded {
            position,
            stream: StreamId::stored(category, key),
            version: StreamVersion::new(row.try_get(4)?),
            id: EventId::from_uuid(id),
            name: self.text(row.try_get(6)?),
            schema_version: u32::try_from(schema_version)
                .map_err(|error| Error::Decode(error.into()))?,
            payload: Payload::stored(payload),
            metadata,
            tags,
            recorded_at: row.try_get(11)?,
            erased_at: row.try_get(12)?,
        })
    }
}

/// The texts of an array in its binary form: dimensions, a flag for nulls, the type; length and
/// lower bound of each dimension; then the length of each element and its bytes.
fn elements(bytes: &[u8]) -> Option<impl Iterator<Item = &str>> {
    let (dimensions, rest) = number(bytes)?;
    let rest = rest.get(8 + 8 * dimensions..)?;
    let mut texts = Vec::new();
    let mut left = rest;
    while !left.is_empty() {
        let (length, rest) = number(left)?;
        let (text, rest) = rest.split_at_checked(length)?;
        texts.push(str::from_utf8(text).ok()?);
        left = rest;
    }
    Some(texts.into_iter())
}

fn number(bytes: &[u8]) -> Option<(usize, &[u8])> {
    let (number, rest) = bytes.split_first_chunk()?;
    let number = usize::try_from(i32::from_be_bytes(*number)).ok()?;
    Some((number, rest))
}

fn damaged(position: i64, error: Error) -> StoreError {
    StoreError::new(StoreErrorKind::Corrupt {
        reason: format!("the event at position {position} cannot be read"),
    })
    .with_source(error)
}
