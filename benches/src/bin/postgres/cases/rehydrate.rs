//! Loading one aggregate from its events, beside a SELECT with the same decoding.

use backstory::{
    Aggregate, Append, BoxError, EventStore, ExpectedVersion, NewEvent, Repository,
    postgres::PostgresStore,
};
use sqlx::{Connection, PgConnection};
use uuid::Uuid;

use super::read::Row;
use crate::{
    bench::{Bench, Ground},
    cluster::Database,
    domain::{Order, placed},
    load::Caller,
    report::{EVENTS, Figure, Key, Sample, Series, Target},
};

const CASE: &str = "rehydrate";
const LENGTHS: [u32; 2] = [1_000, 10_000];

async fn prepare(store: &PostgresStore, length: u32) -> Result<Uuid, BoxError> {
    let id = Uuid::now_v7();
    let events: Vec<_> = (0..length)
        .map(|n| NewEvent::of(&placed(n)))
        .collect::<Result<_, _>>()?;
    let append = Append::to(Order::stream(&id)?, ExpectedVersion::NoStream, events);
    store.append(append).await?;
    Ok(id)
}

fn check(order: &Order, length: u32) -> Result<u64, BoxError> {
    let amount: u64 = (0..u64::from(length)).map(|n| n % 7 + 1).sum();
    if (order.lines, order.amount) != (u64::from(length), amount) {
        return Err(format!("an aggregate of {length} events was loaded as {order:?}").into());
    }
    Ok(order.lines)
}

struct Loader {
    orders: Repository<Order>,
    id: Uuid,
    length: u32,
}

impl Caller for Loader {
    async fn call(&mut self) -> Result<u64, BoxError> {
        check(&*self.orders.load(&self.id).await?, self.length)
    }
}

struct Selecter {
    connection: PgConnection,
    id: Uuid,
    length: u32,
}

const SELECT: &str = "SELECT position, category, key, version, id, name, schema_version, \
    payload::text, metadata::text, tags, recorded_at, erased_at FROM backstory.event \
    WHERE category = 'order' AND key = $1 ORDER BY version";

impl Caller for Selecter {
    async fn call(&mut self) -> Result<u64, BoxError> {
        let mut order = Order::default();
        let query = sqlx::query(SELECT).bind(self.id.to_string());
        let rows = query.fetch_all(&mut self.connection).await?;
        for row in &rows {
            order.apply(&Row::of(row)?.decode()?);
        }
        check(&order, self.length)
    }
}

fn key(length: u32) -> Key {
    Key::new(CASE, EVENTS).with("events", length)
}

async fn with_stream(
    bench: &Bench,
    ground: Ground,
    length: u32,
) -> Result<(Database, PostgresStore, Uuid), BoxError> {
    let database = bench.enter(ground).await?;
    let store = bench.store(&database).await?;
    let id = prepare(&store, length).await?;
    Ok((database, store, id))
}

pub async fn ours(bench: &Bench, ground: Ground) -> Result<Vec<Sample>, BoxError> {
    let mut all = Vec::new();
    for length in LENGTHS {
        let (database, store, id) = with_stream(bench, ground, length).await?;
        let orders = Repository::new(&store);
        let run = bench.drive(vec![Loader { orders, id, length }]).await?;
        store.close().await;
        bench.leave(ground, database).await?;
        bench.say_cpu(&format!("ours: load {length} events"), &run);
        all.push((key(length), run.rate()));
    }
    Ok(all)
}

pub async fn raw(bench: &Bench) -> Result<Vec<Sample>, BoxError> {
    let mut all = Vec::new();
    for length in LENGTHS {
        let (database, store, id) = with_stream(bench, Ground::Empty, length).await?;
        let connection = PgConnection::connect(&database.url).await?;
        let run = bench
            .drive(vec![Selecter {
                connection,
                id,
                length,
            }])
            .await?;
        store.close().await;
        bench.leave(Ground::Empty, database).await?;
        bench.say_cpu(&format!("raw: select {length} events"), &run);
        all.push((key(length), run.rate()));
    }
    Ok(all)
}

pub fn figures(ours: &Series, raw: &Series) -> Vec<Figure> {
    let figure =
        |(key, value)| Figure::new(key, value, raw.median(key)).target(Target::RatioAtLeast(0.9));
    ours.medians().map(figure).collect()
}
