//! What the tasks of a projector have in common, and the tasks of one projection.

use std::sync::Arc;

use backstory_event::{Checkpoint, Clock, EventStore, Position};
use tokio::sync::{mpsc, watch};

use super::{
    beats::{Beside, Member, Place, Pulse, Speed},
    board::{Command, Remote, Snapshot, Waiters},
    error::ProjectorError,
    rebuild::{Live, Other},
    ring::Ring,
    source::Source,
    task::Task,
    time::Timeline,
    worker::{Nature, Worker},
};
use crate::{Checkpoints, DeadLetters, Enlisted, Schedule, Seat, engine::Engine};

/// Commands that wait for a projection's task.
const COMMANDS: usize = 16;

/// See the [module](self).
pub(crate) struct Common {
    pub(crate) log: Arc<dyn EventStore>,
    pub(crate) checkpoints: Arc<dyn Checkpoints>,
    pub(crate) letters: Arc<dyn DeadLetters>,
    pub(crate) ring: Arc<Ring>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) pulse: Arc<Pulse>,
    pub(crate) closing: watch::Receiver<Option<Position>>,
    /// The end of the log when the projector began.
    pub(crate) head: Checkpoint,
}

/// All that one projection needs.
pub(crate) struct Cast {
    pub(crate) member: Member,
    pub(crate) remote: Remote,
    /// The live one, and for the first part the one that builds a new read model.
    pub(crate) tasks: Vec<Task>,
    /// What lets its appends run it.
    pub(crate) enlisted: Option<Enlisted>,
}

/// A task, and how others reach it.
struct Hired {
    task: Task,
    place: watch::Sender<Place>,
    snapshot: watch::Receiver<Snapshot>,
    waiters: Arc<Waiters>,
}

impl Common {
    pub(crate) async fn cast(
        &self,
        worker: &Arc<dyn Worker>,
        schedule: &Schedule,
        seat: &Seat,
        jitter: u64,
    ) -> Result<Cast, ProjectorError> {
        let (commands, receiver) = mpsc::channel(COMMANDS);
        let is_first = worker.part().index == 0;
        let (orders, beside_receiver) = mpsc::channel(COMMANDS);
        let other = match is_first {
            true => Other::Beside(orders),
            false => Other::Part,
        };
        // Behind the progress: see `Task::load`.
        let left_out = self.letters.count_letters(worker.owner()).await?;
        let mut live = self.hire(
            Arc::clone(worker),
            schedule.clone(),
            Place::from(seat),
            receiver,
            other,
            jitter,
        );
        // Whoever leads it for the first time is where it begins. A reactor never reacts to what
        // was there before its process.
        let nature = worker.nature();
        let begins = nature == Nature::Reactor || seat.leads && seat.term == 1;
        live.task.now = begins.then_some(self.head);
        live.task.left_out = Some(left_out);
        live.task.begin_reacting().await?;
        live.task.publish(false);
        let enlisted = match schedule.inline_terms() {
            Some(inline) => Some(live.task.enlist(&inline)?),
            None => None,
        };
        let history = match &schedule.startup {
            Some(filter) => {
                let end = live.task.end_of_history(self.head).await?.position;
                live.task.source.only_at_first(filter.clone(), end);
                Some((filter.clone(), end))
            }
            None => None,
        };
        let beside = is_first.then(|| {
            let other = Other::Live(Live {
                snapshot: live.snapshot.clone(),
                commands: commands.clone(),
                not_before: Default::default(),
            });
            let mut beside = self.hire(
                worker.beside(),
                schedule.at_once(),
                Place::beside(seat),
                beside_receiver,
                other,
                jitter.wrapping_add(1),
            );
            if let Some((filter, end)) = history {
                beside.task.source.only_at_first(filter, end);
            }
            beside
        });
        let mut tasks = vec![live.task];
        let beside = beside.map(|beside| {
            tasks.push(beside.task);
            Beside {
                snapshot: beside.snapshot,
                place: beside.place,
                speed: Speed::default(),
            }
        });
        Ok(Cast {
            remote: Remote {
                name: worker.name().to_owned(),
                follows: nature == Nature::ReadModel && !schedule.is_once(),
                once: schedule.is_once(),
                filter: worker.filter(),
                snapshot: live.snapshot.clone(),
                waiters: Arc::clone(&live.waiters),
                commands: commands.clone(),
                beside: beside.as_ref().map(|beside| beside.snapshot.clone()),
            },
            member: Member {
                name: worker.name().to_owned(),
                snapshot: live.snapshot,
                waiters: live.waiters,
                place: live.place,
                commands,
                speed: Speed::default(),
                beside,
            },
            tasks,
            enlisted,
        })
    }

    fn hire(
        &self,
        worker: Arc<dyn Worker>,
        mut schedule: Schedule,
        place: Place,
        commands: mpsc::Receiver<Command>,
        other: Other,
        jitter: u64,
    ) -> Hired {
        let progress = place.progress.clone();
        let checkpoint = progress.checkpoint;
        let mut time = Timeline::new(Arc::clone(&self.clock));
        schedule.count_from(time.begin());
        let start = schedule.start.unwrap_or_default();
        let engine = Engine::new(
            schedule,
            time.now(),
            checkpoint.position,
            self.head.position,
            jitter,
        )
        .with_policy(worker.policy());
        let source = Source::new(
            Arc::clone(&self.log),
            worker.filter(),
            Arc::clone(&self.ring),
            checkpoint,
        );
        let snapshot = watch::Sender::new(Snapshot::new(checkpoint));
        let watched = snapshot.subscribe();
        let waiters = Arc::new(Waiters::new(Arc::clone(&self.pulse)));
        let term = place.term;
        let place = watch::Sender::new(place);
        let mut task = Task {
            worker,
            checkpoints: Arc::clone(&self.checkpoints),
            letters: Arc::clone(&self.letters),
            left_out: None,
            log: Arc::clone(&self.log),
            source,
            engine,
            time,
            progress,
            buffer: Vec::new(),
            bytes: 0,
            events: 0,
            batches: 0,
            error: None,
            blamed: None,
            snapshot,
            waiters: Arc::clone(&waiters),
            commands,
            place: place.subscribe(),
            term,
            start,
            now: None,
            at: None,
            pulse: Arc::clone(&self.pulse),
            closing: self.closing.clone(),
            other,
            inline: None,
        };
        task.take_place();
        task.find_start();
        task.publish(false);
        Hired {
            task,
            place,
            snapshot: watched,
            waiters,
        }
    }
}
