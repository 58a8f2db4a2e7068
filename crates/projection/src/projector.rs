//! Runs projections: one shared reader of the log, one task for each projection.

use std::{
    fmt,
    hash::{BuildHasher as _, Hasher as _, RandomState},
    sync::Arc,
    time::Duration,
};

use backstory_event::{Clock, EventFilter, EventStore, EventStoreExt, SystemClock};
use tokio::{
    runtime::Handle,
    sync::{mpsc, watch},
};

mod awaited;
mod board;
mod error;
mod ring;
mod running;
mod source;
mod task;
mod time;
mod worker;

#[cfg(test)]
mod simulation;

pub use awaited::Awaited;
pub use board::{ProjectionState, ProjectionStatus};
pub use error::{ProjectorError, ProjectorErrorKind};
pub use running::{OneProjection, RunningProjector, ShutdownReport};

use crate::{
    Checkpoints, Host, Progress, Projection, Schedule, documents::check_name, engine::Engine,
};
use board::{Remote, Snapshot, Waiters};
use ring::Ring;
use source::Source;
use task::Task;
use time::Timeline;
use worker::{Hosted, Worker};

/// Commands that wait for a projection's task.
const COMMANDS: usize = 16;

/// How a projector works.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct ProjectorOptions {
    /// How long a shutdown may take: 10 seconds.
    pub grace: Duration,
    /// How long [`RunningProjector::caught_up`] waits: 30 seconds.
    pub deadline: Duration,
    /// How many of the newest events are kept for all projections: 10,000, and at most 16 MiB.
    pub recent_events: usize,
}

impl Default for ProjectorOptions {
    fn default() -> Self {
        Self {
            grace: Duration::from_secs(10),
            deadline: Duration::from_secs(30),
            recent_events: 10_000,
        }
    }
}

impl ProjectorOptions {
    /// With so much time for a shutdown.
    #[must_use]
    pub fn with_grace(mut self, grace: Duration) -> Self {
        self.grace = grace;
        self
    }

    /// With so much time for [`RunningProjector::caught_up`].
    #[must_use]
    pub fn with_deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    /// With so many of the newest events in memory.
    #[must_use]
    pub fn with_recent_events(mut self, events: usize) -> Self {
        self.recent_events = events;
        self
    }
}

/// Runs projections over a store. Say which, then [`start`](Self::start).
///
/// ```no_run
/// # use std::time::Duration;
/// # use backstory_event::EventStore;
/// # use backstory_projection::{Checkpoints, Documents, Host, Projection, Projector, Schedule};
/// # async fn run<S, P>(store: S, open_todos: P) -> Result<(), Box<dyn std::error::Error>>
/// # where S: EventStore + Checkpoints + Host<Documents> + Clone, P: Projection<Documents> {
/// let projector = Projector::new(&store)
///     .with(open_todos, Schedule::continuous().debounce(Duration::from_millis(50)))
///     .start()
///     .await?;
/// projector.catch_up().await?;
/// projector.shutdown().await?;
/// # Ok(()) }
/// ```
///
/// Events reach each projection in the order of their positions, each in one batch that is stored
/// with the checkpoint. Several processes may run the same projection: whoever stores a batch
/// first wins, the others notice and go on behind it.
#[must_use = "a projector does nothing until it is started"]
pub struct Projector<S> {
    store: S,
    projections: Vec<(Arc<dyn Worker>, Schedule)>,
    clock: Arc<dyn Clock>,
    options: ProjectorOptions,
}

impl<S: EventStore + Checkpoints + Clone> Projector<S> {
    /// A projector without projections.
    pub fn new(store: &S) -> Self {
        Self {
            store: store.clone(),
            projections: Vec::new(),
            clock: Arc::new(SystemClock),
            options: ProjectorOptions::default(),
        }
    }

    /// Also this projection. `Cx` is found from the projection.
    pub fn with<Cx, P>(mut self, projection: P, schedule: impl Into<Schedule>) -> Self
    where
        Cx: Send + 'static,
        P: Projection<Cx>,
        S: Host<Cx>,
    {
        let worker = Hosted::<S, Cx, P>::new(self.store.clone(), projection);
        self.projections.push((Arc::new(worker), schedule.into()));
        self
    }

    /// With another clock for schedules and pauses. Deadlines stay in real time.
    pub fn with_clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }

    /// With other options.
    pub fn with_options(mut self, options: ProjectorOptions) -> Self {
        self.options = options;
        self
    }

    /// Loads how far each projection has come, and lets them run.
    ///
    /// # Errors
    /// When two projections share a name, a name is none, there is no tokio runtime, or the store
    /// is away.
    pub async fn start(self) -> Result<RunningProjector, ProjectorError> {
        let runtime = Handle::try_current()
            .map_err(|_| ProjectorError::new(ProjectorErrorKind::NoRuntime))?;
        let jitter = RandomState::new().build_hasher().finish();
        let Assembled {
            reader,
            tasks,
            mut running,
        } = self.assemble(jitter).await?;
        running.tasks.push(runtime.spawn(reader).abort_handle());
        for task in tasks {
            running.tasks.push(runtime.spawn(task.run()).abort_handle());
        }
        Ok(running)
    }

    /// Everything but the spawning.
    async fn assemble(
        self,
        jitter: u64,
    ) -> Result<Assembled<impl Future<Output = ()> + Send + 'static>, ProjectorError> {
        self.check_names()?;
        let log: Arc<dyn EventStore> = Arc::new(self.store.clone());
        let checkpoints: Arc<dyn Checkpoints> = Arc::new(self.store.clone());
        let head = log.head().await?;
        let ring = Arc::new(Ring::new(self.options.recent_events, head));
        let closing = watch::Sender::new(None);
        let merged = self
            .projections
            .iter()
            .fold(EventFilter::none(), |merged, (worker, _)| {
                merged.merge(&worker.filter())
            });

        let mut remotes = Vec::new();
        let mut tasks = Vec::new();
        for (number, (worker, schedule)) in self.projections.into_iter().enumerate() {
            let progress = checkpoints.load_progress(worker.name()).await?;
            let Progress { checkpoint, .. } = progress;
            let mut time = Timeline::new(Arc::clone(&self.clock));
            let jitter = jitter.wrapping_add(number as u64);
            let engine = Engine::new(
                schedule,
                time.now(),
                checkpoint.position,
                head.position,
                jitter,
            );
            let filter = worker.filter();
            let source = Source::new(
                Arc::clone(&log),
                filter.clone(),
                Arc::clone(&ring),
                checkpoint,
            );
            let snapshot = watch::Sender::new(Snapshot::new(checkpoint));
            let waiters = Arc::new(Waiters::default());
            let (commands, receiver) = mpsc::channel(COMMANDS);
            remotes.push(Remote {
                name: worker.name(),
                filter,
                snapshot: snapshot.subscribe(),
                waiters: Arc::clone(&waiters),
                commands,
            });
            tasks.push(Task {
                worker,
                checkpoints: Arc::clone(&checkpoints),
                log: Arc::clone(&log),
                source,
                engine,
                time,
                progress,
                buffer: Vec::new(),
                bytes: 0,
                error: None,
                snapshot,
                waiters,
                commands: receiver,
                closing: closing.subscribe(),
            });
        }
        let reader = ring::read_on(Arc::clone(&log), merged, Arc::clone(&ring), self.clock);
        Ok(Assembled {
            reader,
            tasks,
            running: RunningProjector {
                log,
                ring,
                remotes,
                closing,
                tasks: Vec::new(),
                options: self.options,
            },
        })
    }

    fn check_names(&self) -> Result<(), ProjectorError> {
        for (at, (worker, _)) in self.projections.iter().enumerate() {
            let name = worker.name();
            check_name("projection name", name)
                .map_err(|invalid| ProjectorError::new(invalid.into()))?;
            let mut before = self.projections.iter().take(at);
            if before.any(|(other, _)| other.name() == name) {
                let projection = name.to_owned();
                let kind = ProjectorErrorKind::DuplicateName { projection };
                return Err(ProjectorError::new(kind));
            }
        }
        Ok(())
    }
}

impl<S> fmt::Debug for Projector<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = self.projections.iter().map(|(worker, _)| worker.name());
        f.debug_struct("Projector")
            .field("projections", &names.collect::<Vec<_>>())
            .finish_non_exhaustive()
    }
}

/// A projector whose tasks are not spawned yet.
struct Assembled<R> {
    reader: R,
    tasks: Vec<Task>,
    running: RunningProjector,
}
