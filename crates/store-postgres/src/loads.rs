//! The events of single streams, as loading an aggregate asks for them: by fixed statements, the
//! first pages together when they are pending together.

use std::sync::Arc;

use async_trait::async_trait;
use backstory_event::{
    Checkpoint, Direction, EventId, EventQuery, Page, Position, RecordedEvent, StoreError,
    StoreErrorKind, StreamId, StreamVersion,
};
use backstory_store_kit::BatchReader;
use futures::{Stream, TryStreamExt};
use sqlx::{Error, Row, postgres::PgRow};
use tracing::Instrument;
use uuid::Uuid;

use crate::{
    append::{column, storable},
    decode::Decoder,
    error::store_error,
    pool::{Lease, Pool, retry},
    read::{PAGE_BYTES, Reader},
    ring::weight,
    sql::Statements,
};

/// How many events one of many gets at most; longer streams go on by pages of their own.
const TOGETHER: i64 = 100;

/// The column where the end of the log begins in rows that have it: behind those of the event.
const END: usize = 14;

/// A page of one stream, forward, without other restrictions than versions.
#[derive(Debug)]
pub(crate) struct Load {
    query: EventQuery,
    stream: StreamId,
}

impl Load {
    /// Nothing when the query asks for something else.
    pub(crate) fn of(query: &EventQuery) -> Option<Self> {
        let EventQuery {
            up_to: None,
            since: None,
            until: None,
            direction: Direction::Forward,
            ..
        } = query
        else {
            return None;
        };
        let [item] = query.filter.items() else {
            return None;
        };
        let restricted = !item.get_names().is_empty()
            || !item.get_categories().is_empty()
            || !item.get_tags().is_empty();
        let mut streams = item.get_streams().iter();
        let (Some(stream), None) = (streams.next(), streams.next()) else {
            return None;
        };
        let possible = storable(stream.category()) && storable(stream.key());
        if restricted || !possible || query.limit == Some(0) {
            return None;
        }
        Some(Self {
            stream: stream.clone(),
            query: query.clone(),
        })
    }

    /// True when it begins with the stream.
    pub(crate) fn is_first(&self) -> bool {
        self.query.after == Checkpoint::START
    }

    fn low(&self) -> i64 {
        self.query.from_version.map_or(0, StreamVersion::get)
    }

    fn high(&self) -> i64 {
        self.query.to_version.map_or(i64::MAX, StreamVersion::get)
    }

    fn limit(&self, page: i64) -> i64 {
        let limit = self.query.limit.and_then(|limit| i64::try_from(limit).ok());
        limit.unwrap_or(page).min(page)
    }

    /// The page of what was found, as [`backstory_store_kit::Scan::page`] makes it.
    fn page(&self, found: Found, head: Checkpoint, page: i64) -> Result<Page, StoreError> {
        let Found { mut events, proof } = found;
        let after = self.query.after;
        if !after.event_id.is_nil() && proof != Some(after.event_id) {
            return Err(StoreError::new(StoreErrorKind::Diverged {
                position: after.position,
                expected: after.event_id,
                found: proof,
            }));
        }
        events.sort_unstable_by_key(RecordedEvent::version);
        let full = i64::try_from(events.len()).unwrap_or(i64::MAX) >= self.limit(page);
        let last = events.last().filter(|_| full);
        let end = if head.position >= after.position {
            head
        } else {
            after
        };
        let checkpoint = last.map_or(end, RecordedEvent::checkpoint);
        let rest = self.query.limit.map(|limit| limit - events.len());
        let next = (checkpoint.position < head.position && rest != Some(0)).then(|| {
            let mut next = self.query.clone().after(checkpoint);
            next.limit = rest;
            next
        });
        Ok(Page {
            events,
            checkpoint,
            head: head.position,
            next,
        })
    }
}

/// What belongs to one load.
#[derive(Debug, Default)]
struct Found {
    events: Vec<RecordedEvent>,
    /// The event behind which the page begins.
    proof: Option<EventId>,
}

/// What was found for each load, and where the log ends.
type Answer = (Vec<Found>, Checkpoint);

/// Reads pages of single streams.
#[derive(Debug)]
pub(crate) struct Loads {
    pub(crate) pool: Pool,
    pub(crate) sql: Arc<Statements>,
    /// For what is too heavy for one page.
    pub(crate) reader: Reader,
}

impl Loads {
    fn page(&self) -> i64 {
        i64::try_from(self.reader.page).unwrap_or(i64::MAX)
    }

    async fn answer_one(
        &self,
        load: &Load,
        page: i64,
    ) -> Result<Option<Result<Answer, StoreError>>, Error> {
        let mut lease = Lease::of(&self.pool).await?;
        let statement = match load.is_first() {
            true => &self.sql.load,
            false => &self.sql.load_on,
        };
        let mut query = sqlx::query(statement.text())
            .bind(load.stream.category())
            .bind(load.stream.key())
            .bind(load.low())
            .bind(load.high())
            .bind(load.limit(page));
        if !load.is_first() {
            query = query.bind(load.query.after.position.get());
        }
        let answer = decode(query.fetch(&mut *lease), 1).await;
        give_back(lease, answer).await
    }

    async fn answer_many(
        &self,
        loads: &[Arc<Load>],
        page: i64,
    ) -> Result<Option<Result<Answer, StoreError>>, Error> {
        let mut lease = Lease::of(&self.pool).await?;
        let query = sqlx::query(self.sql.load_many.text())
            .bind(column(loads, |load| load.stream.category()))
            .bind(column(loads, |load| load.stream.key()))
            .bind(column(loads, |load| load.low()))
            .bind(column(loads, |load| load.high()))
            .bind(column(loads, |load| load.limit(page)));
        let answer = decode(query.fetch(&mut *lease), loads.len()).await;
        give_back(lease, answer).await
    }
}

#[async_trait]
impl BatchReader for Loads {
    type Request = Load;
    type Answer = Page;
    type Error = StoreError;

    async fn one(&self, load: &Load) -> Result<Page, StoreError> {
        let span = tracing::debug_span!("backstory.postgres.read");
        let page = self.page();
        let answer = retry(&self.pool, || Box::pin(self.answer_one(load, page)))
            .instrument(span)
            .await
            .map_err(store_error)?;
        let Some(answer) = answer else {
            // Too much for one page: the ordinary way cuts it.
            return self.reader.read(&load.query).await;
        };
        let (mut found, head) = answer?;
        load.page(found.pop().unwrap_or_default(), head, page)
    }

    async fn many(&self, loads: &[Arc<Load>]) -> Option<Vec<Page>> {
        let page = self.page().min(TOGETHER);
        let span = tracing::debug_span!("backstory.postgres.read", loads = loads.len());
        let answer = retry(&self.pool, || Box::pin(self.answer_many(loads, page)))
            .instrument(span)
            .await;
        let answer = answer.inspect_err(|error| {
            tracing::debug!(%error, loads = loads.len(), "each is read on its own");
        });
        let (found, head) = answer.ok()??.ok()?;
        let pages = loads.iter().zip(found);
        pages
            .map(|(load, found)| load.page(found, head, page).ok())
            .collect()
    }
}

/// What belongs to each of so many loads, and the end of the log, which has number 0 or stands in each
/// row: decoded as the rows come, while the server makes the next. Nothing when they are more than a
/// page may hold in bytes.
async fn decode(
    mut rows: impl Stream<Item = Result<PgRow, Error>> + Unpin,
    loads: usize,
) -> Result<Option<Result<Answer, StoreError>>, Error> {
    let mut decoder = Decoder::default();
    let mut found: Vec<_> = (0..loads).map(|_| Found::default()).collect();
    let mut head = Checkpoint::START;
    let (mut taken, mut bytes) = (0, 0);
    let mut damage = None;
    while let Some(row) = rows.try_next().await? {
        if taken == 0 && row.len() > END {
            head = place(&row, END, END + 1)?;
        }
        let number: i64 = row.try_get(0)?;
        let index = usize::try_from(number.abs() - 1).ok();
        match index.and_then(|index| found.get_mut(index)) {
            None => head = place(&row, 1, 5)?,
            Some(load) if number < 0 => load.proof = Some(place(&row, 1, 5)?.event_id),
            Some(load) => match decoder.decode(&row) {
                Ok(event) => {
                    bytes += event.as_ref().map_or(0, weight);
                    load.events.extend(event);
                }
                // The connection is given back when all rows were taken.
                Err(error) => damage = damage.or(Some(error)),
            },
        }
        taken += 1;
        if bytes > PAGE_BYTES && taken > 1 {
            return Ok(None);
        }
    }
    Ok(Some(match damage {
        Some(error) => Err(error),
        None => Ok((found, head)),
    }))
}

/// Gives the connection back, unless rows are still to come on it.
async fn give_back<T>(lease: Lease, answer: Result<Option<T>, Error>) -> Result<Option<T>, Error> {
    match answer {
        Ok(None) => Ok(None),
        answer => lease.done_with(answer).await,
    }
}

/// The place of an event whose position and id are in these columns.
fn place(row: &PgRow, position: usize, id: usize) -> Result<Checkpoint, Error> {
    Ok(Checkpoint {
        position: Position::new(row.try_get(position)?),
        event_id: EventId::from_uuid(row.try_get::<Uuid, _>(id)?),
    })
}
