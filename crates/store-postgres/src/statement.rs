//! The statement of a page.

use backstory_event::{Direction, EventFilter, EventQuery, FilterItem, Position, StreamId};
use sqlx::{Postgres, QueryBuilder};

use crate::{
    append::{column, storable, texts},
    schema::Schema,
};

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

/// The statement of a page. It knows the head by itself, so that one round trip is enough; the
/// bounds are those of [`Scan::plan`].
pub(crate) fn whole(
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
           r.payload, r.metadata, r.tags, r.recorded_at, r.erased_at, r.transform \
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
