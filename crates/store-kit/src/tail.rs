//! Waking readers when the log grows.

use backstory_event::{Position, StoreError, StoreErrorKind};
use tokio::sync::watch;

/// How far the log is known to reach, for those who wait for more.
#[derive(Debug, Clone)]
pub struct Tail(watch::Sender<Position>);

impl Tail {
    /// A tail at this position.
    pub fn new(head: Position) -> Self {
        Self(watch::Sender::new(head))
    }

    /// The log reaches at least so far. Older news is ignored.
    pub fn advance(&self, head: Position) {
        self.0.send_if_modified(|known| {
            let grew = head > *known;
            if grew {
                *known = head;
            }
            grew
        });
    }

    /// The log reaches just so far: it has become shorter than was known, by a failover.
    pub fn reset(&self, head: Position) {
        self.0.send_replace(head);
    }

    /// How far the log is known to reach.
    pub fn head(&self) -> Position {
        *self.0.borrow()
    }

    /// Waits until the log is known to reach beyond a position.
    ///
    /// # Errors
    /// `Closed` when the last handle is gone.
    pub async fn beyond(&self, after: Position) -> Result<Position, StoreError> {
        let mut watch = self.0.subscribe();
        let head = watch.wait_for(|head| *head > after).await;
        head.map(|head| *head)
            .map_err(|_| StoreError::new(StoreErrorKind::Closed))
    }
}
