//! Aggregates and the repository that loads and saves them.
//!
//! A [`Repository`] rebuilds an [`Aggregate`] from its stream, lets the caller record events on
//! it, and appends them under the version that was read. [`Snapshot`]s shorten long histories,
//! [`SaveHook`]s look at each save, [`Lookup`]s find aggregates by values.

mod attempts;
mod error;
mod hooks;
mod loaded;
mod lookup;
mod options;
mod repository;
mod snapshot;
mod snapshotting;
mod turns;

pub use backstory_event::Aggregate;
pub use error::{RepositoryError, RepositoryErrorKind, UpdateError};
pub use hooks::{Save, SaveHook};
pub use loaded::Loaded;
pub use lookup::{
    Lookup, LookupChange, LookupConflict, LookupCursor, LookupFilter, LookupList, LookupPage,
    LookupQuery, LookupReader, LookupRepair, LookupRow, LookupStore, LookupStoreExt, OnDelete,
    Rebuilt,
};
pub use options::RepositoryOptions;
pub use repository::{ListPage, Repository};
pub use snapshot::{SnapshotRecord, SnapshotStore};
pub use snapshotting::Snapshot;
