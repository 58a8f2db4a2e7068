//! The command line.

use std::{path::PathBuf, time::Duration};

use clap::{Parser, Subcommand, ValueEnum};
use sqlx::{ConnectOptions, postgres::PgConnectOptions};

use crate::Result;

/// Tortures the Postgres store and proves in plain SQL that nothing was lost, repeated or
/// reordered. The last line says what was found, and so does the exit code.
#[derive(Debug, Parser)]
#[command(name = "torture", disable_help_subcommand = true)]
pub struct Args {
    /// How long to torture, in minutes; on top of --seconds. One minute when neither is given.
    #[arg(long)]
    pub(crate) minutes: Option<u64>,
    /// How long to torture, in seconds.
    #[arg(long)]
    pub(crate) seconds: Option<u64>,
    /// Use this server instead of a throwaway cluster. It is not killed; databases of the run are
    /// created on it and dropped.
    #[arg(long)]
    pub(crate) url: Option<String>,
    /// Write in a wrong way, which the run has to find.
    #[arg(long, value_enum)]
    pub(crate) sabotage: Option<Sabotage>,
    /// How many seconds an append may wait while another client is frozen inside `append_in`.
    #[arg(long, default_value_t = 7)]
    pub(crate) longest_wait: u64,
    /// Measure instead how much memory a subscriber takes at 1 and at 10 million events.
    #[arg(long)]
    pub(crate) memory: bool,
    /// With --memory: how many events the first measurement takes; the second takes ten times so many.
    #[arg(long, default_value_t = 1_000_000, requires = "memory")]
    pub(crate) events: i64,
    /// Repeat the random choices of a run.
    #[arg(long)]
    pub(crate) seed: Option<u64>,
    #[command(subcommand)]
    pub(crate) role: Option<Role>,
}

impl Args {
    pub(crate) fn duration(&self) -> Duration {
        match (self.minutes, self.seconds) {
            (None, None) => Duration::from_secs(60),
            (minutes, seconds) => {
                Duration::from_secs(minutes.unwrap_or(0) * 60 + seconds.unwrap_or(0))
            }
        }
    }

    /// How often each kind of fault has to happen, and each subscriber to be restarted.
    pub(crate) fn minimum(&self) -> usize {
        match self.sabotage {
            Some(_) => 0,
            None => usize::try_from(self.duration().as_secs() / 60)
                .unwrap_or(usize::MAX)
                .max(1),
        }
    }
}

/// What writers do wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Sabotage {
    /// Positions come from a sequence instead of being given under the lock.
    Identity,
}

/// The processes of a run.
#[derive(Debug, Subcommand)]
pub(crate) enum Role {
    #[command(hide = true)]
    Writer(WriterArgs),
    #[command(hide = true)]
    Subscriber(SubscriberArgs),
    #[command(hide = true)]
    Acknowledger(AcknowledgerArgs),
    #[command(hide = true)]
    MemoryReader(MemoryReaderArgs),
}

/// How to reach the database.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Address {
    /// In the environment because it may hold a password.
    #[arg(skip = std::env::var("TORTURE_URL").unwrap_or_default())]
    pub(crate) url: String,
    /// The port of the proxy to go through.
    #[arg(long)]
    pub(crate) via: Option<u16>,
}

impl Address {
    /// The parameters of a connection with this name.
    pub(crate) fn options(&self, name: &str) -> Result<PgConnectOptions> {
        let options: PgConnectOptions = self.url.parse()?;
        let options = options.application_name(name).disable_statement_logging();
        Ok(match self.via {
            Some(port) => options.host("127.0.0.1").port(port),
            None => options,
        })
    }

    /// The same as a URL.
    pub(crate) fn url(&self, name: &str) -> Result<String> {
        let mut url = self.options(name)?.to_url_lossy();
        url.query_pairs_mut().append_pair("application_name", name);
        Ok(url.into())
    }
}

#[derive(Debug, clap::Args)]
pub(crate) struct WriterArgs {
    #[command(flatten)]
    pub(crate) address: Address,
    #[arg(long)]
    pub(crate) socket: PathBuf,
    #[arg(long)]
    pub(crate) incarnation: i32,
    #[arg(long)]
    pub(crate) tasks: usize,
    #[arg(long)]
    pub(crate) seed: u64,
    #[arg(long)]
    pub(crate) sabotage: Option<Sabotage>,
}

#[derive(Debug, clap::Args)]
pub(crate) struct SubscriberArgs {
    #[command(flatten)]
    pub(crate) address: Address,
    #[arg(long)]
    pub(crate) records: PathBuf,
    #[arg(long)]
    pub(crate) category: Option<String>,
}

#[derive(Debug, clap::Args)]
pub(crate) struct AcknowledgerArgs {
    #[arg(long)]
    pub(crate) socket: PathBuf,
    #[arg(long)]
    pub(crate) journal: PathBuf,
}

#[derive(Debug, clap::Args)]
pub(crate) struct MemoryReaderArgs {
    #[command(flatten)]
    pub(crate) address: Address,
    #[arg(long)]
    pub(crate) events: i64,
}
