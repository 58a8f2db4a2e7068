//! Reading the log from one end to the other, raw and decoded, beside one SELECT.

use std::hint::black_box;

use backstory::{
    BoxError, EventFilter, EventQuery, EventStore, EventStoreExt, Position, postgres::PostgresStore,
};
use futures::TryStreamExt;
use sqlx::{
    Connection, PgConnection, Row as _,
    postgres::PgRow,
    types::chrono::{DateTime, Utc},
};
use uuid::Uuid;

use crate::{
    bench::{Bench, Ground},
    cluster::Database,
    domain::OrderEvent,
    load::Caller,
    report::{EVENTS, Figure, Key, Sample, Series, Target},
};

const CASE: &str = "read";

/// All columns of an event, as one decodes them by hand.
pub struct Row<'a> {
    payload: &'a str,
}

impl<'a> Row<'a> {
    /// Decodes the columns of a row.
    pub fn of(row: &'a PgRow) -> Result<Self, sqlx::Error> {
        black_box((
            row.try_get::<i64, _>(0)?,
            row.try_get::<&str, _>(1)?,
            row.try_get::<String, _>(2)?,
            row.try_get::<i64, _>(3)?,
            row.try_get::<Uuid, _>(4)?,
            row.try_get::<&str, _>(5)?,
            row.try_get::<i32, _>(6)?,
            row.try_get::<&str, _>(8)?,
            row.try_get::<Vec<String>, _>(9)?,
            row.try_get::<DateTime<Utc>, _>(10)?,
            row.try_get::<Option<DateTime<Utc>>, _>(11)?,
        ));
        Ok(Self {
            payload: row.try_get(7)?,
        })
    }

    /// Decodes the payload.
    pub fn decode(&self) -> Result<OrderEvent, serde_json::Error> {
        #[derive(serde::Deserialize)]
        struct Placed {
            customer: String,
            article: String,
            amount: u32,
            price: f64,
            note: String,
        }
        let placed: Placed = serde_json::from_str(self.payload)?;
        let Placed {
            customer,
            article,
            amount,
            price,
            note,
        } = placed;
        Ok(OrderEvent::Placed {
            customer,
            article,
            amount,
            price,
            note,
        })
    }
}

fn form(decoded: bool) -> &'static str {
    if decoded { "decoded" } else { "raw" }
}

fn key(decoded: bool) -> Key {
    Key::new(CASE, EVENTS).with("form", form(decoded))
}

async fn database(bench: &Bench, ground: Ground) -> Result<Database, BoxError> {
    match ground {
        Ground::Empty => bench.million().await,
        Ground::Large => bench.enter(Ground::Large).await,
    }
}

fn check(read: u64, expected: u64) -> Result<u64, BoxError> {
    if read == expected {
        return Ok(read);
    }
    Err(format!("{read} events were read, and {expected} are there").into())
}

/// Reads page by page, from a position to the end.
struct Reader {
    store: PostgresStore,
    start: Position,
    wanted: u64,
    decoded: bool,
}

impl Caller for Reader {
    async fn call(&mut self) -> Result<u64, BoxError> {
        let mut next = Some(EventQuery::new(EventFilter::all()).after(self.start));
        let mut read = 0;
        while let Some(query) = next {
            let page = self.store.read(&query).await?;
            for event in &page.events {
                read += 1;
                if self.decoded {
                    black_box(event.decode::<OrderEvent>()?);
                } else {
                    black_box(event);
                }
            }
            next = page.next;
        }
        check(read, self.wanted)
    }
}

/// The newest million, which on the small ground is all.
pub async fn ours(bench: &Bench, ground: Ground) -> Result<Vec<Sample>, BoxError> {
    let database = database(bench, ground).await?;
    let store = bench.store(&database).await?;
    let wanted = bench.million_events();
    let head = store.head().await?.position.get();
    let start = Position::new(head - i64::try_from(wanted)?);
    let mut all = Vec::new();
    for decoded in [false, true] {
        let store = store.clone();
        let run = bench
            .drive(vec![Reader {
                store,
                start,
                wanted,
                decoded,
            }])
            .await?;
        bench.say_cpu(&format!("ours: {}", form(decoded)), &run);
        all.push((key(decoded), run.rate()));
    }
    store.close().await;
    Ok(all)
}

const SELECT: &str = "SELECT position, category, key, version, id, name, schema_version, \
    payload::text, metadata::text, tags, recorded_at, erased_at FROM backstory.event \
    ORDER BY position";

/// One statement whose rows stream in: no pages, and a connection held all the time.
struct Scanner {
    connection: PgConnection,
    wanted: u64,
    decoded: bool,
}

impl Caller for Scanner {
    async fn call(&mut self) -> Result<u64, BoxError> {
        let mut read = 0;
        let mut rows = sqlx::query(SELECT).fetch(&mut self.connection);
        while let Some(row) = rows.try_next().await? {
            read += 1;
            let row = Row::of(&row)?;
            if self.decoded {
                black_box(row.decode()?);
            }
        }
        check(read, self.wanted)
    }
}

pub async fn raw(bench: &Bench) -> Result<Vec<Sample>, BoxError> {
    let database = bench.million().await?;
    let wanted = bench.million_events();
    let mut all = Vec::new();
    for decoded in [false, true] {
        let connection = PgConnection::connect(&database.url).await?;
        let run = bench
            .drive(vec![Scanner {
                connection,
                wanted,
                decoded,
            }])
            .await?;
        bench.say_cpu(&format!("raw: {}", form(decoded)), &run);
        all.push((key(decoded), run.rate()));
    }
    Ok(all)
}

pub fn figures(ours: &Series, raw: &Series) -> Vec<Figure> {
    let figure = |(key, value): (&Key, f64)| {
        let figure = Figure::new(key, value, raw.median(key)).target(Target::RatioAtLeast(0.8));
        match key.text("form") {
            "decoded" => figure.target(Target::AtLeast(300_000.0)),
            _ => figure,
        }
    };
    ours.medians().map(figure).collect()
}
