//! All event types of a program, and the file that makes each change of a name visible.

use std::{fmt::Write as _, path::Path};

use crate::{DecodeEvent, EventType};

/// The event types of a program. Made by [`catalog!`](crate::catalog).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Catalog {
    types: Vec<EventType>,
}

/// What is wrong with a catalog.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CatalogError {
    /// Two types claim one name.
    #[error("the event name `{name}` belongs to both `{first}` and `{second}`: rename one")]
    Duplicate {
        /// The name.
        name: &'static str,
        /// One type.
        first: &'static str,
        /// The other.
        second: &'static str,
    },
    /// The golden file says something else than the program.
    #[error(
        "the golden file {path} differs from the program's event types; what is on disk must stay \
         readable: add upcasters, then delete the file and run again\n{difference}"
    )]
    Changed {
        /// The file.
        path: String,
        /// The lines that differ: `-` in the file, `+` in the program.
        difference: String,
    },
    /// The golden file cannot be read or written.
    #[error("the golden file {path} cannot be used")]
    File {
        /// The file.
        path: String,
        /// Why.
        source: std::io::Error,
    },
}

impl Catalog {
    /// An empty catalog.
    pub const fn new() -> Self {
        Self { types: Vec::new() }
    }

    /// With the types of `E`.
    ///
    /// # Errors
    /// [`CatalogError::Duplicate`] when another type has one of its names.
    pub fn with<E: DecodeEvent>(mut self) -> Result<Self, CatalogError> {
        for kind in E::types() {
            if let Some(other) = self.types.iter().find(|other| other.name == kind.name) {
                if other.rust_type == kind.rust_type {
                    continue;
                }
                return Err(CatalogError::Duplicate {
                    name: kind.name,
                    first: other.rust_type,
                    second: kind.rust_type,
                });
            }
            self.types.push(kind);
        }
        self.types.sort();
        Ok(self)
    }

    /// All kinds of events, by name.
    pub fn types(&self) -> &[EventType] {
        &self.types
    }

    /// The text of the golden file: a line per event with its name, version and payload.
    pub fn golden(&self) -> String {
        let mut text = String::new();
        for EventType {
            name,
            version,
            shape,
            ..
        } in &self.types
        {
            // Writing to a String cannot fail.
            let _ = writeln!(text, "{name} v{version} {shape}");
        }
        text
    }

    /// Compares with a golden file, or writes it when it does not exist. Call it from a test and
    /// commit the file: then no name or payload changes without being seen.
    ///
    /// # Errors
    /// [`CatalogError::Changed`] shows what differs.
    pub fn check_golden(&self, path: impl AsRef<Path>) -> Result<(), CatalogError> {
        let path = path.as_ref();
        let file = |source| CatalogError::File {
            path: path.display().to_string(),
            source,
        };
        let ours = self.golden();
        let theirs = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return std::fs::write(path, ours).map_err(file);
            }
            Err(error) => return Err(file(error)),
        };
        if ours == theirs {
            return Ok(());
        }
        let gone = theirs
            .lines()
            .filter(|line| !ours.lines().any(|other| other == *line));
        let come = ours
            .lines()
            .filter(|line| !theirs.lines().any(|other| other == *line));
        let difference: Vec<_> = gone
            .map(|line| format!("- {line}"))
            .chain(come.map(|line| format!("+ {line}")))
            .collect();
        Err(CatalogError::Changed {
            path: path.display().to_string(),
            difference: difference.join("\n"),
        })
    }
}

impl Default for Catalog {
    fn default() -> Self {
        Self::new()
    }
}

/// The catalog of these event types: `catalog![TodoEvent, ListEvent]?`.
///
/// It is a `Result`: an error when two types claim one name.
#[macro_export]
macro_rules! catalog {
    ($($event:ty),* $(,)?) => {
        ::core::result::Result::Ok::<$crate::Catalog, $crate::CatalogError>($crate::Catalog::new())
            $(.and_then(|catalog| catalog.with::<$event>()))*
    };
}
