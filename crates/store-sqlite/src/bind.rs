//! What statements bind: whole sets of rows as one JSON text.

use backstory_event::{StoreErrorKind, StreamId};
use serde::Serialize;

use crate::error::Failure;

/// Category and key.
pub(crate) fn pair(stream: &StreamId) -> (&str, &str) {
    (stream.category(), stream.key())
}

/// The rows of a statement as one bound text.
pub(crate) fn json(rows: &(impl Serialize + ?Sized)) -> Result<String, Failure> {
    serde_json::to_string(rows).map_err(|error| {
        let reason = format!("the rows of a statement cannot be written: {error}");
        StoreErrorKind::Database { reason }.into()
    })
}
