//! One batch of appends inside an open transaction that holds the lock of the log.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use backstory_event::{
    Append, AppendCondition, Appended, EventId, FilterItem, Lifecycle, Position, StoreErrorKind,
    StreamId, StreamState, StreamVersion, Tag,
};
use backstory_store_kit::{
    ClaimKey, ConditionHit, Decision, EventRow, Facts, Needs, StoredEvent, StreamRow, decide,
};
use chrono::{DateTime, Utc};
use serde::Serialize;
use sqlx::{PgConnection, Postgres, Row, postgres::PgArguments, query::Query, types::Json};
use uuid::Uuid;

use crate::{sql::Statements, values};

/// One answer per append.
pub(crate) type Outcomes = Vec<Result<Appended, StoreErrorKind>>;

/// Number, version, state and tags of a stream.
pub(crate) type StreamFact = (usize, i64, StreamState, Vec<String>);
type EventFact = (usize, i64, String, String, i64, Arc<str>);
type ClaimFact = (usize, String, String);
type ProofFact = (i64, Uuid);
type HitFact = (usize, usize, i64, String, Uuid);

/// One item of a condition's filter, as `hit_v1` takes it.
#[derive(Debug, Serialize)]
pub(crate) struct Look<'a> {
    append: usize,
    number: usize,
    after: i64,
    names: Option<Vec<&'a str>>,
    categories: Option<Vec<&'a str>>,
    stream_categories: Vec<&'a str>,
    stream_keys: Vec<&'a str>,
    tags: Option<Vec<&'a str>>,
}

/// Reads what the batch needs and decides it; says also where the log ended before.
pub(crate) async fn decide_batch(
    connection: &mut PgConnection,
    sql: &Statements,
    appends: &[Arc<Append>],
) -> Result<(Decision, Position), sqlx::Error> {
    let needs = Needs::of(appends.iter().map(Arc::as_ref));
    let streams: Vec<StreamId> = needs.streams.into_iter().collect();
    let ids: Vec<EventId> = needs.event_ids.into_iter().collect();
    let claims: Vec<ClaimKey> = needs.claims.into_iter().collect();
    let looks = looks(appends);

    let row = sql
        .facts
        .query()
        .bind(column(&streams, StreamId::category))
        .bind(column(&streams, StreamId::key))
        .bind(column(&ids, |id| id.as_uuid()))
        .bind(column(&claims, |(scope, _)| scope.as_str()))
        .bind(column(&claims, |(_, value)| value.as_str()))
        .bind(column(needs.proofs, Position::get))
        .bind(Json(looks))
        .fetch_one(connection)
        .await?;

    let mut facts = Facts {
        head: Position::new(row.try_get(0)?),
        recorded_at: row.try_get(1)?,
        ..Facts::default()
    };
    let now: DateTime<Utc> = row.try_get(2)?;
    for (n, version, state, tags) in list::<StreamFact>(&row, 3)? {
        if let Some(stream) = streams.get(n.wrapping_sub(1)) {
            let known = known(StreamVersion::new(version), state, tags);
            facts.streams.insert(stream.clone(), known);
        }
    }
    for (n, position, category, key, version, name) in list::<EventFact>(&row, 4)? {
        if let Some(id) = ids.get(n.wrapping_sub(1)) {
            let stored = StoredEvent {
                position: Position::new(position),
                stream: StreamId::stored(category, key),
                version: StreamVersion::new(version),
                name,
            };
            facts.events.insert(*id, stored);
        }
    }
    for (n, category, key) in list::<ClaimFact>(&row, 5)? {
        if let Some(claim) = claims.get(n.wrapping_sub(1)) {
            let owner = StreamId::stored(category, key);
            facts.claims.insert(claim.clone(), owner);
        }
    }
    for (position, id) in list::<ProofFact>(&row, 6)? {
        let position = Position::new(position);
        facts.proofs.insert(position, EventId::from_uuid(id));
    }
    for (append, number, position, name, id) in list::<HitFact>(&row, 7)? {
        let hit = ConditionHit {
            position: Position::new(position),
            name,
            event_id: EventId::from_uuid(id),
        };
        // Each item of a filter has its own first hit.
        let first = facts
            .hits
            .entry((append, number))
            .or_insert_with(|| hit.clone());
        if hit.position < first.position {
            *first = hit;
        }
    }
    let head = facts.head;
    let decision = decide(appends.iter().map(Arc::as_ref), facts, now);
    Ok((decision, head))
}

/// A stream as far as a decision needs it: where its events are is no matter.
pub(crate) fn known(version: StreamVersion, state: StreamState, tags: Vec<String>) -> StreamRow {
    StreamRow {
        version,
        state,
        tags: tags.into_iter().map(Tag::stored).collect(),
        ..StreamRow::empty()
    }
}

pub(crate) fn list<T>(row: &sqlx::postgres::PgRow, column: usize) -> Result<Vec<T>, sqlx::Error>
where
    T: serde::de::DeserializeOwned + Send + Unpin + 'static,
{
    let list: Option<Json<Vec<T>>> = row.try_get(column)?;
    Ok(list.map(|Json(list)| list).unwrap_or_default())
}

pub(crate) fn looks(appends: &[Arc<Append>]) -> Vec<Look<'_>> {
    let conditions = appends.iter().enumerate().flat_map(|(append, request)| {
        let conditions = request.conditions.iter().enumerate();
        conditions.map(move |(number, condition)| (append, number, condition))
    });
    conditions
        .flat_map(|(append, number, condition)| looks_of(append, number, condition))
        .collect()
}

impl Look<'_> {
    /// Any event behind a position.
    pub(crate) fn at_all(after: Position) -> Self {
        Self {
            append: 0,
            number: 0,
            after: after.get(),
            names: None,
            categories: None,
            stream_categories: Vec::new(),
            stream_keys: Vec::new(),
            tags: None,
        }
    }

    pub(crate) fn has_tags(&self) -> bool {
        self.tags.is_some()
    }

    /// The append and the number of its condition that it is for.
    pub(crate) fn condition(&self) -> (usize, usize) {
        (self.append, self.number)
    }
}

/// The items of a condition that anything stored can match.
pub(crate) fn looks_of(
    append: usize,
    number: usize,
    condition: &AppendCondition,
) -> impl Iterator<Item = Look<'_>> {
    let after = condition.after.position.get();
    let items = condition.fail_if.items().iter();
    items
        .filter(|item| item.get_tags().iter().all(|tag| storable(tag.as_str())))
        .map(move |item| look(append, number, after, item))
}

fn look(append: usize, number: usize, after: i64, item: &FilterItem) -> Look<'_> {
    let (names, tags) = (item.get_names(), item.get_tags());
    let (categories, streams) = (item.get_categories(), item.get_streams());
    let anywhere = categories.is_empty() && streams.is_empty();
    let streams = streams
        .iter()
        .filter(|stream| storable(stream.category()) && storable(stream.key()));
    Look {
        append,
        number,
        after,
        names: (!names.is_empty()).then(|| texts(names)),
        categories: (!anywhere).then(|| texts(categories)),
        stream_categories: streams.clone().map(StreamId::category).collect(),
        stream_keys: streams.map(StreamId::key).collect(),
        tags: (!tags.is_empty()).then(|| texts(tags)),
    }
}

/// The texts that can be stored: others are found nowhere, and the server refuses to look for them.
pub(crate) fn texts<T: AsRef<str>>(texts: &BTreeSet<T>) -> Vec<&str> {
    let texts = texts.iter().map(AsRef::as_ref);
    texts.filter(|text| storable(text)).collect()
}

/// True for texts that Postgres can hold.
pub(crate) fn storable(text: &str) -> bool {
    !text.contains('\0')
}

/// Writes a decision and notifies the listeners of all processes.
pub(crate) async fn store(
    connection: &mut PgConnection,
    sql: &Statements,
    decision: &Decision,
) -> Result<(), sqlx::Error> {
    if !decision.events.is_empty() {
        store_events(connection, sql, decision).await?;
    }
    put_states(connection, sql, lifecycles(decision)).await?;
    erase(connection, sql, decision.erased.iter().collect()).await?;
    values::write(connection, sql, &decision.values).await
}

/// The streams of which lifecycle events may have changed state or tags.
fn lifecycles(decision: &Decision) -> BTreeMap<&StreamId, &StreamRow> {
    let events = decision.events.iter().map(|row| &row.recorded);
    let changes = events.filter(|event| Lifecycle::parse(&event.name).is_some());
    changes
        .filter_map(|event| decision.streams.get_key_value(&event.stream))
        .collect()
}

/// Writes what lifecycle events have made of streams.
pub(crate) async fn put_states(
    connection: &mut PgConnection,
    sql: &Statements,
    streams: BTreeMap<&StreamId, &StreamRow>,
) -> Result<(), sqlx::Error> {
    if streams.is_empty() {
        return Ok(());
    }
    sql.put_states
        .query()
        .bind(column(streams.keys(), |stream| stream.category()))
        .bind(column(streams.keys(), |stream| stream.key()))
        .bind(column(streams.values(), |row| row.state.as_str()))
        .bind(column(streams.values(), |row| tags_json(&row.tags)))
        .execute(connection)
        .await?;
    Ok(())
}

/// Takes the content of streams; in order, as all who lock several streams do.
pub(crate) async fn erase(
    connection: &mut PgConnection,
    sql: &Statements,
    streams: BTreeSet<&StreamId>,
) -> Result<(), sqlx::Error> {
    if streams.is_empty() {
        return Ok(());
    }
    sql.erase
        .query()
        .bind(column(&streams, |stream| stream.category()))
        .bind(column(&streams, |stream| stream.key()))
        .execute(connection)
        .await?;
    Ok(())
}

async fn store_events(
    connection: &mut PgConnection,
    sql: &Statements,
    decision: &Decision,
) -> Result<(), sqlx::Error> {
    let events = &decision.events;
    let last = events.last().map_or(0, |row| row.recorded.position.get());
    let positions = column(events, |row| row.recorded.position.get());
    bind_events(sql.store.query().bind(positions), events)
        .bind(decision.recorded_at)
        .bind(column(events, |row| row.recorded.erased_at.is_some()))
        .bind(last.to_string())
        .execute(connection)
        .await?;
    Ok(())
}

/// Binds what an event is whatever its place in the log: nine columns.
pub(crate) fn bind_events<'q>(
    query: Query<'q, Postgres, PgArguments>,
    events: &'q [EventRow],
) -> Query<'q, Postgres, PgArguments> {
    query
        .bind(column(events, |row| row.recorded.stream.category()))
        .bind(column(events, |row| row.recorded.stream.key()))
        .bind(column(events, |row| row.recorded.version.get()))
        .bind(column(events, |row| row.recorded.id.as_uuid()))
        .bind(column(events, |row| &*row.recorded.name))
        .bind(column(events, schema_version))
        .bind(column(events, |row| row.recorded.payload.as_str()))
        .bind(column(events, |row| row.metadata.as_str()))
        .bind(column(events, |row| tags_json(&row.recorded.tags)))
}

/// The column `schema_version`. Checked at the edge: it fits.
pub(crate) fn schema_version(row: &EventRow) -> i32 {
    i32::try_from(row.recorded.schema_version).unwrap_or(i32::MAX)
}

/// One column of some rows, as an array parameter.
pub(crate) fn column<I: IntoIterator, T>(rows: I, value: impl FnMut(I::Item) -> T) -> Vec<T> {
    rows.into_iter().map(value).collect()
}

/// Tags as a JSON array. Texts never fail to become JSON.
pub(crate) fn tags_json(tags: &[Tag]) -> String {
    if tags.is_empty() {
        return "[]".to_owned();
    }
    serde_json::to_string(tags).unwrap_or_default()
}
