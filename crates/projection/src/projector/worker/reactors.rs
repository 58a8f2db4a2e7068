//! A reactor and its host.

use std::{
    collections::{BTreeSet, HashMap},
    error::Error,
    fmt,
    future::ready,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use async_trait::async_trait;
use backstory_event::{BoxError, Checkpoint, Envelope, EventFilter, Position, RecordedEvent};
use futures::{StreamExt as _, stream};

use super::{
    super::error::SharedError, Batch, BatchError, Done, Hosted, Nature, Worker, caught, sorting,
};
use crate::{
    Documents, Effect, Host, LetterWrite, NeverReplayed, OnFailure, Progress, Projection, Reactor,
    TurnKind,
};

/// So many events are reacted to before the checkpoint moves.
const CHUNK: usize = 128;

/// Reacts first, and stores the checkpoint of the finished prefix then.
pub(crate) struct ReactorWorker<S, R>(Hosted<S, Documents, Reacting<R>>);

impl<S, R: Reactor> ReactorWorker<S, R> {
    pub(crate) fn new(store: S, reactor: R) -> Self {
        let reacting = Reacting {
            reactor,
            state: Mutex::default(),
        };
        Self(Hosted::new(store, reacting, R::NAME))
    }
}

#[async_trait]
impl<S, R> Worker for ReactorWorker<S, R>
where
    S: Host<Documents> + Clone,
    R: Reactor,
{
    fn name(&self) -> &str {
        self.0.name()
    }

    fn beside(&self) -> Arc<dyn Worker> {
        self.0.beside()
    }

    fn filter(&self) -> EventFilter {
        self.0.filter()
    }

    fn policy(&self) -> OnFailure {
        self.0.policy()
    }

    fn nature(&self) -> Nature {
        Nature::Reactor
    }

    fn key(&self, event: &RecordedEvent) -> String {
        self.0.key(event)
    }

    async fn run(&self, batch: Batch<'_>) -> Result<Done, BatchError> {
        let first = batch.events.first().map(RecordedEvent::position);
        let failed = self.state().failed.take();
        // It failed when what is before it was stored.
        if let Some((position, error)) = failed
            && Some(position) == first
            && batch.failure.is_none()
        {
            return Err(alone(error));
        }
        let chunk = cut(batch, CHUNK);
        let (events, parked) = (chunk.events, chunk.parked.clone());
        let (from, now) = (chunk.from, chunk.now);
        let ran = self.0.run(chunk).await;
        let failed = self.state().failed.take();
        let done = match (ran, failed) {
            (Err(BatchError::Guilty { .. }), Some((position, error))) => {
                let before = events.partition_point(|event| event.position() < position);
                let Some(last) = events[..before].last() else {
                    return Err(alone(error));
                };
                let prefix = Batch {
                    from,
                    events: &events[..before],
                    to: last.checkpoint(),
                    parked,
                    failure: None,
                    now,
                };
                let done = self.0.run(prefix).await?;
                self.state().failed = Some((position, error));
                done
            }
            (ran, _) => ran?,
        };
        let reached = done.progress.checkpoint.position;
        self.state().finished.retain(|position| *position > reached);
        Ok(done)
    }

    async fn amend(
        &self,
        from: &Progress,
        events: &[RecordedEvent],
        letters: Vec<LetterWrite>,
    ) -> Result<Progress, BatchError> {
        let amended = self.0.amend(from, events, letters).await;
        let mut state = self.state();
        state.failed = None;
        if amended.is_ok() {
            for event in events {
                state.finished.remove(&event.position());
            }
        }
        amended
    }

    async fn reset(&self, _: &Progress) -> Result<Progress, BatchError> {
        Err(never_replayed::<R>())
    }

    async fn rewind(&self, _: &Progress, _: Checkpoint) -> Result<Progress, BatchError> {
        Err(never_replayed::<R>())
    }

    async fn turn(&self, _: &Progress, _: TurnKind) -> Result<Progress, BatchError> {
        Err(never_replayed::<R>())
    }

    async fn mark(&self, mark: &Progress, at: Checkpoint) -> Result<(), BatchError> {
        self.0.mark(mark, at).await
    }
}

impl<S, R: Reactor> ReactorWorker<S, R> {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.projection.state()
    }
}

fn never_replayed<R: Reactor>() -> BatchError {
    BatchError::Failed(Arc::new(NeverReplayed { reactor: R::NAME }))
}

/// At most so many events of a batch.
fn cut(batch: Batch<'_>, events: usize) -> Batch<'_> {
    match batch.events.get(events - 1) {
        Some(last) if batch.events.len() > events => Batch {
            events: &batch.events[..events],
            to: last.checkpoint(),
            ..batch
        },
        _ => batch,
    }
}

fn alone(error: SharedError) -> BatchError {
    BatchError::Guilty {
        error,
        events: 1,
        for_good: false,
    }
}

/// A reactor as the projection that its events are sorted for: what it makes of them is done
/// elsewhere, and it writes nothing.
pub(crate) struct Reacting<R> {
    reactor: R,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// What was reacted to and is not behind the checkpoint, or not known to be.
    finished: BTreeSet<Position>,
    /// The first event of a batch that it failed on.
    failed: Option<(Position, SharedError)>,
}

#[async_trait]
impl<R: Reactor> Projection<Documents> for Reacting<R> {
    type Event = R::Event;
    const NAME: &'static str = R::NAME;

    fn filter(&self) -> EventFilter {
        self.reactor.filter()
    }

    fn on_failure(&self) -> OnFailure {
        self.reactor.on_failure()
    }

    fn key(&self, event: &RecordedEvent) -> String {
        self.reactor.key(event)
    }

    async fn project(&self, batch: &[Envelope<R::Event>], _: &mut Documents) -> crate::Result {
        let keys = self.by_key(batch);
        let limit = self.reactor.concurrency().max(1);
        let reactions = keys.into_iter().map(|events| self.react_in_order(events));
        // Made at once, begun one by one.
        let reactions: Vec<_> = reactions.collect();
        let failures = stream::iter(reactions)
            .buffer_unordered(limit)
            .filter_map(ready);
        let mut failures: Vec<(Position, BoxError)> = failures.collect().await;
        failures.sort_by_key(|(position, _)| *position);
        match failures.into_iter().next() {
            None => Ok(()),
            Some((position, error)) => {
                let error: SharedError = error.into();
                self.state().failed = Some((position, Arc::clone(&error)));
                Err(Shared(error).into())
            }
        }
    }
}

impl<R: Reactor> Reacting<R> {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is not finished, by key, in the order of the keys' first events.
    fn by_key<'a>(&self, batch: &'a [Envelope<R::Event>]) -> Vec<Vec<OfKey<'a, R::Event>>> {
        let state = self.state();
        let mut keys: Vec<Vec<_>> = Vec::new();
        let mut places = HashMap::new();
        for parts in batch.chunk_by(|one, two| one.position() == two.position()) {
            let Some(first) = parts.first() else { continue };
            if state.finished.contains(&first.position()) {
                continue;
            }
            let (key, trouble) = match sorting::key(self, first.recorded()) {
                Ok(key) => (key, None),
                Err(error) => (first.stream().to_string(), Some(error)),
            };
            let place = *places.entry(key).or_insert_with(|| {
                keys.push(Vec::new());
                keys.len() - 1
            });
            if let Some(events) = keys.get_mut(place) {
                events.push(OfKey { parts, trouble });
            }
        }
        keys
    }

    /// Reacts to events of one key, up to the first that it fails on.
    async fn react_in_order(
        &self,
        events: Vec<OfKey<'_, R::Event>>,
    ) -> Option<(Position, BoxError)> {
        for OfKey { parts, trouble } in events {
            let position = parts.first()?.position();
            let reacted = match trouble {
                Some(error) => Err(error),
                None => caught(self.react_to(parts)).await,
            };
            if let Err(error) = reacted {
                return Some((position, error));
            }
            self.state().finished.insert(position);
        }
        None
    }

    /// Reacts to the parts of one event.
    async fn react_to(&self, parts: &[Envelope<R::Event>]) -> crate::Result {
        for part in parts {
            let effect = Effect::of(R::NAME, part);
            self.reactor.react(part, &effect).await?;
        }
        Ok(())
    }
}

/// An event, and why it has no key.
struct OfKey<'a, E> {
    parts: &'a [Envelope<E>],
    trouble: Option<BoxError>,
}

/// An error that is kept elsewhere too.
#[derive(Debug)]
struct Shared(SharedError);

impl fmt::Display for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl Error for Shared {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(&*self.0)
    }
}
