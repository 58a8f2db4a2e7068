//! What somebody waits for.

use backstory_event::{Appended, Checkpoint, EventFilter};

/// What somebody waits for: a receipt, or a place in the log.
#[derive(Debug, Clone)]
pub struct Awaited {
    pub(super) checkpoint: Checkpoint,
    // The names of the events; none: any.
    names: Vec<String>,
}

impl From<&Appended> for Awaited {
    fn from(receipt: &Appended) -> Self {
        Self {
            checkpoint: receipt.checkpoint,
            names: receipt.names.clone(),
        }
    }
}

impl From<&Checkpoint> for Awaited {
    fn from(checkpoint: &Checkpoint) -> Self {
        Self::from(*checkpoint)
    }
}

impl From<Checkpoint> for Awaited {
    fn from(checkpoint: Checkpoint) -> Self {
        Self {
            checkpoint,
            names: Vec::new(),
        }
    }
}

impl Awaited {
    pub(super) fn concerns(&self, filter: &EventFilter) -> bool {
        self.names.is_empty()
            || filter.items().iter().any(|item| {
                let wanted = item.get_names();
                wanted.is_empty() || self.names.iter().any(|name| wanted.contains(name))
            })
    }
}
