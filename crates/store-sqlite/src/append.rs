//! One batch of appends: read the facts, decide, write. A statement each, whatever the size.

use std::{
    path::PathBuf,
    sync::{Arc, atomic::AtomicU32},
    time::Duration,
};

use async_trait::async_trait;
use backstory_event::{
    Append, Appended, Clock, EventId, Position, StoreError, StoreErrorKind, StreamId, StreamState,
    StreamVersion, SystemClock, Tag,
};
use backstory_projection::Inlines;
use backstory_store_kit::{
    BatchWriter, ConditionHit, Decision, EventRow, Facts, Histogram, Needs, StoredEvent, StreamRow,
    Tail, WriteFailure, decide,
};
use chrono::DateTime;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use sqlx::{Row, SqliteConnection, sqlite::SqliteRow};
use tokio::time::Instant;
use tracing::Instrument;
use uuid::Uuid;

use crate::{
    bind::{json, pair},
    error::{Failure, corrupt, is_uncertain, store_error},
    filter::{Bounds, first_match},
    inline::Inline,
    lock::{WriteLock, WriteTransaction},
    values,
};

/// How long a batch waits for the lock before its callers may give up.
const PATIENCE: Duration = Duration::from_millis(250);

/// About how long the JSON text may be in which the rows of one INSERT travel.
const BYTES_PER_STATEMENT: usize = 4 << 20;

/// Writes the batches of one store.
pub(crate) struct Batches {
    pub(crate) lock: WriteLock,
    pub(crate) tail: Tail,
    pub(crate) path: PathBuf,
    pub(crate) lock_wait: Arc<Histogram>,
    pub(crate) inlines: Inlines<Inline>,
    /// How often in a row inline projections could not follow.
    pub(crate) again: AtomicU32,
}

#[async_trait]
impl BatchWriter for Batches {
    fn lock_wait(&self) -> Option<Arc<Histogram>> {
        Some(self.lock_wait.clone())
    }

    fn is_apart(&self, append: &Append) -> bool {
        !self.inlines.wanting(std::iter::once(append)).is_empty()
    }

    async fn write(
        &mut self,
        batch: &[Arc<Append>],
    ) -> Result<Vec<Result<Appended, StoreErrorKind>>, WriteFailure> {
        let span = tracing::debug_span!("backstory.sqlite.batch", appends = batch.len());
        self.store(batch).instrument(span).await
    }
}

impl Batches {
    async fn store(
        &self,
        batch: &[Arc<Append>],
    ) -> Result<Vec<Result<Appended, StoreErrorKind>>, WriteFailure> {
        let shortest = batch.iter().filter_map(|append| append.deadline).min();
        let patience = shortest.map_or(PATIENCE, |deadline| PATIENCE.min(deadline / 4));
        let begun = Instant::now();
        let transaction = self.lock.begin(patience).await;
        self.lock_wait.record_time(begun.elapsed());
        let mut transaction = transaction.map_err(not_stored)?;
        let wanting = self.inlines.wanting(batch.iter().map(Arc::as_ref));
        if !wanting.is_empty() {
            return self.store_inline(transaction, batch, &wanting).await;
        }
        let decision = match run(&mut transaction, batch).await {
            Ok(decision) => decision,
            Err(failure) => return Err(not_stored(failure.at(&self.path))),
        };
        let Some(last) = decision.events.last() else {
            // Nothing was written; dropping it instead would cost the connection.
            let _ = transaction.rollback().await;
            return Ok(decision.outcomes);
        };
        let head = last.recorded.position;
        self.commit(transaction, head).await?;
        Ok(decision.outcomes)
    }

    /// Commits a batch after which the log ends there.
    pub(crate) async fn commit(
        &self,
        transaction: WriteTransaction,
        head: Position,
    ) -> Result<(), WriteFailure> {
        match transaction.commit().await {
            Ok(()) => {
                self.tail.advance(head);
                Ok(())
            }
            Err(error) if is_uncertain(&error) => {
                Err(WriteFailure::Lost(store_error(&self.path, error)))
            }
            Err(error) => Err(not_stored(store_error(&self.path, error))),
        }
    }
}

/// Whether the same batch may pass later, after an error that surely stored nothing.
pub(crate) fn not_stored(error: StoreError) -> WriteFailure {
    match error.kind() {
        StoreErrorKind::Unavailable { .. } => WriteFailure::Retry(error),
        _ => WriteFailure::Refused(error),
    }
}

pub(crate) async fn run(
    connection: &mut SqliteConnection,
    batch: &[Arc<Append>],
) -> Result<Decision, Failure> {
    let appends = || batch.iter().map(AsRef::as_ref);
    let mut facts = facts(connection, &Needs::of(appends())).await?;
    for (index, append) in appends().enumerate() {
        for (number, condition) in append.conditions.iter().enumerate() {
            let bounds = Bounds::behind(condition.after.position);
            let Some(hit) = first_match(connection, &condition.fail_if, &bounds).await? else {
                continue;
            };
            let hit = ConditionHit {
                position: Position::new(hit.try_get(0)?),
                name: hit.try_get(1)?,
                event_id: EventId::from_uuid(hit.try_get(2)?),
            };
            facts.hits.insert((index, number), hit);
        }
    }
    let decision = decide(appends(), facts, SystemClock.now());
    // Without events there are values alone, if anything.
    match decision.events.is_empty() {
        true => values::write(connection, &decision.values).await?,
        false => write(connection, &decision).await?,
    }
    Ok(decision)
}

/// The facts as JSON arrays, so that one statement gives them all.
const FACTS: &str = "
SELECT
    (
        SELECT json_array(position, recorded_at)
        FROM backstory_event ORDER BY position DESC LIMIT 1
    ),
    (
        SELECT json_group_array(json_array(
            s.category, s.key, s.version, s.state, json(s.tags), s.first_position, s.last_position
        ))
        FROM json_each(?1) n
        CROSS JOIN backstory_stream s ON s.category = n.value ->> 0 AND s.key = n.value ->> 1
    ),
    (
        SELECT json_group_array(json_array(
            hex(e.id), e.position, e.category, e.key, e.version, e.name
        ))
        FROM json_each(?2) n CROSS JOIN backstory_event e ON e.id = unhex(n.value, '-')
    ),
    (
        SELECT json_group_array(json_array(c.scope, c.value, c.category, c.key))
        FROM json_each(?3) n
        CROSS JOIN backstory_claim c ON c.scope = n.value ->> 0 AND c.value = n.value ->> 1
    ),
    (
        SELECT json_group_array(json_array(e.position, hex(e.id)))
        FROM json_each(?4) n CROSS JOIN backstory_event e ON e.position = n.value
    )";

async fn facts(connection: &mut SqliteConnection, needs: &Needs) -> Result<Facts, Failure> {
    let streams: Vec<_> = needs.streams.iter().map(pair).collect();
    let row = sqlx::query(FACTS)
        .bind(json(&streams)?)
        .bind(json(&needs.event_ids)?)
        .bind(json(&needs.claims)?)
        .bind(json(&needs.proofs)?)
        .fetch_one(connection)
        .await?;
    let head: Option<(Position, i64)> = match row.try_get(0)? {
        Some(text) => Some(parse(text)?),
        None => None,
    };
    let recorded_at = match head {
        Some((position, micros)) => Some(
            DateTime::from_timestamp_micros(micros)
                .ok_or_else(|| corrupt(format!("the time of event {position} is {micros}")))?,
        ),
        None => None,
    };
    Ok(Facts {
        head: head.map_or(Position::START, |(position, _)| position),
        recorded_at,
        streams: column::<FoundStream>(&row, 1)?
            .into_iter()
            .map(FoundStream::row)
            .collect::<Result<_, _>>()?,
        events: column::<(Uuid, Position, String, String, StreamVersion, Arc<str>)>(&row, 2)?
            .into_iter()
            .map(|(id, position, category, key, version, name)| {
                let stream = StreamId::stored(category, key);
                let stored = StoredEvent {
                    position,
                    stream,
                    version,
                    name,
                };
                (EventId::from_uuid(id), stored)
            })
            .collect(),
        claims: column::<(String, String, String, String)>(&row, 3)?
            .into_iter()
            .map(|(scope, value, category, key)| ((scope, value), StreamId::stored(category, key)))
            .collect(),
        proofs: column::<(Position, Uuid)>(&row, 4)?
            .into_iter()
            .map(|(position, id)| (position, EventId::from_uuid(id)))
            .collect(),
        hits: Default::default(),
    })
}

#[derive(Deserialize)]
struct FoundStream(
    String,
    String,
    StreamVersion,
    String,
    Vec<String>,
    Position,
    Position,
);

impl FoundStream {
    fn row(self) -> Result<(StreamId, StreamRow), Failure> {
        let Self(category, key, version, state, tags, first_position, last_position) = self;
        let stream = StreamId::stored(category, key);
        let row = StreamRow {
            version,
            state: stream_state(&stream, &state)?,
            tags: tags.into_iter().map(Tag::stored).collect(),
            first_position,
            last_position,
        };
        Ok((stream, row))
    }
}

/// The state of a stream from its name on disk.
pub(crate) fn stream_state(stream: &StreamId, state: &str) -> Result<StreamState, Failure> {
    StreamState::parse(state)
        .ok_or_else(|| corrupt(format!("the state of stream {stream} is {state:?}")))
}

const INSERT_EVENTS: &str = "
INSERT INTO backstory_event (
    position, category, key, version, id, name, schema_version, recorded_at, erased_at,
    tags, metadata, payload
)
SELECT
    value ->> 0, value ->> 1, value ->> 2, value ->> 3, unhex(value ->> 4, '-'), value ->> 5,
    value ->> 6, value ->> 7, value ->> 8, value ->> 9, value ->> 10, value ->> 11
FROM json_each(?1)";

const UPSERT_STREAMS: &str = "
INSERT INTO backstory_stream (
    category, key, version, state, tags, first_position, last_position
)
SELECT
    value ->> 0, value ->> 1, value ->> 2, value ->> 3, value ->> 4, value ->> 5, value ->> 6
FROM json_each(?1)
WHERE true
ON CONFLICT (category, key) DO UPDATE SET
    version = excluded.version, state = excluded.state, tags = excluded.tags,
    first_position = excluded.first_position, last_position = excluded.last_position";

/// After the insert: each event before the newest `backstory.erased` of its stream goes.
const ERASE: [&str; 6] = [
    "
UPDATE backstory_event
SET erased_at = ?2, tags = '[]', metadata = '{}', payload = '{}'
WHERE (category, key) IN (SELECT value ->> 0, value ->> 1 FROM json_each(?1))
    AND erased_at IS NULL
    AND version < (
        SELECT last.version FROM backstory_event last INDEXED BY backstory_event_stream
        WHERE last.category = backstory_event.category AND last.key = backstory_event.key
            AND last.name = 'backstory.erased'
        ORDER BY last.version DESC LIMIT 1
    )",
    "
DELETE FROM backstory_claim
WHERE (category, key) IN (SELECT value ->> 0, value ->> 1 FROM json_each(?1))",
    "
DELETE FROM backstory_entry
WHERE (category, key) IN (SELECT value ->> 0, value ->> 1 FROM json_each(?1))",
    "
DELETE FROM backstory_snapshot
WHERE (category, key) IN (SELECT value ->> 0, value ->> 1 FROM json_each(?1))",
    "
DELETE FROM backstory_document
WHERE owner_category IS NOT NULL
    AND (owner_category, owner_key) IN (SELECT value ->> 0, value ->> 1 FROM json_each(?1))",
    "
DELETE FROM backstory_dead_letter
WHERE (category, stream_key) IN (SELECT value ->> 0, value ->> 1 FROM json_each(?1))",
];

async fn write(connection: &mut SqliteConnection, decision: &Decision) -> Result<(), Failure> {
    let mut rows = String::new();
    for event in &decision.events {
        rows.push(if rows.is_empty() { '[' } else { ',' });
        rows.push_str(&json(&event_columns(event))?);
        if rows.len() > BYTES_PER_STATEMENT {
            insert_events(connection, std::mem::take(&mut rows)).await?;
        }
    }
    if !rows.is_empty() {
        insert_events(connection, rows).await?;
    }
    let streams: Vec<_> = decision
        .streams
        .iter()
        .map(|(stream, row)| {
            let (category, key) = pair(stream);
            let (version, state) = (row.version, row.state.as_str());
            (
                category,
                key,
                version,
                state,
                &row.tags,
                row.first_position,
                row.last_position,
            )
        })
        .collect();
    sqlx::query(UPSERT_STREAMS)
        .bind(json(&streams)?)
        .execute(&mut *connection)
        .await?;
    if !decision.erased.is_empty() {
        let erased: Vec<_> = decision.erased.iter().map(pair).collect();
        let erased = json(&erased)?;
        for statement in ERASE {
            sqlx::query(statement)
                .bind(&erased)
                .bind(decision.recorded_at.timestamp_micros())
                .execute(&mut *connection)
                .await?;
        }
    }
    values::write(connection, &decision.values).await
}

async fn insert_events(
    connection: &mut SqliteConnection,
    mut rows: String,
) -> Result<(), sqlx::Error> {
    rows.push(']');
    let insert = sqlx::query(INSERT_EVENTS).bind(rows);
    insert.execute(connection).await.map(drop)
}

/// The columns of an event, in the order of [`INSERT_EVENTS`].
fn event_columns(row: &EventRow) -> impl Serialize {
    let event = &row.recorded;
    (
        event.position,
        event.stream.category(),
        event.stream.key(),
        event.version,
        event.id,
        &event.name,
        event.schema_version,
        event.recorded_at.timestamp_micros(),
        event.erased_at.map(|time| time.timestamp_micros()),
        &event.tags,
        row.metadata.as_str(),
        event.payload.as_str(),
    )
}

fn column<T: DeserializeOwned>(row: &SqliteRow, index: usize) -> Result<Vec<T>, Failure> {
    parse(row.try_get(index)?)
}

fn parse<T: DeserializeOwned>(text: &str) -> Result<T, Failure> {
    serde_json::from_str(text).map_err(|error| corrupt(format!("a row cannot be read: {error}")))
}
