//! What the command line says.

use std::time::Duration;

use clap::{Parser, ValueEnum};

/// Measures the Postgres store beside the raw limit of the same server, in interleaved rounds.
///
/// It starts a throwaway Postgres with production durability. The full form takes hours; --quick
/// takes less than five minutes. Figures are medians over the rounds.
#[derive(Debug, Clone, Parser)]
#[command(name = "postgres")]
pub struct Args {
    /// All cases with less data and shorter runs
    #[arg(long)]
    pub quick: bool,
    /// One line of JSON per figure on stdout; the text for people goes to stderr
    #[arg(long)]
    pub json: bool,
    /// Only this case; may be repeated
    #[arg(long = "case", value_name = "NAME")]
    pub cases: Vec<CaseName>,
    /// How often each figure is measured [default: 3, quick: 1]
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..))]
    rounds: Option<u64>,
    /// How long one measurement lasts [default: 30, quick: 1]
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..))]
    seconds: Option<u64>,
    /// How many events the large table has [default: 10000000, quick: 300000]
    #[arg(long, value_parser = clap::value_parser!(u64).range(1000..))]
    log: Option<u64>,
    /// The server's buffers; one server serves both sides
    #[arg(long, value_name = "SIZE", default_value = "512MB")]
    pub shared_buffers: String,
    /// Do not compare the raw limit with pgbench
    #[arg(long)]
    pub no_pgbench: bool,
    /// Follow the log of this database: what the program starts itself with
    #[arg(long, hide = true, value_name = "URL")]
    pub follow: Option<String>,
    /// Append to the log of this database: what the program starts itself with
    #[arg(long, hide = true, value_name = "URL", requires = "events")]
    pub feed: Option<String>,
    /// Catch up with the log of this database: what the program starts itself with
    #[arg(long, hide = true, value_name = "URL")]
    pub catch_up: Option<String>,
    /// How many events to append
    #[arg(long, hide = true, value_name = "EVENTS")]
    pub events: Option<usize>,
}

/// The cases, in the order in which they run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum CaseName {
    /// One event per append, 1 to 128 callers
    Append,
    /// Ten events per append, 32 callers
    Ten,
    /// Eight callers on one stream
    Contended,
    /// Appends with conditions on disjoint tags, on an empty and on a large table
    Dcb,
    /// Loading aggregates of 1,000 and 10,000 events
    Rehydrate,
    /// Reading the whole log, raw and decoded
    Read,
    /// From an append's return to its delivery, in this and in another process
    Live,
    /// Catching up with the log, exactly once, into a table and into documents
    Project,
    /// From an append's return to its event in a read model, appended in this and in another process
    Visible,
    /// Load, decide and append through the command bus
    Command,
    /// Importing history
    Bulk,
    /// The rate of the first and the last events while the server has no statistics
    Statistics,
    /// The other cases again on a large table
    Growth,
    /// The most memory while catching up with a log, and with a large one
    Memory,
}

impl CaseName {
    /// The name on the command line and in the figures.
    pub fn text(self) -> String {
        self.to_possible_value()
            .map_or_else(String::new, |value| value.get_name().to_owned())
    }
}

impl Args {
    /// The cases to run.
    pub fn cases(&self) -> Vec<CaseName> {
        let all = CaseName::value_variants().iter().copied();
        all.filter(|case| self.cases.is_empty() || self.cases.contains(case))
            .collect()
    }

    /// How often each figure is measured.
    pub fn rounds(&self) -> u64 {
        self.rounds.unwrap_or(if self.quick { 1 } else { 3 })
    }

    /// How long one measurement lasts.
    pub fn duration(&self) -> Duration {
        Duration::from_secs(self.seconds.unwrap_or(if self.quick { 1 } else { 30 }))
    }

    /// How many events the large table has.
    pub fn log(&self) -> u64 {
        self.log
            .unwrap_or(if self.quick { 300_000 } else { 10_000_000 })
    }

    /// `full` of something, or less of it.
    pub fn amount(&self, full: u64, quick: u64) -> u64 {
        if self.quick { quick } else { full }
    }
}
