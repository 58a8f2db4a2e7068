//! When a repository keeps a state, and when it believes a kept one.

use std::sync::Arc;

use backstory_event::{Aggregate, Invalid, Payload, StreamVersion};
use serde::{Serialize, de::DeserializeOwned};

use crate::{SnapshotRecord, SnapshotStore};

/// An aggregate whose state can be kept, so that long histories need not be read again.
///
/// ```
/// # use backstory_aggregate::{Aggregate, Snapshot};
/// # use backstory_event::Event;
/// # use serde::{Deserialize, Serialize};
/// # #[derive(Serialize, Deserialize, Event)]
/// # #[event(prefix = "counter", crate = "backstory_event")]
/// # enum Counted { Up }
/// #[derive(Default, Serialize, Deserialize)]
/// struct Counter {
///     count: u64,
/// }
/// # impl Aggregate for Counter {
/// #     const CATEGORY: &'static str = "counter";
/// #     type Id = String;
/// #     type Event = Counted;
/// #     fn apply(&mut self, _: &Counted) { self.count += 1; }
/// # }
///
/// impl Snapshot for Counter {
///     const SHAPE: u32 = 1; // raise it when the fields, or what `apply` makes of them, change
/// }
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be kept as a snapshot",
    note = "derive `Serialize` and `Deserialize`, and add `impl Snapshot for {Self}` with its `SHAPE`"
)]
pub trait Snapshot: Aggregate + Serialize + DeserializeOwned {
    /// The shape of the state. Raise it whenever a state kept by an older program would be wrong:
    /// kept states of another shape are passed over.
    const SHAPE: u32;
}

/// Snapshots of one type: where they are, how often, and how states become payloads.
pub(crate) struct Snapshots<A> {
    pub(crate) store: Arc<dyn SnapshotStore>,
    every: i64,
    pub(crate) shape: u32,
    pub(crate) encode: fn(&A) -> Result<Payload, Invalid>,
    decode: fn(&Payload) -> Result<A, serde_json::Error>,
}

impl<A: Snapshot> Snapshots<A> {
    pub(crate) fn new(store: Arc<dyn SnapshotStore>, every: u32) -> Self {
        Self {
            store,
            every: i64::from(every.max(1)),
            shape: A::SHAPE,
            encode: |state| Payload::encode(state),
            decode: |payload| payload.decode(),
        }
    }
}

impl<A> Snapshots<A> {
    /// True when so many events were stored since the last known snapshot that it is time.
    pub(crate) fn is_due(&self, last: StreamVersion, version: StreamVersion) -> bool {
        version.get().saturating_sub(last.get()) >= self.every
    }

    /// The state of a snapshot, unless it has another shape or does not decode.
    pub(crate) fn open(&self, snapshot: &SnapshotRecord) -> Option<A> {
        if snapshot.shape != self.shape {
            tracing::debug!(
                stream = %snapshot.stream, shape = snapshot.shape, wanted = self.shape,
                "a snapshot of another shape is passed over"
            );
            return None;
        }
        (self.decode)(&snapshot.state)
            .inspect_err(|error| {
                tracing::warn!(stream = %snapshot.stream, %error, "a snapshot does not decode");
            })
            .ok()
    }
}
