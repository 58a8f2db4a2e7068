//! What all cases share.

use std::time::Instant;

use backstory::{BoxError, postgres::PostgresStore};
use tokio::sync::OnceCell;

use crate::{
    args::Args,
    cluster::{Cluster, Database},
    fill,
    load::{Caller, Run, drive},
    meter::Meter,
    report::Report,
};

/// What a case starts from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ground {
    /// A database of its own with empty tables.
    Empty,
    /// The large table, which all cases share.
    Large,
}

/// The server, and where the figures go.
pub struct Bench {
    /// What the command line says.
    pub args: Args,
    /// The server.
    pub cluster: Cluster,
    /// The clocks of both sides.
    pub meter: Meter,
    /// Where the figures go.
    pub report: Report,
    million: OnceCell<Database>,
    large: OnceCell<Database>,
}

impl Bench {
    /// Starts the server.
    pub async fn start(args: Args) -> Result<Self, BoxError> {
        let cluster = Cluster::start(&args.shared_buffers).await?;
        let bench = Self {
            meter: Meter::new(cluster.pid()?)?,
            report: Report::new(args.json),
            cluster,
            args,
            million: OnceCell::new(),
            large: OnceCell::new(),
        };
        let cores = std::thread::available_parallelism()?;
        bench.report.say(format!(
            "{}; {cores} cores for client and server; {} rounds of {:?}",
            bench.cluster.describe().await?,
            bench.args.rounds(),
            bench.args.duration(),
        ));
        Ok(bench)
    }

    /// A database to begin on; hand it to [`Bench::leave`].
    pub async fn enter(&self, ground: Ground) -> Result<Database, BoxError> {
        match ground {
            Ground::Empty => self.cluster.create().await,
            Ground::Large => {
                let large = self
                    .large
                    .get_or_try_init(|| self.filled(self.args.log()))
                    .await?;
                self.cluster.checkpoint().await?;
                Ok(large.clone())
            }
        }
    }

    /// Removes what was only for one measurement.
    pub async fn leave(&self, ground: Ground, database: Database) -> Result<(), BoxError> {
        match ground {
            Ground::Empty => self.cluster.remove(database).await,
            Ground::Large => Ok(()),
        }
    }

    /// A table with as many events as [`Bench::million_events`] says, only to be read.
    pub async fn million(&self) -> Result<Database, BoxError> {
        let events = self.million_events();
        Ok(self
            .million
            .get_or_try_init(|| self.filled(events))
            .await?
            .clone())
    }

    /// One million, or less in the quick form.
    pub fn million_events(&self) -> u64 {
        self.args.amount(1_000_000, 300_000)
    }

    async fn filled(&self, events: u64) -> Result<Database, BoxError> {
        let began = Instant::now();
        let database = self.cluster.create().await?;
        fill::fill(&database.url, events).await?;
        self.cluster.checkpoint().await?;
        let seconds = began.elapsed().as_secs_f64();
        self.report.say(format!(
            "  a table of {events} events was filled in {seconds:.0} s"
        ));
        Ok(database)
    }

    /// The store of a database.
    pub async fn store(&self, database: &Database) -> Result<PostgresStore, BoxError> {
        Ok(PostgresStore::connect(&database.url).await?)
    }

    /// Lets all callers call for the time of one measurement.
    pub async fn drive<C: Caller>(&self, callers: Vec<C>) -> Result<Run<C>, BoxError> {
        drive(callers, self.args.duration(), &self.meter).await
    }

    /// Refuses a run whose events are not all there, as many as it says, by a plain count.
    pub async fn check<C>(
        &self,
        database: &Database,
        before: i64,
        run: &Run<C>,
    ) -> Result<(), BoxError> {
        let stored = self.cluster.count(database, before).await?;
        if stored == run.done {
            return Ok(());
        }
        Err(format!(
            "{} events were acknowledged and {stored} are stored",
            run.done
        )
        .into())
    }

    /// Prints what bounds a rate: the processor time per event of both sides.
    pub fn say_cpu<C>(&self, what: &str, run: &Run<C>) {
        let each = |seconds: f64| seconds * 1e6 / run.done.max(1) as f64;
        let seconds = run.elapsed.as_secs_f64();
        let (cores, others) = (
            (run.cpu.client + run.cpu.server) / seconds,
            run.cpu.others() / seconds,
        );
        self.report.say(format!(
            "  {what:<46} {:>9.0}/s, processor time each: client {:>6.1} us, server {:>6.1} us; {cores:.2} cores busy, others {others:.2}",
            run.rate(),
            each(run.cpu.client),
            each(run.cpu.server),
        ));
    }
}
