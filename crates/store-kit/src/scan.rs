//! How a query becomes pages: bounded windows, a proof in front, an honest checkpoint behind.

use backstory_event::{
    Checkpoint, Direction, EventId, EventQuery, Page, Position, RecordedEvent, StoreError,
    StoreErrorKind,
};

/// One page of a query: which positions to look at, and what to make of the rows found there.
///
/// A store selects, in the order of the query, the rows with `low <= position <= high` that match
/// the query, **and always** those at `low` and `high`; at most [`Scan::rows`] of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Scan {
    /// The lowest position to look at: the event of `query.after`, whose id is the proof.
    pub low: Position,
    /// The highest position to look at.
    pub high: Position,
    /// How many matching events make a page.
    pub limit: usize,
    head: Position,
}

impl Scan {
    /// Plans the next page. `head` is the newest position, `window` how many positions one page
    /// may look at, `page` how many events it may hold.
    ///
    /// A query that names nothing but streams is not cut into windows: their index finds them.
    pub fn plan(query: &EventQuery, head: Position, window: i64, page: usize) -> Self {
        let items = query.filter.items();
        let by_stream = !items.is_empty()
            && items
                .iter()
                .all(|item| item.get_categories().is_empty() && !item.get_streams().is_empty());
        let window = if by_stream { i64::MAX } else { window.max(1) };
        let after = query.after.position;
        let end = query.up_to.map_or(head, |bound| bound.min(head)).max(after);
        let (low, high) = match query.direction {
            Direction::Forward => (
                after,
                end.min(Position::new(after.get().saturating_add(window))),
            ),
            Direction::Backward => (
                after.max(Position::new(end.get().saturating_sub(window))),
                end,
            ),
        };
        let limit = query.limit.unwrap_or(page).min(page);
        Self {
            low,
            high,
            limit,
            head,
        }
    }

    /// How many rows a store has to fetch at most: the page and the two ends.
    pub fn rows(&self) -> usize {
        self.limit + 2
    }

    /// Makes the page of the rows that were found, in the order of the query.
    ///
    /// # Errors
    /// `Diverged` when the event of `query.after` is not there any more.
    pub fn page(self, query: &EventQuery, rows: Vec<RecordedEvent>) -> Result<Page, StoreError> {
        // What stands at an end is the first or the last row.
        let ends = [rows.first(), rows.last()];
        let at = |position: Position| {
            ends.into_iter()
                .flatten()
                .find(|row| row.position() == position)
        };
        let proof = query.after;
        // Backwards the proof comes last: on the final page, or cut off because more rows matched.
        let provable = match query.direction {
            Direction::Forward => true,
            Direction::Backward => self.low == proof.position && rows.len() < self.rows(),
        };
        if !proof.event_id.is_nil() && provable {
            let found = at(proof.position).map(RecordedEvent::id);
            if found != Some(proof.event_id) {
                return Err(StoreError::new(StoreErrorKind::Diverged {
                    position: proof.position,
                    expected: proof.event_id,
                    found,
                }));
            }
        }
        let [low, high] = [self.low, self.high].map(|position| Checkpoint {
            position,
            event_id: match at(position) {
                Some(row) => row.id(),
                None if position == proof.position => proof.event_id,
                None => EventId::NIL,
            },
        });
        let mut events = rows;
        // The row at `low` is only proof: in a backward query it begins the next page.
        events.retain(|row| row.position() > self.low && query.matches(row));
        let full = events.len() >= self.limit;
        events.truncate(self.limit);
        let last = events
            .last()
            .map(RecordedEvent::checkpoint)
            .filter(|_| full);
        let rest = query.limit.map(|limit| limit - events.len());
        let (checkpoint, next) = match query.direction {
            Direction::Forward => {
                let checkpoint = last.unwrap_or(if self.limit == 0 { low } else { high });
                let reached = checkpoint.position;
                let end = query.up_to.map_or(self.head, |bound| bound.min(self.head));
                let mut next = query.clone().after(checkpoint);
                next.limit = rest;
                (
                    checkpoint,
                    (reached < end && rest != Some(0)).then_some(next),
                )
            }
            Direction::Backward => {
                let reached = last.map_or(self.low, |last| Position::new(last.position.get() - 1));
                let mut next = query.clone().up_to(reached);
                next.limit = rest;
                (
                    query.after,
                    (reached > query.after.position && rest != Some(0)).then_some(next),
                )
            }
        };
        Ok(Page {
            events,
            checkpoint,
            head: self.head,
            next,
        })
    }
}
