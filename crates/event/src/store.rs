//! The port of every event store, and what follows from it.

use std::{fmt::Debug, sync::Arc, time::Duration};

use async_trait::async_trait;
use chrono::{DateTime, SubsecRound, TimeDelta, Utc};
use futures::{Stream, stream};

use crate::{
    Append, Appended, Checkpoint, DecodeEvent, Decoded, Envelope, EventFilter, EventQuery, Fold,
    Folding, Page, Position, RecordedEvent, StoreError, StreamId, StreamInfo, StreamPage,
    StreamQuery, Subscription,
};

/// An append-only log with streams: what every store can do. [`EventStoreExt`] adds comfort.
///
/// Invariants that each implementation keeps, and the conformance suite checks: an append is
/// stored whole or not at all; positions are 1, 2, 3 … without holes in commit order; the same
/// append sent again gives the same receipt; a page proves that the log before it is unchanged.
#[async_trait]
pub trait EventStore: Debug + Send + Sync + 'static {
    /// Stores an append, whole or not at all.
    ///
    /// Dropping the future does not undo the append; send it again to learn its outcome.
    ///
    /// # Errors
    /// [`crate::StoreErrorKind`] says what happened and what to do.
    async fn append(&self, append: Append) -> Result<Appended, StoreError>;

    /// Reads one page of a query: as many events as the store finds right.
    ///
    /// # Errors
    /// `Diverged` when the event of `query.after` is not there any more, `Unavailable`, `Closed` …
    async fn read(&self, query: &EventQuery) -> Result<Page, StoreError>;

    /// Lists streams by category, key, tag and state, in byte order.
    ///
    /// # Errors
    /// `Unavailable`, `Closed` …
    async fn streams(&self, query: &StreamQuery) -> Result<StreamPage, StoreError>;

    /// Waits until the log may reach beyond a position, and says how far it reaches as far as is
    /// known. May return early; the caller reads to be sure.
    ///
    /// # Errors
    /// `Closed` when the store is shut down while somebody waits.
    async fn changed(&self, after: Position) -> Result<Position, StoreError>;
}

macro_rules! forward_event_store {
    ($($type:ty)*) => {$(
        #[async_trait]
        impl<T: EventStore + ?Sized> EventStore for $type {
            async fn append(&self, append: Append) -> Result<Appended, StoreError> {
                (**self).append(append).await
            }

            async fn read(&self, query: &EventQuery) -> Result<Page, StoreError> {
                (**self).read(query).await
            }

            async fn streams(&self, query: &StreamQuery) -> Result<StreamPage, StoreError> {
                (**self).streams(query).await
            }

            async fn changed(&self, after: Position) -> Result<Position, StoreError> {
                (**self).changed(after).await
            }
        }
    )*};
}

forward_event_store! { Arc<T> Box<T> }

/// What every store can do because it is an [`EventStore`].
#[async_trait]
pub trait EventStoreExt: EventStore {
    /// All events of a query, page by page; no connection is held between pages.
    fn events(
        &self,
        query: EventQuery,
    ) -> impl Stream<Item = Result<RecordedEvent, StoreError>> + Send
    where
        Self: Sized,
    {
        let pages = stream::try_unfold(Some(query), move |query| async move {
            let Some(query) = query else { return Ok(None) };
            let page = self.read(&query).await?;
            Ok::<_, StoreError>(Some((
                stream::iter(page.events.into_iter().map(Ok)),
                page.next,
            )))
        });
        futures::TryStreamExt::try_flatten(pages)
    }

    /// All events of a query in one list. For small answers: it grows with the answer.
    ///
    /// # Errors
    /// As [`EventStore::read`].
    async fn collect(&self, query: EventQuery) -> Result<Vec<RecordedEvent>, StoreError> {
        let mut events = Vec::new();
        let mut query = Some(query);
        while let Some(current) = query {
            let page = self.read(&current).await?;
            events.extend(page.events);
            query = page.next;
        }
        Ok(events)
    }

    /// All events of a query, decoded; erased and unknown ones are passed over.
    ///
    /// # Errors
    /// As [`EventStore::read`], and `Decode` when a known event does not decode.
    async fn collect_as<E: DecodeEvent>(
        &self,
        query: EventQuery,
    ) -> Result<Vec<Envelope<E>>, StoreError> {
        let mut envelopes = Vec::new();
        for event in self.collect(query).await? {
            match event.decode()? {
                Decoded::Unknown => {}
                Decoded::One(envelope) => envelopes.push(envelope),
                Decoded::Parts(parts) => envelopes.extend(parts),
            }
        }
        Ok(envelopes)
    }

    /// Folds the events of a filter into a state, and says up to where the log was read. Await it
    /// as it is for the state of now, or see [`Folding`] for one of before.
    fn fold<S: Fold>(&self, filter: EventFilter) -> Folding<'_, Self, S> {
        Folding::new(self, filter)
    }

    /// The newest event's position and id; [`Checkpoint::START`] for an empty log.
    ///
    /// # Errors
    /// As [`EventStore::read`].
    async fn head(&self) -> Result<Checkpoint, StoreError> {
        let page = self
            .read(&EventQuery::new(EventFilter::all()).backward().limit(1))
            .await?;
        Ok(page
            .events
            .first()
            .map_or(Checkpoint::START, RecordedEvent::checkpoint))
    }

    /// The newest event that was recorded at this time or before: where the log ended then.
    /// [`Checkpoint::START`] when nothing was there yet.
    ///
    /// # Errors
    /// As [`EventStore::read`].
    async fn position_at(&self, time: DateTime<Utc>) -> Result<Checkpoint, StoreError> {
        let newest = EventQuery::new(EventFilter::all()).backward().limit(1);
        // Events are recorded in microseconds.
        let tick = TimeDelta::microseconds(1);
        let query = match time.trunc_subsecs(6).checked_add_signed(tick) {
            Some(behind) => newest.until(behind),
            None => newest,
        };
        let found = self.collect(query).await?;
        Ok(found
            .first()
            .map_or(Checkpoint::START, RecordedEvent::checkpoint))
    }

    /// What is known of one stream without reading it, in any state.
    ///
    /// # Errors
    /// As [`EventStore::streams`].
    async fn stream_info(&self, stream: &StreamId) -> Result<Option<StreamInfo>, StoreError> {
        use crate::StreamState::{Deleted, Erased, Live};
        let query = StreamQuery::new()
            .category(stream.category())
            .key(stream.key());
        let query = [Live, Deleted, Erased]
            .into_iter()
            .fold(query, StreamQuery::state);
        Ok(self.streams(&query).await?.streams.into_iter().next())
    }

    /// Catches up from a checkpoint, then goes on live: no gap and no repeat.
    fn subscribe(&self, from: impl Into<Checkpoint>, filter: EventFilter) -> Subscription
    where
        Self: Sized + Clone,
    {
        Subscription::new(Arc::new(self.clone()), from.into(), filter)
    }

    /// The first event of a filter behind a checkpoint, whether it is stored already or will be:
    /// nothing is missed in between. Take the checkpoint ([`Self::head`], or a receipt) before you
    /// do what leads to the event. A store that is away is waited for. Erased events count too.
    ///
    /// ```no_run
    /// # use std::time::Duration;
    /// # use backstory_event::{EventFilter, EventStore, EventStoreExt, FilterItem, StoreError};
    /// # async fn run(store: impl EventStore + Clone) -> Result<(), StoreError> {
    /// let before = store.head().await?;
    /// // … ask somebody to pay …
    /// let paid = EventFilter::from(FilterItem::new().name("order.paid"));
    /// let paid = store.await_event(paid, before, Duration::from_secs(30)).await?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// `TimedOut` says up to where it looked, and has the store's error as its source when the
    /// store was away; what time does not heal: `Diverged`, `Closed`, `Denied`, …
    async fn await_event(
        &self,
        filter: EventFilter,
        from: impl Into<Checkpoint> + Send,
        timeout: Duration,
    ) -> Result<RecordedEvent, StoreError>
    where
        Self: Sized + Clone,
    {
        let subscription = self.subscribe(from, filter);
        subscription.first(timeout, |event| Ok(Some(event))).await
    }

    /// As [`Self::await_event`], decoded: erased events and those that `E` does not know are
    /// passed over. Of an event that an upcaster splits it is the first part.
    ///
    /// # Errors
    /// As [`Self::await_event`], and `Decode` when a known event does not decode.
    async fn await_event_as<E: DecodeEvent>(
        &self,
        filter: EventFilter,
        from: impl Into<Checkpoint> + Send,
        timeout: Duration,
    ) -> Result<Envelope<E>, StoreError>
    where
        Self: Sized + Clone,
    {
        let subscription = self.subscribe(from, filter);
        let decode = |event: RecordedEvent| {
            Ok(match event.decode()? {
                Decoded::Unknown => None,
                Decoded::One(envelope) => Some(envelope),
                Decoded::Parts(parts) => parts.into_iter().next(),
            })
        };
        subscription.first(timeout, decode).await
    }
}

impl<T: EventStore + ?Sized> EventStoreExt for T {}
