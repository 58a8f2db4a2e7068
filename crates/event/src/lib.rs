//! The vocabulary of Backstory: events, streams, positions, filters, and the ports of stores and
//! buses. No runtime and no database: those are in the stores.

mod aggregate;
mod append;
mod bus;
mod catalog;
mod clock;
mod companion;
mod conflict;
mod envelope;
mod error;
mod event;
mod filter;
mod fold;
mod lifecycle;
mod metadata;
mod payload;
mod query;
mod store;
mod stream;
mod subscription;
mod upcast;
pub mod variant;

pub use aggregate::Aggregate;
pub use append::{Append, AppendCondition, Appended, Limits, StreamPart};
#[cfg(feature = "macros")]
pub use backstory_macros::{DecodeEvent, Event};
pub use bus::{AwaitError, BusSubscription, Delivery, EventBus, LocalBus, Topic, feed};
pub use catalog::{Catalog, CatalogError};
pub use clock::{Clock, ManualClock, SystemClock};
pub use companion::Companion;
pub use conflict::Conflict;
pub use envelope::{Envelope, EventId, NewEvent, Recorded, RecordedEvent};
pub use error::{BoxError, DecodeError, Invalid, StoreError, StoreErrorKind};
pub use event::{DecodeEvent, Decoded, Event, EventType};
pub use filter::{EventFilter, FilterItem};
pub use fold::{Fold, Folded, Folding};
pub use lifecycle::{Lifecycle, StreamState, TagChange};
pub use metadata::Metadata;
pub use payload::Payload;
pub use query::{
    Checkpoint, Direction, EventQuery, Page, StreamCursor, StreamInfo, StreamPage, StreamQuery,
};
pub use store::{EventStore, EventStoreExt};
pub use stream::{ExpectedVersion, MAX_NAME, Position, StreamId, StreamKey, StreamVersion, Tag};
pub use subscription::Subscription;
pub use upcast::Upcasters;
