//! Event sourcing for Rust: model a domain as aggregates that emit events, keep the events in an
//! append-only log with optimistic concurrency, turn the log into read models, exactly once.
//!
//! This crate is the one dependency; its features choose the stores:
//!
//! | feature | what it adds |
//! |---|---|
//! | `macros` (on) | the derives `Event`, `DecodeEvent`, `Command`, `Reject` |
//! | `memory` (on) | `memory:`, the store for tests and prototypes |
//! | `sqlite` | `sqlite:`, the embedded store; needs a C compiler |
//! | `postgres` | `postgres:`, the production store |
//! | `postgres-tls` | TLS for connections to Postgres |
//! | `axum` | `ReceiptLayer`: reading one's own writes over HTTP |
//! | `test-util` | given / when / then, and a runtime in memory |
//!
//! The smallest complete program is `examples/smallest.rs` of this crate.

pub use backstory_aggregate as aggregate;
#[cfg(feature = "axum")]
pub use backstory_axum as axum;
pub use backstory_command as command;
pub use backstory_event as event;
pub use backstory_projection as projection;
#[cfg(feature = "memory")]
pub use backstory_store_memory as memory;
#[cfg(feature = "postgres")]
pub use backstory_store_postgres as postgres;
#[cfg(feature = "sqlite")]
pub use backstory_store_sqlite as sqlite;

mod bus;
mod store;
#[cfg(feature = "test-util")]
pub mod test;

pub use async_trait::async_trait;
pub use backstory_aggregate::{
    Loaded, Lookup, LookupChange, LookupList, OnDelete, Repository, RepositoryError, Snapshot,
};
pub use backstory_command::{Command, CommandBus, CommandError, Handle, Reject, Taken};
pub use backstory_event::{
    Aggregate, Append, AppendCondition, Appended, BoxError, Checkpoint, Conflict, DecodeEvent,
    Delivery, Envelope, Event, EventBus, EventFilter, EventId, EventQuery, EventStore,
    EventStoreExt, ExpectedVersion, FilterItem, Fold, Metadata, NewEvent, Payload, Position,
    RecordedEvent, StoreError, StoreErrorKind, StreamId, StreamQuery, StreamVersion, Tag, Topic,
    Upcasters, catalog,
};
pub use backstory_projection::{
    Documents, Effect, Job, Live, OnFailure, Projection, Projector, Reactor, Schedule,
};
pub use bus::Bus;
pub use store::Store;
