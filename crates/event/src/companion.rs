//! Rows that a store writes in the transaction of an append.

use crate::{StreamId, error::Invalid, stream::check_name};

/// A row that the store writes in the transaction of the append: who has which value.
///
/// Values live in scopes. A claimed value is unique in its scope, an entered one is not.
/// A value is 1 to 255 bytes without control characters and without white space at its ends,
/// and is compared byte by byte.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Companion {
    /// Takes a value that only one stream may hold: an e-mail address, a user name.
    /// Taking what the owner holds already changes nothing.
    Claim {
        /// Within which values are unique: `user.email`.
        scope: String,
        /// The value, as it is to be compared.
        value: String,
        /// Who holds it.
        owner: StreamId,
    },
    /// Gives a value back. Nothing happens when nobody holds it; a foreign owner is a conflict.
    Release {
        /// Within which values are unique.
        scope: String,
        /// The value.
        value: String,
        /// Who holds it.
        owner: StreamId,
    },
    /// Notes a value of a stream that other streams may have too: the city of a user.
    /// Noting it again changes nothing.
    Entry {
        /// What kind of value it is: `user.city`.
        scope: String,
        /// The value, as it is to be found.
        value: String,
        /// Whose value it is.
        owner: StreamId,
    },
    /// Takes a value from a stream, or all that it has in the scope, claimed or entered. What it
    /// does not have, others may have: nothing happens to that.
    Clear {
        /// The scope.
        scope: String,
        /// The value; `None`: all of them.
        value: Option<String>,
        /// Whose values go.
        owner: StreamId,
    },
}

impl Companion {
    /// The scope.
    pub fn scope(&self) -> &str {
        match self {
            Self::Claim { scope, .. }
            | Self::Release { scope, .. }
            | Self::Entry { scope, .. }
            | Self::Clear { scope, .. } => scope,
        }
    }

    /// The value; `None` when it speaks of all.
    pub fn value(&self) -> Option<&str> {
        match self {
            Self::Claim { value, .. } | Self::Release { value, .. } | Self::Entry { value, .. } => {
                Some(value)
            }
            Self::Clear { value, .. } => value.as_deref(),
        }
    }

    /// Whose value it is.
    pub fn owner(&self) -> &StreamId {
        match self {
            Self::Claim { owner, .. }
            | Self::Release { owner, .. }
            | Self::Entry { owner, .. }
            | Self::Clear { owner, .. } => owner,
        }
    }

    /// The unique value that is taken or given back, which must not belong to another stream.
    pub fn claim(&self) -> Option<(&str, &str)> {
        match self {
            Self::Claim { scope, value, .. } | Self::Release { scope, value, .. } => {
                Some((scope, value))
            }
            _ => None,
        }
    }

    /// What every store checks of it.
    ///
    /// # Errors
    /// [`Invalid`] when scope, value or owner are empty, too long, or hold what none may hold.
    pub fn validate(&self) -> Result<(), Invalid> {
        let (scope, value) = match self.claim() {
            Some(_) => ("claim scope", "claim value"),
            None => ("lookup scope", "lookup value"),
        };
        self.owner().check()?;
        check_name(scope, self.scope())?;
        self.value().map_or(Ok(()), |text| check_name(value, text))
    }
}
