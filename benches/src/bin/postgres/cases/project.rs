//! Catching up with a log: the sales of each order, exactly once, into a table and into documents,
//! beside the same by hand with sqlx.

use std::{collections::BTreeMap, time::Instant};

use backstory::{
    BoxError, Documents, Envelope, Projection, Projector, Schedule, async_trait,
    projection::{self, ProjectorOptions},
};
use futures::TryStreamExt;
use sqlx::{Connection, Executor, PgConnection};

use super::read::Row;
use crate::{
    bench::Bench,
    cluster::Database,
    domain::OrderEvent,
    report::{EVENTS, Figure, Key, Sample, Series, Target},
};

const CASE: &str = "project";
/// Events per transaction, on both sides.
pub const BATCH: usize = 5_000;

/// One row per order, the rows of a batch by one statement in the order of their keys.
const UPSERT: &str = "INSERT INTO public.sales AS s (key, lines, amount) \
    SELECT * FROM unnest($1::text[], $2::bigint[], $3::bigint[]) \
    ON CONFLICT (key) DO UPDATE SET lines = s.lines + excluded.lines, amount = s.amount + excluded.amount";

/// Lines and amount of each order.
type Totals<'a> = BTreeMap<&'a str, (i64, i64)>;

async fn upsert(totals: &Totals<'_>, connection: &mut PgConnection) -> Result<(), sqlx::Error> {
    let keys: Vec<_> = totals.keys().copied().collect();
    let lines: Vec<_> = totals.values().map(|(lines, _)| *lines).collect();
    let amounts: Vec<_> = totals.values().map(|(_, amount)| *amount).collect();
    let upsert = sqlx::query(UPSERT).bind(keys).bind(lines).bind(amounts);
    upsert.execute(connection).await?;
    Ok(())
}

/// Into a table.
pub struct Sales;

#[async_trait]
impl Projection<PgConnection> for Sales {
    type Event = OrderEvent;
    const NAME: &'static str = "sales";

    async fn project(
        &self,
        batch: &[Envelope<OrderEvent>],
        connection: &mut PgConnection,
    ) -> projection::Result {
        let mut totals = Totals::new();
        for envelope in batch {
            let OrderEvent::Placed { amount, .. } = &envelope.event;
            let (lines, sum) = totals.entry(envelope.stream().key()).or_default();
            *lines += 1;
            *sum += i64::from(*amount);
        }
        upsert(&totals, connection).await?;
        Ok(())
    }
}

/// Into documents.
struct SalesDocuments;

#[async_trait]
impl Projection<Documents> for SalesDocuments {
    type Event = OrderEvent;
    const NAME: &'static str = "sales_documents";

    async fn project(
        &self,
        batch: &[Envelope<OrderEvent>],
        docs: &mut Documents,
    ) -> projection::Result {
        let mut totals = Totals::new();
        for envelope in batch {
            let OrderEvent::Placed { amount, .. } = &envelope.event;
            let (lines, sum) = totals.entry(envelope.stream().key()).or_default();
            *lines += 1;
            *sum += i64::from(*amount);
        }
        docs.prefetch("sales", totals.keys()).await?;
        for (key, (lines, amount)) in totals {
            docs.update("sales", key, |before: Option<(i64, i64)>| {
                let (known, sum) = before.unwrap_or_default();
                Some((known + lines, sum + amount))
            })
            .await?;
        }
        Ok(())
    }
}

/// An empty read model, and nothing projected yet.
pub async fn prepare(database: &Database) -> Result<(), BoxError> {
    let mut connection = PgConnection::connect(&database.url).await?;
    let statements = "DROP TABLE IF EXISTS public.sales; \
        CREATE TABLE public.sales (key text COLLATE \"C\" PRIMARY KEY, lines bigint NOT NULL, amount bigint NOT NULL); \
        DELETE FROM backstory.progress; DELETE FROM backstory.projection; DELETE FROM backstory.collection; \
        TRUNCATE backstory.document, backstory.document_index; CHECKPOINT";
    sqlx::raw_sql(statements).execute(&mut connection).await?;
    Ok(connection.close().await?)
}

/// What is there after all events: each order with its ten lines.
async fn check(database: &Database, rows: &'static str, events: u64) -> Result<(), BoxError> {
    let mut connection = PgConnection::connect(&database.url).await?;
    let (orders, lines): (i64, i64) = sqlx::query_as(rows).fetch_one(&mut connection).await?;
    connection.close().await?;
    if u64::try_from(lines)? == events && u64::try_from(orders)? == events.div_ceil(10) {
        return Ok(());
    }
    Err(format!("{events} events became {lines} lines of {orders} orders").into())
}

const ROWS: &str = "SELECT count(*), sum(lines)::bigint FROM public.sales";
const DOCUMENTS: &str =
    "SELECT count(*), sum((body ->> 0)::bigint)::bigint FROM backstory.document";

fn key(into: &str) -> Key {
    Key::new(CASE, EVENTS).with("into", into)
}

pub async fn ours(bench: &Bench) -> Result<Vec<Sample>, BoxError> {
    let database = bench.million().await?;
    let events = bench.million_events();
    let mut all = Vec::new();
    for into in ["table", "documents"] {
        prepare(&database).await?;
        let store = bench.store(&database).await?;
        let schedule = Schedule::continuous().max_batch(BATCH);
        let patience = ProjectorOptions::default().with_deadline(PATIENCE);
        let projector = Projector::new(&store).with_options(patience);
        let projector = match into {
            "table" => projector.with(Sales, schedule),
            _ => projector.with(SalesDocuments, schedule),
        };
        let (before, began) = (bench.meter.read()?, Instant::now());
        let projector = projector.start().await?;
        projector.catch_up().await?;
        let seconds = began.elapsed().as_secs_f64();
        let cpu = bench.meter.read()? - before;
        projector.shutdown().await?;
        store.close().await;
        check(
            &database,
            if into == "table" { ROWS } else { DOCUMENTS },
            events,
        )
        .await?;
        say(bench, &format!("ours: {into}"), events, seconds, cpu);
        all.push((key(into), events as f64 / seconds));
    }
    Ok(all)
}

fn say(bench: &Bench, what: &str, events: u64, seconds: f64, cpu: crate::meter::Cpu) {
    let each = |seconds: f64| seconds * 1e6 / events as f64;
    bench.report.say(format!(
        "  {what:<46} {:>9.0}/s, processor time each: client {:>6.1} us, server {:>6.1} us; others {:.2}",
        events as f64 / seconds,
        each(cpu.client),
        each(cpu.server),
        cpu.others() / seconds,
    ));
}

/// How long catching up may take.
pub const PATIENCE: std::time::Duration = std::time::Duration::from_secs(600);

const PAGE: &str = "SELECT position, category, key, version, id, name, schema_version, \
    payload::text, metadata::text, tags, recorded_at, erased_at FROM backstory.event \
    WHERE position > $1 ORDER BY position LIMIT $2";

/// A page, its rows and the checkpoint, in one transaction each, on one connection.
pub async fn raw(bench: &Bench) -> Result<Vec<Sample>, BoxError> {
    let database = bench.million().await?;
    let events = bench.million_events();
    prepare(&database).await?;
    let mut connection = PgConnection::connect(&database.url).await?;
    connection
        .execute("CREATE TABLE IF NOT EXISTS public.checkpoint (position bigint); INSERT INTO public.checkpoint VALUES (0)")
        .await?;
    let (before, began) = (bench.meter.read()?, Instant::now());
    let mut position = 0_i64;
    loop {
        let mut totals: BTreeMap<String, (i64, i64)> = BTreeMap::new();
        let mut seen = 0;
        {
            let page = sqlx::query(PAGE).bind(position).bind(i64::try_from(BATCH)?);
            let mut rows = page.fetch(&mut connection);
            while let Some(row) = rows.try_next().await? {
                position = sqlx::Row::try_get(&row, 0)?;
                let key: &str = sqlx::Row::try_get(&row, 2)?;
                let OrderEvent::Placed { amount, .. } = Row::of(&row)?.decode()?;
                let (lines, sum) = totals.entry(key.to_owned()).or_default();
                *lines += 1;
                *sum += i64::from(amount);
                seen += 1;
            }
        }
        if seen == 0 {
            break;
        }
        connection.execute("BEGIN").await?;
        let totals = totals
            .iter()
            .map(|(key, sums)| (key.as_str(), *sums))
            .collect();
        upsert(&totals, &mut connection).await?;
        sqlx::query("UPDATE public.checkpoint SET position = $1")
            .bind(position)
            .execute(&mut connection)
            .await?;
        connection.execute("COMMIT").await?;
    }
    let seconds = began.elapsed().as_secs_f64();
    let cpu = bench.meter.read()? - before;
    connection.execute("DROP TABLE public.checkpoint").await?;
    connection.close().await?;
    check(&database, ROWS, events).await?;
    say(bench, "raw: table", events, seconds, cpu);
    Ok(vec![(key("table"), events as f64 / seconds)])
}

pub fn figures(ours: &Series, raw: &Series) -> Vec<Figure> {
    let figure = |(key, value): (&Key, f64)| {
        let figure = Figure::new(key, value, raw.median(key));
        match key.text("into") {
            "table" => figure.target(Target::AtLeast(200_000.0)),
            _ => figure.target(Target::AtLeast(80_000.0)),
        }
    };
    ours.medians().map(figure).collect()
}
