//! Sending one append until its outcome is known.

use std::{pin::pin, time::Duration};

use backstory_event::{
    Append, Appended, Clock, EventStore, StoreError, StoreErrorKind, SystemClock,
};
use futures::future::{Either, select};

use crate::options::{Deadline, RepositoryOptions};

/// How much later than the deadline a store may answer: its own answer says more than ours.
const GRACE: Duration = Duration::from_millis(200);

/// Runs a future to its end, or to the deadline (and a grace): then `None`.
pub(crate) async fn within<T>(
    deadline: Deadline,
    grace: Duration,
    future: impl Future<Output = T>,
) -> Option<T> {
    let Some(left) = deadline.left() else {
        return Some(future.await);
    };
    match select(pin!(future), SystemClock.sleep(left.saturating_add(grace))).await {
        Either::Left((output, _)) => Some(output),
        Either::Right(_) => None,
    }
}

/// Sends an append; while its outcome is unknown, sends the same one again, with the same ids.
pub(crate) async fn send(
    store: &dyn EventStore,
    append: &Append,
    options: &RepositoryOptions,
    deadline: Deadline,
) -> Result<Appended, StoreError> {
    let mut attempt = 1;
    loop {
        let mut request = append.clone();
        request.deadline = deadline.left();
        let answer = within(deadline, GRACE, store.append(request)).await;
        let answer = answer.unwrap_or_else(|| {
            let event_ids = append.event_ids();
            Err(StoreErrorKind::OutcomeUnknown { event_ids }.into())
        });
        let unknown = matches!(&answer, Err(error) if error.is_outcome_unknown());
        if !unknown || attempt >= options.max_attempts || deadline.is_over() {
            return answer;
        }
        tracing::debug!(attempt, "outcome unknown: the same events are sent again");
        within(deadline, GRACE, SystemClock.sleep(options.pause(attempt))).await;
        attempt += 1;
    }
}
