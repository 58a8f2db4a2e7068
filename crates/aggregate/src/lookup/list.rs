//! Lists of values, page by page.

use std::{
    fmt::{self, Display},
    str::FromStr,
};

use backstory_event::{Invalid, StreamId};

/// Which values of a lookup to list, in byte order.
///
/// ```
/// use backstory_aggregate::LookupList;
///
/// let first_page = LookupList::new().prefix("ann").limit(20);
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LookupList {
    pub(super) prefix: String,
    pub(super) limit: usize,
    pub(super) after: Option<LookupCursor>,
}

impl Default for LookupList {
    fn default() -> Self {
        Self {
            prefix: String::new(),
            limit: Self::DEFAULT_LIMIT,
            after: None,
        }
    }
}

impl LookupList {
    /// Values per page unless [`LookupList::limit`] says otherwise.
    pub const DEFAULT_LIMIT: usize = 100;
    /// The most values of a page.
    pub const MAX_LIMIT: usize = 1_000;

    /// All values.
    pub fn new() -> Self {
        Self::default()
    }

    /// Only values that begin so.
    #[must_use]
    pub fn prefix(mut self, prefix: impl Into<String>) -> Self {
        self.prefix = prefix.into();
        self
    }

    /// At most so many: 1 to 1,000, 100 by default.
    #[must_use]
    pub fn limit(mut self, limit: usize) -> Self {
        self.limit = limit.clamp(1, Self::MAX_LIMIT);
        self
    }

    /// Continue behind a page. `None` is the first page.
    #[must_use]
    pub fn after(mut self, cursor: impl Into<Option<LookupCursor>>) -> Self {
        self.after = cursor.into();
        self
    }
}

/// One page of values and the ids of their aggregates.
#[derive(Debug, Clone, PartialEq)]
pub struct LookupPage<Id> {
    /// Values and ids.
    pub items: Vec<(String, Id)>,
    /// Where the next page begins; `None` after the last one.
    pub next: Option<LookupCursor>,
}

/// Where a page of values ended. Its text form is opaque, for links and headers. It stays right
/// while others write: it names a place, not a number of values.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LookupCursor {
    pub(super) value: String,
    pub(super) owner: StreamId,
}

impl Display for LookupCursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("l1-")?;
        let parts = [
            &self.value,
            "\0",
            self.owner.category(),
            "\0",
            self.owner.key(),
        ];
        let mut bytes = parts.iter().flat_map(|part| part.bytes());
        bytes.try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl FromStr for LookupCursor {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let parse = || {
            let hex = text.strip_prefix("l1-")?;
            let bytes: Option<Vec<u8>> = (0..hex.len())
                .step_by(2)
                .map(|at| u8::from_str_radix(hex.get(at..at + 2)?, 16).ok())
                .collect();
            let joined = String::from_utf8(bytes?).ok()?;
            let mut parts = joined.split('\0').filter(|part| !part.is_empty());
            let (value, category, key) = (parts.next()?, parts.next()?, parts.next()?);
            let cursor = Self {
                value: value.to_owned(),
                owner: StreamId::new(category, key).ok()?,
            };
            (cursor.to_string() == text).then_some(cursor)
        };
        parse().ok_or_else(|| {
            let reason = "it is not the text of a cursor; pass it on unchanged";
            Invalid::new("cursor", text, reason)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_survives_its_text_and_nothing_else_does() {
        let cursor = LookupCursor {
            value: "ä@x.org".into(),
            owner: StreamId::stored("user {x}", "7"),
        };
        assert_eq!(cursor.to_string().parse::<LookupCursor>().unwrap(), cursor);
        for garbage in [
            "",
            "l1-",
            "l1-zz",
            "l1-6100620",
            "l1-610062",
            "d1-610062006",
            "é",
        ] {
            assert!(garbage.parse::<LookupCursor>().is_err(), "{garbage}");
        }
    }
}
