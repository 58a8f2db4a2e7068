//! Eight callers on one stream, each deciding on the state that it loads, until it is stored.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
};

use backstory::{
    BoxError, Repository,
    aggregate::{RepositoryOptions, UpdateError},
};
use sqlx::{Connection, PgConnection};
use uuid::Uuid;

use crate::{
    bench::{Bench, Ground},
    domain::{self, Order, placed},
    load::Caller,
    raw::numbers,
    report::{COMMANDS, Figure, Key, Sample, Series, Target},
};

const CASE: &str = "contended";
const CALLERS: usize = 8;
/// The hot stream grows by thousands of events: its state is kept every so many.
const SNAPSHOT: u32 = 100;
/// An update that loses so often is given up, and counted.
const ATTEMPTS: u32 = 20;

struct Updater {
    orders: Repository<Order>,
    id: Uuid,
    attempts: BTreeMap<u32, u64>,
    given_up: u64,
}

impl Caller for Updater {
    async fn call(&mut self) -> Result<u64, BoxError> {
        let mut attempts = 0;
        let update = self.orders.update(&self.id, |order| {
            attempts += 1;
            // The decision depends on the state: the next line has the next number.
            order.record(placed(u32::try_from(order.lines)?));
            Ok::<_, std::num::TryFromIntError>(order.lines % 7)
        });
        let outcome = update.await;
        *self.attempts.entry(attempts).or_default() += 1;
        match outcome {
            Ok(_) => Ok(1),
            Err(UpdateError::Repository(error)) if error.is_conflict() => {
                self.given_up += 1;
                Ok(0)
            }
            Err(error) => Err(error.into()),
        }
    }
}

pub async fn ours(bench: &Bench, ground: Ground) -> Result<Vec<Sample>, BoxError> {
    let database = bench.enter(ground).await?;
    let store = bench.store(&database).await?;
    let options = RepositoryOptions::default().with_max_attempts(ATTEMPTS);
    let orders = Repository::<Order>::new(&store)
        .with_options(options)
        .with_snapshots(&store, SNAPSHOT);
    let id = Uuid::now_v7();
    let updater = || Updater {
        orders: orders.clone(),
        id,
        attempts: BTreeMap::new(),
        given_up: 0,
    };
    let run = bench
        .drive((0..CALLERS).map(|_| updater()).collect())
        .await?;
    let order = Repository::<Order>::new(&store).load(&id).await?;
    store.close().await;
    bench.leave(ground, database).await?;
    bench.say_cpu(&format!("ours: {CALLERS} callers on one stream"), &run);

    // Read back without a snapshot: each success is one event, and each saw all before it.
    let expected: u64 = (0..run.done).map(|line| line % 7 + 1).sum();
    if (order.lines, order.amount) != (run.done, expected) {
        let (lines, amount) = (order.lines, order.amount);
        let done = run.done;
        return Err(format!(
            "{done} updates succeeded, which makes {expected}, but the stream holds {lines} events, which make {amount}"
        )
        .into());
    }
    let mut attempts = BTreeMap::<u32, u64>::new();
    for (count, updates) in run.callers.iter().flat_map(|caller| &caller.attempts) {
        *attempts.entry(*count).or_default() += updates;
    }
    let given_up: u64 = run.callers.iter().map(|caller| caller.given_up).sum();
    let total: u64 = attempts
        .iter()
        .map(|(count, updates)| u64::from(*count) * updates)
        .sum();
    bench.report.say(format!(
        "    final state exact: {} events; {:.2} attempts each, at most {}; {given_up} given up after {ATTEMPTS}",
        run.done,
        total as f64 / run.done.max(1) as f64,
        attempts.keys().max().unwrap_or(&0),
    ));
    let key = Key::new(CASE, COMMANDS).with("callers", CALLERS);
    Ok(vec![(key, run.rate())])
}

/// Reads the version and inserts the next one, again when somebody else was first.
struct Racer {
    connection: PgConnection,
    numbers: Arc<AtomicI64>,
    payload: String,
}

const VERSION: &str = "SELECT coalesce((SELECT version FROM backstory.event \
    WHERE category = 'order' AND key = 'hot' ORDER BY version DESC LIMIT 1), 0)";
const NEXT: &str = "INSERT INTO backstory.event (position, category, key, version, id, name, \
    schema_version, payload, metadata, tags, recorded_at) \
    VALUES ($1, 'order', 'hot', $2, $3, 'order.placed', 1, $4::text::jsonb, '{}', '{}', clock_timestamp())";

impl Caller for Racer {
    async fn call(&mut self) -> Result<u64, BoxError> {
        loop {
            let version: i64 = sqlx::query_scalar(VERSION)
                .fetch_one(&mut self.connection)
                .await?;
            let inserted = sqlx::query(NEXT)
                .bind(self.numbers.fetch_add(1, Ordering::Relaxed) + 1)
                .bind(version + 1)
                .bind(Uuid::now_v7())
                .bind(&self.payload)
                .execute(&mut self.connection)
                .await;
            match inserted {
                Ok(_) => return Ok(1),
                Err(sqlx::Error::Database(error)) if error.is_unique_violation() => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

pub async fn raw(bench: &Bench) -> Result<Vec<Sample>, BoxError> {
    let database = bench.enter(Ground::Empty).await?;
    let numbers = numbers(&database.url).await?;
    let payload = domain::payload()?;
    let mut racers = Vec::new();
    for _ in 0..CALLERS {
        racers.push(Racer {
            connection: PgConnection::connect(&database.url).await?,
            numbers: numbers.clone(),
            payload: payload.as_str().to_owned(),
        });
    }
    let run = bench.drive(racers).await?;
    bench.leave(Ground::Empty, database).await?;
    bench.say_cpu(&format!("raw: {CALLERS} connections on one stream"), &run);
    Ok(vec![(Key::new(CASE, COMMANDS), run.rate())])
}

pub fn figures(ours: &Series, raw: &Series) -> Vec<Figure> {
    let limit = raw.best(COMMANDS, |_| true);
    let figure = |(key, value)| Figure::new(key, value, limit).target(Target::AtLeast(1_000.0));
    ours.medians().map(figure).collect()
}
