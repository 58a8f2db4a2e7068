//! One projection without its types: what the projector's task calls.

use std::{
    any::Any, collections::HashSet, marker::PhantomData, panic::AssertUnwindSafe, sync::Arc,
};

use async_trait::async_trait;
use backstory_event::{
    BoxError, Checkpoint, Envelope, EventFilter, Position, RecordedEvent, StoreError,
};
use chrono::{DateTime, Utc};
use futures::FutureExt as _;
use tokio::sync::watch;

use super::{
    blame::is_of_the_store,
    error::{Panicked, SharedError},
};
use crate::{
    CommitError, Host, LetterWrite, NotResettable, OnFailure, Part, Progress, Projection, Slot,
    Step, Target, Turn, TurnKind, Unit,
    inline::{Enlisted, InlineProjection, InlineTerms, Moved, unsupported},
    owner,
    schedule::Inline,
};

mod inlined;
mod jobs;
mod reactors;
mod sorting;

use inlined::Inlined;
pub(crate) use jobs::JobWorker;
pub(crate) use reactors::ReactorWorker;
use sorting::sort_out;

/// Why a batch was not stored.
#[derive(Debug)]
pub(crate) enum BatchError {
    /// Another process moved the projection meanwhile.
    Fenced,
    /// The projection's code fails on these events.
    Guilty {
        /// What it said.
        error: SharedError,
        /// How many events it was given.
        events: usize,
        /// It fails on the first of them, and always will.
        for_good: bool,
    },
    /// Anything else: no event is to blame.
    Failed(SharedError),
}

impl From<BoxError> for BatchError {
    fn from(error: BoxError) -> Self {
        Self::Failed(Arc::from(error))
    }
}

impl From<StoreError> for BatchError {
    fn from(error: StoreError) -> Self {
        Self::Failed(Arc::new(error))
    }
}

impl From<CommitError> for BatchError {
    fn from(error: CommitError) -> Self {
        match error {
            CommitError::Fenced { .. } => Self::Fenced,
            CommitError::Store(error) => error.into(),
            refused => Self::Failed(Arc::new(refused)),
        }
    }
}

/// Events to be projected.
#[derive(Debug)]
pub(crate) struct Batch<'a> {
    /// Where the projection is.
    pub(crate) from: &'a Progress,
    pub(crate) events: &'a [RecordedEvent],
    /// Where it is afterwards.
    pub(crate) to: Checkpoint,
    /// Which of the events' keys are parked.
    pub(crate) parked: HashSet<String>,
    /// Why the only event is to be left out, if it is.
    pub(crate) failure: Option<Failure>,
    pub(crate) now: DateTime<Utc>,
}

/// Why an event is left out.
#[derive(Debug, Clone)]
pub(crate) struct Failure {
    pub(crate) reason: String,
    pub(crate) attempts: u32,
}

/// What became of a batch.
#[derive(Debug)]
pub(crate) struct Done {
    /// The progress that is stored now.
    pub(crate) progress: Progress,
    /// How many stored events of the batch are behind the checkpoint now.
    pub(crate) taken: usize,
    /// How many of them the projection was given.
    pub(crate) projected: usize,
    /// The letters that were written.
    pub(crate) letters: Vec<crate::DeadLetter>,
    /// How many keys were parked by that.
    pub(crate) parked: u64,
}

/// What becomes of what a projection made of events when it is given them again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Nature {
    /// It is one with the checkpoint: only a projection that was emptied may see events again.
    ReadModel,
    /// It may run on events again.
    Job,
    /// It must not see events again.
    Reactor,
}

/// A projection and its host.
#[async_trait]
pub(crate) trait Worker: Send + Sync {
    /// The name of its progress.
    fn name(&self) -> &str;

    /// The name of what letters are kept under.
    fn owner(&self) -> &str {
        owner(self.name())
    }

    /// Which part of the events is its own.
    fn part(&self) -> Part {
        Part::split(self.name()).1
    }

    /// The same projection, over the read model that a rebuild builds: all of it, whatever the part.
    fn beside(&self) -> Arc<dyn Worker>;

    /// The same projection, for a part of the events, if it can run in parts.
    fn part_of(&self, part: Part) -> Option<Arc<dyn Worker>> {
        let _ = part;
        None
    }

    fn filter(&self) -> EventFilter;

    fn policy(&self) -> OnFailure;

    fn nature(&self) -> Nature {
        Nature::ReadModel
    }

    /// The key of an event; its stream when the projection does not tell.
    fn key(&self, event: &RecordedEvent) -> String;

    /// Projects a batch and stores its checkpoint, or the one before the first event that the
    /// projection stops at.
    async fn run(&self, batch: Batch<'_>) -> Result<Done, BatchError>;

    /// Projects events that were left out, and changes letters; the checkpoint stays.
    async fn amend(
        &self,
        from: &Progress,
        events: &[RecordedEvent],
        letters: Vec<LetterWrite>,
    ) -> Result<Progress, BatchError>;

    /// Empties the read model and puts the checkpoint at the start.
    async fn reset(&self, from: &Progress) -> Result<Progress, BatchError>;

    /// Puts the checkpoint back; the read model stays.
    async fn rewind(&self, from: &Progress, to: Checkpoint) -> Result<Progress, BatchError>;

    /// Changes which read model is the live one.
    async fn turn(&self, from: &Progress, kind: TurnKind) -> Result<Progress, BatchError>;

    /// Stores a place in the log under a name that is free: see [`super::mark`].
    async fn mark(&self, mark: &Progress, at: Checkpoint) -> Result<(), BatchError>;

    /// Lets the store run the projection inside its appends, until the answer is dropped.
    fn enlist(&self, inline: &Inline, news: watch::Sender<Moved>) -> Result<Enlisted, StoreError> {
        let _ = (inline, news);
        Err(unsupported(self.name()).into())
    }
}

pub(crate) struct Hosted<S, Cx, P> {
    store: S,
    projection: Arc<P>,
    name: String,
    context: PhantomData<fn() -> Cx>,
}

impl<S, Cx, P> Hosted<S, Cx, P> {
    pub(crate) fn new(store: S, projection: P, name: &str) -> Self {
        Self {
            store,
            projection: Arc::new(projection),
            name: name.to_owned(),
            context: PhantomData,
        }
    }
}

#[async_trait]
impl<S, Cx, P> Worker for Hosted<S, Cx, P>
where
    Cx: Send + 'static,
    S: Host<Cx> + Clone,
    P: Projection<Cx>,
{
    fn name(&self) -> &str {
        &self.name
    }

    fn beside(&self) -> Arc<dyn Worker> {
        self.named(Slot::Next.name(self.owner()))
    }

    fn part_of(&self, part: Part) -> Option<Arc<dyn Worker>> {
        Some(self.named(part.name(self.owner())))
    }

    fn filter(&self) -> EventFilter {
        self.projection.filter()
    }

    fn policy(&self) -> OnFailure {
        self.projection.on_failure()
    }

    fn key(&self, event: &RecordedEvent) -> String {
        let key = sorting::key(&*self.projection, event);
        key.unwrap_or_else(|_| event.stream().to_string())
    }

    async fn run(&self, batch: Batch<'_>) -> Result<Done, BatchError> {
        let sorted = sort_out(&*self.projection, &batch)?;
        let step = sorted.step(&batch);
        let progress = self
            .store_step(step, &sorted.envelopes, sorted.taken)
            .await?;
        Ok(sorted.done(progress))
    }

    async fn amend(
        &self,
        from: &Progress,
        events: &[RecordedEvent],
        letters: Vec<LetterWrite>,
    ) -> Result<Progress, BatchError> {
        let mut envelopes = Vec::with_capacity(events.len());
        for event in events {
            sorting::decode(event, &mut envelopes).map_err(|error| BatchError::Guilty {
                error: error.into(),
                events: events.len(),
                for_good: false,
            })?;
        }
        let step = Step::new(from.clone(), Target::Amend).with_letters(letters);
        self.store_step(step, &envelopes, events.len()).await
    }

    async fn reset(&self, from: &Progress) -> Result<Progress, BatchError> {
        let mut unit = self.store.begin(from.clone()).await?;
        let emptied = {
            let context = unit.context();
            caught(async { self.projection.reset(context).await }).await
        };
        match emptied {
            Err(error) if unit.resets_itself() && error.is::<NotResettable>() => {}
            emptied => emptied?,
        }
        commit(unit, Step::new(from.clone(), Target::Reset)).await
    }

    async fn rewind(&self, from: &Progress, to: Checkpoint) -> Result<Progress, BatchError> {
        let unit = self.store.begin(from.clone()).await?;
        commit(unit, Step::new(from.clone(), Target::Rewind(to))).await
    }

    async fn turn(&self, from: &Progress, kind: TurnKind) -> Result<Progress, BatchError> {
        let turn = Turn {
            from: from.clone(),
            kind,
            tables: self.projection.tables(),
        };
        Ok(self.store.turn(&turn).await?)
    }

    async fn mark(&self, mark: &Progress, at: Checkpoint) -> Result<(), BatchError> {
        self::mark(&self.store, mark, at).await
    }

    fn enlist(&self, inline: &Inline, news: watch::Sender<Moved>) -> Result<Enlisted, StoreError> {
        let terms = InlineTerms {
            name: P::NAME,
            filter: self.filter(),
            limit: inline.limit,
            allow_behind: inline.allow_behind,
        };
        let code = Arc::new(Inlined(Arc::clone(&self.projection)));
        self.store.enlist(InlineProjection::new(terms, code, news))
    }
}

/// Commits a unit, and says where the projection is then.
async fn commit<Cx: Send>(unit: Box<dyn Unit<Cx>>, step: Step) -> Result<Progress, BatchError> {
    let result = step.result();
    unit.commit(step.to, step.letters).await?;
    Ok(result)
}

/// Stores a place in the log under a name that is free.
async fn mark<Cx: Send>(
    store: &impl Host<Cx>,
    mark: &Progress,
    at: Checkpoint,
) -> Result<(), BatchError> {
    let target = match at.position {
        // A checkpoint at the start is none; an epoch shows.
        Position::START => Target::Amend,
        _ => Target::Advance(at),
    };
    let unit = store.begin(mark.clone()).await?;
    Ok(unit.commit(target, Vec::new()).await?)
}

impl<S, Cx, P> Hosted<S, Cx, P>
where
    Cx: Send + 'static,
    S: Host<Cx> + Clone,
    P: Projection<Cx>,
{
    fn named(&self, name: String) -> Arc<dyn Worker> {
        Arc::new(Self {
            store: self.store.clone(),
            projection: Arc::clone(&self.projection),
            name,
            context: PhantomData,
        })
    }

    /// Projects and commits. `events` is how many stored events are to blame for a failure.
    async fn store_step(
        &self,
        step: Step,
        envelopes: &[Envelope<P::Event>],
        events: usize,
    ) -> Result<Progress, BatchError> {
        let result = step.result();
        let guilty = |error: BoxError| BatchError::Guilty {
            error: error.into(),
            events,
            for_good: false,
        };
        let is_new = Slot::split(&step.from.projection).1 == Slot::Next
            && step.from.checkpoint.position == Position::START;
        let mut unit = self.store.begin(step.from).await?;
        if is_new {
            let context = unit.context();
            caught(async { self.projection.prepare(context).await }).await?;
        }
        if !envelopes.is_empty() {
            let projected = {
                let context = unit.context();
                caught(async { self.projection.project(envelopes, context).await }).await
            };
            if let Err(error) = projected {
                return Err(match is_of_the_store(&*error) || unit.is_outage(&*error) {
                    true => error.into(),
                    false => guilty(error),
                });
            }
        }
        match unit.commit(step.to, step.letters).await {
            Ok(()) => Ok(result),
            // What the projection wrote may be refused as late as here.
            Err(CommitError::Store(error)) if !envelopes.is_empty() && !is_of_the_store(&error) => {
                Err(guilty(error.into()))
            }
            Err(error) => Err(error.into()),
        }
    }
}

/// Runs a projection's code; a panic is an error like others. What it may have left half done is
/// dropped with its unit.
async fn caught(code: impl Future<Output = crate::Result>) -> crate::Result {
    AssertUnwindSafe(code)
        .catch_unwind()
        .await
        .unwrap_or_else(|panic| Err(Panicked(message(&*panic)).into()))
}

/// What a panic said.
pub(crate) fn message(panic: &(dyn Any + Send)) -> String {
    match (panic.downcast_ref::<&str>(), panic.downcast_ref::<String>()) {
        (Some(text), _) => (*text).to_owned(),
        (_, Some(text)) => text.clone(),
        _ => "without a message".to_owned(),
    }
}

#[cfg(test)]
mod tests;
