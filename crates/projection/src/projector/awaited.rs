//! What somebody waits for.

use backstory_event::{Appended, Checkpoint, EventFilter, Position};

/// What somebody waits for: a receipt, or a place in the log.
#[derive(Debug, Clone)]
pub struct Awaited {
    pub(super) checkpoint: Checkpoint,
    // Where the first of the events is.
    pub(super) first: Position,
    // The names of the events; none: any.
    names: Vec<String>,
}

impl From<&Appended> for Awaited {
    fn from(receipt: &Appended) -> Self {
        Self {
            checkpoint: receipt.checkpoint,
            first: receipt
                .positions
                .map_or(receipt.checkpoint.position, |(first, _)| first),
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
            first: checkpoint.position,
            names: Vec::new(),
        }
    }
}

impl Awaited {
    /// That projections pass a place, whatever they left out.
    pub(super) fn passed(checkpoint: Checkpoint) -> Self {
        Self {
            first: Position::END,
            ..Self::from(checkpoint)
        }
    }

    pub(super) fn concerns(&self, filter: &EventFilter) -> bool {
        self.names.is_empty()
            || filter.items().iter().any(|item| {
                let wanted = item.get_names();
                wanted.is_empty() || self.names.iter().any(|name| wanted.contains(name))
            })
    }
}
