//! Filters in SQL: the same events as `EventFilter::matches`, found by the best index.

use backstory_event::{Direction, EventFilter, EventQuery, FilterItem, Position};
use backstory_store_kit::Scan;
use sqlx::{QueryBuilder, Sqlite, SqliteConnection, sqlite::SqliteRow};

use crate::{
    bind::{json, pair},
    error::Failure,
};

#[cfg(test)]
mod tests;

/// A filter with more alternatives than this is looked up by position only.
const MOST_ARMS: usize = 64;

/// Which of the events that a filter means.
#[derive(Debug, Clone)]
pub(crate) struct Bounds {
    /// Only behind this position.
    after: Position,
    up_to: Position,
    from_version: Option<i64>,
    to_version: Option<i64>,
    since: Option<i64>,
    until: Option<i64>,
    direction: Direction,
    limit: usize,
}

impl Bounds {
    /// The first event behind a position.
    pub(crate) fn behind(after: Position) -> Self {
        Self {
            after,
            up_to: Position::END,
            from_version: None,
            to_version: None,
            since: None,
            until: None,
            direction: Direction::Forward,
            limit: 1,
        }
    }

    /// The events of a page.
    pub(crate) fn of(query: &EventQuery, scan: &Scan) -> Self {
        Self {
            after: scan.low,
            up_to: scan.high,
            from_version: query.from_version.map(|version| version.get()),
            to_version: query.to_version.map(|version| version.get()),
            since: query.since.map(|time| time.timestamp_micros()),
            until: query.until.map(|time| time.timestamp_micros()),
            direction: query.direction,
            limit: scan.limit,
        }
    }

    fn order(&self) -> &'static str {
        match self.direction {
            Direction::Forward => "",
            Direction::Backward => " DESC",
        }
    }
}

/// Position, name and id of the first event.
pub(crate) async fn first_match(
    connection: &mut SqliteConnection,
    filter: &EventFilter,
    bounds: &Bounds,
) -> Result<Option<SqliteRow>, Failure> {
    let mut sql = QueryBuilder::new(
        "SELECT e.position, e.name, e.id FROM backstory_event e WHERE e.position IN (",
    );
    push_positions(&mut sql, filter, bounds)?;
    sql.push(")");
    Ok(sql.build().fetch_optional(connection).await?)
}

/// All columns of the events of a page, in order, and those at the ends of the scan.
pub(crate) fn page(
    query: &EventQuery,
    scan: &Scan,
    columns: &str,
) -> Result<QueryBuilder<Sqlite>, Failure> {
    let bounds = Bounds::of(query, scan);
    let mut sql = QueryBuilder::new("SELECT ");
    sql.push(columns);
    sql.push(" FROM backstory_event e WHERE e.position IN (");
    push_positions(&mut sql, &query.filter, &bounds)?;
    for end in [scan.low, scan.high] {
        sql.push(" UNION ALL SELECT ");
        sql.push_bind(end.get());
    }
    sql.push(") ORDER BY e.position");
    sql.push(bounds.order());
    Ok(sql)
}

/// A SELECT of the first positions in the order of the bounds. Each alternative of the filter is
/// an arm that its own index gives in order, so that reading stops at the limit.
fn push_positions(
    sql: &mut QueryBuilder<Sqlite>,
    filter: &EventFilter,
    bounds: &Bounds,
) -> Result<(), Failure> {
    let arms: usize = filter.items().iter().map(arms_of).sum();
    sql.push("SELECT position FROM (");
    if filter.items().is_empty() {
        sql.push("SELECT 0 AS position WHERE false");
    } else if filter.is_all() || arms > MOST_ARMS {
        sql.push("SELECT e.position FROM backstory_event e NOT INDEXED WHERE ");
        push_bounds(sql, bounds);
        if !filter.is_all() {
            sql.push(" AND ");
            push_any(sql, filter.items())?;
        }
    } else {
        let mut first = true;
        for item in filter.items() {
            push_arms(sql, item, bounds, &mut first)?;
        }
    }
    sql.push(" ORDER BY 1");
    sql.push(bounds.order());
    sql.push(" LIMIT ");
    sql.push_bind(i64::try_from(bounds.limit).unwrap_or(i64::MAX));
    sql.push(")");
    Ok(())
}

fn only_streams(item: &FilterItem) -> bool {
    item.get_categories().is_empty() && !item.get_streams().is_empty()
}

fn arms_of(item: &FilterItem) -> usize {
    if !item.get_tags().is_empty() {
        1
    } else if only_streams(item) {
        item.get_streams().len()
    } else {
        item.get_names().len().max(1)
    }
}

fn push_arms(
    sql: &mut QueryBuilder<Sqlite>,
    item: &FilterItem,
    bounds: &Bounds,
    first: &mut bool,
) -> Result<(), Failure> {
    let mut next = |sql: &mut QueryBuilder<Sqlite>| {
        if !std::mem::take(first) {
            sql.push(" UNION ");
        }
    };
    if let Some(tag) = item.get_tags().first() {
        next(sql);
        sql.push(
            "SELECT t.position FROM backstory_event_tag t
             CROSS JOIN backstory_event e ON e.position = t.position WHERE t.tag = ",
        );
        sql.push_bind(tag.as_str().to_owned());
        sql.push(" AND t.position > ").push_bind(bounds.after.get());
        sql.push(" AND t.position <= ")
            .push_bind(bounds.up_to.get());
        sql.push(" AND ");
        push_bounds(sql, bounds);
        sql.push(" AND ");
        push_item(sql, item)?;
    } else if only_streams(item) {
        for stream in item.get_streams() {
            next(sql);
            // Within a stream the order of versions is that of positions. The stream's row tells
            // at once that nothing new is there, and where to go on in a long stream.
            sql.push(
                "SELECT position FROM (SELECT e.position FROM backstory_stream s
                 CROSS JOIN backstory_event e INDEXED BY backstory_event_stream
                     ON e.category = s.category AND e.key = s.key
                 WHERE s.category = ",
            );
            sql.push_bind(stream.category().to_owned());
            sql.push(" AND s.key = ").push_bind(stream.key().to_owned());
            sql.push(" AND s.last_position > ")
                .push_bind(bounds.after.get());
            sql.push(" AND e.version > coalesce((SELECT p.version FROM backstory_event p WHERE p.position = ");
            sql.push_bind(bounds.after.get());
            sql.push(" AND p.category = s.category AND p.key = s.key), 0) AND ");
            push_bounds(sql, bounds);
            if !item.get_names().is_empty() {
                sql.push(" AND ");
                push_names(sql, item)?;
            }
            sql.push(" ORDER BY e.version");
            sql.push(bounds.order());
            sql.push(" LIMIT ");
            sql.push_bind(i64::try_from(bounds.limit).unwrap_or(i64::MAX));
            sql.push(")");
        }
    } else if item.get_names().is_empty() {
        next(sql);
        sql.push("SELECT e.position FROM backstory_event e NOT INDEXED WHERE ");
        push_bounds(sql, bounds);
        sql.push(" AND ");
        push_item(sql, item)?;
    } else {
        for name in item.get_names() {
            next(sql);
            sql.push(
                "SELECT e.position FROM backstory_event e INDEXED BY backstory_event_name
                 WHERE e.name = ",
            );
            sql.push_bind(name.clone());
            sql.push(" AND ");
            push_bounds(sql, bounds);
            sql.push(" AND ");
            push_place(sql, item)?;
        }
    }
    Ok(())
}

fn push_bounds(sql: &mut QueryBuilder<Sqlite>, bounds: &Bounds) {
    sql.push("e.position > ").push_bind(bounds.after.get());
    sql.push(" AND e.position <= ")
        .push_bind(bounds.up_to.get());
    for (column, bound) in [
        (" AND e.version >= ", bounds.from_version),
        (" AND e.version <= ", bounds.to_version),
        (" AND e.recorded_at >= ", bounds.since),
        (" AND e.recorded_at < ", bounds.until),
    ] {
        if let Some(bound) = bound {
            sql.push(column).push_bind(bound);
        }
    }
}

/// Any of the items, as a balanced tree: SQLite limits how deep an expression may be.
fn push_any(sql: &mut QueryBuilder<Sqlite>, items: &[FilterItem]) -> Result<(), Failure> {
    if let [item] = items {
        return push_item(sql, item);
    }
    let (left, right) = items.split_at(items.len() / 2);
    sql.push("(");
    push_any(sql, left)?;
    sql.push(" OR ");
    push_any(sql, right)?;
    sql.push(")");
    Ok(())
}

fn push_item(sql: &mut QueryBuilder<Sqlite>, item: &FilterItem) -> Result<(), Failure> {
    sql.push("(");
    push_names(sql, item)?;
    sql.push(" AND ");
    push_place(sql, item)?;
    if !item.get_tags().is_empty() {
        sql.push(" AND NOT EXISTS (SELECT 1 FROM json_each(");
        sql.push_bind(json(item.get_tags())?);
        sql.push(
            ") w WHERE NOT EXISTS (SELECT 1 FROM backstory_event_tag t
             WHERE t.tag = w.value AND t.position = e.position))",
        );
    }
    sql.push(")");
    Ok(())
}

fn push_names(sql: &mut QueryBuilder<Sqlite>, item: &FilterItem) -> Result<(), Failure> {
    if item.get_names().is_empty() {
        sql.push("true");
        return Ok(());
    }
    sql.push("e.name IN (SELECT value FROM json_each(");
    sql.push_bind(json(item.get_names())?);
    sql.push("))");
    Ok(())
}

fn push_place(sql: &mut QueryBuilder<Sqlite>, item: &FilterItem) -> Result<(), Failure> {
    let (categories, streams) = (item.get_categories(), item.get_streams());
    if categories.is_empty() && streams.is_empty() {
        sql.push("true");
        return Ok(());
    }
    sql.push("(e.category IN (SELECT value FROM json_each(");
    sql.push_bind(json(categories)?);
    sql.push(")) OR (e.category, e.key) IN (SELECT value ->> 0, value ->> 1 FROM json_each(");
    let streams: Vec<_> = streams.iter().map(pair).collect();
    sql.push_bind(json(&streams)?);
    sql.push(")))");
    Ok(())
}
