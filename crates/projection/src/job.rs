//! Free-form jobs: code that runs on a schedule with the events that came meanwhile.

use std::{fmt, sync::Arc};

use async_trait::async_trait;
use backstory_event::{
    DecodeEvent, Decoded, Envelope, EventFilter, EventType, Payload, RecordedEvent,
};
use futures::future::BoxFuture;

mod deferred;
mod model;
mod run;

pub use model::ReadModel;
pub(crate) use run::{Ended, Given, Running};
pub use run::{JobError, JobRun};

use crate::{Documents, OnFailure, Projection, Result};

pub(crate) type Code<Cx> = Arc<dyn Fn(JobRun<Cx>) -> BoxFuture<'static, Result> + Send + Sync>;
type Key = Arc<dyn Fn(&RecordedEvent) -> String + Send + Sync>;

/// Code that runs on a [`Schedule`](crate::Schedule), each time with the events of its filter that
/// came since the last time: for digests, exports, and whatever is no read model.
///
/// ```no_run
/// # use std::time::Duration;
/// # use backstory_event::{EventFilter, EventStore};
/// # use backstory_projection::{
/// #     Checkpoints, Control, DeadLetters, Documents, Host, Job, Projector, Schedule,
/// # };
/// # async fn run<S>(store: S) -> Result<(), Box<dyn std::error::Error>>
/// # where
/// #     S: EventStore + Checkpoints + Control + DeadLetters + Host<Documents> + Clone,
/// # {
/// let digest = Job::new("todo_digest", EventFilter::category("todo"), |mut job| async move {
///     for todo in job.aggregates() {
///         let count = |before: Option<u32>| Some(before.unwrap_or_default() + 1);
///         job.context().update("digests", &todo, count).await?;
///     }
///     job.after_commit("tell", async { println!("there is news"); Ok(()) });
///     Ok(())
/// });
/// let projector = Projector::new(&store)
///     .with_job(digest, Schedule::every(Duration::from_secs(60)))
///     .start()
///     .await?;
/// # projector.shutdown().await?;
/// # Ok(()) }
/// ```
///
/// It is a projection in all that concerns schedules, checkpoints, leases, failures, dead letters,
/// pauses and orders. What it writes with its context is stored together with its checkpoint, so
/// exactly once; what it does elsewhere happens at least once: a run whose checkpoint is not stored
/// is repeated. A run that fails is tried again with the same events, or fewer of them: see
/// [`OnFailure`].
#[must_use = "a job does nothing until a projector runs it"]
pub struct Job<Cx = Documents> {
    pub(crate) name: &'static str,
    pub(crate) filter: EventFilter,
    pub(crate) policy: OnFailure,
    pub(crate) code: Code<Cx>,
    pub(crate) on_reset: Option<Code<Cx>>,
    key: Option<Key>,
}

impl Job {
    /// A job that may write [`Documents`]. The name is that of its checkpoint in the store: it must
    /// never change, and no projection may have it. A run is handed to the code as a whole; it must
    /// not outlive it.
    pub fn new<F, R>(name: &'static str, filter: EventFilter, code: F) -> Self
    where
        F: Fn(JobRun<Documents>) -> R + Send + Sync + 'static,
        R: Future<Output = Result> + Send + 'static,
    {
        Self::with_context(name, filter, code)
    }
}

impl<Cx: Send + 'static> Job<Cx> {
    /// A job that writes with another context: the SQL connection of a store, in the transaction
    /// that stores the checkpoint.
    ///
    /// ```
    /// # use backstory_event::EventFilter;
    /// # use backstory_projection::{Job, JobRun};
    /// # struct PgConnection;
    /// # impl PgConnection { async fn execute(&mut self, sql: &str) -> Result<(), std::io::Error> { Ok(()) } }
    /// let all = EventFilter::all();
    /// let audit = Job::with_context("audit", all, |mut job: JobRun<PgConnection>| async move {
    ///     job.context().execute("UPDATE audit SET …").await?;
    ///     Ok(())
    /// });
    /// ```
    pub fn with_context<F, R>(name: &'static str, filter: EventFilter, code: F) -> Self
    where
        F: Fn(JobRun<Cx>) -> R + Send + Sync + 'static,
        R: Future<Output = Result> + Send + 'static,
    {
        Self {
            name,
            filter,
            policy: OnFailure::default(),
            code: boxed(code),
            on_reset: None,
            key: None,
        }
    }

    /// What becomes of an event that the job fails on: it stops there by default.
    pub fn on_failure(mut self, policy: OnFailure) -> Self {
        self.policy = policy;
        self
    }

    /// What an event is about, as [`Projection::key`]: the stream by default.
    pub fn key(mut self, key: impl Fn(&RecordedEvent) -> String + Send + Sync + 'static) -> Self {
        self.key = Some(Arc::new(key));
        self
    }

    /// What else a reset empties. Documents are emptied without it; a job with another context
    /// cannot be reset unless it says how. It is given no events.
    pub fn on_reset<F, R>(mut self, code: F) -> Self
    where
        F: Fn(JobRun<Cx>) -> R + Send + Sync + 'static,
        R: Future<Output = Result> + Send + 'static,
    {
        self.on_reset = Some(boxed(code));
        self
    }
}

fn boxed<Cx, F, R>(code: F) -> Code<Cx>
where
    F: Fn(JobRun<Cx>) -> R + Send + Sync + 'static,
    R: Future<Output = Result> + Send + 'static,
{
    Arc::new(move |run| Box::pin(code(run)))
}

impl<Cx> fmt::Debug for Job<Cx> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Job")
            .field("name", &self.name)
            .field("filter", &self.filter)
            .field("on_failure", &self.policy)
            .finish_non_exhaustive()
    }
}

/// A job as the projection that its events are sorted for. Its worker runs them.
pub(crate) struct Sorted<Cx>(pub(crate) Job<Cx>);

#[async_trait]
impl<Cx: Send + 'static> Projection<Cx> for Sorted<Cx> {
    type Event = Raw;
    /// The worker knows the name.
    const NAME: &'static str = "";

    fn filter(&self) -> EventFilter {
        self.0.filter.clone()
    }

    async fn project(&self, _: &[Envelope<Raw>], _: &mut Cx) -> Result {
        Ok(())
    }

    fn on_failure(&self) -> OnFailure {
        self.0.policy
    }

    fn key(&self, event: &RecordedEvent) -> String {
        match &self.0.key {
            Some(key) => key(event),
            None => event.stream().to_string(),
        }
    }
}

/// Any event, not decoded.
pub(crate) struct Raw;

impl DecodeEvent for Raw {
    fn types() -> Vec<EventType> {
        Vec::new()
    }

    fn decode(_: &str, _: &Payload) -> std::result::Result<Option<Self>, serde_json::Error> {
        Ok(Some(Self))
    }

    fn decode_stored(_: &str, _: u32, _: &Payload) -> std::result::Result<Decoded<Self>, String> {
        Ok(Decoded::One(Self))
    }
}
