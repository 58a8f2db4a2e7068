//! States that are folded from the log: of now, and as they were.

use std::{fmt, marker::PhantomData};

use chrono::{DateTime, Utc};
use futures::future::BoxFuture;

use crate::{
    AppendCondition, Checkpoint, DecodeError, DecodeEvent, Decoded, Envelope, EventFilter,
    EventQuery, EventStore, EventStoreExt, Page, Position, StoreError,
};

/// A state that is folded from the events of a filter: for a decision with a condition, or to look
/// at.
///
/// ```
/// # use backstory_event::{DecodeEvent, Envelope, Event, Fold};
/// # #[derive(serde::Serialize, serde::Deserialize, Event)]
/// # #[event(prefix = "seat", crate = "backstory_event")]
/// # enum SeatEvent { Taken, Left }
/// #[derive(Default)]
/// struct Seats(i32);
///
/// impl Fold for Seats {
///     type Event = SeatEvent;
///     fn fold(&mut self, envelope: &Envelope<SeatEvent>) {
///         self.0 += match envelope.event {
///             SeatEvent::Taken => 1,
///             SeatEvent::Left => -1,
///         };
///     }
/// }
/// ```
pub trait Fold: Default + Send {
    /// The events that it knows; others are passed over.
    type Event: DecodeEvent;

    /// What an event does to the state.
    fn fold(&mut self, envelope: &Envelope<Self::Event>);
}

/// A folded state, and up to where the log was read for it.
#[derive(Debug, Clone, PartialEq)]
pub struct Folded<S> {
    /// The state.
    pub state: S,
    /// The filter it was folded from.
    pub filter: EventFilter,
    /// Up to where the log was read, also when nothing matched.
    pub read_to: Checkpoint,
}

impl<S: Fold> Folded<S> {
    /// The state before the first event.
    pub fn new(filter: EventFilter) -> Self {
        Self {
            state: S::default(),
            filter,
            read_to: Checkpoint::START,
        }
    }

    /// Folds the next page of the filter's events, and says how many events the state knew.
    /// Erased and unknown ones are passed over.
    ///
    /// # Errors
    /// When a known event does not decode. Nothing of the page is folded then.
    pub fn add(&mut self, page: &Page) -> Result<usize, DecodeError> {
        let mut known = Vec::with_capacity(page.events.len());
        for event in &page.events {
            match event.decode()? {
                Decoded::Unknown => {}
                Decoded::One(envelope) => known.push(envelope),
                Decoded::Parts(parts) => known.extend(parts),
            }
        }
        known.iter().for_each(|envelope| self.state.fold(envelope));
        self.read_to = page.checkpoint;
        Ok(known.len())
    }
}

impl<S> Folded<S> {
    /// The condition that the decision still holds: no further event of the filter.
    pub fn condition(&self) -> AppendCondition {
        AppendCondition::new(self.filter.clone(), self.read_to)
    }
}

/// A fold that begins when it is awaited: see [`EventStoreExt::fold`]. It reads page by page, and
/// keeps nothing but the state.
///
/// ```no_run
/// # use backstory_event::{EventFilter, EventStore, EventStoreExt, Fold, Position, StoreError};
/// # async fn run<Seats: Fold>(store: impl EventStore) -> Result<(), StoreError> {
/// let seats = || store.fold::<Seats>(EventFilter::of::<Seats::Event>());
/// let now = seats().await?;
/// let then = seats().at(Position::new(120)).await?;
/// let last_year = seats().at_time("2024-12-31T23:59:59Z".parse().unwrap()).await?;
/// # Ok(()) }
/// ```
///
/// What was erased since is missing in a state of before, too.
#[must_use = "nothing is read until it is awaited"]
pub struct Folding<'a, T: ?Sized, S> {
    store: &'a T,
    filter: EventFilter,
    end: End,
    state: PhantomData<fn() -> S>,
}

#[derive(Debug, Clone, Copy)]
enum End {
    Now,
    Position(Position),
    Time(DateTime<Utc>),
}

impl<'a, T: ?Sized, S> Folding<'a, T, S> {
    pub(crate) fn new(store: &'a T, filter: EventFilter) -> Self {
        Self {
            store,
            filter,
            end: End::Now,
            state: PhantomData,
        }
    }

    /// As it was when the log ended at this position. Beyond the end it is the state of now.
    pub fn at(mut self, position: Position) -> Self {
        self.end = End::Position(position);
        self
    }

    /// As it was at this time: with all that was recorded then or before.
    pub fn at_time(mut self, time: DateTime<Utc>) -> Self {
        self.end = End::Time(time);
        self
    }
}

impl<'a, T, S> IntoFuture for Folding<'a, T, S>
where
    T: EventStore + ?Sized,
    S: Fold + 'a,
{
    type Output = Result<Folded<S>, StoreError>;
    type IntoFuture = BoxFuture<'a, Self::Output>;

    /// # Errors
    /// As [`EventStore::read`], and `Decode` when a known event does not decode.
    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move {
            let mut query = EventQuery::new(self.filter.clone());
            query.up_to = match self.end {
                End::Now => None,
                End::Position(position) => Some(position),
                End::Time(time) => Some(self.store.position_at(time).await?.position),
            };
            let mut folded = Folded::new(self.filter);
            let mut query = Some(query);
            while let Some(current) = query {
                let page = self.store.read(&current).await?;
                folded.add(&page)?;
                query = page.next;
            }
            Ok(folded)
        })
    }
}

impl<T: ?Sized, S> fmt::Debug for Folding<'_, T, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Folding")
            .field("filter", &self.filter)
            .field("end", &self.end)
            .finish_non_exhaustive()
    }
}
