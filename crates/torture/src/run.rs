//! One run: set the stage, let chaos reign, let everybody finish, prove.

use std::path::Path;

use tokio::time::{Duration, Instant, sleep};

use crate::{
    LOOK, Result,
    args::Args,
    chaos::Chaos,
    check::{Verdict, check},
    fault::Faults,
    records::Records,
    stage::{SUBSCRIBERS, Stage, check_alive},
};

/// How long subscribers may take to catch up at the end.
const CATCH_UP: Duration = Duration::from_secs(120);

/// True when everything held.
pub(crate) async fn run(args: &Args) -> Result<bool> {
    let directory = tempfile::Builder::new().prefix("torture-").tempdir()?;
    let verdict = run_in(args, directory.path()).await;
    let held = verdict.as_ref().is_ok_and(Verdict::holds);
    if !held && args.sabotage.is_none() {
        println!("what was recorded is in {}", directory.keep().display());
    }
    println!("{}", verdict?.line());
    Ok(held)
}

async fn run_in(args: &Args, directory: &Path) -> Result<Verdict> {
    let seed = args.seed.unwrap_or_else(|| fastrand::u64(..));
    println!("seed {seed}");
    let stage = Stage::set(args, directory, seed).await?;
    let faults = Faults::new();
    let chaos = Chaos::new(&stage, &faults, seed, args.duration(), args.minimum());
    chaos.reign().await?;

    stage.check_bystander().await?;
    for writer in &stage.writers {
        let mut writer = writer.lock().await;
        writer.process.order("stop").await?;
        writer.process.end().await?;
    }
    for number in 0..SUBSCRIBERS.len() {
        catch_up(&stage, number).await?;
    }
    for subscriber in &stage.subscribers {
        let mut subscriber = subscriber.lock().await;
        check_alive(&mut subscriber, "subscriber")?;
        subscriber.process.kill().await?;
    }
    stage.acknowledger.lock().await.kill().await?;

    let verdict = check(args, &stage, &faults).await?;
    for violation in &verdict.violations {
        println!("VIOLATION: {violation}");
    }
    Ok(verdict)
}

/// Waits until a subscriber was given the last event; the proof says whether it was.
async fn catch_up(stage: &Stage, number: usize) -> Result {
    let mut connection = stage.connect().await?;
    let head: i64 = sqlx::query_scalar(
        "SELECT coalesce(max(position), 0) FROM backstory.event \
         WHERE $1::text IS NULL OR category = $1",
    )
    .bind(SUBSCRIBERS[number])
    .fetch_one(&mut connection)
    .await?;
    let deadline = Instant::now() + CATCH_UP;
    while last(stage, number)? < head && Instant::now() < deadline {
        sleep(LOOK).await;
    }
    Ok(())
}

fn last(stage: &Stage, number: usize) -> Result<i64> {
    Ok(Records::open(&stage.records(number))?
        .checkpoint()
        .position
        .get())
}
