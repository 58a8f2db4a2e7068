//! An in-memory Backstory store for tests and prototypes: one ordered log under one lock, with the
//! same rules and the same answers as the durable stores. Nothing survives the process.
//!
//! ```
//! use backstory_event::{Append, EventQuery, EventStore, EventStoreExt, ExpectedVersion};
//! use backstory_event::{NewEvent, Payload, StreamId};
//! use backstory_store_memory::MemoryStore;
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let store = MemoryStore::new();
//! let stream = StreamId::new("todo", 7)?;
//! let event = NewEvent::raw("todo.added", Payload::parse(r#"{"title":"buy milk"}"#)?);
//! let receipt =
//!     store.append(Append::to(stream.clone(), ExpectedVersion::NoStream, [event])).await?;
//! assert_eq!(receipt.position().get(), 1);
//! assert_eq!(store.collect(EventQuery::stream(stream)).await?.len(), 1);
//! # Ok(()) }
//! ```

mod control;
mod documents;
mod inline;
mod letters;
mod log;
mod snapshots;
mod values;

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError},
};

use async_trait::async_trait;
use backstory_event::{
    Append, Appended, Clock, EventQuery, EventStore, Limits, Page, Position, StoreError,
    StreamPage, StreamQuery, SystemClock,
};
use backstory_projection::{Documents, InlineProjection, Inlines};
use backstory_store_kit::{Decision, Tail};

/// Options of a [`MemoryStore`].
#[derive(Debug, Clone)]
pub struct MemoryOptions {
    clock: Arc<dyn Clock>,
    limits: Limits,
    page: usize,
}

impl Default for MemoryOptions {
    fn default() -> Self {
        Self {
            clock: Arc::new(SystemClock),
            limits: Limits::default(),
            page: 1_000,
        }
    }
}

impl MemoryOptions {
    /// The clock that gives `recorded_at`; the system's by default.
    #[must_use]
    pub fn with_clock(mut self, clock: impl Clock) -> Self {
        self.clock = Arc::new(clock);
        self
    }

    /// What an append may hold.
    #[must_use]
    pub fn with_limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// How many events a page holds at most; 1,000 by default.
    #[must_use]
    pub fn with_page(mut self, events: usize) -> Self {
        self.page = events.max(1);
        self
    }
}

/// A store in memory. Clones share it.
#[derive(Clone)]
pub struct MemoryStore(Arc<Inner>);

struct Inner {
    options: MemoryOptions,
    state: Mutex<State>,
    snapshots: snapshots::Snapshots,
    tail: Tail,
    inlines: Inlines<InlineProjection<Documents>>,
    // Whose turn it is to append, while projections run inside appends.
    turn: tokio::sync::Mutex<()>,
}

/// Everything that an append, an erasure or a batch of a projection changes together.
#[derive(Default)]
struct State {
    log: log::Log,
    documents: documents::Shelf,
}

impl MemoryStore {
    /// An empty store.
    pub fn new() -> Self {
        Self::with_options(MemoryOptions::default())
    }

    /// An empty store with options.
    pub fn with_options(options: MemoryOptions) -> Self {
        Self(Arc::new(Inner {
            options,
            state: Mutex::default(),
            snapshots: snapshots::Snapshots::default(),
            tail: Tail::new(Position::START),
            inlines: Inlines::default(),
            turn: tokio::sync::Mutex::default(),
        }))
    }

    /// Stores an append by itself.
    fn store(&self, append: &Append) -> Result<Appended, StoreError> {
        let now = self.0.options.clock.now();
        self.with(|state| {
            let decision = state.log.decide(append, now);
            self.apply(state, decision)
        })
    }

    fn apply(&self, state: &mut State, decision: Decision) -> Result<Appended, StoreError> {
        let (outcome, erased) = state.log.apply(decision);
        for stream in &erased {
            state.documents.erase(stream);
            self.0.snapshots.erase(stream);
        }
        outcome
    }

    /// Works with the state. A panic elsewhere cannot leave it half-changed: every change is
    /// decided before the first line of it is written.
    fn with<T>(&self, work: impl FnOnce(&mut State) -> T) -> T {
        work(&mut self.0.state.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Default for MemoryStore {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for MemoryStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryStore")
            .field("head", &self.0.tail.head())
            .finish()
    }
}

#[async_trait]
impl EventStore for MemoryStore {
    async fn append(&self, append: Append) -> Result<Appended, StoreError> {
        append.validate(&self.0.options.limits)?;
        let receipt = match self.0.inlines.is_empty() {
            true => self.store(&append)?,
            false => self.append_inline(&append).await?,
        };
        self.0.tail.advance(receipt.position());
        Ok(receipt)
    }

    async fn read(&self, query: &EventQuery) -> Result<Page, StoreError> {
        self.with(|state| state.log.read(query, self.0.options.page))
    }

    async fn streams(&self, query: &StreamQuery) -> Result<StreamPage, StoreError> {
        Ok(self.with(|state| state.log.streams(query)))
    }

    async fn changed(&self, after: Position) -> Result<Position, StoreError> {
        self.0.tail.beyond(after).await
    }
}
