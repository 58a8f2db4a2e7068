//! Keyed documents: the read model of a projection that needs no SQL.

mod collection;
mod error;
mod index;
mod list;
mod port;
mod reader;
mod unit;

pub use collection::{Collection, MAX_INDEXES};
pub use error::{DocumentError, DocumentErrorKind};
pub use list::{Cursor, DocumentPage, List};
pub use port::{DocumentKey, DocumentList, DocumentRow, DocumentStore, DocumentWrite};
pub use reader::DocumentReader;
pub use unit::Documents;

pub(crate) use collection::check_own_name;

#[cfg(test)]
mod tests;
