//! One event per append into a new stream, beside one row per transaction.

use backstory::{
    Append, BoxError, EventStore, ExpectedVersion, NewEvent, Payload, StreamId,
    postgres::PostgresStore,
};
use uuid::Uuid;

use crate::{
    bench::{Bench, Ground},
    domain,
    load::{Caller, Run},
    pgbench,
    raw::{Content, EVENT, Inserter, head},
    report::{EVENTS, Figure, Key, MILLIS, Sample, Series, Target},
};

const CASE: &str = "append";
const CALLERS: [usize; 4] = [1, 8, 32, 128];
const CONNECTIONS: [usize; 3] = [1, 8, 32];

/// Appends so many events to a new stream.
pub struct Appender {
    store: PostgresStore,
    payload: Payload,
    events: usize,
}

impl Appender {
    /// So many of them on one store.
    pub fn several(
        store: &PostgresStore,
        callers: usize,
        events: usize,
    ) -> Result<Vec<Self>, BoxError> {
        let payload = domain::payload()?;
        let one = || Self {
            store: store.clone(),
            payload: payload.clone(),
            events,
        };
        Ok((0..callers).map(|_| one()).collect())
    }
}

impl Caller for Appender {
    async fn call(&mut self) -> Result<u64, BoxError> {
        let stream = StreamId::new(domain::CATEGORY, Uuid::now_v7())?;
        let events = (0..self.events).map(|_| NewEvent::raw(domain::NAME, self.payload.clone()));
        self.store
            .append(Append::to(stream, ExpectedVersion::NoStream, events))
            .await?;
        Ok(u64::try_from(self.events)?)
    }
}

/// Rate and times of a run, with these labels.
pub fn samples<C>(case: &str, labels: impl Fn(Key) -> Key, run: &Run<C>) -> Vec<Sample> {
    let times = |stat, percent| {
        (
            labels(Key::new(case, MILLIS)).with("stat", stat),
            run.percentile(percent),
        )
    };
    vec![
        (labels(Key::new(case, EVENTS)), run.rate()),
        times("p50", 50.0),
        times("p99", 99.0),
    ]
}

/// Appends by these callers.
pub async fn measure(
    bench: &Bench,
    ground: Ground,
    callers: usize,
    events: usize,
) -> Result<Vec<Sample>, BoxError> {
    let database = bench.enter(ground).await?;
    let store = bench.store(&database).await?;
    let before = head(&database.url).await?;
    let run = bench
        .drive(Appender::several(&store, callers, events)?)
        .await?;
    store.close().await;
    bench.check(&database, before, &run).await?;
    bench.leave(ground, database).await?;
    bench.say_cpu(
        &format!("ours: {callers} callers, {events} per append"),
        &run,
    );
    let labels = |key: Key| {
        key.with("callers", callers)
            .with("events_per_append", events)
    };
    Ok(samples(CASE, labels, &run))
}

/// The rows of a statement by so many connections.
pub async fn insert(
    bench: &Bench,
    ground: Ground,
    what: &'static str,
    statement: &'static str,
    connections: usize,
    content: &Content,
) -> Result<Vec<Sample>, BoxError> {
    let database = bench.enter(ground).await?;
    let before = head(&database.url).await?;
    let inserters = Inserter::several(&database.url, connections, statement, content).await?;
    let run = bench.drive(inserters).await?;
    bench.check(&database, before, &run).await?;
    bench.leave(ground, database).await?;
    bench.say_cpu(&format!("raw: {what}, {connections} connections"), &run);
    Ok(samples(
        what,
        |key| key.with("connections", connections),
        &run,
    ))
}

pub async fn ours(bench: &Bench, ground: Ground) -> Result<Vec<Sample>, BoxError> {
    let mut all = Vec::new();
    for callers in CALLERS {
        all.extend(measure(bench, ground, callers, 1).await?);
    }
    Ok(all)
}

pub async fn raw(bench: &Bench) -> Result<Vec<Sample>, BoxError> {
    let content = Content::plain()?;
    let mut all = Vec::new();
    for connections in CONNECTIONS {
        all.extend(insert(bench, Ground::Empty, "event", EVENT, connections, &content).await?);
    }
    if bench.args.no_pgbench {
        return Ok(all);
    }
    let programs = bench.cluster.programs().await?;
    for connections in CONNECTIONS {
        let database = bench.enter(Ground::Empty).await?;
        let duration = bench.args.duration();
        let rate = pgbench::run(
            &programs,
            &database.url,
            EVENT,
            connections,
            duration,
            &content,
        );
        let rate = rate.await?;
        bench.leave(Ground::Empty, database).await?;
        bench.report.say(format!(
            "  pgbench: event, {connections} connections {rate:>20.0}/s"
        ));
        all.push((
            Key::new("pgbench", EVENTS).with("connections", connections),
            rate,
        ));
    }
    Ok(all)
}

pub fn figures(ours: &Series, raw: &Series) -> Vec<Figure> {
    let best = |case: &str| raw.best(EVENTS, |key| key.case == case);
    let one = |unit, stat: &str| {
        raw.best(unit, |key| {
            key.case == "event" && key.number("connections") == 1 && key.text("stat") == stat
        })
    };
    let mut all: Vec<_> = ours
        .medians()
        .map(
            |(key, value)| match (key.number("callers"), key.text("stat")) {
                // One caller is compared with one connection, many with the best of all.
                (1, "p50") => {
                    Figure::new(key, value, one(MILLIS, "p50")).target(Target::RatioAtMost(1.2))
                }
                (1, "p99") => Figure::new(key, value, one(MILLIS, "p99")),
                (1, _) => Figure::new(key, value, one(EVENTS, "")),
                (32, "") => {
                    Figure::new(key, value, best("event")).target(Target::RatioAtLeast(2.0))
                }
                (128, "") => {
                    Figure::new(key, value, best("event")).target(Target::RatioAtLeast(4.0))
                }
                (_, "") => Figure::new(key, value, best("event")),
                _ => Figure::new(key, value, None),
            },
        )
        .collect();
    // The raw limit itself has to be one: within 20 % of what pgbench reaches.
    if let (Some(event), Some(pgbench)) = (best("event"), best("pgbench")) {
        let mut figure = Figure::new(&Key::new("raw", EVENTS), event, None);
        figure.beside = Some(("pgbench", pgbench));
        all.push(figure.target(Target::RatioAtLeast(0.8)));
    }
    all
}
