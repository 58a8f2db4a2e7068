//! Torture for the Postgres store: many writers and live subscribers in processes of their own,
//! while everything around them is killed, stopped, cut and delayed; then a proof in plain SQL
//! that nothing was lost, repeated or reordered. `torture --help` says how to start it.

#![allow(clippy::print_stdout, reason = "printing is what this program is for")]

mod acknowledger;
mod args;
mod chaos;
mod check;
mod delivered;
mod fault;
mod journal;
mod load;
mod memory;
mod never;
mod orders;
mod plan;
mod process;
mod proxy;
mod records;
mod run;
mod sabotage;
mod stage;
mod subscriber;
mod within;
mod writer;

use std::time::{Duration, SystemTime};

pub use args::Args;
pub use proxy::Proxy;

use crate::args::Role;

/// Any error, boxed.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// What parts of this program answer.
pub type Result<T = (), E = BoxError> = std::result::Result<T, E>;

/// Does what the arguments say; true when everything held.
///
/// # Errors
/// When the run itself could not be made.
pub async fn run(args: Args) -> Result<bool> {
    match &args.role {
        None if args.memory => memory::measure(&args).await,
        None => run::run(&args).await,
        Some(role) => {
            match role {
                Role::Writer(args) => writer::run(args).await?,
                Role::Subscriber(args) => subscriber::run(args).await?,
                Role::Acknowledger(args) => acknowledger::run(args).await?,
                Role::MemoryReader(args) => memory::read(args).await?,
            }
            Ok(true)
        }
    }
}

/// Microseconds since 1970: the processes of a run share this clock.
fn now() -> i64 {
    let now = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
    i64::try_from(now.as_micros()).unwrap_or(i64::MAX)
}

/// How long to sleep between two looks at a condition.
const LOOK: Duration = Duration::from_millis(20);
