//! Names of collections and keys.

use std::fmt::Display;

use backstory_event::Invalid;

/// The most fields of a collection that can be indexed.
pub const MAX_INDEXES: usize = 8;

/// The longest collection name, field name or key, in bytes.
const MAX_NAME: usize = 255;

/// A collection of documents: its name, and the top-level fields by which it can be listed.
///
/// A name alone is a collection without indexes: `docs.put("todos", …)`. With indexes, make it a
/// constant and use that wherever documents are put:
///
/// ```
/// use backstory_projection::Collection;
///
/// const TODOS: Collection = Collection::named("todos").indexed("list").indexed("created_at");
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Collection {
    name: &'static str,
    indexes: [&'static str; MAX_INDEXES],
    count: usize,
}

impl Collection {
    /// A collection without indexes.
    pub const fn named(name: &'static str) -> Self {
        Self {
            name,
            indexes: [""; MAX_INDEXES],
            count: 0,
        }
    }

    /// Also listed by this top-level field of its documents. The field must be null, a boolean, a
    /// number or a string; documents without it are left out of such lists.
    ///
    /// At most [`MAX_INDEXES`]: more are refused when the collection is used.
    #[must_use]
    pub const fn indexed(mut self, field: &'static str) -> Self {
        if self.count < MAX_INDEXES {
            self.indexes[self.count] = field;
        }
        self.count += 1;
        self
    }

    /// The name.
    pub const fn name(&self) -> &'static str {
        self.name
    }

    /// The indexed fields.
    pub fn indexes(&self) -> impl Iterator<Item = &'static str> + '_ {
        self.indexes.iter().copied().take(self.count)
    }

    pub(crate) fn check(&self) -> Result<(), Invalid> {
        check_own_name("collection", self.name)?;
        if self.count > MAX_INDEXES {
            let reason = format!("{} indexed fields are more than {MAX_INDEXES}", self.count);
            return Err(Invalid::new("collection", self.name, reason));
        }
        for (at, field) in self.indexes().enumerate() {
            check_name("indexed field", field)?;
            if self.indexes().take(at).any(|other| other == field) {
                let reason = "the collection indexes it twice";
                return Err(Invalid::new("indexed field", field, reason));
            }
        }
        Ok(())
    }
}

impl From<&'static str> for Collection {
    fn from(name: &'static str) -> Self {
        Self::named(name)
    }
}

/// The text of a document's key, checked.
pub(crate) fn key_text<K: Display + ?Sized>(key: &K) -> Result<String, Invalid> {
    let key = key.to_string();
    check_name("document key", &key)?;
    Ok(key)
}

/// The name of a collection or a projection: read models beside the live one have a `~` in theirs.
pub(crate) fn check_own_name(what: &'static str, text: &str) -> Result<(), Invalid> {
    check_name(what, text)?;
    match text.contains('~') {
        true => Err(Invalid::new(what, text, "it holds a `~`")),
        false => Ok(()),
    }
}

/// 1 to 255 bytes, no control characters.
pub(crate) fn check_name(what: &'static str, text: &str) -> Result<(), Invalid> {
    let reason = if text.is_empty() {
        "it is empty"
    } else if text.len() > MAX_NAME {
        "it is longer than 255 bytes"
    } else if text.chars().any(char::is_control) {
        "it holds a control character"
    } else {
        return Ok(());
    };
    Err(Invalid::new(what, text, reason))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_collection_names_its_indexes() {
        const TODOS: Collection = Collection::named("todos").indexed("list").indexed("at");
        assert_eq!(TODOS.indexes().collect::<Vec<_>>(), ["list", "at"]);
        assert!(TODOS.check().is_ok());
    }

    #[test]
    fn what_cannot_be_a_collection_is_refused_when_used() {
        let mut many = Collection::named("todos");
        for field in ["a", "b", "c", "d", "e", "f", "g", "h"] {
            many = many.indexed(field);
        }
        assert!(many.check().is_ok());
        for refused in [
            many.indexed("i"),
            Collection::named(""),
            Collection::named("a\nb"),
            Collection::named("todos").indexed(""),
            Collection::named("todos").indexed("a").indexed("a"),
        ] {
            assert!(refused.check().is_err(), "{refused:?}");
        }
    }

    #[test]
    fn keys_are_checked() {
        assert_eq!(key_text(&7).unwrap(), "7");
        assert_eq!(key_text("ä % _ \"").unwrap(), "ä % _ \"");
        for refused in ["", "a\0b", "a\u{85}b", &"x".repeat(256)] {
            assert!(key_text(refused).is_err(), "{refused:?}");
        }
    }
}
