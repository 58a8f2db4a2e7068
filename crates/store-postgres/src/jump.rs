//! Where little of the log matches, pages jump: behind a window with next to nothing in it, the
//! indexes are asked for the next event that can match, and the page ends right before that.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use backstory_event::{
    AppendCondition, Checkpoint, Direction, EventFilter, EventId, EventQuery, Page, Position,
};
use sqlx::{Error, types::Json};
use tokio::time::timeout;
use uuid::Uuid;

use crate::{append::looks_of, pool::Lease, read::Reader};

/// A page with so many events at most is worth a question.
const SPARSE: usize = 1;
/// How long an answer is waited for. The page is whole without it.
const ANSWER: Duration = Duration::from_secs(3);
/// How many filters are remembered, and how many pages they do without a question at most.
const FILTERS: usize = 256;
const LONGEST: u32 = 64;

/// The filters whose questions cost more than the pages that they saved: events that are common
/// elsewhere. After each such loss they are asked for half as often.
#[derive(Debug, Clone, Default)]
pub(crate) struct Losses(Arc<Mutex<HashMap<EventFilter, Loss>>>);

#[derive(Debug, Clone, Copy)]
struct Loss {
    /// How many pages go by before the next question, from now on and after the next loss.
    left: u32,
    next: u32,
}

impl Losses {
    /// True when this page goes by without a question.
    fn passes(&self, filter: &EventFilter) -> bool {
        let mut losses = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match losses.get_mut(filter) {
            Some(loss) if loss.left > 0 => {
                loss.left -= 1;
                true
            }
            _ => false,
        }
    }

    fn note(&self, filter: &EventFilter, lost: bool) {
        let mut losses = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if !lost {
            losses.remove(filter);
            return;
        }
        if losses.len() >= FILTERS {
            losses.clear();
        }
        let pages = losses.get(filter).map_or(1, |loss| loss.next);
        let loss = Loss {
            left: pages,
            next: (pages * 2).min(LONGEST),
        };
        losses.insert(filter.clone(), loss);
    }
}

impl Reader {
    /// Lets a sparse page that ended with its window, and took so long, end right before the next
    /// event that can match.
    pub(crate) async fn jump(&self, query: &EventQuery, page: &mut Page, took: Duration) {
        let from = page.checkpoint;
        let end = query.up_to.map_or(page.head, |bound| bound.min(page.head));
        let items = query.filter.items();
        let indexed = items
            .iter()
            .all(|item| !item.get_names().is_empty() || !item.get_tags().is_empty());
        if query.direction == Direction::Backward
            || page.next.is_none()
            || page.events.len() > SPARSE
            || from.event_id.is_nil()
            || !indexed
            || self.losses.passes(&query.filter)
        {
            return;
        }
        let begun = Instant::now();
        let found = timeout(ANSWER, self.reach(&query.filter, from, end)).await;
        let reach = match found {
            Ok(Ok(Some(reach))) if reach.position > from.position => reach,
            Ok(Ok(_)) => from,
            Ok(Err(error)) => {
                tracing::debug!(error = %error, "backstory.postgres.read cannot jump");
                from
            }
            Err(_) => from,
        };
        let pages = (reach.position.get() - from.position.get()) / self.window.max(1);
        let pages = u32::try_from(pages).unwrap_or(u32::MAX);
        let worth = took.saturating_mul(pages.saturating_add(2));
        self.losses.note(&query.filter, begun.elapsed() > worth);
        page.checkpoint = reach;
        page.next = page
            .next
            .take()
            .filter(|_| reach.position < end)
            .map(|next| next.after(reach));
    }

    /// Up to where nothing behind a checkpoint can match; nothing when the log is another one.
    async fn reach(
        &self,
        filter: &EventFilter,
        from: Checkpoint,
        end: Position,
    ) -> Result<Option<Checkpoint>, Error> {
        let condition = AppendCondition::new(filter.clone(), from);
        let looks: Vec<_> = looks_of(0, 0, &condition).collect();
        let mut lease = Lease::of(&self.pool).await?;
        let found = sqlx::query_as(self.sql.reach.text())
            .bind(from.position.get())
            .bind(end.get())
            .bind(Json(looks))
            .fetch_one(&mut *lease)
            .await;
        let (reach, id, proof): (i64, Option<Uuid>, Option<Uuid>) = lease.done_with(found).await?;
        let proved = proof == Some(from.event_id.as_uuid());
        Ok(id.filter(|_| proved).map(|id| Checkpoint {
            position: Position::new(reach),
            event_id: EventId::from_uuid(id),
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn questions_that_cost_too_much_become_rare_and_one_that_does_not_ends_that() {
        let losses = Losses::default();
        let (dear, other) = (
            EventFilter::category("dear"),
            EventFilter::category("other"),
        );
        let mut gaps = Vec::new();
        for _ in 0..9 {
            losses.note(&dear, true);
            gaps.push((0..).take_while(|_| losses.passes(&dear)).count());
            assert!(!losses.passes(&other));
        }
        assert_eq!(gaps, [1, 2, 4, 8, 16, 32, 64, 64, 64]);
        losses.note(&dear, false);
        losses.note(&dear, true);
        assert!(losses.passes(&dear) && !losses.passes(&dear));
    }

    #[test]
    fn few_filters_are_remembered() {
        let losses = Losses::default();
        for number in 0..3 * FILTERS {
            losses.note(&EventFilter::category(number.to_string()), true);
        }
        let kept = losses.0.lock().unwrap_or_else(PoisonError::into_inner);
        assert!((1..=FILTERS).contains(&kept.len()));
    }
}
