//! Waking readers when the log grows.

use backstory_event::{Position, StoreError, StoreErrorKind};
use tokio::sync::watch;

/// How far the log is known to reach, for those who wait for more.
#[derive(Debug, Clone)]
pub struct Tail(watch::Sender<Known>);

#[derive(Debug, Clone, Copy)]
struct Known {
    head: Position,
    /// How often everybody was sent to look again.
    looks: u64,
}

impl Tail {
    /// A tail at this position.
    pub fn new(head: Position) -> Self {
        Self(watch::Sender::new(Known { head, looks: 0 }))
    }

    /// The log reaches at least so far. Older news is ignored.
    pub fn advance(&self, head: Position) {
        self.0.send_if_modified(|known| {
            let grew = head > known.head;
            if grew {
                known.head = head;
            }
            grew
        });
    }

    /// The log reaches just so far: it has become shorter than was known, by a failover.
    pub fn reset(&self, head: Position) {
        self.0.send_modify(|known| {
            known.head = head;
            known.looks += 1;
        });
    }

    /// How far the log is known to reach.
    pub fn head(&self) -> Position {
        self.0.borrow().head
    }

    /// Waits until the log is known to reach beyond a position, or has to be looked at again.
    ///
    /// # Errors
    /// `Closed` when the last handle is gone.
    pub async fn beyond(&self, after: Position) -> Result<Position, StoreError> {
        let mut watch = self.0.subscribe();
        let looks = watch.borrow().looks;
        let known = watch.wait_for(|known| known.head > after || known.looks != looks);
        known
            .await
            .map(|known| known.head)
            .map_err(|_| StoreError::new(StoreErrorKind::Closed))
    }
}
