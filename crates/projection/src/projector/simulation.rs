//! Whole projectors against a model store, polled by hand: every await point is a place where a
//! process can die, where another one can get ahead, and where the store can fail.

use std::{
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, Waker},
    time::Duration,
};

use async_trait::async_trait;
use backstory_event::{
    Append, Appended, Checkpoint, Envelope, Event, EventQuery, EventStore, ManualClock, Metadata,
    NewEvent, Page, Payload, Position, Recorded, RecordedEvent, StoreError, StoreErrorKind,
    StreamId, StreamPage, StreamQuery, StreamVersion,
};
use serde::{Deserialize, Serialize};

use super::*;
use crate::{
    self as projection, Beat, CommitError, DocumentKey, DocumentList, DocumentRow, DocumentStore,
    DocumentWrite, Documents, OrderKind, OrderOutcome, Progress, ProjectionRow, Raise, Roster,
    Seat, Step, test_util::MemoryDocuments,
};
use board::{Command, Mode, Waiting};

/// So many, unless `BACKSTORY_SEEDS` says which: `0..100000`, or `929..930` to see one again.
const SEEDS: u64 = 10_000;
const STEPS: usize = 120;
const THREADS: u64 = 4;
const LEDGERS: [&str; 2] = ["ledger_0", "ledger_1"];

#[derive(Debug, Serialize, Deserialize, Event)]
#[event(prefix = "money", crate = "backstory_event")]
enum Money {
    Moved,
}

/// Writes down the position of each event that it sees: a repeated or lost one shows.
struct Ledger<const N: usize>(Store);

#[async_trait]
impl<const N: usize> Projection<Documents> for Ledger<N> {
    type Event = Money;
    const NAME: &'static str = LEDGERS[N];

    async fn project(&self, batch: &[Envelope<Money>], docs: &mut Documents) -> projection::Result {
        let positions = batch.iter().map(|e| e.position().get());
        docs.update(LEDGERS[N], "all", |seen: Option<Vec<i64>>| {
            Some(
                seen.unwrap_or_default()
                    .into_iter()
                    .chain(positions)
                    .collect(),
            )
        })
        .await?;
        self.0.step().await?;
        Ok(())
    }
}

/// Dice that fall the same way for the same seed (splitmix64).
#[derive(Debug)]
struct Dice(u64);

impl Dice {
    fn below(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % sides
    }
}

#[derive(Debug, Clone)]
struct Store(Arc<Model>);

#[derive(Debug)]
struct Model {
    log: Mutex<Vec<RecordedEvent>>,
    documents: MemoryDocuments,
    roster: Mutex<Roster>,
    clock: ManualClock,
    dice: Mutex<Dice>,
    faults: AtomicBool,
}

impl Store {
    fn new(seed: u64, clock: &ManualClock) -> Self {
        Self(Arc::new(Model {
            roster: Mutex::default(),
            clock: clock.clone(),
            log: Mutex::default(),
            documents: MemoryDocuments::default(),
            dice: Mutex::new(Dice(seed)),
            faults: AtomicBool::new(true),
        }))
    }

    fn log(&self) -> MutexGuard<'_, Vec<RecordedEvent>> {
        self.0.log.lock().unwrap()
    }

    fn head(&self) -> Position {
        Position::new(self.log().len() as i64)
    }

    fn below(&self, sides: u64) -> u64 {
        self.0.dice.lock().unwrap().below(sides)
    }

    fn wanted(&self, up_to: Position) -> Vec<i64> {
        let log = self.log();
        let up_to = log.iter().take_while(|event| event.position() <= up_to);
        up_to
            .filter(|event| event.name() == "money.moved")
            .map(|event| event.position().get())
            .collect()
    }

    fn push(&self) {
        let wanted = self.below(3) > 0;
        let new = match wanted {
            true => NewEvent::of(&Money::Moved).unwrap(),
            false => NewEvent::raw("other.thing", Payload::empty()),
        };
        let mut log = self.log();
        let position = log.len() as i64 + 1;
        log.push(RecordedEvent::new(Recorded {
            position: Position::new(position),
            stream: StreamId::stored("money", "1"),
            version: StreamVersion::new(position),
            id: new.id,
            name: new.name.into(),
            schema_version: 1,
            payload: new.payload,
            metadata: Metadata::default(),
            tags: Vec::new(),
            recorded_at: chrono::DateTime::UNIX_EPOCH,
            erased_at: None,
        }));
    }

    /// A place to die at, or to fail.
    async fn step(&self) -> Result<(), StoreError> {
        let mut turns = self.below(3);
        std::future::poll_fn(|_| match turns {
            0 => Poll::Ready(()),
            _ => {
                turns -= 1;
                Poll::Pending
            }
        })
        .await;
        if self.0.faults.load(Ordering::Relaxed) && self.below(20) == 0 {
            let reason = "simulated".to_owned();
            return Err(StoreErrorKind::Unavailable { reason }.into());
        }
        Ok(())
    }

    /// What a ledger holds, and up to where it should hold everything.
    fn ledger(&self, name: &str) -> (Vec<i64>, Position) {
        let place = DocumentKey {
            collection: name.to_owned(),
            key: "all".to_owned(),
        };
        let documents = &self.0.documents;
        let found = projection::test_util::block_on(documents.get_documents(&[place])).unwrap();
        let progress = projection::test_util::block_on(documents.load_progress(name)).unwrap();
        let seen = found.into_iter().flatten().next();
        let seen = seen.map_or_else(Vec::new, |body| body.decode().unwrap());
        (seen, progress.checkpoint.position)
    }
}

#[async_trait]
impl EventStore for Store {
    async fn append(&self, _: Append) -> Result<Appended, StoreError> {
        Err(StoreErrorKind::Closed.into())
    }

    async fn read(&self, query: &EventQuery) -> Result<Page, StoreError> {
        self.step().await?;
        let page = {
            let log = self.log();
            let head = log
                .last()
                .map_or(Checkpoint::START, RecordedEvent::checkpoint);
            let limit = query.limit.unwrap_or(100);
            let after = query.after.position.get() as usize;
            if query.direction == backstory_event::Direction::Backward {
                let events = log.iter().rev().take(limit).cloned().collect();
                return Ok(Page {
                    events,
                    checkpoint: query.after,
                    head: head.position,
                    next: None,
                });
            }
            if let Some(before) = after.checked_sub(1) {
                assert_eq!(log[before].id(), query.after.event_id, "a wrong proof");
            }
            let matching = log[after..]
                .iter()
                .filter(|event| query.filter.matches(event));
            let events: Vec<_> = matching.take(limit).cloned().collect();
            let full = events.len() == limit;
            Page {
                checkpoint: match events.last() {
                    Some(last) if full => last.checkpoint(),
                    _ => head,
                },
                next: full.then(|| query.clone()),
                events,
                head: head.position,
            }
        };
        self.step().await?;
        Ok(page)
    }

    async fn streams(&self, _: &StreamQuery) -> Result<StreamPage, StoreError> {
        Err(StoreErrorKind::Closed.into())
    }

    async fn changed(&self, after: Position) -> Result<Position, StoreError> {
        let grown = std::future::poll_fn(|_| match self.head() {
            head if head > after => Poll::Ready(head),
            _ => Poll::Pending,
        });
        let head = grown.await;
        self.step().await?;
        Ok(head)
    }
}

#[async_trait]
impl Checkpoints for Store {
    async fn load_progress(&self, projection: &str) -> Result<Progress, StoreError> {
        self.step().await?;
        let progress = self.0.documents.load_progress(projection).await?;
        self.step().await?;
        Ok(progress)
    }

    async fn list_progress(&self) -> Result<Vec<Progress>, StoreError> {
        self.0.documents.list_progress().await
    }
}

#[async_trait]
impl Control for Store {
    async fn beat(&self, beat: &Beat) -> Result<Vec<Seat>, StoreError> {
        self.step().await?;
        let seats = {
            let progress = |name: &str, raise| match raise {
                Raise::Yes => self.0.documents.raise(name),
                Raise::No => {
                    projection::test_util::block_on(self.0.documents.load_progress(name)).unwrap()
                }
            };
            let mut roster = self.0.roster.lock().unwrap();
            roster.beat(self.0.clock.now(), beat, progress)
        };
        // The answer may be lost although the leases were taken.
        self.step().await?;
        Ok(seats)
    }

    async fn leave(&self, owner: Uuid) -> Result<(), StoreError> {
        self.step().await?;
        self.0.roster.lock().unwrap().leave(owner);
        self.step().await
    }

    async fn list_projections(&self) -> Result<Vec<ProjectionRow>, StoreError> {
        Err(StoreErrorKind::Closed.into())
    }

    async fn order(&self, projection: &str, kind: OrderKind) -> Result<Option<i64>, StoreError> {
        Ok(self.0.roster.lock().unwrap().order(projection, kind))
    }

    async fn order_outcome(&self, id: i64) -> Result<OrderOutcome, StoreError> {
        Ok(self.0.roster.lock().unwrap().outcome(id))
    }

    async fn withdraw_order(&self, id: i64) -> Result<OrderOutcome, StoreError> {
        Ok(self.0.roster.lock().unwrap().withdraw(id))
    }
}

#[async_trait]
impl DocumentStore for Store {
    async fn get_documents(
        &self,
        keys: &[DocumentKey],
    ) -> Result<Vec<Option<Payload>>, StoreError> {
        self.step().await?;
        self.0.documents.get_documents(keys).await
    }

    async fn list_documents(&self, list: &DocumentList) -> Result<Vec<DocumentRow>, StoreError> {
        self.0.documents.list_documents(list).await
    }

    async fn commit_documents(
        &self,
        writes: Vec<DocumentWrite>,
        step: &Step,
    ) -> Result<(), CommitError> {
        self.step().await?;
        self.0.documents.commit_documents(writes, step).await?;
        let (seen, up_to) = self.ledger(&step.from.projection);
        assert_eq!(
            seen,
            self.wanted(up_to),
            "each event exactly once, in order"
        );
        // The answer may be lost although the batch is stored.
        self.step().await?;
        Ok(())
    }
}

/// A process: what would have been spawned.
struct Process {
    tasks: Vec<Pin<Box<dyn Future<Output = ()>>>>,
    running: RunningProjector,
    waiting: Vec<Waiting>,
}

impl Process {
    /// Starts, unless the store fails meanwhile.
    fn start(store: &Store, clock: &ManualClock) -> Option<Self> {
        let debounce = Duration::from_millis([0, 0, 50, 500][store.below(4) as usize]);
        let max_batch = [1, 2, 5, 1_000][store.below(4) as usize];
        let every = Duration::from_millis(1 + store.below(2_000));
        let recent = [1, 4, 1_000][store.below(3) as usize];
        let starting = Projector::new(store)
            .with(
                Ledger::<0>(store.clone()),
                Schedule::continuous()
                    .debounce(debounce)
                    .max_batch(max_batch),
            )
            .with(
                Ledger::<1>(store.clone()),
                Schedule::every(every).max_batch(max_batch),
            )
            .with_clock(Arc::new(clock.clone()))
            .with_lease_clock(Arc::new(clock.clone()))
            .with_options(ProjectorOptions::default().with_recent_events(recent))
            .assemble(
                Uuid::from_u64_pair(seed_of(store), seed_of(store)),
                seed_of(store),
            );
        let mut starting = Box::pin(starting);
        let assembled = loop {
            if let Poll::Ready(assembled) = poll(starting.as_mut()) {
                break assembled.ok()?;
            }
        };
        let mut tasks: Vec<Pin<Box<dyn Future<Output = ()>>>> =
            vec![Box::pin(assembled.reader), Box::pin(assembled.beats.run())];
        for task in assembled.tasks {
            tasks.push(Box::pin(task.run()));
        }
        Some(Self {
            tasks,
            running: assembled.running,
            waiting: Vec::new(),
        })
    }

    fn poll_one(&mut self, which: usize) {
        let which = which % self.tasks.len();
        if poll(self.tasks[which].as_mut()).is_ready() {
            self.tasks[which] = Box::pin(std::future::pending());
        }
    }

    fn poll_all(&mut self) {
        (0..self.tasks.len()).for_each(|which| self.poll_one(which));
    }

    fn disturb(&mut self, store: &Store, resets: bool) {
        let remote = &self.running.remotes[store.below(2) as usize];
        let order = |kind| {
            store.0.roster.lock().unwrap().order(remote.name, kind);
        };
        let command = match store.below(8) {
            0 => return order(OrderKind::Pause),
            1 | 2 => return order(OrderKind::Resume),
            3 => Command::Trigger(store.head()),
            6 => {
                let kinds = [OrderKind::Trigger, OrderKind::Reset];
                return order(kinds[usize::from(resets)]);
            }
            4 if resets => Command::Reset(tokio::sync::oneshot::channel().0),
            5 => {
                self.waiting.clear();
                return;
            }
            _ => {
                self.waiting.push(remote.waiters.register(store.head()));
                return;
            }
        };
        let _ = remote.commands.try_send(command);
    }

    fn is_done(&self, head: Position) -> bool {
        let reached = |remote: &Remote| remote.snapshot.borrow().reached >= head;
        self.running.remotes.iter().all(reached)
    }
}

/// Whatever was asked of them before: they go on.
fn resume_all(store: &Store, clock: &ManualClock, processes: &mut [Option<Process>; 2]) {
    if processes.iter().all(Option::is_none) {
        return;
    }
    let order = |name| {
        let mut roster = store.0.roster.lock().unwrap();
        roster.order(name, OrderKind::Resume).unwrap()
    };
    let orders = LEDGERS.map(order);
    let answered = |id: &i64| {
        let outcome = store.0.roster.lock().unwrap().outcome(*id);
        outcome != OrderOutcome::Pending
    };
    let mut rounds = 0;
    while !orders.iter().all(answered) {
        for process in processes.iter_mut().flatten() {
            process.poll_all();
        }
        clock.advance(Duration::from_millis(20));
        rounds += 1;
        assert!(rounds < 5_000, "nobody takes an order");
    }
}

fn seed_of(store: &Store) -> u64 {
    store.below(u64::MAX)
}

fn poll<F: Future + ?Sized>(future: Pin<&mut F>) -> Poll<F::Output> {
    future.poll(&mut Context::from_waker(Waker::noop()))
}

fn simulate(seed: u64) {
    let clock = ManualClock::default();
    let store = Store::new(seed, &clock);
    let resets = store.below(2) == 0;
    let mut processes: [Option<Process>; 2] = [Process::start(&store, &clock), None];
    let two = store.below(2) == 0;

    for _ in 0..STEPS {
        let which = if two { store.below(2) as usize } else { 0 };
        match store.below(24) {
            0..=2 => (0..=store.below(4)).for_each(|_| store.push()),
            3 => processes[which] = None,
            4 => clock.advance(Duration::from_millis(store.below(1_500))),
            5 => {
                if let Some(process) = &mut processes[which] {
                    process.disturb(&store, resets);
                }
            }
            _ => {
                let started = || Process::start(&store, &clock);
                if processes[which].is_none() {
                    processes[which] = started();
                }
                if let Some(process) = &mut processes[which] {
                    process.poll_one(store.below(8) as usize);
                }
            }
        }
        for process in processes.iter().flatten().filter(|_| !resets) {
            for remote in &process.running.remotes {
                let reached = remote.snapshot.borrow().reached;
                let (seen, _) = store.ledger(remote.name);
                let wanted = store.wanted(reached);
                assert!(
                    seen.starts_with(&wanted),
                    "it says that it is farther than it is"
                );
            }
        }
    }

    store.0.faults.store(false, Ordering::Relaxed);
    if store.below(4) == 0 {
        shut_down(&store, &clock, processes);
        processes = [None, None];
    }
    settle(&store, &clock, processes);
    for name in LEDGERS {
        let (seen, up_to) = store.ledger(name);
        assert_eq!(
            seen,
            store.wanted(store.head()),
            "{name} is complete at {up_to}"
        );
    }
}

/// The store is well and nobody is paused: everybody catches up.
fn settle(store: &Store, clock: &ManualClock, mut processes: [Option<Process>; 2]) {
    if processes.iter().all(Option::is_none) {
        processes[0] = Process::start(store, clock);
    }
    let mut waiting = Vec::new();
    resume_all(store, clock, &mut processes);
    for process in processes.iter_mut().flatten() {
        for remote in &process.running.remotes {
            waiting.push(remote.waiters.register(store.head()));
        }
    }
    let head = store.head();
    for _ in 0..5_000 {
        for process in processes.iter_mut().flatten() {
            process.poll_all();
        }
        if processes
            .iter()
            .flatten()
            .all(|process| process.is_done(head))
        {
            return;
        }
        clock.advance(Duration::from_millis(20));
    }
    let states: Vec<_> = processes.iter().flatten().map(|p| &p.running).collect();
    panic!("they never catch up: {states:#?}");
}

/// An orderly end: the tasks end, and what does not fail has projected everything near.
fn shut_down(store: &Store, clock: &ManualClock, mut processes: [Option<Process>; 2]) {
    let only_one = processes.iter().flatten().count() == 1;
    resume_all(store, clock, &mut processes);
    for mut process in processes.into_iter().flatten() {
        process.running.closing.send_replace(Some(store.head()));
        let mut rounds = 0;
        while !process.running.remotes.iter().all(Remote::has_ended) {
            process.poll_all();
            clock.advance(Duration::from_millis(20));
            rounds += 1;
            assert!(rounds < 5_000, "they never end: {:#?}", process.running);
        }
        let end = process.running.remotes[0].snapshot.borrow().clone();
        if only_one && end.mode == Mode::Ended && end.error.is_none() {
            assert_eq!(
                end.reached,
                store.head(),
                "a shutdown left something: {end:?}"
            );
            assert_eq!(end.checkpoint.position, end.reached);
        }
    }
}

#[test]
fn whatever_dies_whenever_each_event_is_projected_exactly_once() {
    let seeds = match std::env::var("BACKSTORY_SEEDS") {
        Err(_) => 0..SEEDS,
        Ok(range) => {
            let (first, end) = range.split_once("..").unwrap();
            first.parse().unwrap()..end.parse().unwrap()
        }
    };
    std::thread::scope(|threads| {
        for first in seeds.start..seeds.start + THREADS {
            let seeds = seeds.clone();
            threads.spawn(move || {
                for seed in (first..seeds.end).step_by(THREADS as usize) {
                    let run = std::panic::catch_unwind(|| simulate(seed));
                    assert!(run.is_ok(), "seed {seed}");
                }
            });
        }
    });
}
