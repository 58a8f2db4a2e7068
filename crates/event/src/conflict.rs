//! Who was first, the same from every store.

use crate::{EventId, ExpectedVersion, Position, StreamId, StreamVersion};

/// Why an append lost against another one. Nothing was stored.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Conflict {
    /// A stream is not at the expected version.
    #[error("conflict: {expected} was expected of stream {stream}, it is at version {actual}")]
    Version {
        /// The stream.
        stream: StreamId,
        /// What the append expected.
        expected: ExpectedVersion,
        /// Its version.
        actual: StreamVersion,
    },
    /// An event that a condition excludes was stored.
    #[error("conflict: condition {index} excludes event `{name}` at position {position}")]
    Condition {
        /// Which condition of the append, from 0.
        index: usize,
        /// Where the event is: the first one.
        position: Position,
        /// Its name.
        name: String,
        /// Its id.
        event_id: EventId,
    },
    /// Another stream holds a unique value.
    #[error("conflict: {value:?} in {scope:?} is held by stream {owner}")]
    Claim {
        /// The scope.
        scope: String,
        /// The value.
        value: String,
        /// Who holds it.
        owner: StreamId,
    },
}
