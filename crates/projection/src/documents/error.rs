//! What can go wrong with documents.

use std::fmt;

use backstory_event::{Invalid, StoreError};

/// Why a document was not read or written. See [`DocumentErrorKind`].
#[derive(Debug)]
pub struct DocumentError(Box<DocumentErrorKind>);

/// The cases of a [`DocumentError`].
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DocumentErrorKind {
    /// A name, key, value or cursor that no store accepts.
    #[error(transparent)]
    Invalid(#[from] Invalid),
    /// A stored document is not what the program takes it for.
    #[error("document {key:?} of collection `{collection}` does not decode: {source}")]
    Decode {
        /// The collection.
        collection: String,
        /// The key.
        key: String,
        /// What is wrong with it.
        source: serde_json::Error,
    },
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl DocumentError {
    /// The case.
    pub fn kind(&self) -> &DocumentErrorKind {
        &self.0
    }

    /// True when a name, key, value or cursor was refused.
    pub fn is_invalid(&self) -> bool {
        matches!(self.kind(), DocumentErrorKind::Invalid(_))
    }

    /// True when a stored document does not decode.
    pub fn is_decode(&self) -> bool {
        matches!(self.kind(), DocumentErrorKind::Decode { .. })
    }

    /// True when the same call may succeed later without a change.
    pub fn is_transient(&self) -> bool {
        matches!(self.kind(), DocumentErrorKind::Store(error) if error.is_transient())
    }
}

impl fmt::Display for DocumentError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl std::error::Error for DocumentError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.source()
    }
}

impl<T: Into<DocumentErrorKind>> From<T> for DocumentError {
    fn from(kind: T) -> Self {
        Self(Box::new(kind.into()))
    }
}
