//! The Postgres store beside the raw limit of the same server, in the same run.
//!
//! `cargo run --release --manifest-path benches/Cargo.toml --bin postgres -- --quick`

mod args;
mod bench;
mod cases;
mod cluster;
mod domain;
mod feed;
mod fill;
mod follow;
mod load;
mod meter;
mod pgbench;
mod raw;
mod report;

use backstory::BoxError;
use clap::Parser;

use crate::{args::Args, bench::Bench};

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let args = Args::parse();
    if let Some(url) = &args.follow {
        return follow::run(url).await;
    }
    if let (Some(url), Some(events)) = (&args.feed, args.events) {
        return feed::run(url, events).await;
    }
    if let Some(url) = &args.catch_up {
        return cases::memory::catch_up(url).await;
    }
    let bench = Bench::start(args).await?;
    for case in bench.args.cases() {
        cases::run(&bench, case).await?;
    }
    bench.report.table();
    Ok(())
}
