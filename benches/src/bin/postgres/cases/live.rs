//! From the return of an append to the delivery of its event, at 1,000 events per second: to a
//! subscription in this process and in another one, also while transactions that have written
//! stay open in this and in another database.

use std::{collections::BTreeMap, process::Stdio, time::Duration};

use backstory::{
    Append, BoxError, EventFilter, EventStore, EventStoreExt, ExpectedVersion, NewEvent, Position,
    StreamId, event::Subscription, postgres::PostgresStore,
};
use sqlx::{Connection, PgConnection};
use tokio::{
    io::{AsyncBufReadExt, BufReader, Lines},
    process::{Child, ChildStdin, ChildStdout, Command},
    task::JoinSet,
    time::{Instant, MissedTickBehavior, interval, timeout},
};
use uuid::Uuid;

use crate::{
    bench::{Bench, Ground},
    cluster::Database,
    domain,
    follow::{micros, parse},
    load::percentile,
    report::{Figure, Key, MILLIS, Sample, Series, Target},
};

const CASE: &str = "live";
pub(super) const EVENTS_PER_SECOND: u64 = 1_000;
/// After so long without a delivery something is lost.
pub(super) const PATIENCE: Duration = Duration::from_secs(20);

/// Positions, and when their events were delivered (or their appends returned).
pub(super) type Times = BTreeMap<Position, u64>;

/// A process of its own that follows the log, or appends to it.
pub(super) struct Other {
    child: Child,
    // Its end is the sign to end.
    _stdin: ChildStdin,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Other {
    pub(super) async fn start(args: &[&str]) -> Result<Self, BoxError> {
        let mut child = Command::new(std::env::current_exe()?)
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let stdin = child.stdin.take().ok_or("the other process has no stdin")?;
        let stdout = child
            .stdout
            .take()
            .ok_or("the other process has no stdout")?;
        let lines = BufReader::new(stdout).lines();
        let mut other = Self {
            child,
            _stdin: stdin,
            lines,
        };
        // Its first line says that it is ready.
        other.next().await?;
        Ok(other)
    }

    async fn next(&mut self) -> Result<(Position, u64), BoxError> {
        let line = timeout(PATIENCE, self.lines.next_line()).await??;
        let line = line.ok_or("the other process has ended")?;
        parse(&line).ok_or_else(|| format!("the other process said {line:?}").into())
    }

    pub(super) async fn collect(mut self, events: usize) -> Result<Times, BoxError> {
        let mut times = Times::new();
        while times.len() < events {
            let (position, time) = self.next().await?;
            times.insert(position, time);
        }
        drop(self._stdin);
        self.child.wait().await?;
        Ok(times)
    }
}

/// Delivery in this process.
async fn here(mut subscription: Subscription, events: usize) -> Result<Times, BoxError> {
    let mut times = Times::new();
    while times.len() < events {
        let page = timeout(PATIENCE, subscription.next_page()).await??;
        let now = micros()?;
        times.extend(page.events.iter().map(|event| (event.position(), now)));
    }
    Ok(times)
}

/// Starts an append every millisecond, whatever the others do, and notes when each returns.
pub async fn append(store: &PostgresStore, events: usize) -> Result<Times, BoxError> {
    let payload = domain::payload()?;
    let mut ticks = interval(Duration::from_micros(1_000_000 / EVENTS_PER_SECOND));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let mut appends = JoinSet::new();
    let mut times = Times::new();
    for _ in 0..events {
        ticks.tick().await;
        let event = NewEvent::raw(domain::NAME, payload.clone());
        let stream = StreamId::new(domain::CATEGORY, Uuid::now_v7())?;
        let store = store.clone();
        appends.spawn(async move {
            let append = Append::to(stream, ExpectedVersion::NoStream, [event]);
            let receipt = store.append(append).await?;
            Ok::<_, BoxError>((receipt.position(), micros()?))
        });
        while let Some(done) = appends.try_join_next() {
            times.extend([done??]);
        }
    }
    while let Some(done) = appends.join_next().await {
        times.extend([done??]);
    }
    Ok(times)
}

/// Transactions that have written and stay open: in the database of the log, and in another one.
pub(super) async fn hold(
    bench: &Bench,
    database: &Database,
) -> Result<Vec<PgConnection>, BoxError> {
    let mut holders = vec![
        PgConnection::connect(&database.url).await?,
        bench.cluster.admin().await?,
    ];
    for holder in &mut holders {
        sqlx::raw_sql(
            "BEGIN; CREATE TABLE public.held (n int); INSERT INTO public.held VALUES (1)",
        )
        .execute(holder)
        .await?;
    }
    Ok(holders)
}

async fn measure(
    bench: &Bench,
    ground: Ground,
    process: &str,
    held: bool,
) -> Result<Vec<Sample>, BoxError> {
    let database = bench.enter(ground).await?;
    let store = bench.store(&database).await?;
    let seconds = bench.args.duration().as_secs();
    let events = usize::try_from(seconds * EVENTS_PER_SECOND)?;
    let holders = if held {
        hold(bench, &database).await?
    } else {
        Vec::new()
    };
    let began = Instant::now();
    let (returned, delivered) = match process {
        "same" => {
            let subscription = store.subscribe(store.head().await?, EventFilter::all());
            tokio::try_join!(append(&store, events), here(subscription, events))?
        }
        _ => {
            let other = Other::start(&["--follow", &database.url]).await?;
            tokio::try_join!(append(&store, events), other.collect(events))?
        }
    };
    let rate = events as f64 / began.elapsed().as_secs_f64();
    for mut holder in holders {
        sqlx::raw_sql("ROLLBACK").execute(&mut holder).await?;
        holder.close().await?;
    }
    store.close().await;
    bench.leave(ground, database).await?;

    let what = format!("{process} process");
    let (millis, text) = waits(&returned, &delivered)?;
    say(bench, &what, held, rate, &text);
    Ok(stats(CASE, process, held, &millis))
}

/// How long each event took from the return of its append, in order, and how many took no time.
pub(super) fn waits(returned: &Times, delivered: &Times) -> Result<(Vec<f32>, String), BoxError> {
    let mut millis = Vec::new();
    let mut before = 0;
    for (position, returned) in returned {
        let Some(delivered) = delivered.get(position) else {
            return Err(format!("the event at {position} was never delivered").into());
        };
        before += usize::from(delivered <= returned);
        // What is delivered before its append returns was not waited for.
        millis.push(delivered.saturating_sub(*returned) as f32 / 1e3);
    }
    millis.sort_by(f32::total_cmp);
    let percent = before as f64 * 100.0 / millis.len().max(1) as f64;
    Ok((millis, format!("{percent:.0} % before the append returned")))
}

pub(super) fn say(bench: &Bench, what: &str, held: bool, rate: f64, text: &str) {
    let open = if held { ", with open transactions" } else { "" };
    bench.report.say(format!(
        "  {what}{open}: {rate:.0} events/s of {EVENTS_PER_SECOND}; {text}"
    ));
}

pub(super) fn stats(case: &str, process: &str, held: bool, millis: &[f32]) -> Vec<Sample> {
    let stat = |(stat, percent)| {
        let key = Key::new(case, MILLIS)
            .with("process", process)
            .with("open_transactions", held);
        (key.with("stat", stat), percentile(millis, percent))
    };
    [("p50", 50.0), ("p99", 99.0), ("max", 100.0)]
        .map(stat)
        .into()
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

pub fn figures(ours: &Series) -> Vec<Figure> {
    let figure = |(key, value): (&Key, f64)| {
        let figure = Figure::new(key, value, None);
        match key.text("stat") {
            "p50" => figure.target(Target::AtMost(1.5)),
            "p99" => figure.target(Target::AtMost(10.0)),
            _ => figure,
        }
    };
    ours.medians().map(figure).collect()
}
