//! A log that grows from nothing while the server never learns anything about it: the plans of
//! the writer must not depend on statistics.

use std::time::Instant;

use backstory::BoxError;
use sqlx::{Connection, PgConnection};
use tokio::task::JoinSet;

use super::append::Appender;
use crate::{
    bench::{Bench, Ground},
    load::Caller,
    report::{EVENTS, Figure, Key, Sample, Series, Target},
};

const CASE: &str = "statistics";
const CALLERS: u64 = 100;
const PARTS: u64 = 10;

/// The tables stay as the server saw them empty.
const BLIND: &str = "ALTER TABLE backstory.event SET (autovacuum_enabled = false); \
    ANALYZE backstory.event";

pub async fn ours(bench: &Bench) -> Result<Vec<Sample>, BoxError> {
    let database = bench.enter(Ground::Empty).await?;
    let store = bench.store(&database).await?;
    let mut admin = PgConnection::connect(&database.url).await?;
    sqlx::raw_sql(BLIND).execute(&mut admin).await?;
    admin.close().await?;
    let events = bench.args.amount(1_000_000, 100_000);
    let each = events / PARTS / CALLERS;
    let mut rates = Vec::new();
    for _ in 0..PARTS {
        let began = Instant::now();
        let mut tasks = JoinSet::new();
        for mut caller in Appender::several(&store, usize::try_from(CALLERS)?, 1)? {
            tasks.spawn(async move {
                for _ in 0..each {
                    caller.call().await?;
                }
                Ok::<_, BoxError>(())
            });
        }
        while let Some(done) = tasks.join_next().await {
            done??;
        }
        rates.push((each * CALLERS) as f64 / began.elapsed().as_secs_f64());
    }
    store.close().await;
    bench.leave(Ground::Empty, database).await?;
    let shown: Vec<_> = rates.iter().map(|rate| format!("{rate:.0}")).collect();
    bench
        .report
        .say(format!("  events/s, tenth by tenth: {}", shown.join(" ")));
    let key = |part: &str| {
        Key::new(CASE, EVENTS)
            .with("events", events)
            .with("tenth", part)
    };
    let ends = [("first", rates.first()), ("last", rates.last())];
    let samples = ends.map(|(part, rate)| (key(part), rate.copied().unwrap_or_default()));
    Ok(samples.into())
}

pub fn figures(ours: &Series) -> Vec<Figure> {
    let first = ours.best(EVENTS, |key| key.text("tenth") == "first");
    let last = ours
        .medians()
        .filter(|(key, _)| key.text("tenth") == "last");
    let figure = |(key, value): (&Key, f64)| {
        let mut figure = Figure::new(key, value, None).target(Target::RatioAtLeast(0.8));
        figure.beside = first.map(|first| ("first", first));
        figure
    };
    last.map(figure).collect()
}
