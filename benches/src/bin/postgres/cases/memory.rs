//! The most memory that a process has while it catches up with a log, and with one that is ten
//! times as long: it does not grow with the log.

use std::{fs, process::Stdio};

use backstory::{
    BoxError, EventStoreExt, Projector, Schedule, postgres::PostgresStore,
    projection::ProjectorOptions,
};
use tokio::process::Command;

use super::project::{BATCH, PATIENCE, Sales, prepare};
use crate::{
    bench::{Bench, Ground},
    report::{Figure, Key, Target},
};

const CASE: &str = "memory";
/// Of resident memory.
const MEGABYTES: &str = "MB";
/// How much more the longer log may take.
const BOUND: f64 = 1.1;

pub async fn run(bench: &Bench) -> Result<(), BoxError> {
    let shorter = bench.million().await?;
    let longer = bench.enter(Ground::Large).await?;
    let mut first = None;
    for (database, events) in [
        (&shorter, bench.million_events()),
        (&longer, bench.args.log()),
    ] {
        prepare(database).await?;
        let program = Command::new(std::env::current_exe()?)
            .args(["--catch-up", &database.url])
            .stderr(Stdio::inherit())
            .output()
            .await?;
        let megabytes: f64 = String::from_utf8(program.stdout)?.trim().parse()?;
        let key = Key::new(CASE, MEGABYTES).with("log", events);
        let mut figure = Figure::new(&key, megabytes, None);
        if let Some(first) = first.replace(megabytes) {
            figure.beside = Some(("shorter", first));
            figure = figure.target(Target::RatioAtMost(BOUND));
        }
        bench.report.add(figure);
    }
    bench.leave(Ground::Large, longer).await
}

/// The process that is looked at: catches up, and prints the most megabytes that it had.
pub async fn catch_up(url: &str) -> Result<(), BoxError> {
    let store = PostgresStore::connect(url).await?;
    let events = store.head().await?.position.get();
    let projector = Projector::new(&store)
        .with_options(ProjectorOptions::default().with_deadline(PATIENCE))
        .with(Sales, Schedule::continuous().max_batch(BATCH))
        .start()
        .await?;
    projector.catch_up().await?;
    let projected: u64 = projector
        .status()
        .iter()
        .map(|one| one.events_projected)
        .sum();
    if projected != u64::try_from(events)? {
        return Err(format!("{projected} of {events} events were projected").into());
    }
    projector.shutdown().await?;
    store.close().await;
    let status = fs::read_to_string("/proc/self/status")?;
    let most = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:")?.split_whitespace().next());
    let kilobytes: f64 = most.ok_or("/proc/self/status says nothing")?.parse()?;
    println!("{:.1}", kilobytes / 1024.0);
    Ok(())
}
