//! One run of a job.

use std::{
    collections::HashSet,
    fmt::{self, Display},
    future::ready,
    str::FromStr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use backstory_event::{
    Aggregate, Checkpoint, DecodeError, DecodeEvent, Decoded, Envelope, EventFilter, EventQuery,
    EventStore, Invalid, RecordedEvent, StoreError, StreamId,
};
use futures::{StreamExt as _, stream};
use tokio::sync::{Mutex as AsyncMutex, OwnedMutexGuard};

use super::{Code, ReadModel, deferred::Deferred};
use crate::{Result, Unit};

/// What a job could not do in a run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum JobError {
    /// An event of the run does not decode.
    #[error(transparent)]
    Decode(#[from] DecodeError),
    /// What a read model lacks could not be read or does not decode. No event of the run is to
    /// blame: the job tries again until it can.
    #[error("what the read model lacks up to position {up_to} cannot be read")]
    History {
        /// Up to where it was to be read.
        up_to: backstory_event::Position,
        /// Why not.
        source: StoreError,
    },
    /// The code of a job kept its run: nothing was stored.
    #[error("job `{job}` kept a run beyond its end: do not move a `JobRun` into another task")]
    Kept {
        /// The job.
        job: &'static str,
    },
}

/// What a run is about.
#[derive(Debug)]
pub(crate) struct Given {
    pub(crate) name: &'static str,
    pub(crate) filter: EventFilter,
    pub(crate) events: Vec<RecordedEvent>,
    /// All events of the filter between these are given, if that is so.
    pub(crate) all_after: Option<Checkpoint>,
    pub(crate) to: Checkpoint,
    pub(crate) log: Arc<dyn EventStore>,
}

/// One run of a [`Job`](crate::Job): the events that came, and what there is to do with them.
///
/// What it gives out is owned, so that the [`context`](Self::context) can be used meanwhile; events
/// are cheap to clone. Erased events are not among them.
pub struct JobRun<Cx> {
    given: Arc<Given>,
    deferred: Arc<Mutex<Deferred<Cx>>>,
    unit: OwnedMutexGuard<Box<dyn Unit<Cx>>>,
}

impl<Cx: Send> JobRun<Cx> {
    /// The name of the job.
    pub fn job(&self) -> &'static str {
        self.given.name
    }

    /// The events of this run, in the order of the log.
    pub fn events(&self) -> Vec<RecordedEvent> {
        self.given.events.clone()
    }

    /// Those of a category.
    pub fn events_of(&self, category: &str) -> Vec<RecordedEvent> {
        let events = self.given.events.iter();
        events
            .filter(|event| event.stream().category() == category)
            .cloned()
            .collect()
    }

    /// Those that `E` knows, decoded.
    ///
    /// # Errors
    /// When one that it knows does not decode. Passed on, that event is to blame.
    pub fn envelopes<E: DecodeEvent>(&self) -> Result<Vec<Envelope<E>>, DecodeError> {
        decode(&self.given.events)
    }

    /// The streams that the events belong to, each once, in the order of its first event.
    pub fn aggregates(&self) -> Vec<StreamId> {
        self.streams(|_| true)
    }

    /// Those of a category.
    pub fn aggregates_of(&self, category: &str) -> Vec<StreamId> {
        self.streams(|stream| stream.category() == category)
    }

    /// The ids of the aggregates of a type that the events belong to, each once, in the order of
    /// its first event.
    ///
    /// # Errors
    /// When a stream of its category has a key that is no id.
    pub fn ids_of<A: Aggregate>(&self) -> Result<Vec<A::Id>, Invalid> {
        let streams = self.aggregates_of(A::CATEGORY).into_iter();
        let id = |stream: StreamId| {
            A::Id::from_str(stream.key()).map_err(|_| {
                let reason = format!("it is no id of `{}`", A::CATEGORY);
                Invalid::new("stream key", stream.key(), reason)
            })
        };
        streams.map(id).collect()
    }

    fn streams(&self, wanted: impl Fn(&StreamId) -> bool) -> Vec<StreamId> {
        let mut seen = HashSet::new();
        let streams = self.given.events.iter().map(RecordedEvent::stream);
        streams
            .filter(|stream| wanted(stream) && seen.insert(*stream))
            .cloned()
            .collect()
    }

    /// What is written with it is stored together with the job's checkpoint, or not at all.
    pub fn context(&mut self) -> &mut Cx {
        self.unit.context()
    }

    /// Brings a read model in memory up to date, and says how many events it was given.
    ///
    /// One that knows up to where it [is](ReadModel::reached) then contains all events of its own
    /// filter up to the end of this run, those that the job left out too. Others get the events of
    /// this run, each time.
    ///
    /// # Errors
    /// When an event does not decode, or the log cannot be read; pages before that are applied.
    pub async fn apply<M: ReadModel>(&mut self, model: &mut M) -> Result<usize, JobError> {
        let filter = model.filter();
        let wanted = |event: &&RecordedEvent| filter.matches(event);
        let Some(reached) = model.reached() else {
            let events: Vec<_> = self.given.events.iter().filter(wanted).cloned().collect();
            return Ok(add(model, &events)?);
        };
        let to = self.given.to;
        if reached.position >= to.position {
            return Ok(0);
        }
        let all_after = self.given.all_after.map(|after| after.position);
        if all_after.is_some_and(|after| after <= reached.position)
            && self.given.filter.covers(&filter)
        {
            let events = self.given.events.iter().filter(wanted);
            let missing = events.filter(|event| event.position() > reached.position);
            let missing: Vec<_> = missing.cloned().collect();
            let added = add(model, &missing)?;
            model.set_reached(to);
            return Ok(added);
        }
        let lacks = EventQuery::new(filter).after(reached).up_to(to.position);
        let mut next = Some(lacks);
        let mut added = 0;
        while let Some(query) = next {
            let history = |source| JobError::History {
                up_to: to.position,
                source,
            };
            let page = self.given.log.read(&query).await.map_err(history)?;
            added += add(model, &page.events).map_err(|error| history(error.into()))?;
            if page.checkpoint.position < to.position {
                model.set_reached(page.checkpoint);
            }
            next = page.next;
        }
        model.set_reached(to);
        Ok(added)
    }

    /// Puts work off until the job has been through its events, and does it once for each key,
    /// however often it is asked to: what was said last counts. It is part of the run: it may write
    /// with the context, and the run fails with it.
    pub fn before_commit<F, R>(&self, key: impl Display, work: F)
    where
        F: FnOnce(Self) -> R + Send + 'static,
        R: Future<Output = Result> + Send + 'static,
    {
        let work = Box::new(move |run| Box::pin(work(run)) as _);
        locked(&self.deferred).before.put(key.to_string(), work);
    }

    /// Puts work off until the run is stored, and does it once for each key, however often it is
    /// asked to: what was said last counts. It happens at most once: not when the process dies
    /// first, or nobody knows whether the run is stored. The next run begins when it has ended; when
    /// it fails, that is a warning and no more.
    pub fn after_commit(
        &self,
        key: impl Display,
        work: impl Future<Output = Result> + Send + 'static,
    ) {
        locked(&self.deferred)
            .after
            .put(key.to_string(), Box::pin(work));
    }

    /// Does work for each item, for at most so many (and at least one) at the same time. Once
    /// something has failed nothing more is begun.
    ///
    /// # Errors
    /// The first one, after what was begun has ended.
    pub fn concurrently<I, F, R>(
        &self,
        limit: usize,
        items: I,
        work: F,
    ) -> impl Future<Output = Result> + Send + use<Cx, I, F, R>
    where
        I: IntoIterator<IntoIter: Send>,
        F: FnMut(I::Item) -> R + Send,
        R: Future<Output = Result> + Send,
    {
        let begun = items.into_iter().map(work);
        let failed = Arc::new(std::sync::atomic::AtomicBool::new(false));
        let stop = Arc::clone(&failed);
        async move {
            use std::sync::atomic::Ordering::Relaxed;
            let ended = stream::iter(begun)
                .take_while(move |_| ready(!stop.load(Relaxed)))
                .buffer_unordered(limit.max(1));
            let first = |first: Option<_>, ended: Result| {
                let error = ended.err();
                failed.fetch_or(error.is_some(), Relaxed);
                ready(first.or(error))
            };
            match ended.fold(None, first).await {
                Some(error) => Err(error),
                None => Ok(()),
            }
        }
    }
}

impl<Cx> fmt::Debug for JobRun<Cx> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JobRun")
            .field("job", &self.given.name)
            .field("events", &self.given.events.len())
            .field("to", &self.given.to)
            .finish_non_exhaustive()
    }
}

/// A run, as those who run it have it.
pub(crate) struct Running<Cx> {
    given: Arc<Given>,
    deferred: Arc<Mutex<Deferred<Cx>>>,
    unit: Arc<AsyncMutex<Box<dyn Unit<Cx>>>>,
}

impl<Cx: Send + 'static> Running<Cx> {
    pub(crate) fn new(given: Given, unit: Box<dyn Unit<Cx>>) -> Self {
        Self {
            given: Arc::new(given),
            deferred: Arc::default(),
            unit: Arc::new(AsyncMutex::new(unit)),
        }
    }

    /// Runs code, and what it puts off until before the commit.
    pub(crate) async fn run(&self, code: &Code<Cx>) -> Result {
        code(self.lend()?).await?;
        loop {
            let next = locked(&self.deferred).before.begin();
            let Some((_, work)) = next else {
                return Ok(());
            };
            work(self.lend()?).await?;
        }
    }

    fn lend(&self) -> Result<JobRun<Cx>, JobError> {
        let unit = Arc::clone(&self.unit).try_lock_owned();
        Ok(JobRun {
            given: Arc::clone(&self.given),
            deferred: Arc::clone(&self.deferred),
            unit: unit.map_err(|_| self.kept())?,
        })
    }

    fn kept(&self) -> JobError {
        let job = self.given.name;
        JobError::Kept { job }
    }

    pub(crate) fn end(self) -> Result<Ended<Cx>, JobError> {
        let kept = self.kept();
        let unit = Arc::into_inner(self.unit).ok_or(kept)?;
        let afterwards = Afterwards {
            name: self.given.name,
            deferred: self.deferred,
        };
        Ok(Ended {
            unit: unit.into_inner(),
            afterwards,
        })
    }
}

/// A run that has ended: its unit is to be committed.
pub(crate) struct Ended<Cx> {
    pub(crate) unit: Box<dyn Unit<Cx>>,
    pub(crate) afterwards: Afterwards<Cx>,
}

/// What a run put off until after its commit.
pub(crate) struct Afterwards<Cx> {
    name: &'static str,
    deferred: Arc<Mutex<Deferred<Cx>>>,
}

impl<Cx> Afterwards<Cx> {
    pub(crate) fn next(
        &mut self,
    ) -> Option<(String, impl Future<Output = Result> + Send + use<Cx>)> {
        locked(&self.deferred).after.begin()
    }

    pub(crate) fn name(&self) -> &'static str {
        self.name
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn decode<E: DecodeEvent>(events: &[RecordedEvent]) -> Result<Vec<Envelope<E>>, DecodeError> {
    let mut envelopes = Vec::with_capacity(events.len());
    for event in events {
        match event.decode()? {
            Decoded::Unknown => {}
            Decoded::One(envelope) => envelopes.push(envelope),
            Decoded::Parts(parts) => envelopes.extend(parts),
        }
    }
    Ok(envelopes)
}

/// Applies events, none of them when one does not decode.
fn add<M: ReadModel>(model: &mut M, events: &[RecordedEvent]) -> Result<usize, DecodeError> {
    let envelopes = decode(events)?;
    for (at, envelope) in envelopes.iter().enumerate() {
        model.apply(envelope);
        let next = envelopes.get(at + 1);
        // Parts of one event go together.
        if next.is_none_or(|next| next.position() > envelope.position()) {
            model.set_reached(envelope.recorded().checkpoint());
        }
    }
    Ok(envelopes.len())
}

#[cfg(test)]
mod tests;
