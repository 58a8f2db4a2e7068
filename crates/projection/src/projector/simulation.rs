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

/// So many, unless `BACKSTORY_SEEDS` says which: `0..100000`, or `929..930` to see one again.
const SEEDS: u64 = 10_000;
const STEPS: usize = 120;
const THREADS: u64 = 4;
const LEDGERS: [&str; 2] = ["ledger_0", "ledger_1"];
const MAILER: &str = "mailer";
/// How often read models changed places, by [`TurnKind`].
static TURNS: [AtomicU64; 5] = [const { AtomicU64::new(0) }; 5];

#[derive(Debug, Serialize, Deserialize, Event)]
#[event(prefix = "money", crate = "backstory_event")]
enum Money {
    Moved {
        amount: u8,
    },
    /// What no ledger takes, before it is healed.
    Cursed,
}

/// Writes down the position of each event that it sees: a repeated or lost one shows.
struct Ledger<const N: usize>(Store);

#[async_trait]
impl<const N: usize> Projection<Documents> for Ledger<N> {
    type Event = Money;
    const NAME: &'static str = LEDGERS[N];

    fn on_failure(&self) -> OnFailure {
        self.0.0.policy
    }

    async fn project(&self, batch: &[Envelope<Money>], docs: &mut Documents) -> projection::Result {
        for e in batch {
            docs.update(LEDGERS[N], e.stream(), |seen: Option<Vec<i64>>| {
                let mut seen = seen.unwrap_or_default();
                seen.push(e.position().get());
                Some(seen)
            })
            .await?;
        }
        self.0.step().await?;
        let cursed = |e: &Envelope<Money>| matches!(e.event, Money::Cursed);
        if batch.iter().any(cursed) && !self.0.0.healed.load(Ordering::Relaxed) {
            return Err("it is cursed".into());
        }
        Ok(())
    }
}

/// The second ledger as a job, which puts its writing off, and has a state in memory.
fn job(store: Store) -> Job {
    let filter = EventFilter::of::<Money>();
    let policy = store.0.policy;
    let curses = EventFilter::named::<Money>(["money.cursed"]);
    let curses = Arc::new(AsyncMutex::new(Folded::<Curses>::new(curses)));
    let job = Job::new(LEDGERS[1], filter, move |mut job| {
        let (store, curses) = (store.clone(), Arc::clone(&curses));
        async move {
            let positions = job.events().into_iter().map(|e| e.position().get());
            let positions: Vec<_> = positions.collect();
            let told = (store.clone(), positions);
            job.after_commit("tell", async move {
                told.0.step().await?;
                told.0.0.told.lock().unwrap().extend(told.1);
                Ok(())
            });
            job.before_commit("write down", move |mut job| async move {
                for e in job.events() {
                    let position = e.position().get();
                    let write_down = |seen: Option<Vec<i64>>| {
                        Some(seen.into_iter().flatten().chain([position]).collect())
                    };
                    job.context()
                        .update(LEDGERS[1], e.stream(), write_down)
                        .await?;
                }
                Ok(())
            });
            let mut curses = curses.lock().await;
            job.apply(&mut *curses).await?;
            store.check_curses(&curses);
            store.step().await?;
            let cursed = job.envelopes::<Money>()?;
            let cursed = cursed.iter().any(|e| matches!(e.event, Money::Cursed));
            match cursed && !store.0.healed.load(Ordering::Relaxed) {
                true => Err("it is cursed".into()),
                false => Ok(()),
            }
        }
    });
    job.on_failure(policy)
}

/// Does something about each event.
struct Mailer(Store);

#[async_trait]
impl Reactor for Mailer {
    type Event = Money;
    const NAME: &'static str = MAILER;

    fn on_failure(&self) -> OnFailure {
        self.0.0.policy
    }

    fn concurrency(&self) -> usize {
        2
    }

    async fn react(&self, e: &Envelope<Money>, effect: &Effect) -> projection::Result {
        let key = format!("{MAILER}/{}", e.event_id());
        assert_eq!(effect.idempotency_key(), key);
        self.0.step().await?;
        let cursed = matches!(e.event, Money::Cursed);
        if cursed && !self.0.0.healed.load(Ordering::Relaxed) {
            return Err("it is cursed".into());
        }
        self.0.0.effects.lock().unwrap().push(e.position().get());
        self.0.step().await?;
        Ok(())
    }
}

/// The positions of what was cursed.
#[derive(Default)]
struct Curses(Vec<i64>);

impl Fold for Curses {
    type Event = Money;

    fn fold(&mut self, envelope: &Envelope<Money>) {
        self.0.push(envelope.position().get());
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

    /// What a part of a ledger should hold of the log up to there.
    fn wanted(&self, name: &str, up_to: Position) -> Vec<i64> {
        let start = match self.0.start {
            _ if name == MAILER => self.marked(&format!("{MAILER}~start")),
            Start::Position(start) if Slot::split(name).0 == LEDGERS[1] => start,
            _ => Position::START,
        };
        let ledger = owner(Slot::split(name).0);
        let old = match self.0.startup && ledger == LEDGERS[0] {
            true => self.marked(&format!("{ledger}~startup")),
            false => Position::START,
        };
        let part = Part::split(name).1;
        let log = self.log();
        let up_to = log.iter().take_while(|event| event.position() <= up_to);
        up_to
            .filter(|event| event.name().starts_with("money.") && event.position() > start)
            .filter(|event| event.position() > old || event.stream().key() == "0")
            .filter(|event| part.owns(&event.stream().to_string()))
            .map(|event| event.position().get())
            .collect()
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

    /// True while a ledger is being rebuilt.
    fn is_rebuilt(&self) -> bool {
        let next = LEDGERS.map(|name| self.0.documents.load_progress_now(&Slot::Next.name(name)));
        next.iter().any(|next| next.epoch > 0)
    }

    /// What a part of a ledger has left out.
    fn letters(&self, name: &str) -> Vec<DeadLetter> {
        let (owner, part) = Part::split(name);
        let all = LetterQuery::of(owner).limit(usize::MAX);
        let letters = block_on(self.0.documents.list_letters(&all)).unwrap();
        let own = letters.into_iter().filter(|letter| part.owns(&letter.key));
        own.collect()
    }

    /// Each event up to there is in the ledger or in a letter, once; in order, unless it was left
    /// out; of a parked key none before an earlier one.
    fn check(&self, name: &str) {
        if name.starts_with(MAILER) {
            return self.check_effects();
        }
        if name.ends_with("~startup") {
            return;
        }
        let owner = owner(name);
        match (owner == LEDGERS[0], self.0.partitions) {
            (true, count) if count > 1 => {
                (0..count).for_each(|index| self.check_part(&Part { index, count }.name(owner)));
            }
            _ => self.check_part(owner),
        }
    }

    fn check_part(&self, name: &str) {
        let (keys, up_to) = self.ledger(name);
        let in_order = keys.iter().all(|seen| seen.is_sorted());
        let seen = keys.concat();
        let letters = self.letters(name);
        let left_out = letters.iter().map(|letter| letter.position.get());
        let mut all: Vec<_> = seen.iter().copied().chain(left_out).collect();
        if !self.0.poison || self.0.policy.outcome == Outcome::Stop {
            assert!(letters.is_empty() && in_order, "{keys:?}");
        }
        all.sort_unstable();
        assert_eq!(
            all,
            self.wanted(name, up_to),
            "{name}: each event exactly once"
        );
        if self.0.policy.outcome == Outcome::Park {
            for key in 0..3 {
                self.check_order(&key.to_string(), &seen, &letters);
            }
        }
    }

    fn check_order(&self, key: &str, seen: &[i64], letters: &[DeadLetter]) {
        let log = self.log();
        let of_key = |position: &&i64| log[**position as usize - 1].stream().key() == key;
        let seen: Vec<_> = seen.iter().filter(of_key).collect();
        assert!(seen.is_sorted(), "in the order of the key: {seen:?}");
        let mut waiting = letters.iter().filter(|letter| letter.stream.key() == key);
        if let (Some(last), Some(first)) = (seen.last(), waiting.next()) {
            assert!(first.parked && **last < first.position.get(), "{first:?}");
        }
    }

    /// A place that was stored before a start returned for the first time, and does not move.
    fn marked(&self, name: &str) -> Position {
        let mark = block_on(self.0.documents.load_progress(name)).unwrap();
        let mark = mark.checkpoint.position;
        if let Some(started) = *self.0.started.lock().unwrap() {
            assert!(mark <= started, "{mark} was promised at {started}");
        }
        mark
    }

    /// What the checkpoint has passed is done or in a letter; the keys are in order.
    fn check_effects(&self) {
        let (_, up_to) = self.ledger(MAILER);
        let effects = self.0.effects.lock().unwrap().clone();
        let letters = self.letters(MAILER);
        let letters = letters.iter().map(|letter| letter.position.get());
        let handled: HashSet<_> = effects.iter().copied().chain(letters).collect();
        let behind = self.marked(&format!("{MAILER}~start"));
        assert!(effects.iter().all(|position| *position > behind.get()));
        for position in self.wanted(MAILER, up_to) {
            assert!(
                handled.contains(&position),
                "{position} is neither done nor in a letter"
            );
        }
        if self.0.policy.outcome == Outcome::Skip {
            return;
        }
        let log = self.log();
        let mut newest: HashMap<&str, i64> = HashMap::new();
        let mut done = HashSet::new();
        for position in effects {
            let key = log[position as usize - 1].stream().key();
            let newest = newest.entry(key).or_default();
            let first = done.insert(position);
            assert!(!first || position > *newest, "{position} is out of order");
            *newest = position.max(*newest);
        }
    }

    /// A state in memory has all of the log up to where it says, once.
    fn check_curses(&self, curses: &Folded<Curses>) {
        let log = self.log();
        let read = log.iter().filter(|event| {
            event.name() == "money.cursed" && event.position() <= curses.read_to.position
        });
        let wanted: Vec<_> = read.map(|event| event.position().get()).collect();
        assert_eq!(curses.state.0, wanted);
    }

    /// What a part of a ledger holds of each key, and up to where it should hold everything.
    fn ledger(&self, name: &str) -> (Vec<Vec<i64>>, Position) {
        let (owner, part) = Part::split(name);
        // A collection has the name of its ledger, also while it is being rebuilt.
        let places = (0..3).map(|key| DocumentKey {
            collection: owner.to_owned(),
            key: format!("money/{key}"),
        });
        let places: Vec<_> = places.filter(|place| part.owns(&place.key)).collect();
        let documents = &self.0.documents;
        let found = block_on(documents.get_documents(&places)).unwrap();
        let progress = documents.load_progress_now(name);
        let seen = found.into_iter().flatten();
        let seen = seen.map(|body| body.decode().unwrap());
        (seen.collect(), progress.checkpoint.position)
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
                let newest = log.iter().rev().filter(|event| query.matches(event));
                let events = newest.take(limit).cloned().collect();
                return Ok(Page {
                    events,
                    checkpoint: query.after,
                    head: head.position,
                    next: None,
                });
            }
            if let Some(before) = after.checked_sub(1)
                && !query.after.event_id.is_nil()
            {
                assert_eq!(log[before].id(), query.after.event_id, "a wrong proof");
            }
            let matching = log[after..].iter().filter(|event| query.matches(event));
            let events: Vec<_> = matching.take(limit).cloned().collect();
            let bound = query.up_to.unwrap_or(head.position).get() as usize;
            let end = log[..bound.min(log.len())].last();
            let end = end.map_or(query.after, RecordedEvent::checkpoint);
            let full = events.len() == limit;
            let checkpoint = match events.last() {
                Some(last) if full => last.checkpoint(),
                _ => end,
            };
            let more = checkpoint.position < end.position && query.limit.is_none();
            Page {
                checkpoint,
                next: more.then(|| query.clone().after(checkpoint)),
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
                Raise::No => block_on(self.0.documents.load_progress(name)).unwrap(),
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

    async fn order(&self, projection: &str, kind: &OrderKind) -> Result<Option<i64>, StoreError> {
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
impl DeadLetters for Store {
    async fn list_letters(&self, query: &LetterQuery) -> Result<Vec<DeadLetter>, StoreError> {
        self.step().await?;
        let letters = self.0.documents.list_letters(query).await?;
        self.step().await?;
        Ok(letters)
    }

    async fn count_letters(&self, projection: &str) -> Result<LetterCount, StoreError> {
        self.step().await?;
        let count = self.0.documents.count_letters(projection).await?;
        self.step().await?;
        Ok(count)
    }

    async fn parked_keys(
        &self,
        projection: &str,
        keys: &[String],
    ) -> Result<Vec<String>, StoreError> {
        self.step().await?;
        let parked = self.0.documents.parked_keys(projection, keys).await?;
        self.step().await?;
        Ok(parked)
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
        if !self.0.over.load(Ordering::Relaxed) {
            self.check(&step.from.projection);
        }
        // The answer may be lost although the batch is stored.
        self.step().await?;
        Ok(())
    }

    async fn turn_documents(&self, turn: &Turn) -> Result<Progress, CommitError> {
        self.step().await?;
        let progress = self.0.documents.turn_documents(turn).await?;
        TURNS[turn.kind as usize].fetch_add(1, Ordering::Relaxed);
        self.check(&progress.projection);
        // The answer may be lost although it is done.
        self.step().await?;
        Ok(progress)
    }

    fn enlist_documents(
        &self,
        projection: InlineProjection<Documents>,
    ) -> Result<Enlisted, StoreError> {
        Ok(self.1.enlist(projection))
    }
}

/// A process: what would have been spawned.
struct Process {
    store: Store,
    appending: Option<Pin<Box<dyn Future<Output = ()>>>>,
    tasks: Vec<Pin<Box<dyn Future<Output = ()>>>>,
    running: RunningProjector,
    waiting: Vec<Waiting>,
}

impl Process {
    /// Starts, unless the store fails meanwhile.
    fn start(store: &Store, clock: &ManualClock) -> Option<Self> {
        let store = &store.elsewhere();
        let debounce = Duration::from_millis([0, 0, 50, 500][store.below(4) as usize]);
        let max_batch = [1, 2, 5, 1_000][store.below(4) as usize];
        let every = Duration::from_millis(1 + store.below(2_000));
        let second: Schedule = match store.0.rhythm {
            0 => Schedule::every(every)
                .max_batch(max_batch)
                .start_at(store.0.start)
                .into(),
            1 => Schedule::once()
                .max_batch(max_batch)
                .start_at(store.0.start)
                .into(),
            _ => Schedule::cron("*/2 * * * * *")
                .unwrap()
                .max_batch(max_batch)
                .start_at(store.0.start)
                .into(),
        };
        let continuous = Schedule::continuous()
            .debounce(debounce)
            .max_batch(max_batch)
            .partitions(store.0.partitions);
        let whole = store.0.partitions == 1 && !store.0.startup;
        // As it likes: several processes need not agree.
        let first: Schedule = match store.below(4) {
            0 if whole => Schedule::inline().max_batch(max_batch).into(),
            1 if whole => Schedule::inline()
                .max_batch(max_batch)
                .allow_behind()
                .into(),
            _ if store.0.startup => {
                continuous.startup(EventFilter::stream(StreamId::stored("money", "0")))
            }
            _ => continuous.into(),
        };
        let recent = [1, 4, 1_000][store.below(3) as usize];
        let projector = Projector::new(store).with(Ledger::<0>(store.clone()), first);
        let projector = match store.0.job {
            true => projector.with_job(job(store.clone()), second),
            false => projector.with(Ledger::<1>(store.clone()), second),
        };
        let schedule = Schedule::continuous().max_batch(max_batch);
        let projector = match store.0.mailer {
            true => projector.with_reactor(Mailer(store.clone()), schedule),
            false => projector,
        };
        let starting = projector
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
        let head = store.head();
        store.0.started.lock().unwrap().get_or_insert(head);
        let mut tasks: Vec<Pin<Box<dyn Future<Output = ()>>>> =
            vec![Box::pin(assembled.reader), Box::pin(assembled.beats.run())];
        for task in assembled.tasks {
            tasks.push(Box::pin(task.run()));
        }
        Some(Self {
            store: store.clone(),
            appending: None,
            tasks,
            running: assembled.running,
            waiting: Vec::new(),
        })
    }

    /// Goes on with an append, or begins one.
    fn append(&mut self) {
        let store = &self.store;
        let appending = self
            .appending
            .get_or_insert_with(|| Box::pin(store.clone().append_inline()));
        let ready = (0..3).any(|_| poll(appending.as_mut()).is_ready());
        if ready {
            self.appending = None;
        }
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
        let remotes = self.running.remotes.len() as u64;
        let remote = &self.running.remotes[store.below(remotes) as usize];
        let order = |kind| {
            store.0.roster.lock().unwrap().order(&remote.name, &kind);
        };
        let command = match store.below(22) {
            14..=17 => return order(OrderKind::Rebuild),
            18 | 19 => return order(OrderKind::AbortRebuild),
            20 | 21 if resets => return order(OrderKind::RollBack),
            0 => return order(OrderKind::Pause),
            1 | 2 => return order(OrderKind::Resume),
            3 => Command::Trigger(store.head()),
            6 => {
                return order(match resets {
                    true => OrderKind::Reset,
                    false => OrderKind::Trigger,
                });
            }
            4 if resets => Command::Reset(tokio::sync::oneshot::channel().0),
            5 => {
                self.waiting.clear();
                return;
            }
            7..=11 => Command::Replay(
                match store.below(4) {
                    0 | 1 => Letters::All,
                    2 => Letters::Key(format!("money/{}", store.below(3))),
                    _ => Letters::At(Position::new(1 + store.below(60) as i64)),
                },
                tokio::sync::oneshot::channel().0,
            ),
            _ => {
                self.waiting.push(remote.waiters.register(store.head()));
                return;
            }
        };
        let _ = remote.commands.try_send(command);
    }

    /// Replays what was left out, and then discards what is left. What does not decode never will.
    fn empty_letters(&mut self, store: &Store, clock: &ManualClock) {
        let decodes = |letter: &DeadLetter| {
            let log = store.log();
            let event = &log[letter.position.get() as usize - 1];
            event.decode::<Money>().is_ok()
        };
        for number in 0..self.running.remotes.len() {
            let name = &self.running.remotes[number].name.clone();
            store.check(name);
            let (_, up_to) = store.ledger(name);
            let missing = store.wanted(name, store.head()).len() - store.wanted(name, up_to).len();
            assert_eq!(missing, 0, "{name} is complete");
            let replayed = self.ask(number, clock, |answer| {
                Command::Replay(Letters::All, answer)
            });
            assert!(replayed.complete, "{replayed:?}");
            store.check(name);
            let letters = store.letters(name);
            let broken: Vec<_> = letters.iter().filter(|letter| !decodes(letter)).collect();
            assert_eq!(replayed.failed + replayed.waiting, letters.len() as u64);
            for letter in letters.iter().filter(|letter| decodes(letter)) {
                let waits = |other: &&DeadLetter| {
                    other.key == letter.key && other.position < letter.position
                };
                assert!(letter.parked && broken.iter().copied().any(|it| waits(&it)));
            }
        }
        store.0.over.store(true, Ordering::Relaxed);
        for number in 0..self.running.remotes.len() {
            let name = &self.running.remotes[number].name.clone();
            let letters = store.letters(name).len() as u64;
            let discarded = self.ask(number, clock, |answer| {
                Command::Discard(Letters::All, answer)
            });
            assert_eq!(discarded, letters);
            assert!(store.letters(name).is_empty());
        }
    }

    /// Asks a projection for something until it answers without an error.
    fn ask<T>(
        &mut self,
        number: usize,
        clock: &ManualClock,
        command: impl Fn(tokio::sync::oneshot::Sender<Result<T, ProjectorError>>) -> Command,
    ) -> T {
        for _ in 0..100 {
            let (answer, mut answered) = tokio::sync::oneshot::channel();
            let commands = &self.running.remotes[number].commands;
            // Full: the next round has room.
            let _ = commands.try_send(command(answer));
            loop {
                match answered.try_recv() {
                    Ok(Ok(value)) => return value,
                    Ok(Err(_)) | Err(tokio::sync::oneshot::error::TryRecvError::Closed) => break,
                    Err(tokio::sync::oneshot::error::TryRecvError::Empty) => {
                        self.poll_all();
                        clock.advance(Duration::from_millis(1));
                    }
                }
            }
            self.poll_all();
        }
        panic!("it never does what it is asked for: {:#?}", self.running);
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
