//! From the return of an append to its event in a read model: rows of a table that commit together
//! with the checkpoint, at 1,000 events per second, appended in this process and in another one.

use backstory::{
    BoxError, Checkpoint, EventStoreExt, Position, Projector, Schedule,
    projection::RunningProjector,
};
use tokio::time::{Instant, timeout};

use super::{
    live::{EVENTS_PER_SECOND, Other, PATIENCE, Times, append, hold, say, stats, waits},
    project::{Sales, prepare},
};
use crate::{
    bench::{Bench, Ground},
    follow::micros,
    report::Sample,
};

const CASE: &str = "visible";

/// When each of so many events behind a position was in the read model.
async fn seen(
    projector: &RunningProjector,
    after: Position,
    events: usize,
) -> Result<Times, BoxError> {
    let mut times = Times::new();
    for number in 1..=i64::try_from(events)? {
        let position = Position::new(after.get() + number);
        let reached = projector.caught_up(Checkpoint::at(position));
        timeout(PATIENCE, reached).await??;
        times.insert(position, micros()?);
    }
    Ok(times)
}

async fn measure(
    bench: &Bench,
    ground: Ground,
    process: &str,
    held: bool,
) -> Result<Vec<Sample>, BoxError> {
    let database = bench.enter(ground).await?;
    let store = bench.store(&database).await?;
    prepare(&database).await?;
    let events = usize::try_from(bench.args.duration().as_secs() * EVENTS_PER_SECOND)?;
    let projector = Projector::new(&store)
        .with(Sales, Schedule::continuous())
        .start()
        .await?;
    projector.catch_up().await?;
    let after = store.head().await?.position;
    let holders = match held {
        true => hold(bench, &database).await?,
        false => Vec::new(),
    };
    let began = Instant::now();
    let seen = seen(&projector, after, events);
    let (returned, visible) = match process {
        "same" => tokio::try_join!(append(&store, events), seen)?,
        _ => {
            let count = events.to_string();
            let other = Other::start(&["--feed", &database.url, "--events", &count]).await?;
            tokio::try_join!(other.collect(events), seen)?
        }
    };
    let rate = events as f64 / began.elapsed().as_secs_f64();
    drop(holders);
    projector.shutdown().await?;
    store.close().await;
    bench.leave(ground, database).await?;
    let (millis, text) = waits(&returned, &visible)?;
    say(
        bench,
        &format!("appended in the {process} process"),
        held,
        rate,
        &text,
    );
    Ok(stats(CASE, process, held, &millis))
}

pub async fn ours(bench: &Bench, ground: Ground) -> Result<Vec<Sample>, BoxError> {
    let mut all = Vec::new();
    for held in [false, true] {
        for process in ["same", "other"] {
            all.extend(measure(bench, ground, process, held).await?);
        }
    }
    Ok(all)
}
