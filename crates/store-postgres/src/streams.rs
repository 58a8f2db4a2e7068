//! Lists of streams, by keyset.

use std::{cmp::Ordering, collections::BTreeSet};

use backstory_event::{
    Position, StreamCursor, StreamId, StreamInfo, StreamPage, StreamQuery, StreamState,
    StreamVersion, Tag,
};
use sqlx::{Error, Postgres, QueryBuilder, Row, postgres::PgRow};

use crate::{
    append::{column, storable},
    pool::{Lease, Pool},
    schema::Schema,
};

/// How many streams one page looks at where it goes from stream to stream: it may have to pass over
/// any number of deleted ones.
const WALK: i32 = 10_000;

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
    let ended = |category: &String| behind(query, category).is_none();
    if !wanted.into_iter().all(storable) || query.category.as_ref().is_some_and(ended) {
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
    let wanted = query.wanted_states();
    let mut walked = None;
    let mut streams = Vec::new();
    for row in &rows {
        let info = info(row)?;
        if row.try_get(7)? {
            walked = Some(StreamCursor::behind(info.stream.clone()));
        }
        if wanted.contains(&info.state) {
            streams.push(info);
        }
    }
    let next = match streams.get(size.saturating_sub(1)) {
        Some(last) if streams.len() > size => Some(StreamCursor::behind(last.stream.clone())),
        _ => walked,
    };
    streams.truncate(size);
    Ok(StreamPage { streams, next })
}

/// Behind which key of a category a page begins; `None`: behind all of them.
fn behind<'a>(query: &'a StreamQuery, category: &str) -> Option<&'a str> {
    let Some(cursor) = &query.after else {
        return Some("");
    };
    let after = cursor.stream();
    match after.category().cmp(category) {
        Ordering::Less => Some(""),
        Ordering::Equal => Some(after.key()),
        Ordering::Greater => None,
    }
}

/// The statement of a page, and of one stream more: which streams, then what is known of each.
pub(crate) fn statement(schema: &Schema, query: &StreamQuery) -> QueryBuilder<Postgres> {
    let mut states = column(query.wanted_states(), StreamState::as_str);
    states.sort_unstable();
    states.dedup();
    let page = Page {
        schema,
        query,
        live: states.contains(&StreamState::Live.as_str()),
        states,
        limit: i64::try_from(query.page_size() + 1).unwrap_or(i64::MAX),
    };
    let mut sql = QueryBuilder::new(
        "SELECT s.category, s.key, l.version, coalesce(t.state, 'live'), coalesce(t.tags, '{}'), \
           f.position, l.position, s.is_last FROM (",
    );
    let order = if !query.tags.is_empty() {
        page.tagged(&mut sql)
    } else if !query.keys.is_empty() {
        page.named(&mut sql)
    } else if page.live {
        page.each(&mut sql)
    } else {
        page.gone(&mut sql)
    };
    sql.push(schema.sql(
        ") s LEFT JOIN LATERAL (SELECT t.state, t.tags FROM {s}.stream_state t \
           WHERE t.category = s.category AND t.key = s.key LIMIT 1) t ON true \
         CROSS JOIN LATERAL (SELECT e.position FROM {s}.event e \
           WHERE e.category = s.category AND e.key = s.key ORDER BY e.version LIMIT 1) f \
         CROSS JOIN LATERAL (SELECT e.version, e.position FROM {s}.event e \
           WHERE e.category = s.category AND e.key = s.key ORDER BY e.version DESC LIMIT 1) l \
         WHERE s.is_last OR coalesce(t.state, 'live') = ANY (",
    ));
    sql.push_bind(page.states).push(")").push(order);
    sql.push(" LIMIT ").push_bind(page.limit);
    sql
}

const SORTED: &str = " ORDER BY s.category, s.key";

/// Where the streams of a page come from: rows of category, key, and whether the page ends with this
/// one, whatever its state. Each answers in which order they are to be put.
struct Page<'a> {
    schema: &'a Schema,
    query: &'a StreamQuery,
    states: Vec<&'static str>,
    live: bool,
    limit: i64,
}

impl Page<'_> {
    /// Behind which category and key it begins.
    fn after(&self) -> (&str, &str) {
        if let Some(only) = &self.query.category {
            return (only, behind(self.query, only).unwrap_or_default());
        }
        let cursor = self.query.after.as_ref().map(StreamCursor::stream);
        cursor.map_or(("", ""), |stream| (stream.category(), stream.key()))
    }

    /// What holds for the columns of a table that lie behind the cursor.
    fn push_behind(&self, sql: &mut QueryBuilder<Postgres>, table: &str) {
        let (category, key) = self.after();
        if self.query.category.is_some() {
            sql.push(format_args!("{table}.category = "));
            sql.push_bind(category.to_owned());
            sql.push(format_args!(" AND {table}.key > "));
            sql.push_bind(key.to_owned());
        } else {
            sql.push(format_args!("({table}.category, {table}.key) > ("));
            sql.push_bind(category.to_owned()).push(", ");
            sql.push_bind(key.to_owned()).push(")");
        }
    }

    /// The keys that there can be, in order.
    fn keys(&self) -> Vec<String> {
        let keys = self.query.keys.iter().filter(|key| storable(key));
        let keys: BTreeSet<_> = keys.cloned().collect();
        keys.into_iter().collect()
    }

    /// Those with a tag are few: found by their index, then sorted.
    fn tagged(&self, sql: &mut QueryBuilder<Postgres>) -> &'static str {
        let found = "SELECT c.category, c.key, false AS is_last FROM (SELECT t.category, t.key, t.state \
            FROM {s}.stream_state t WHERE t.tags <> '{}' AND t.tags @> ";
        sql.push(self.schema.sql(found));
        sql.push_bind(column(&self.query.tags, |tag| tag.as_str().to_owned()));
        sql.push(" OFFSET 0) c WHERE c.state = ANY (");
        sql.push_bind(self.states.clone()).push(") AND ");
        self.push_behind(sql, "c");
        if !self.query.keys.is_empty() {
            sql.push(" AND c.key = ANY (");
            sql.push_bind(self.keys()).push(")");
        }
        sql.push(" ORDER BY c.category, c.key LIMIT ");
        sql.push_bind(self.limit);
        SORTED
    }

    /// Each key is looked up, in one category or in all.
    fn named(&self, sql: &mut QueryBuilder<Postgres>) -> &'static str {
        match &self.query.category {
            Some(category) => {
                sql.push("SELECT k.*, false AS is_last FROM (SELECT ");
                sql.push_bind(category.clone());
            }
            None => {
                let categories = "WITH RECURSIVE c AS ((SELECT e.category FROM {s}.event e \
                    ORDER BY e.category, e.key LIMIT 1) UNION ALL SELECT n.category FROM c \
                    CROSS JOIN LATERAL (SELECT e.category FROM {s}.event e WHERE e.category > c.category \
                      ORDER BY e.category, e.key LIMIT 1) n) \
                  SELECT k.*, false AS is_last FROM c CROSS JOIN LATERAL (SELECT c.category";
                sql.push(self.schema.sql(categories));
            }
        }
        sql.push("::text COLLATE \"C\" AS category, q.key COLLATE \"C\" AS key FROM unnest(");
        sql.push_bind(self.keys()).push(") AS q(key)) k WHERE ");
        self.push_behind(sql, "k");
        SORTED
    }

    /// From stream to stream by the index, however many events they have. They come in order and
    /// only as many as are asked for: sorting them would want all of them first.
    fn each(&self, sql: &mut QueryBuilder<Postgres>) -> &'static str {
        let first =
            "WITH RECURSIVE r AS ((SELECT e.category, e.key, 1 AS n FROM {s}.event e WHERE ";
        sql.push(self.schema.sql(first));
        self.push_behind(sql, "e");
        sql.push(self.schema.sql(
            " ORDER BY e.category, e.key LIMIT 1) UNION ALL SELECT n.*, r.n + 1 FROM r \
             CROSS JOIN LATERAL (SELECT e.category, e.key FROM {s}.event e WHERE ",
        ));
        sql.push(match &self.query.category {
            Some(_) => "e.category = r.category AND e.key > r.key",
            None => "(e.category, e.key) > (r.category, r.key)",
        });
        sql.push(format_args!(
            " ORDER BY e.category, e.key LIMIT 1) n WHERE r.n < {WALK}) \
             SELECT r.category, r.key, r.n = {WALK} AS is_last FROM r"
        ));
        ""
    }

    /// State by state, in the order of their index: with `state = …` another one would look as good.
    fn gone(&self, sql: &mut QueryBuilder<Postgres>) -> &'static str {
        let (category, key) = self.after();
        sql.push("SELECT g.*, false AS is_last FROM unnest(");
        sql.push_bind(self.states.clone());
        let look = ") AS q(state) CROSS JOIN LATERAL (SELECT t.category, t.key FROM {s}.stream_state t \
            WHERE t.state <> 'live' AND (t.state, t.category, t.key) > (q.state, ";
        sql.push(self.schema.sql(look));
        sql.push_bind(category.to_owned()).push(", ");
        sql.push_bind(key.to_owned());
        if let Some(only) = &self.query.category {
            sql.push(") AND (t.state, t.category) <= (q.state, ");
            sql.push_bind(only.clone());
        } else {
            sql.push(") AND (t.state) <= (q.state");
        }
        sql.push(") ORDER BY t.state, t.category, t.key LIMIT ");
        sql.push_bind(self.limit);
        sql.push(") g ORDER BY g.category, g.key LIMIT ");
        sql.push_bind(self.limit);
        SORTED
    }
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
