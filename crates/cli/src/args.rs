//! What can be asked for.

use backstory_store_postgres::OptionalIndex;
use chrono::{DateTime, Utc};
use clap::{
    Parser, Subcommand,
    builder::{PossibleValue, PossibleValuesParser, TypedValueParser},
};

/// Operates a Backstory store on Postgres
#[derive(Debug, Parser)]
#[command(
    name = "backstory",
    version,
    max_term_width = 100,
    arg_required_else_help = true
)]
pub(crate) struct Args {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Check the rows of a schema against its log
    ///
    /// It only reads: rights to SELECT are enough, replicas will do, and writers go on meanwhile.
    /// The exit code is 0 when nothing is wrong, 1 when something is, 2 when it could not be
    /// checked.
    Verify {
        #[command(flatten)]
        database: Database,
        /// Print one JSON object
        #[arg(long)]
        json: bool,
    },
    /// Print the statements that make a schema, for those who apply them by hand
    Ddl {
        #[command(flatten)]
        schema: Schema,
    },
    /// Print the statements that give a role what a program needs on a prepared schema
    Grants {
        /// The role that the program connects as
        #[arg(long, value_name = "ROLE")]
        role: String,
        #[command(flatten)]
        schema: Schema,
    },
    /// See how projections are doing, and tell them what to do
    #[command(subcommand)]
    Projections(Projections),
    /// List, create or drop the indexes that not every database needs
    #[command(subcommand)]
    Indexes(Indexes),
}

#[derive(Debug, Subcommand)]
pub(crate) enum Projections {
    /// Show what each is doing, how far behind it is, and which process runs it
    List {
        #[command(flatten)]
        database: Database,
        /// Print one JSON array
        #[arg(long)]
        json: bool,
    },
    /// Let one rest after the batch that it is at, until it is resumed
    Pause(OneProjection),
    /// Let one go on: after a pause, or after an error that stopped it
    Resume(OneProjection),
    /// Let one run now, whatever its schedule says
    Trigger(OneProjection),
    /// Empty the read model of one, and let it be built again from the start of the log
    Reset(OneProjection),
    /// Let one go back, and project again what is behind that place
    ///
    /// The read model is not emptied: it must bear to see events twice.
    Rewind {
        #[command(flatten)]
        one: OneProjection,
        #[command(flatten)]
        place: Place,
    },
    /// Build a new read model of one beside what is read, and let it take over when it has caught up
    ///
    /// Shows how it is doing until it has ended. It goes on when this command is interrupted.
    Rebuild {
        #[command(flatten)]
        one: OneProjection,
        /// Do not wait until it has ended
        #[arg(long)]
        no_wait: bool,
    },
    /// Give up a rebuild: what is read stays
    AbortRebuild(OneProjection),
    /// Read again what was read before the last rebuild
    RollBack(OneProjection),
    /// Drop what was read before the last rebuild
    DropPrevious(OneProjection),
    /// Run a job again on events that it has passed
    ///
    /// Its checkpoint stays. Without filters: on all of its events.
    Rerun {
        #[command(flatten)]
        one: OneProjection,
        #[command(flatten)]
        which: Passed,
    },
    /// Show the events that one has left out
    Letters {
        #[command(flatten)]
        one: OneProjection,
        /// Print one JSON array
        #[arg(long)]
        json: bool,
    },
    /// Project events that one has left out
    Replay {
        #[command(flatten)]
        one: OneProjection,
        #[command(flatten)]
        which: Which,
    },
    /// Forget events that one has left out, without projecting them
    Discard {
        #[command(flatten)]
        one: OneProjection,
        #[command(flatten)]
        which: Which,
    },
}

#[derive(Debug, clap::Args)]
#[group(required = true, multiple = false)]
pub(crate) struct Place {
    /// Back to behind this position; 0 is the beginning
    #[arg(long, value_name = "POSITION", value_parser = clap::value_parser!(i64).range(0..))]
    pub(crate) to_position: Option<i64>,
    /// Back to the first event of this time or later: 2026-01-31T08:00:00Z
    #[arg(long, value_name = "TIME")]
    pub(crate) to_time: Option<DateTime<Utc>>,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Passed {
    /// Only of this name; may be given again
    #[arg(long = "event", value_name = "NAME")]
    pub(crate) names: Vec<String>,
    /// Only of this category; may be given again
    #[arg(long = "category", value_name = "CATEGORY")]
    pub(crate) categories: Vec<String>,
    /// Only with this tag; may be given again
    #[arg(long = "tag", value_name = "TAG")]
    pub(crate) tags: Vec<String>,
    /// Only behind this position
    #[arg(long, value_name = "POSITION", default_value_t = 0,
        value_parser = clap::value_parser!(i64).range(0..))]
    pub(crate) after: i64,
    /// Only up to this position, inclusive
    #[arg(long, value_name = "POSITION", value_parser = clap::value_parser!(i64).range(1..))]
    pub(crate) up_to: Option<i64>,
    /// Only recorded at this time or later: 2026-01-31T08:00:00Z
    #[arg(long, value_name = "TIME")]
    pub(crate) since: Option<DateTime<Utc>>,
    /// Only recorded before this time
    #[arg(long, value_name = "TIME")]
    pub(crate) until: Option<DateTime<Utc>>,
}

#[derive(Debug, clap::Args)]
#[group(required = true, multiple = false)]
pub(crate) struct Which {
    /// All of them
    #[arg(long)]
    pub(crate) all: bool,
    /// Those of this key
    #[arg(long, value_name = "KEY")]
    pub(crate) key: Option<String>,
    /// That of the event at this position
    #[arg(long, value_name = "POSITION", value_parser = clap::value_parser!(i64).range(1..))]
    pub(crate) position: Option<i64>,
}

#[derive(Debug, clap::Args)]
pub(crate) struct OneProjection {
    /// Which, by the name that `list` shows
    #[arg(value_name = "PROJECTION")]
    pub(crate) name: String,
    #[command(flatten)]
    pub(crate) database: Database,
    /// How long to wait for the process that runs it, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 10,
        value_parser = clap::value_parser!(u64).range(1..=3_600))]
    pub(crate) patience: u64,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Indexes {
    /// Show which there are, what they are for, and their state
    List {
        #[command(flatten)]
        database: Database,
    },
    /// Build an index while programs go on; finish what was interrupted
    ///
    /// The role has to own the tables. The server waits for the end of all transactions that are
    /// open.
    Create {
        /// Which
        #[arg(value_parser = index_names())]
        index: OptionalIndex,
        #[command(flatten)]
        database: Database,
    },
    /// Drop an index while programs go on
    Drop {
        /// Which
        #[arg(value_parser = index_names())]
        index: OptionalIndex,
        #[command(flatten)]
        database: Database,
    },
}

#[derive(Debug, clap::Args)]
pub(crate) struct Database {
    /// The database: postgres://user:password@host:5432/name
    ///
    /// Prefer the variable: a command line shows up in the list of processes.
    #[arg(long, env = "DATABASE_URL", hide_env_values = true)]
    pub(crate) url: Option<String>,
    #[command(flatten)]
    pub(crate) schema: Schema,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Schema {
    /// The schema that holds the tables
    #[arg(long, value_name = "NAME", default_value = "backstory")]
    pub(crate) schema: String,
}

fn index_names() -> impl TypedValueParser<Value = OptionalIndex> {
    let names = OptionalIndex::ALL
        .map(|index| PossibleValue::new(index.as_str()).help(format!("For {}", index.purpose())));
    PossibleValuesParser::new(names).try_map(|name| name.parse())
}
