//! Asking for many documents, page by page.

use std::{
    fmt::{self, Display},
    str::FromStr,
};

use backstory_event::Invalid;
use serde::{Serialize, de::DeserializeOwned};

use super::{Collection, DocumentError, DocumentErrorKind, DocumentList, DocumentRow, index};

/// Which documents of a collection to list, and in which order. By key, in byte order, unless said
/// otherwise; the order is the same on every store.
///
/// ```
/// use backstory_projection::List;
///
/// let first_page = List::of("todos").field("list", &7).limit(20);
/// let oldest = List::of("todos").ordered_by("created_at").limit(1);
/// ```
#[derive(Debug, Clone)]
pub struct List {
    collection: Collection,
    prefix: String,
    equals: Option<(String, Result<String, Invalid>)>,
    order: Option<String>,
    limit: usize,
    after: Option<Cursor>,
}

impl List {
    /// Documents per page unless [`List::limit`] says otherwise.
    pub const DEFAULT_LIMIT: usize = 100;
    /// The most documents of a page.
    pub const MAX_LIMIT: usize = 1_000;

    /// All documents of a collection, by key.
    pub fn of(collection: impl Into<Collection>) -> Self {
        Self {
            collection: collection.into(),
            prefix: String::new(),
            equals: None,
            order: None,
            limit: Self::DEFAULT_LIMIT,
            after: None,
        }
    }

    /// Only keys that begin so.
    #[must_use]
    pub fn prefix(mut self, prefix: impl Display) -> Self {
        self.prefix = prefix.to_string();
        self
    }

    /// Only documents whose indexed field has this value, by key. It cannot go together with an
    /// order by another field.
    #[must_use]
    pub fn field<T: Serialize + ?Sized>(mut self, field: impl Into<String>, value: &T) -> Self {
        let field = field.into();
        let value = index::value(&field, value);
        self.equals = Some((field, value));
        self
    }

    /// In the order of this indexed field, then of the key. Null comes first, then booleans,
    /// numbers and strings; documents without the field are left out.
    #[must_use]
    pub fn ordered_by(mut self, field: impl Into<String>) -> Self {
        self.order = Some(field.into());
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
    pub fn after(mut self, cursor: impl Into<Option<Cursor>>) -> Self {
        self.after = cursor.into();
        self
    }

    /// What to ask the store: one document more than the page holds tells whether there is a next.
    pub(crate) fn request(&self) -> Result<DocumentList, Invalid> {
        self.collection.check()?;
        if self.prefix.chars().any(char::is_control) {
            let reason = "it holds a control character";
            return Err(Invalid::new("key prefix", &self.prefix, reason));
        }
        let (index, equals) = match (&self.equals, &self.order) {
            (Some((field, _)), Some(order)) if field != order => {
                let reason = format!(
                    "documents with one value of it come by key, not by `{order}`: begin the keys \
                     with what is to order them"
                );
                return Err(Invalid::new("indexed field", field, reason));
            }
            (Some((field, value)), _) => (Some(field.clone()), Some(value.clone()?)),
            (None, order) => (order.clone(), None),
        };
        if let Some(field) = &index {
            super::collection::check_name("indexed field", field)?;
            // A bare name does not say what is indexed; a declared collection does.
            let mut declared = self.collection.indexes().peekable();
            if declared.peek().is_some() && !declared.any(|other| other == field) {
                let reason = format!("collection `{}` does not index it", self.collection.name());
                return Err(Invalid::new("indexed field", field, reason));
            }
        }
        let after = match &self.after {
            None => None,
            Some(cursor) if cursor.index == index.as_deref().unwrap_or_default() => {
                Some((cursor.value.clone(), cursor.key.clone()))
            }
            Some(cursor) => {
                let reason = "it comes from a list in another order";
                return Err(Invalid::new("cursor", &cursor.to_string(), reason));
            }
        };
        Ok(DocumentList {
            collection: self.collection.name().to_owned(),
            prefix: self.prefix.clone(),
            index,
            equals,
            after,
            limit: self.limit + 1,
        })
    }

    /// The page from the answer to a [`List::request`].
    pub(crate) fn page<T: DeserializeOwned>(
        &self,
        request: DocumentList,
        mut rows: Vec<DocumentRow>,
    ) -> Result<DocumentPage<T>, DocumentError> {
        let more = rows.len() > self.limit;
        rows.truncate(self.limit);
        let next = rows.last().filter(|_| more).map(|row| Cursor {
            index: request.index.unwrap_or_default(),
            value: row.index_value.clone(),
            key: row.key.clone(),
        });
        let items = rows
            .into_iter()
            .map(|row| match row.body.decode() {
                Ok(document) => Ok((row.key, document)),
                Err(source) => Err(DocumentErrorKind::Decode {
                    collection: self.collection.name().to_owned(),
                    key: row.key,
                    source,
                }),
            })
            .collect::<Result<_, _>>()?;
        Ok(DocumentPage { items, next })
    }
}

/// One page of documents.
#[derive(Debug, Clone, PartialEq)]
pub struct DocumentPage<T> {
    /// Keys and documents.
    pub items: Vec<(String, T)>,
    /// Where the next page begins; `None` after the last one.
    pub next: Option<Cursor>,
}

/// Where a page of documents ended. Its text form is opaque, for links and headers:
/// `cursor.to_string()` and `text.parse::<Cursor>()?`.
///
/// It stays right while others write: it names a place, not a number of documents.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cursor {
    index: String,
    value: String,
    key: String,
}

impl Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("d1-")?;
        let parts = [&self.index, "\0", &self.value, "\0", &self.key];
        parts
            .iter()
            .flat_map(|part| part.bytes())
            .try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl FromStr for Cursor {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let parse = || {
            let hex = text.strip_prefix("d1-")?;
            let bytes: Option<Vec<u8>> = (0..hex.len())
                .step_by(2)
                .map(|at| u8::from_str_radix(hex.get(at..at + 2)?, 16).ok())
                .collect();
            let joined = String::from_utf8(bytes?).ok()?;
            let mut parts = joined.split('\0').map(str::to_owned);
            let cursor = Self {
                index: parts.next()?,
                value: parts.next()?,
                key: parts.next().filter(|key| !key.is_empty())?,
            };
            (parts.next().is_none() && cursor.index.is_empty() == cursor.value.is_empty())
                .then_some(cursor)
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
        let cursor = Cursor {
            index: "list".into(),
            value: "3ä".into(),
            key: "\"%_😀".into(),
        };
        assert_eq!(cursor.to_string().parse::<Cursor>().unwrap(), cursor);
        for garbage in [
            "",
            "d1-",
            "d1-zz",
            "d1-0000",
            "d1-610062",
            "d1-+1",
            "d1-é",
            "7",
        ] {
            assert!(garbage.parse::<Cursor>().is_err(), "{garbage}");
        }
    }

    #[test]
    fn a_list_that_no_index_answers_is_refused() {
        const TODOS: Collection = Collection::named("todos").indexed("list");
        let cursor = Cursor {
            index: String::new(),
            value: String::new(),
            key: "a".into(),
        };
        assert!(List::of(TODOS).field("list", &1).request().is_ok());
        assert!(List::of("todos").field("any", &1).request().is_ok());
        for refused in [
            List::of(TODOS).ordered_by("at"),
            List::of("todos").field("list", &1).ordered_by("at"),
            List::of("todos").field("list", &[1]),
            List::of("todos").ordered_by("list").after(cursor),
            List::of("todos").prefix("a\nb"),
            List::of(""),
        ] {
            assert!(refused.request().is_err(), "{refused:?}");
        }
    }
}
