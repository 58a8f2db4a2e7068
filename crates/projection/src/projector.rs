//! Runs projections: one shared reader of the log, one task for each projection.

use std::{
    fmt,
    hash::{BuildHasher as _, Hasher as _, RandomState},
    sync::Arc,
    time::Duration,
};

use backstory_event::{Clock, EventFilter, EventStore, EventStoreExt, SystemClock};
use tokio::{runtime::Handle, sync::watch};
use uuid::Uuid;

mod asking;
mod awaited;
mod beats;
mod blame;
mod board;
mod common;
mod error;
mod failures;
mod inlined;
mod letters;
mod mark;
mod one;
mod orders;
mod origin;
mod rebuild;
mod remote;
mod rerun;
mod ring;
mod running;
mod source;
mod start;
mod task;
mod time;
mod worker;

#[cfg(test)]
mod simulation;

pub use awaited::Awaited;
pub(crate) use blame::is_of_the_store;
pub use board::{ProjectionState, ProjectionStatus, RebuildStatus};
pub(crate) use error::chain as error_chain;
pub use error::{ProjectorError, ProjectorErrorKind};
pub use letters::{Letters, ReplayReport};
pub use one::OneProjection;
pub use rerun::RerunReport;
pub use running::{RunningProjector, ShutdownReport};
pub(crate) use worker::message as panic_message;

use crate::{
    Checkpoints, Control, DeadLetters, Documents, Host, Job, Part, Projection, Reactor, Schedule,
    documents::check_own_name,
};
pub(crate) use beats::Pulse;
use beats::{Beats, Start};
use common::Common;
use ring::Ring;
use task::Task;
use time::Timeline;
use worker::{Hosted, JobWorker, ReactorWorker, Worker};

/// How a projector works.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ProjectorOptions {
    /// How long a shutdown may take: 10 seconds.
    pub grace: Duration,
    /// How long [`RunningProjector::caught_up`] waits: 30 seconds.
    pub deadline: Duration,
    /// How many of the newest events are kept for all projections: 10,000, and at most 16 MiB.
    pub recent_events: usize,
    /// How long a process that has fallen silent keeps its projections from the others: 5 seconds.
    /// It is renewed five times as often.
    pub lease: Duration,
    /// What people call this process: the program and its number.
    pub process: String,
}

impl Default for ProjectorOptions {
    fn default() -> Self {
        Self {
            grace: Duration::from_secs(10),
            deadline: Duration::from_secs(30),
            recent_events: 10_000,
            lease: Duration::from_secs(5),
            process: this_process(),
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

    /// With leases of so long; at least 100 milliseconds.
    #[must_use]
    pub fn with_lease(mut self, lease: Duration) -> Self {
        self.lease = lease.max(Duration::from_millis(100));
        self
    }

    /// With another name for this process: its host, its pod. At most 255 bytes are kept.
    #[must_use]
    pub fn with_process(mut self, process: impl Into<String>) -> Self {
        let process: String = process.into();
        self.process = process.chars().filter(|one| !one.is_control()).collect();
        self.process.truncate(self.process.floor_char_boundary(255));
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
/// # use backstory_projection::{
/// #     Checkpoints, Control, DeadLetters, Documents, Host, Projection, Projector, Schedule,
/// # };
/// # async fn run<S, P>(store: S, open_todos: P) -> Result<(), Box<dyn std::error::Error>>
/// # where
/// #     S: EventStore + Checkpoints + Control + DeadLetters + Host<Documents> + Clone,
/// #     P: Projection<Documents>,
/// # {
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
/// with the checkpoint. Several processes may run the same projection: one leads, by a
/// [lease](ProjectorOptions::lease), the others stand by and take over when it ends or falls
/// silent. Whatever a leader of the past still tries to store is refused.
#[must_use = "a projector does nothing until it is started"]
pub struct Projector<S> {
    store: S,
    projections: Vec<(Arc<dyn Worker>, Schedule)>,
    clock: Arc<dyn Clock>,
    options: ProjectorOptions,
    // Of leases: real, but for simulations.
    lease_clock: Arc<dyn Clock>,
}

impl<S: EventStore + Checkpoints + Control + DeadLetters + Clone> Projector<S> {
    /// A projector without projections.
    pub fn new(store: &S) -> Self {
        Self {
            store: store.clone(),
            projections: Vec::new(),
            clock: Arc::new(SystemClock),
            options: ProjectorOptions::default(),
            lease_clock: Arc::new(SystemClock),
        }
    }

    /// Also this projection. `Cx` is found from the projection.
    pub fn with<Cx, P>(mut self, projection: P, schedule: impl Into<Schedule>) -> Self
    where
        Cx: Send + 'static,
        P: Projection<Cx>,
        S: Host<Cx>,
    {
        let worker = Hosted::<S, Cx, P>::new(self.store.clone(), projection, P::NAME);
        self.projections.push((Arc::new(worker), schedule.into()));
        self
    }

    /// Also this job.
    pub fn with_job<Cx>(mut self, job: Job<Cx>, schedule: impl Into<Schedule>) -> Self
    where
        Cx: Send + 'static,
        S: Host<Cx>,
    {
        let log = Arc::new(self.store.clone());
        let schedule = schedule.into();
        let gets_all = schedule.startup.is_none();
        let worker = JobWorker::new(self.store.clone(), log, job, gets_all);
        self.projections.push((Arc::new(worker), schedule));
        self
    }

    /// Also this reactor. It begins now, unless its schedule says otherwise: with what is appended
    /// after [`start`](Self::start) has returned for the first time.
    pub fn with_reactor<R>(mut self, reactor: R, schedule: impl Into<Schedule>) -> Self
    where
        R: Reactor,
        S: Host<Documents>,
    {
        let worker = ReactorWorker::new(self.store.clone(), reactor);
        let mut schedule = schedule.into();
        schedule.start.get_or_insert(crate::Start::Now);
        self.projections.push((Arc::new(worker), schedule));
        self
    }

    /// With another clock for schedules and pauses. Deadlines stay in real time.
    pub fn with_clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }

    #[cfg(test)]
    fn with_lease_clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.lease_clock = clock;
        self
    }

    /// With other options.
    pub fn with_options(mut self, options: ProjectorOptions) -> Self {
        self.options = options;
        self
    }

    /// Takes the projections that no other process leads, and lets them run.
    ///
    /// # Errors
    /// When two projections share a name, a name is none, there is no tokio runtime, or the store
    /// is away.
    pub async fn start(self) -> Result<RunningProjector, ProjectorError> {
        let runtime = Handle::try_current()
            .map_err(|_| ProjectorError::new(ProjectorErrorKind::NoRuntime))?;
        let jitter = RandomState::new().build_hasher().finish();
        let owner = Uuid::now_v7();
        let Assembled {
            reader,
            beats,
            tasks,
            mut running,
        } = self.assemble(owner, jitter).await?;
        // It ends by itself, when the leases are given back.
        runtime.spawn(beats.run());
        running.tasks.push(runtime.spawn(reader).abort_handle());
        for task in tasks {
            running.tasks.push(runtime.spawn(task.run()).abort_handle());
        }
        Ok(running)
    }

    /// Everything but the spawning.
    async fn assemble(
        self,
        owner: Uuid,
        jitter: u64,
    ) -> Result<Assembled<impl Future<Output = ()> + Send + 'static>, ProjectorError> {
        self.check_names()?;
        let parts = self.parts().await?;
        let log: Arc<dyn EventStore> = Arc::new(self.store.clone());
        let letters: Arc<dyn DeadLetters> = Arc::new(self.store.clone());
        let head = log.head().await?;
        for (worker, schedule) in &self.projections {
            start::check(
                worker.name(),
                schedule.start.unwrap_or_default(),
                head.position,
            )?;
        }
        let ring = Arc::new(Ring::new(self.options.recent_events, head));
        let closing = watch::Sender::new(None);
        let leaving = watch::Sender::new(false);
        let control: Arc<dyn Control> = Arc::new(self.store.clone());
        let pulse = Arc::new(Pulse::default());
        let workers = parts.iter();
        let (mut beats, seats) = Beats::begin(Start {
            control: Arc::clone(&control),
            owner,
            process: self.options.process.clone(),
            lease: self.options.lease,
            time: Timeline::new(Arc::clone(&self.lease_clock)),
            ring: Arc::clone(&ring),
            pulse: Arc::clone(&pulse),
            leaving: leaving.subscribe(),
            names: workers.map(|(worker, _)| worker.name()).collect(),
        })
        .await?;
        let merged = self
            .projections
            .iter()
            .fold(EventFilter::none(), |merged, (worker, _)| {
                merged.merge(&worker.filter())
            });

        let common = Common {
            log: Arc::clone(&log),
            checkpoints: Arc::new(self.store.clone()),
            letters: Arc::clone(&letters),
            ring: Arc::clone(&ring),
            clock: Arc::clone(&self.clock),
            pulse: Arc::clone(&pulse),
            closing: closing.subscribe(),
            head,
        };
        let mut remotes = Vec::new();
        let mut tasks = Vec::new();
        let mut enlisted = Vec::new();
        for (number, ((worker, schedule), seat)) in parts.iter().zip(&seats).enumerate() {
            let jitter = jitter.wrapping_add(2 * number as u64);
            let cast = common.cast(worker, schedule, seat, jitter).await?;
            beats.add(cast.member);
            remotes.push(cast.remote);
            tasks.extend(cast.tasks);
            enlisted.extend(cast.enlisted);
        }
        let reader = ring::read_on(Arc::clone(&log), merged, Arc::clone(&ring), self.clock);
        Ok(Assembled {
            reader,
            beats,
            tasks,
            running: RunningProjector {
                log,
                letters,
                ring,
                remotes,
                closing,
                leaving,
                control,
                pulse,
                tasks: Vec::new(),
                enlisted: std::sync::Mutex::new(enlisted),
                options: self.options,
            },
        })
    }

    /// All parts of all projections.
    async fn parts(&self) -> Result<Vec<(Arc<dyn Worker>, Schedule)>, ProjectorError> {
        let known = self.store.list_progress().await?;
        let mut parts = Vec::with_capacity(self.projections.len());
        for (worker, schedule) in &self.projections {
            let count = schedule.partitions;
            start::check_parts(worker.name(), count, &known)?;
            for index in 0..count {
                let part = match count {
                    1 => Some(Arc::clone(worker)),
                    _ => worker.part_of(Part { index, count }),
                };
                let part = part.ok_or_else(|| {
                    let projection = worker.name().to_owned();
                    ProjectorError::new(ProjectorErrorKind::NotInParts { projection })
                })?;
                parts.push((part, schedule.clone()));
            }
        }
        Ok(parts)
    }

    fn check_names(&self) -> Result<(), ProjectorError> {
        for (at, (worker, _)) in self.projections.iter().enumerate() {
            let name = worker.name();
            check_own_name("projection name", name)
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

/// The program's name and its number.
fn this_process() -> String {
    let program = std::env::current_exe().ok();
    let name = program.as_deref().and_then(|path| path.file_stem());
    let name = name.map_or_else(|| "program".into(), |name| name.to_string_lossy());
    format!("{name}:{}", std::process::id())
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
    beats: Beats,
    tasks: Vec<Task>,
    running: RunningProjector,
}
