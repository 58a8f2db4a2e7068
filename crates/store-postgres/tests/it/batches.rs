//! A batch equals its appends one after another in arrival order, whatever they are: random
//! batches, compared with a store in memory that runs their appends one by one.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    ops::Range,
    thread,
    time::Duration,
};

use backstory_aggregate::LookupRow;
use backstory_conformance::{
    kit::stream_rows,
    properties::{Generator, Receipts, Seen, Stored, values},
};
use backstory_event::{
    Append, Appended, Companion, Conflict, EventFilter, EventId, EventQuery, EventStore,
    EventStoreExt, ExpectedVersion, Lifecycle, StoreError, StoreErrorKind, StreamId,
};
use backstory_store_memory::MemoryStore;
use backstory_store_postgres::{Pooler, PostgresOptions, PostgresStore, Wake};
use backstory_test_postgres::{TestCluster, TestPooler};
use futures::future::{Either, join_all, select};
use sqlx::PgConnection;
use uuid::Uuid;

use crate::kit::{event, raw, run, scalar, stream, until_count, within};

type Outcome = Result<Appended, StoreErrorKind>;
type Batch = Vec<(Append, Outcome)>;
type Counts = BTreeMap<&'static str, usize>;

/// Logs, each of its own seed and in a schema of its own, and how many batches each gets.
const LOGS: u64 = 20;
/// And more of them that get single appends.
const LONELY: u64 = 4;
const BATCHES: usize = 510;

/// The database refuses an event of such a name with the SQLSTATE that follows: as it would a
/// payload that slipped through all checks. The name stays also when the event is erased.
const POISON: &str = "poison.";
const CODES: [&str; 4] = ["22003", "22P05", "23502", "54000"];

/// A claim that the database refuses.
const POISONED: &str = "poisoned";

/// Conditions that begin so few events before the end are looked at in the order of arrival.
const NEAR: i64 = 60;

/// A scope with a value that its owner never gives back.
const PROBE: &str = "probe";

#[test]
fn ten_thousand_batches_equal_their_appends_one_after_another() {
    let counts = run_logs(0..LOGS + LONELY, Pooler::None);
    assert!(counts["batches"] >= 10_000, "{counts:?}");
    assert_all_kinds(&counts, 100);
}

#[test]
fn batches_behind_a_pooler_equal_their_appends_one_after_another() {
    // The first two are wild, the others calm.
    let counts = run_logs(0..4, Pooler::Transaction);
    assert_all_kinds(&counts, 10);
}

/// All kinds of outcomes have been there.
fn assert_all_kinds(counts: &Counts, least: usize) {
    for kind in [
        "stored",
        "again",
        "version",
        "condition",
        "claim",
        "deleted",
        "erased",
        "reused",
        "diverged",
        "invalid",
        "poison",
        "elsewhere",
        "overtaken",
    ] {
        let count = counts.get(kind).copied().unwrap_or_default();
        assert!(count > least, "{kind}: {counts:?}");
    }
}

fn run_logs(seeds: Range<u64>, pooler: Pooler) -> Counts {
    let lanes: Vec<_> = (0..2)
        .map(|lane| {
            let seeds = seeds.clone();
            thread::spawn(move || {
                // On one thread all appends of a batch are queued before the writer's turn.
                let runtime = tokio::runtime::Builder::new_current_thread()
                    .enable_all()
                    .build()
                    .unwrap();
                runtime.block_on(async {
                    let cluster = TestCluster::shared().await;
                    let database = cluster.create_database().await;
                    let url = database.url();
                    let bouncer = match pooler {
                        Pooler::None => None,
                        _ => Some(TestPooler::start(cluster).await),
                    };
                    let place = Place {
                        url: url.to_owned(),
                        stores: match &bouncer {
                            None => url.to_owned(),
                            Some(bouncer) => bouncer.url(url),
                        },
                        pooler,
                    };
                    let mut clients = Clients {
                        client: raw(url).await,
                        watch: raw(url).await,
                    };
                    let mut counts = Counts::new();
                    for seed in seeds.skip(lane).step_by(2) {
                        run_log(&place, &mut clients, seed, &mut counts).await;
                    }
                    counts
                })
            })
        })
        .collect();
    let mut counts = Counts::new();
    for lane in lanes {
        match lane.join() {
            Ok(lane) => lane
                .into_iter()
                .for_each(|(name, count)| *counts.entry(name).or_default() += count),
            Err(panic) => std::panic::resume_unwind(panic),
        }
    }
    counts
}

/// Where the logs are, and the way of their stores to it.
struct Place {
    url: String,
    stores: String,
    pooler: Pooler,
}

/// Connections of another process, and one to look at the locks.
struct Clients {
    client: PgConnection,
    watch: PgConnection,
}

async fn run_log(place: &Place, clients: &mut Clients, seed: u64, counts: &mut Counts) {
    let is_calm = seed % 4 >= 2;
    let is_lonely = seed >= LOGS;
    let keys = if is_calm || is_lonely { 8 } else { 2 };
    let mut twins = Twins::new(place, seed, keys, std::mem::take(counts)).await;
    twins.lonely = is_lonely;
    for number in 0..BATCHES {
        let what = format!("seed {seed}, batch {number}");
        let dice = &mut twins.generator.dice;
        let size = match is_lonely {
            true => 1,
            false => 1 + dice.below(12).min(dice.below(12)),
        };
        let wild = match (is_lonely, is_calm) {
            (true, _) => 4,
            (false, true) => 12,
            (false, false) => 2,
        };
        twins.calm = !twins.generator.dice.once_in(wild);
        match twins.generator.dice.below(if is_lonely { 96 } else { 24 }) {
            0 => twins.overtaken(clients, size, &what).await,
            1..4 => {
                twins.elsewhere(&what).await;
                twins.batch(size, &what).await;
            }
            _ => twins.batch(size, &what).await,
        }
    }
    twins.compare(&format!("seed {seed}, at the end")).await;
    *counts = twins.counts;
}

/// One log in Postgres, and the same in memory.
struct Twins {
    memory: MemoryStore,
    store: PostgresStore,
    // As another process has it.
    other: PostgresStore,
    url: String,
    schema: String,
    // Counts who waits for the lock of the log.
    waiters: String,
    generator: Generator,
    receipts: Receipts,
    poison: Option<Append>,
    owner: Option<StreamId>,
    sent: HashSet<EventId>,
    // Most appends are what writers guess them to be.
    calm: bool,
    // Most appends are single events.
    lonely: bool,
    counts: Counts,
}

impl Twins {
    async fn new(place: &Place, seed: u64, keys: usize, counts: Counts) -> Self {
        let url = &*place.url;
        let schema = format!("log_{seed}");
        let options = PostgresOptions::default()
            .with_schema(&schema)
            .with_pooler(place.pooler)
            .with_readers(1)
            .with_wake(Wake::Off)
            .with_deadline(Duration::from_secs(60))
            .with_lock_timeout(Duration::from_secs(20));
        let open = PostgresStore::connect_with(&place.stores, options.clone());
        let store = open.await.unwrap();
        let other = PostgresStore::connect_with(&place.stores, options)
            .await
            .unwrap();
        let taster = format!(
            "CREATE FUNCTION {schema}.spit() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN \
               RAISE EXCEPTION USING ERRCODE = substr(NEW.name, 8), MESSAGE = 'no'; \
             END $$; \
             CREATE TRIGGER taster BEFORE INSERT ON {schema}.event FOR EACH ROW \
               WHEN (NEW.name LIKE '{POISON}%') EXECUTE FUNCTION {schema}.spit(); \
             ALTER TABLE {schema}.claim ADD CHECK (value <> '{POISONED}')"
        );
        run(&mut raw(url).await, &taster).await;
        let mut twins = Self {
            memory: MemoryStore::new(),
            store,
            other,
            url: url.to_owned(),
            waiters: format!(
                "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted \
                 AND database = (SELECT oid FROM pg_database WHERE datname = current_database()) \
                 AND (classid::bigint << 32 | objid::bigint) = hashtextextended('backstory:{schema}', 0)"
            ),
            schema,
            generator: Generator::new(seed, keys),
            receipts: Receipts::default(),
            poison: None,
            owner: None,
            sent: HashSet::new(),
            calm: false,
            lonely: false,
            counts,
        };
        let keeper = stream(PROBE, 1);
        let first = Append::to(keeper.clone(), ExpectedVersion::NoStream, [event("kept")])
            .claim(PROBE, "kept", keeper);
        let expected = twins.expect(&first).await;
        assert_eq!(outcome(twins.store.append(first).await), expected);
        twins
    }

    /// What the store in memory answers to an append, right after all those before.
    async fn expect(&mut self, append: &Append) -> Outcome {
        if let Some(code) = poison(append) {
            // Claims are looked at last: one that is held shows whether all else would pass.
            let probe = append.clone().claim(PROBE, "kept", stream(PROBE, 2));
            let outcome = outcome(self.memory.append(probe).await);
            return match outcome {
                Err(StoreErrorKind::Conflict(Conflict::Claim { scope, .. })) if scope == PROBE => {
                    Err(StoreErrorKind::Database {
                        reason: code.to_owned(),
                    })
                }
                outcome => outcome,
            };
        }
        let outcome = outcome(self.memory.append(append.clone()).await);
        if let Ok(receipt) = &outcome
            && !self.receipts.note(append, receipt)
        {
            self.count("again");
        }
        outcome
    }

    fn count(&mut self, what: &'static str) {
        *self.counts.entry(what).or_default() += 1;
    }

    fn random(&mut self, before: &Receipts) -> Append {
        match self.generator.dice.once_in(3) {
            true => self.generator.append(before),
            false => self.generator.append(&self.receipts),
        }
    }

    /// Lifecycle events, repeats, and too much of what is refused: a store does well to
    /// look before it decides them.
    fn is_wild(&mut self, append: &Append) -> bool {
        let mut names = append.events().map(|event| event.name.as_str());
        let dice = &mut self.generator.dice;
        append.event_ids().is_empty()
            || append.events().any(|event| self.sent.contains(&event.id))
            || names.any(|name| name.starts_with("backstory.") && name != "backstory.restored")
            || !append.companions.is_empty() && !dice.once_in(4)
            || !append.conditions.is_empty() && !dice.once_in(4)
    }

    /// The next random append and what must become of it. Its caller knows the log as it was
    /// before the batch, or by a lucky guess as the appends before it leave it.
    async fn next(&mut self, before: &Receipts, alone: bool) -> (Append, Outcome) {
        let mut append = self.random(before);
        while self.calm && self.is_wild(&append) {
            append = self.random(before);
        }
        if self.lonely && !self.generator.dice.once_in(4) {
            append.conditions.clear();
            append.companions.clear();
            append.parts.truncate(1);
            append
                .parts
                .iter_mut()
                .for_each(|part| part.events.truncate(1));
        }
        match self.generator.dice.below(100) {
            0..4 => {
                self.spoil(&mut append);
                self.poison = Some(append.clone());
            }
            4 if self.poison.is_some() => append = self.poison.clone().unwrap(),
            // Erases who has just taken a claim.
            5..9 if self.owner.is_some() && !self.calm => {
                let id = self.new_id();
                let erased = Lifecycle::Erased.event().with_id(id);
                append = Append::to(self.owner.take().unwrap(), ExpectedVersion::Any, [erased]);
            }
            _ => {}
        }
        if !alone {
            // A condition on what is long past is looked at before the append is queued, so that
            // it arrives later than the others.
            let near = i64::try_from(self.receipts.count()).unwrap() - NEAR;
            append
                .conditions
                .retain(|condition| condition.after.position.get() >= near);
        }
        let mut owners = append.companions.iter().map(Companion::owner);
        // A refused claim that an erasure takes back would never reach the database.
        let owner = owners.find(|owner| owner.category() != POISONED);
        self.owner = owner.cloned().or(self.owner.take());
        self.sent.extend(append.event_ids());
        let outcome = self.expect(&append).await;
        self.count(name(&outcome));
        (append, outcome)
    }

    fn new_id(&mut self) -> EventId {
        let dice = &mut self.generator.dice;
        EventId::from_uuid(Uuid::from_u64_pair(dice.roll() | 1, dice.roll()))
    }

    fn spoil(&mut self, append: &mut Append) {
        // New ids: it is not what was sent before.
        for event in append.parts.iter_mut().flat_map(|part| &mut part.events) {
            event.id = self.new_id();
        }
        let dice = &mut self.generator.dice;
        let mut events = append.parts.iter_mut().flat_map(|part| &mut part.events);
        let own = events.find(|event| !event.name.starts_with("backstory."));
        match own {
            Some(event) if !dice.once_in(5) => {
                event.name = format!("{POISON}{}", dice.pick(&CODES))
            }
            _ => {
                *append = append
                    .clone()
                    .claim(POISONED, POISONED, stream(POISONED, 1))
            }
        }
    }

    async fn prepare(&mut self, size: usize) -> Batch {
        let before = self.receipts.clone();
        let mut batch = Batch::new();
        for _ in 0..size {
            batch.push(self.next(&before, false).await);
        }
        self.count("batches");
        batch
    }

    async fn send(&self, batch: &Batch) -> Vec<Outcome> {
        let calls = batch.iter().map(|(append, _)| {
            let append = append.clone();
            async { outcome(self.store.append(append).await) }
        });
        let batches = || self.store.stats().writer.batch_appends.count;
        let before = batches();
        let outcomes = join_all(calls).await;
        // Only an erasure keeps conditions behind it apart.
        if batch.iter().all(|(append, _)| append.conditions.is_empty()) {
            assert!(batches() <= before + 1, "they went as one batch");
        }
        outcomes
    }

    async fn batch(&mut self, size: usize, what: &str) {
        let batch = self.prepare(size).await;
        let found = within(self.send(&batch)).await;
        check(&batch, &found, what);
    }

    /// Another process appends between two batches.
    async fn elsewhere(&mut self, what: &str) {
        let (append, expected) = self.next(&self.receipts.clone(), true).await;
        let found = outcome(within(self.other.append(append.clone())).await);
        check(&vec![(append, expected)], &[found], what);
        self.count("elsewhere");
    }

    /// An append of another process commits while the batch waits for the lock.
    async fn overtaken(&mut self, clients: &mut Clients, size: usize, what: &str) {
        let Clients { client, watch } = clients;
        let (append, expected) = self.next(&self.receipts.clone(), true).await;
        let batch = self.prepare(size).await;
        self.count("overtaken");
        run(client, "BEGIN").await;
        let pending = within(self.other.append_in(client, append.clone())).await;
        let waiters = until_count(watch, &self.waiters, 1);
        // Nobody waits when no append passes the edge, or the other one did not.
        let early = select(Box::pin(self.send(&batch)), Box::pin(waiters)).await;
        let ending = if pending.is_ok() {
            "COMMIT"
        } else {
            "ROLLBACK"
        };
        run(client, ending).await;
        let found = match early {
            Either::Left((found, _)) => found,
            Either::Right(((), sending)) => within(sending).await,
        };
        let first = match pending {
            Ok(pending) => pending.committed(&self.other).await,
            Err(error) => Err(error),
        };
        check(&vec![(append, expected)], &[outcome(first)], what);
        check(&batch, &found, what);
    }

    /// Log, stream rows and values are the same.
    async fn compare(&self, what: &str) {
        let (stored, expected) = (log(&self.store).await, log(&self.memory).await);
        for (index, (stored, expected)) in stored.iter().zip(&expected).enumerate() {
            assert_eq!(stored, expected, "{what}: position {}", index + 1);
        }
        assert_eq!(stored.len(), expected.len(), "{what}");
        let rows = stream_rows(&self.store).await;
        assert_eq!(rows, stream_rows(&self.memory).await, "{what}");
        let rows = format!(
            "SELECT coalesce(json_agg(v ORDER BY v), '[]')::text FROM \
               (SELECT json_build_array(value, category, key, true)::text FROM {0}.claim WHERE scope = 'scope' \
                UNION ALL SELECT json_build_array(value, category, key, false)::text FROM {0}.entry) AS q(v)",
            self.schema
        );
        let rows: String = scalar(&mut raw(&self.url).await, &rows).await;
        let rows: Vec<String> = serde_json::from_str(&rows).unwrap();
        let rows: BTreeSet<LookupRow> = rows.iter().map(|row| value_row(row)).collect();
        let expected = values(&self.memory).await.into_iter().collect();
        assert_eq!(rows, expected, "{what}");
        assert_eq!(
            values(&self.store).await,
            values(&self.memory).await,
            "{what}"
        );
    }
}

fn value_row(row: &str) -> LookupRow {
    let (value, category, key, claimed): (_, String, String, _) =
        serde_json::from_str(row).unwrap();
    LookupRow {
        value,
        owner: StreamId::stored(category, key),
        claimed,
    }
}

async fn log(store: &impl EventStore) -> Vec<Stored> {
    let query = EventQuery::new(EventFilter::all());
    let events = within(store.collect(query)).await.unwrap();
    events.iter().map(Stored::of).collect()
}

fn outcome(result: Result<Appended, StoreError>) -> Outcome {
    result.map_err(StoreError::into_kind)
}

/// The SQLSTATE with which the database refuses an append, if it does.
fn poison(append: &Append) -> Option<&str> {
    let mut codes = append.events().map(|event| event.name.strip_prefix(POISON));
    let mut companions = append.companions.iter().filter_map(Companion::claim);
    codes.find_map(|code| code).or_else(|| {
        companions
            .any(|(_, value)| value == POISONED)
            .then_some("23514")
    })
}

#[track_caller]
fn check(batch: &Batch, found: &[Outcome], what: &str) {
    assert_eq!(batch.len(), found.len(), "{what}");
    for (number, ((append, expected), found)) in batch.iter().zip(found).enumerate() {
        let same = match (expected, found) {
            (
                Err(StoreErrorKind::Database { reason: code }),
                Err(StoreErrorKind::Database { reason }),
            ) => reason.contains(code.as_str()),
            _ => expected == found,
        };
        assert!(
            same,
            "{what}, append {number} of {}: {append:#?}\ngave {found:?}\ninstead of {expected:?}",
            batch.len()
        );
    }
}

fn name(outcome: &Outcome) -> &'static str {
    match outcome {
        Ok(_) => "stored",
        Err(StoreErrorKind::Conflict(Conflict::Version { .. })) => "version",
        Err(StoreErrorKind::Conflict(Conflict::Condition { .. })) => "condition",
        Err(StoreErrorKind::Conflict(Conflict::Claim { .. })) => "claim",
        Err(StoreErrorKind::StreamDeleted { .. }) => "deleted",
        Err(StoreErrorKind::StreamErased { .. }) => "erased",
        Err(StoreErrorKind::EventIdReused { .. }) => "reused",
        Err(StoreErrorKind::Diverged { .. }) => "diverged",
        Err(StoreErrorKind::Invalid(_)) => "invalid",
        Err(StoreErrorKind::Database { .. }) => "poison",
        Err(other) => panic!("unexpected {other:?}"),
    }
}
