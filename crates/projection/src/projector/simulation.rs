//! Whole projectors against a model store, polled by hand: every await point is a place where a
//! process can die, where another one can get ahead, and where the store can fail.

use std::{
    collections::{HashMap, HashSet},
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    task::{Context, Poll, Waker},
    time::Duration,
};

use async_trait::async_trait;
use backstory_event::{
    Append, Appended, Checkpoint, Envelope, Event, EventFilter, EventQuery, EventStore,
    ExpectedVersion, Fold, Folded, ManualClock, Metadata, NewEvent, Page, Payload, Position,
    Recorded, RecordedEvent, StoreError, StoreErrorKind, StreamId, StreamPage, StreamQuery,
    StreamVersion,
};
use serde::{Deserialize, Serialize};
use tokio::sync::Mutex as AsyncMutex;

use super::*;
use crate::{
    self as projection, Beat, CommitError, DeadLetter, DocumentKey, DocumentList, DocumentRow,
    DocumentStore, DocumentWrite, Documents, Effect, Enlisted, InlinePlace, InlinePlan,
    InlineProjection, Inlines, Job, LetterCount, LetterQuery, OnFailure, OrderKind, OrderOutcome,
    Part, Progress, ProjectionRow, Raise, Reactor, Roster, Seat, Slot, Start, Step, Target, Turn,
    TurnKind,
    failure::Outcome,
    owner,
    test_util::{MemoryDocuments, block_on},
};
use board::{Command, Mode, Remote, Waiting};

mod checks;
mod ports;
mod process;
mod subjects;

use process::Process;
use subjects::{Curses, Ledger, Mailer, Money, job};

/// So many, unless `BACKSTORY_SEEDS` says which: `0..100000`, or `929..930` to see one again.
const SEEDS: u64 = 6_000;
const STEPS: usize = 120;
const THREADS: u64 = 4;
const LEDGERS: [&str; 2] = ["ledger_0", "ledger_1"];
const MAILER: &str = "mailer";
/// How often read models changed places, by [`TurnKind`].
static TURNS: [AtomicU64; 5] = [const { AtomicU64::new(0) }; 5];

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

/// The store, and what the appends of this process run.
#[derive(Debug, Clone)]
struct Store(Arc<Model>, Inlines<InlineProjection<Documents>>);

#[derive(Debug)]
struct Model {
    log: Mutex<Vec<RecordedEvent>>,
    documents: MemoryDocuments,
    roster: Mutex<Roster>,
    clock: ManualClock,
    dice: Mutex<Dice>,
    faults: AtomicBool,
    /// Whether some events make the ledgers fail.
    poison: bool,
    healed: AtomicBool,
    /// Whether letters are discarded from now on.
    over: AtomicBool,
    policy: OnFailure,
    /// Where the second ledger begins, and what its schedule is.
    start: Start,
    rhythm: u64,
    /// Whether the second ledger is a job, and whether there is a mailer.
    job: bool,
    mailer: bool,
    /// Whether the first ledger takes only one key of what is there at first.
    startup: bool,
    /// What the job did after its commits.
    told: Mutex<Vec<i64>>,
    /// What the mailer did.
    effects: Mutex<Vec<i64>>,
    /// Where the log ended when a start first returned.
    started: Mutex<Option<Position>>,
    /// In how many parts the first one runs.
    partitions: u32,
}

impl Store {
    fn new(seed: u64, clock: &ManualClock) -> Self {
        let mut choice = Dice(!seed);
        let attempts = 1 + choice.below(3) as u32;
        let policy = match choice.below(3) {
            0 => OnFailure::stop(),
            1 => OnFailure::skip(),
            _ => OnFailure::park(),
        };
        let mut dice = Dice(seed);
        let partitions = [1, 1, 3][choice.below(3) as usize];
        let start = [Start::Beginning, Start::Position(Position::new(3))];
        let model = Arc::new(Model {
            roster: Mutex::default(),
            clock: clock.clone(),
            poison: choice.below(2) == 0,
            job: choice.below(2) == 0,
            mailer: choice.below(3) == 0,
            startup: choice.below(3) == 0,
            told: Mutex::default(),
            effects: Mutex::default(),
            started: Mutex::default(),
            healed: AtomicBool::new(false),
            over: AtomicBool::new(false),
            policy: policy.after(attempts),
            log: Mutex::default(),
            documents: MemoryDocuments::default(),
            faults: AtomicBool::new(true),
            partitions,
            start: start[dice.below(2) as usize],
            rhythm: dice.below(3),
            dice: Mutex::new(dice),
        });
        Self(model, Inlines::default())
    }

    /// As another process has it.
    fn elsewhere(&self) -> Self {
        Self(Arc::clone(&self.0), Inlines::default())
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

    /// What is to be appended, and to which stream.
    fn draft(&self) -> (NewEvent, String) {
        let Model { poison, policy, .. } = *self.0;
        let stops = policy.outcome == Outcome::Stop;
        let new = match self.below(if poison { 40 } else { 36 }) {
            0..12 => NewEvent::raw("other.thing", Payload::empty()),
            12..36 => NewEvent::of(&Money::Moved { amount: 1 }).unwrap(),
            36 | 37 if !stops => {
                let payload = Payload::parse(r#"{"amount":"much"}"#).unwrap();
                NewEvent::raw("money.moved", payload)
            }
            _ => NewEvent::of(&Money::Cursed).unwrap(),
        };
        (new, self.below(3).to_string())
    }

    fn push(&self) {
        let (new, key) = self.draft();
        let mut log = self.log();
        let position = Position::new(log.len() as i64 + 1);
        log.push(record(new, key, position));
    }

    /// An append of this process, stored with what its inline projections make of it or not at all.
    async fn append_inline(self) {
        let (new, key) = self.draft();
        // As long as others are faster; a store would keep them out.
        while let Ok(false) = self.try_append_inline(&new, &key).await {}
    }

    async fn try_append_inline(&self, new: &NewEvent, key: &str) -> Result<bool, StoreError> {
        self.step().await?;
        let base = self.head();
        let event = record(new.clone(), key.to_owned(), base.next());
        let append = Append::to(event.stream().clone(), ExpectedVersion::Any, [new.clone()]);
        let mut done = Vec::new();
        for inline in self.1.wanting(std::iter::once(&append)) {
            let terms = inline.terms();
            let place = self.place(terms.name());
            let mut events = match terms.plan(&place, base)? {
                InlinePlan::Skip => continue,
                InlinePlan::Project => Vec::new(),
                InlinePlan::CatchUp(query) => {
                    let page = self.read(&query).await?;
                    match terms.missing(&place, page, base)? {
                        Some(missing) => missing,
                        None => continue,
                    }
                }
            };
            events.retain(|event| event.position() <= base);
            events.push(event.clone());
            let parked = match place.parks {
                true => {
                    let keys = inline.keys(&events);
                    self.parked_keys(terms.name(), &keys).await?
                }
                false => Vec::new(),
            };
            let mut documents = Documents::new(Arc::new(self.clone()));
            let parked = parked.into_iter().collect();
            let projected = inline.project(&events, &parked, &mut documents).await;
            let letters = projected.map_err(|error| error.kind(terms))?;
            let step = Step::new(place.progress, Target::Advance(event.checkpoint()));
            done.push((inline, step.with_letters(letters), documents.into_writes()));
        }
        {
            // All or nothing.
            let mut log = self.log();
            let is_same = |(_, step, _): &(_, Step, _)| {
                let name = &step.from.projection;
                block_on(self.0.documents.load_progress(name)).unwrap() == step.from
            };
            if log.len() as i64 != base.get() || !done.iter().all(is_same) {
                return Ok(false);
            }
            log.push(event);
            for (_, step, writes) in &done {
                let documents = &self.0.documents;
                block_on(documents.commit_documents(writes.clone(), step)).unwrap();
            }
        }
        for (_, step, _) in &done {
            if !self.0.over.load(Ordering::Relaxed) {
                self.check(&step.from.projection);
            }
        }
        // Its task is told, unless the process dies before.
        self.step().await?;
        for (inline, step, _) in done {
            inline.moved(step.result(), 1, step.letters.len());
        }
        Ok(true)
    }

    fn place(&self, name: &str) -> InlinePlace {
        InlinePlace {
            progress: block_on(self.0.documents.load_progress(name)).unwrap(),
            paused: self.0.roster.lock().unwrap().is_paused(name),
            parks: !self.letters(name).is_empty(),
        }
    }

    /// A place to die at, or to fail.
    async fn step(&self) -> Result<(), StoreError> {
        let mut turns = self.below(3);
        std::future::poll_fn(|context| match turns {
            0 => Poll::Ready(()),
            _ => {
                turns -= 1;
                // For futures that are polled among others.
                context.waker().wake_by_ref();
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
}

fn record(new: NewEvent, key: String, position: Position) -> RecordedEvent {
    RecordedEvent::new(Recorded {
        position,
        stream: StreamId::stored("money", key),
        version: StreamVersion::new(position.get()),
        id: new.id,
        name: new.name.into(),
        schema_version: 1,
        payload: new.payload,
        metadata: Metadata::default(),
        tags: Vec::new(),
        recorded_at: chrono::DateTime::UNIX_EPOCH,
        erased_at: None,
    })
}

/// Whatever was asked of them before: they go on.
fn resume_all(store: &Store, clock: &ManualClock, processes: &mut [Option<Process>; 2]) {
    if processes.iter().all(Option::is_none) {
        return;
    }
    let order = |name: &str| {
        let mut roster = store.0.roster.lock().unwrap();
        roster.order(name, &OrderKind::Resume)
    };
    let running = processes.iter().flatten().next();
    let remotes = running.into_iter().flat_map(|one| &one.running.remotes);
    let names: Vec<_> = remotes.map(|remote| remote.name.clone()).collect();
    let orders: Vec<_> = names.iter().filter_map(|name| order(name)).collect();
    let mut rounds = 0;
    while !orders.iter().all(|id| answered(store, *id)) {
        for process in processes.iter_mut().flatten() {
            process.poll_all();
        }
        clock.advance(Duration::from_millis(20));
        rounds += 1;
        assert!(rounds < 5_000, "nobody takes an order");
    }
}

fn answered(store: &Store, order: i64) -> bool {
    let outcome = store.0.roster.lock().unwrap().outcome(order);
    outcome != OrderOutcome::Pending
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
    // A start beyond the end would be refused.
    (0..3).for_each(|_| store.push());
    let mut processes: [Option<Process>; 2] = [Process::start(&store, &clock), None];
    let two = store.below(2) == 0;

    for _ in 0..STEPS {
        let which = if two { store.below(2) as usize } else { 0 };
        match store.below(32) {
            0..=2 => (0..=store.below(4)).for_each(|_| store.push()),
            3 if store.below(2) == 0 => processes[which] = None,
            3 | 6..=13 => {
                if let Some(process) = &mut processes[which] {
                    process.append();
                }
            }
            4 => clock.advance(Duration::from_millis(store.below(1_500))),
            // Everybody at once.
            5 if store.below(2) == 0 => {
                for process in processes.iter().flatten() {
                    for remote in &process.running.remotes {
                        let (answer, _) = tokio::sync::oneshot::channel();
                        let command = Command::Replay(Letters::All, answer);
                        let _ = remote.commands.try_send(command);
                    }
                }
            }
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
                    process.poll_one(store.below(12) as usize);
                }
            }
        }
        for process in processes.iter().flatten().filter(|_| !resets) {
            // What the mailer did is checked when it is stored.
            for remote in &process.running.remotes[..LEDGERS.len()] {
                let reached = remote.snapshot.borrow().reached;
                let (_, up_to) = store.ledger(&remote.name);
                store.check(&remote.name);
                let wanted = |up_to| store.wanted(&remote.name, up_to).len();
                let behind = wanted(reached) - wanted(up_to.min(reached));
                assert_eq!(behind, 0, "it says that it is farther than it is");
            }
        }
    }

    if !resets {
        let mut told = store.0.told.lock().unwrap().clone();
        told.sort_unstable();
        assert!(
            told.is_sorted_by(|one, two| one < two),
            "told twice: {told:?}"
        );
    }
    store.0.faults.store(false, Ordering::Relaxed);
    // Undecodable events stay so; a later version of the program decodes them.
    store.0.healed.store(true, Ordering::Relaxed);
    if store.below(4) == 0 {
        shut_down(&store, &clock, processes);
        processes = [None, None];
    }
    settle(&store, &clock, processes);
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
            // What has run once does not mind who waits.
            let triggered = remote.commands.try_send(Command::Trigger(store.head()));
            assert!(triggered.is_ok(), "its commands were obeyed");
        }
    }
    let head = store.head();
    let rolled_back = LEDGERS.get(store.below(6) as usize).copied();
    let rolled_back = rolled_back.unwrap_or_default();
    let (mut told, mut stage) = (Vec::new(), 0);
    for _ in 0..5_000 {
        for process in processes.iter_mut().flatten() {
            process.poll_all();
        }
        if processes
            .iter()
            .flatten()
            .all(|process| process.is_done(head))
            && !store.is_rebuilt()
            && told.iter().all(|order| answered(store, *order))
        {
            let running = &processes.iter().flatten().next().unwrap().running;
            let names = running.remotes.iter().map(|remote| &remote.name);
            let names: Vec<_> = names.collect();
            let back = names.iter().find(|name| owner(name) == rolled_back);
            // Then they catch up once more, and all parts know of it.
            let order = match stage {
                0 => (back.into_iter().collect(), OrderKind::RollBack),
                1 => (names.iter().collect::<Vec<_>>(), OrderKind::Reload),
                _ => (Vec::new(), OrderKind::Trigger),
            };
            let mut roster = store.0.roster.lock().unwrap();
            let orders = order.0.iter().map(|name| roster.order(name, &order.1));
            told.extend(orders.flatten());
            stage += 1;
            if stage < 3 {
                continue;
            }
            drop(roster);
            drop(waiting);
            let process = processes.iter_mut().flatten().next();
            return process.unwrap().empty_letters(store, clock);
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
    let many = seeds.end - seeds.start >= 5_000;
    std::thread::scope(|threads| {
        for first in seeds.start..seeds.start + THREADS {
            let seeds = seeds.clone();
            threads.spawn(move || {
                // Inline projections have a limit in real time, which none of them meets.
                let runtime = tokio::runtime::Builder::new_current_thread();
                let runtime = { runtime }.enable_time().build().unwrap();
                let _entered = runtime.enter();
                for seed in (first..seeds.end).step_by(THREADS as usize) {
                    let run = std::panic::catch_unwind(|| simulate(seed));
                    assert!(run.is_ok(), "seed {seed}");
                }
            });
        }
    });
    let turns = [
        TurnKind::Begin,
        TurnKind::Abort,
        TurnKind::Swap,
        TurnKind::RollBack,
    ];
    for turn in turns.into_iter().filter(|_| many) {
        let count = TURNS[turn as usize].load(Ordering::Relaxed);
        assert!(count >= 20, "{turn:?} happened {count} times");
    }
}
