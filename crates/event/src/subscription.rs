//! Reading on for ever: catch up, then live.

use std::{pin::pin, sync::Arc, time::Duration};

use futures::{
    Stream,
    future::{self, Either},
    stream,
};
use futures_timer::Delay;

use crate::{
    Checkpoint, EventFilter, EventQuery, EventStore, Page, RecordedEvent, StoreError,
    StoreErrorKind,
};

const FIRST_PAUSE: Duration = Duration::from_millis(20);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);
/// Longer waits are that long: no clock counts to the end of [`Duration::MAX`].
const LONGEST_WAIT: Duration = Duration::from_secs(10 * 365 * 86_400);
/// The most events of a page while one event is looked for.
const LARGEST_PAGE: usize = 1_000;

/// A reader that never skips and never repeats. Nothing runs while nobody asks it.
#[derive(Debug)]
pub struct Subscription {
    store: Arc<dyn EventStore>,
    filter: EventFilter,
    checkpoint: Checkpoint,
    limit: Option<usize>,
    // The last page reached the head: there is nothing to read before the log changes.
    caught_up: bool,
    // Why the store did not answer, as long as it does not.
    away: Option<StoreError>,
}

impl Subscription {
    /// A subscription to a store, behind a checkpoint.
    pub fn new(store: Arc<dyn EventStore>, from: Checkpoint, filter: EventFilter) -> Self {
        Self {
            store,
            filter,
            checkpoint: from,
            limit: None,
            caught_up: false,
            away: None,
        }
    }

    /// With at most so many events per page.
    #[must_use]
    pub fn with_page_limit(mut self, limit: usize) -> Self {
        self.limit = Some(limit.max(1));
        self
    }

    /// Up to where it has read: keep it to go on from there.
    pub fn checkpoint(&self) -> Checkpoint {
        self.checkpoint
    }

    /// The next page: waits until the log has grown. Its events may be none when nothing new
    /// matched; its checkpoint has moved all the same. Cancel-safe.
    ///
    /// A store that is away is waited for, with pauses up to 2 seconds.
    ///
    /// # Errors
    /// What time does not heal: `Diverged`, `Closed`, `Denied`, …
    pub async fn next_page(&mut self) -> Result<Page, StoreError> {
        let mut pause = FIRST_PAUSE;
        loop {
            match self.try_next_page().await {
                Ok(page) => {
                    self.away = None;
                    pause = FIRST_PAUSE;
                    if let Some(page) = page {
                        return Ok(page);
                    }
                }
                Err(error) if error.is_transient() => {
                    self.away = Some(error);
                    Delay::new(pause).await;
                    pause = (pause * 2).min(LONGEST_PAUSE);
                }
                Err(error) => return Err(error),
            }
        }
    }

    async fn try_next_page(&mut self) -> Result<Option<Page>, StoreError> {
        if self.caught_up {
            self.store.changed(self.checkpoint.position).await?;
            self.caught_up = false;
        }
        let mut query = EventQuery::new(self.filter.clone()).after(self.checkpoint);
        query.limit = self.limit;
        let page = self.store.read(&query).await?;
        let moved = page.checkpoint.position > self.checkpoint.position;
        self.caught_up = !moved || page.checkpoint.position >= page.head;
        if moved {
            self.checkpoint = page.checkpoint;
        }
        Ok(moved.then_some(page))
    }

    /// The events as a stream. It ends after an error.
    pub fn into_stream(self) -> impl Stream<Item = Result<RecordedEvent, StoreError>> + Send {
        let pages = stream::try_unfold(self, |mut subscription| async move {
            let page = subscription.next_page().await?;
            Ok::<_, StoreError>(Some((
                stream::iter(page.events.into_iter().map(Ok)),
                subscription,
            )))
        });
        futures::TryStreamExt::try_flatten(pages)
    }

    /// The first event that `pick` takes, behind the checkpoint.
    pub(crate) async fn first<T>(
        mut self,
        timeout: Duration,
        pick: impl FnMut(RecordedEvent) -> Result<Option<T>, StoreError>,
    ) -> Result<T, StoreError> {
        let deadline = Delay::new(timeout.min(LONGEST_WAIT));
        let found = {
            let find = pin!(self.find(pick));
            match future::select(find, deadline).await {
                Either::Left((found, _)) => Some(found),
                Either::Right(_) => None,
            }
        };
        found.unwrap_or_else(|| {
            let error = StoreError::new(StoreErrorKind::TimedOut {
                timeout,
                read_to: self.checkpoint,
            });
            Err(match self.away {
                Some(reason) => error.with_source(reason),
                None => error,
            })
        })
    }

    async fn find<T>(
        &mut self,
        mut pick: impl FnMut(RecordedEvent) -> Result<Option<T>, StoreError>,
    ) -> Result<T, StoreError> {
        // Mostly the first event is the one. The more are passed over, the larger the pages.
        let mut limit = 1;
        loop {
            self.limit = Some(limit);
            let events = self.next_page().await?.events;
            limit = (limit + events.len()).min(LARGEST_PAGE);
            for event in events {
                if let Some(found) = pick(event)? {
                    return Ok(found);
                }
            }
        }
    }
}
