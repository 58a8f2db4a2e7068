//! Pages of events, one statement each.

use std::{
    cmp::Reverse,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Instant,
};

use backstory_event::{
    Checkpoint, Direction, EventId, EventQuery, Page, Position, RecordedEvent, StoreError,
};
use backstory_store_kit::{Scan, Tail};
use chrono::{DateTime, Utc};
use futures::{Stream, TryStreamExt};
use sqlx::{Error, Row, postgres::PgRow};

use crate::{
    decode::Decoder,
    error::store_error,
    jump::Losses,
    outage::Outage,
    pool::{Lease, Pool, retry},
    ring::weight,
    schema::Schema,
    sql::{NEAR, Statements},
    statement::{Server, whole},
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
    /// Where the log ends, as far as is known; nothing on a standby.
    pub(crate) tail: Option<Tail>,
    // About how many bytes an event has, as the last page tells.
    pub(crate) weight: Arc<AtomicUsize>,
    pub(crate) losses: Losses,
}

impl Reader {
    pub(crate) async fn read(&self, query: &EventQuery) -> Result<Page, StoreError> {
        let narrow = self.narrow(query).await?;
        self.page(&narrow).await
    }

    /// The page of a query without bounds in time.
    pub(crate) async fn page(&self, query: &EventQuery) -> Result<Page, StoreError> {
        let limit = self.limit();
        let begun = Instant::now();
        let mut way = self.way(query, limit);
        let read = |way| retry(&self.pool, move || Box::pin(self.found(query, limit, way)));
        let mut found = read(way).await.map_err(store_error)??;
        if way != Way::Whole && found.events.is_empty() {
            // It is beyond the end, and where that is has to be asked.
            way = Way::Whole;
            found = read(way).await.map_err(store_error)??;
        }
        if let (Way::Tail, true, Some(tail)) = (way, found.cut, &self.tail) {
            // The last row, which is the end, was not read.
            found.head = found.head.max(tail.head());
        }
        // A run reaches the end, or fills the page.
        let window = match way {
            Way::Run(_) => i64::MAX,
            Way::Tail | Way::Whole => self.window,
        };
        let mut scan = Scan::plan(query, found.head, window, limit);
        let mut asked = query.clone();
        if found.cut {
            // What was found is all that this page has room for.
            scan.limit = found.matching.min(scan.limit);
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
        if page.checkpoint.position == scan.high {
            self.jump(query, &mut page, begun.elapsed()).await;
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

    fn way(&self, query: &EventQuery, limit: usize) -> Way {
        let forward = query.direction == Direction::Forward;
        if !forward
            || query.up_to.is_some()
            || query.limit == Some(0)
            || self.server == Server::Standby
        {
            return Way::Whole;
        }
        let gap = |tail: &Tail| tail.head().get() - query.after.position.get();
        if self.window >= NEAR && self.tail.as_ref().is_some_and(|tail| gap(tail) <= NEAR / 2) {
            return Way::Tail;
        }
        // The event before, those of the page, and one that tells that there are more.
        let rows = query.limit.unwrap_or(limit).min(limit) + 2;
        match i64::try_from(rows) {
            Ok(rows) if rows <= self.window && means_all(query) => Way::Run(rows),
            _ => Way::Whole,
        }
    }

    async fn found(
        &self,
        query: &EventQuery,
        limit: usize,
        way: Way,
    ) -> Result<Result<Found, StoreError>, Error> {
        let read = async {
            let after = query.after.position.get();
            let mut statement;
            let mut lease = Lease::of(&self.pool).await?;
            let mut found = Found::default();
            let rows = match way {
                Way::Tail => self.sql.tail.query().bind(after).fetch(&mut *lease),
                Way::Run(rows) => self
                    .sql
                    .run
                    .query()
                    .bind(after)
                    .bind(rows)
                    .fetch(&mut *lease),
                Way::Whole => {
                    statement = whole(&self.schema, query, self.window, limit, self.server);
                    statement.build().fetch(&mut *lease)
                }
            };
            let result = found.take(rows, query).await;
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

/// True when nothing behind the beginning of the query is left out.
fn means_all(query: &EventQuery) -> bool {
    query.filter.is_all()
        && query.from_version.is_none()
        && query.to_version.is_none()
        && query.since.is_none()
        && query.until.is_none()
}

/// How a page is found.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Way {
    /// So little lies behind the query that looking at all of it is the least work, whatever its
    /// filter is.
    Tail,
    /// So many events one behind another, because the query means all of them.
    Run(i64),
    /// By a statement made for the query.
    Whole,
}

/// What a statement has found.
#[derive(Default)]
struct Found {
    head: Position,
    events: Vec<RecordedEvent>,
    bytes: usize,
    /// How many of them the query means.
    matching: usize,
    /// There may be more, but not for one page.
    cut: bool,
}

impl Found {
    /// Decodes rows as they come, while the server makes the next.
    async fn take(
        &mut self,
        mut rows: impl Stream<Item = Result<PgRow, Error>> + Unpin,
        query: &EventQuery,
    ) -> Result<Result<(), StoreError>, Error> {
        let mut decoder = Decoder::default();
        while let Some(row) = rows.try_next().await? {
            self.head = Position::new(row.try_get_unchecked(0)?);
            match decoder.decode(&row) {
                Ok(Some(event)) => {
                    self.bytes += weight(&event);
                    let beyond = event.position() > query.after.position;
                    self.matching += usize::from(beyond && query.matches(&event));
                    self.events.push(event);
                }
                Ok(None) => {}
                Err(error) => return Ok(Err(error)),
            }
            // The ends alone make no page.
            if self.bytes > PAGE_BYTES && self.matching > 0 {
                self.cut = true;
                break;
            }
        }
        // They come in order, but for the ends if the server works in parallel: that is quick.
        match query.direction {
            Direction::Forward => self.events.sort_by_key(RecordedEvent::position),
            Direction::Backward => {
                let position = |event: &RecordedEvent| Reverse(event.position());
                self.events.sort_by_key(position);
            }
        }
        Ok(Ok(()))
    }
}
