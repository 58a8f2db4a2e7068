//! Loading much history at once, for example that of another system.

use std::{convert::Infallible, pin::pin};

use backstory_event::{BoxError, Checkpoint, NewEvent, StoreError, StoreErrorKind, StreamId};
use futures::{Stream, StreamExt};
use tokio::{sync::mpsc, task::JoinSet};

use crate::{
    PostgresStore,
    import::{chunk::Chunk, load::Loader},
};

mod chunk;
mod load;

/// Where a chunk ends: its transaction holds the lock of the log for some 50 ms.
const CHUNK_EVENTS: usize = 5_000;
const CHUNK_BYTES: usize = 8 << 20;

/// What an import did.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Imported {
    /// Events that it stored.
    pub events: u64,
    /// Events that were stored already, under the same ids.
    pub skipped: u64,
    /// The newest of them all in the log.
    pub head: Checkpoint,
}

/// Why an import ended early. What stands before the event is stored, and nothing from it on;
/// run again from the beginning, the import passes over what is stored.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ImportError {
    /// An event is refused.
    #[error("event {event} of the import is refused: {error}")]
    Event {
        /// Which event, counted from 1.
        event: u64,
        /// Why.
        #[source]
        error: StoreError,
    },
    /// The events to import could not be read.
    #[error("event {event} of the import could not be read: {error}")]
    Source {
        /// Which event, counted from 1.
        event: u64,
        /// Why.
        #[source]
        error: BoxError,
    },
    /// The store failed, whatever the events are. All events before this one are stored.
    #[error("the import ended before event {event}: {error}")]
    Store {
        /// The first event of which nobody knows that it is stored, counted from 1.
        event: u64,
        /// Why.
        #[source]
        error: StoreError,
    },
}

impl ImportError {
    /// Which event it is about, counted from 1.
    pub fn event(&self) -> u64 {
        match self {
            Self::Event { event, .. } | Self::Source { event, .. } | Self::Store { event, .. } => {
                *event
            }
        }
    }

    /// What the store said; `None` when the events could not be read.
    pub fn store_error(&self) -> Option<&StoreError> {
        match self {
            Self::Event { error, .. } | Self::Store { error, .. } => Some(error),
            Self::Source { .. } => None,
        }
    }
}

impl PostgresStore {
    /// Stores much history in the order given, several times faster than appends do: from another
    /// system, or from another store.
    ///
    /// Events get the next positions and continue the versions of their streams. They are checked
    /// as those of an append with [`ExpectedVersion::Any`](backstory_event::ExpectedVersion::Any)
    /// are, each for itself: a deleted or erased stream refuses them, and `backstory.*` events do
    /// to their stream what they always do. When they happened belongs into
    /// [`Metadata::occurred_at`](backstory_event::Metadata::occurred_at). Claims are not made.
    ///
    /// Chunks of some 5,000 events are stored in one transaction each, on a connection of its own;
    /// appends and readers go on in between. An event whose id is stored already, in the same
    /// stream and with the same name, is skipped: after a crash or a drop of the future the same
    /// import, run again, continues. So give the events ids that are the same each time. Ids that
    /// rise with time (UUID v7) are stored fastest. A chunk is tried until
    /// [`with_deadline`](crate::PostgresOptions::with_deadline) has passed without success. At
    /// most three chunks are in memory, of 8 MiB each.
    ///
    /// Needs no right beyond those of [`PostgresStore::grants`].
    ///
    /// ```no_run
    /// # use backstory_event::{EventId, NewEvent, Payload, StreamId};
    /// # async fn run(store: backstory_store_postgres::PostgresStore, rows: Vec<(uuid::Uuid, i64, String)>)
    /// # -> Result<(), Box<dyn std::error::Error>> {
    /// let events = rows.into_iter().map(|(id, todo, json)| {
    ///     let event = NewEvent::raw("todo.added", Payload::stored(json));
    ///     (StreamId::stored("todo", todo.to_string()), event.with_id(EventId::from_uuid(id)))
    /// });
    /// let imported = store.import(futures::stream::iter(events)).await?;
    /// # let _ = imported; Ok(()) }
    /// ```
    ///
    /// # Errors
    /// [`ImportError`] names the event.
    pub async fn import<S>(&self, events: S) -> Result<Imported, ImportError>
    where
        S: Stream<Item = (StreamId, NewEvent)> + Send,
    {
        self.try_import(events.map(Ok::<_, Infallible>)).await
    }

    /// As [`PostgresStore::import`], of events whose reading may fail.
    ///
    /// # Errors
    /// [`ImportError`] names the event.
    pub async fn try_import<S, E>(&self, events: S) -> Result<Imported, ImportError>
    where
        S: Stream<Item = Result<(StreamId, NewEvent), E>> + Send,
        E: Into<BoxError>,
    {
        self.open_for_import(1)?;
        let (chunks, waiting) = mpsc::channel(1);
        // It ends with this future, and its connection with it.
        let mut loader = JoinSet::new();
        loader.spawn(Loader::of(self).run(waiting));
        let refused = self.cut(events, chunks).await;
        let loaded = match loader.join_next().await {
            Some(Ok(loaded)) => loaded?,
            // The runtime is ending.
            _ => return Err(closed(1)),
        };
        refused.map(|()| loaded)
    }

    /// Cuts the events into chunks. While the server works on one, the next is made ready.
    async fn cut<S, E>(&self, events: S, chunks: mpsc::Sender<Chunk>) -> Result<(), ImportError>
    where
        S: Stream<Item = Result<(StreamId, NewEvent), E>> + Send,
        E: Into<BoxError>,
    {
        let mut events = pin!(events);
        let limits = self.options().writer.limits;
        let mut chunk = Chunk::new(1);
        let refused = loop {
            let number = chunk.next();
            let added = match events.next().await {
                None => break Ok(()),
                Some(Err(error)) => Err(ImportError::Source {
                    event: number,
                    error: error.into(),
                }),
                Some(Ok((stream, event))) => {
                    chunk
                        .push(stream, event, &limits)
                        .map_err(|error| ImportError::Event {
                            event: number,
                            error,
                        })
                }
            };
            if added.is_err() {
                break added;
            }
            if chunk.len() >= CHUNK_EVENTS || chunk.size() >= CHUNK_BYTES {
                self.open_for_import(number)?;
                let next = Chunk::new(chunk.next());
                let full = std::mem::replace(&mut chunk, next);
                if chunks.send(full).await.is_err() {
                    // The loader says why.
                    return Ok(());
                }
            }
        };
        if chunk.len() > 0 {
            // Again, the loader says why it may have ended.
            let _ = chunks.send(chunk).await;
        }
        refused
    }

    fn open_for_import(&self, event: u64) -> Result<(), ImportError> {
        self.check_open()
            .map_err(|error| ImportError::Store { event, error })
    }
}

fn closed(event: u64) -> ImportError {
    ImportError::Store {
        event,
        error: StoreError::new(StoreErrorKind::Closed),
    }
}
