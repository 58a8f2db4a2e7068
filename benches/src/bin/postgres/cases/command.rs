//! Load, decide, append through the command bus, on new aggregates, beside the two round trips by
//! hand: a SELECT of the stream's events and an INSERT of the row.

use std::sync::{
    Arc,
    atomic::{AtomicI64, Ordering},
};

use backstory::{BoxError, CommandBus};
use sqlx::{Connection, PgConnection};
use uuid::Uuid;

use crate::{
    bench::{Bench, Ground},
    domain::{PlaceNewOrder, PlaceOrder, placed},
    load::Caller,
    raw::numbers,
    report::{COMMANDS, Figure, Key, MILLIS, Sample, Series, Target},
};

const CASE: &str = "command";

struct Dispatcher {
    commands: CommandBus,
    number: u32,
    load: Load,
}

/// Whether the order is loaded before it decides.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Load {
    First,
    IfNeeded,
}

impl Caller for Dispatcher {
    async fn call(&mut self) -> Result<u64, BoxError> {
        self.number = self.number.wrapping_add(1);
        let (id, number) = (Uuid::now_v7(), self.number);
        match self.load {
            Load::First => self.commands.dispatch(PlaceOrder { id, number }).await?,
            Load::IfNeeded => {
                let command = PlaceNewOrder { id, number };
                self.commands.dispatch(command).await?
            }
        };
        Ok(1)
    }
}

fn key(callers: usize, unit: &'static str) -> Key {
    Key::new(CASE, unit).with("callers", callers)
}

pub async fn ours(bench: &Bench, ground: Ground) -> Result<Vec<Sample>, BoxError> {
    let mut all = Vec::new();
    let cases = [1, 32].map(|callers| [(callers, Load::First), (callers, Load::IfNeeded)]);
    for (callers, load) in cases.into_iter().flatten() {
        let database = bench.enter(ground).await?;
        let store = bench.store(&database).await?;
        let commands = CommandBus::new(&store);
        let dispatcher = || Dispatcher {
            commands: commands.clone(),
            number: 0,
            load,
        };
        let run = bench
            .drive((0..callers).map(|_| dispatcher()).collect())
            .await?;
        store.close().await;
        bench.leave(ground, database).await?;
        bench.say_cpu(&format!("ours: {callers} callers, {load:?}"), &run);
        if load == Load::IfNeeded {
            all.push((key(callers, COMMANDS).with("load", "if needed"), run.rate()));
            continue;
        }
        all.push((key(callers, COMMANDS), run.rate()));
        for (stat, percent) in [("p50", 50.0), ("p99", 99.0)] {
            all.push((
                key(callers, MILLIS).with("stat", stat),
                run.percentile(percent),
            ));
        }
    }
    Ok(all)
}

/// The events of a stream that is not there; then the row, with metadata as large as the bus's.
struct TwoTrips {
    connection: PgConnection,
    numbers: Arc<AtomicI64>,
    metadata: String,
}

const LOAD: &str = "SELECT position, version, id, name, schema_version, payload::text, metadata::text, \
    tags, recorded_at, erased_at FROM backstory.event \
    WHERE category = 'order' AND key = $1 ORDER BY version";
const STORE: &str = "INSERT INTO backstory.event (position, category, key, version, id, name, \
    schema_version, payload, metadata, tags, recorded_at) \
    VALUES ($1, 'order', $2, 1, $3, 'order.placed', 1, $4::text::jsonb, $5::text::jsonb, '{}', clock_timestamp())";

impl Caller for TwoTrips {
    async fn call(&mut self) -> Result<u64, BoxError> {
        let key = Uuid::now_v7().to_string();
        let found = sqlx::query(LOAD)
            .bind(&key)
            .fetch_all(&mut self.connection)
            .await?;
        if !found.is_empty() {
            return Err(format!("the new stream {key} has events").into());
        }
        let number = self.numbers.fetch_add(1, Ordering::Relaxed) + 1;
        let crate::domain::OrderEvent::Placed {
            customer,
            article,
            amount,
            price,
            note,
        } = placed(u32::try_from(number % 1_000_000)?);
        let payload = serde_json::json!({
            "customer": customer, "article": article, "amount": amount, "price": price, "note": note,
        });
        sqlx::query(STORE)
            .bind(number)
            .bind(key)
            .bind(Uuid::now_v7())
            .bind(payload.to_string())
            .bind(&self.metadata)
            .execute(&mut self.connection)
            .await?;
        Ok(1)
    }
}

pub async fn raw(bench: &Bench) -> Result<Vec<Sample>, BoxError> {
    let id = Uuid::now_v7();
    let metadata = serde_json::json!({ "correlation_id": id, "causation_id": id }).to_string();
    let mut all = Vec::new();
    for connections in [1, 8, 32] {
        let database = bench.enter(Ground::Empty).await?;
        let numbers = numbers(&database.url).await?;
        let mut callers = Vec::new();
        for _ in 0..connections {
            callers.push(TwoTrips {
                connection: PgConnection::connect(&database.url).await?,
                numbers: numbers.clone(),
                metadata: metadata.clone(),
            });
        }
        let run = bench.drive(callers).await?;
        bench.leave(Ground::Empty, database).await?;
        bench.say_cpu(
            &format!("raw: two round trips, {connections} connections"),
            &run,
        );
        all.push((key(connections, COMMANDS), run.rate()));
        for (stat, percent) in [("p50", 50.0), ("p99", 99.0)] {
            all.push((
                key(connections, MILLIS).with("stat", stat),
                run.percentile(percent),
            ));
        }
    }
    Ok(all)
}

pub fn figures(ours: &Series, raw: &Series) -> Vec<Figure> {
    let figure = |(key, value): (&Key, f64)| match (key.number("callers"), key.unit) {
        // Raw has two round trips there, too.
        (callers, COMMANDS) if key.label("load").is_some() => {
            let best = raw.best(COMMANDS, |raw| callers > 1 || raw.number("callers") == 1);
            Figure::new(key, value, best)
        }
        (1, COMMANDS) => Figure::new(key, value, raw.median(key)).target(Target::RatioAtLeast(1.0)),
        (_, COMMANDS) => {
            let best = raw.best(COMMANDS, |_| true);
            Figure::new(key, value, best).target(Target::AtLeast(20_000.0))
        }
        _ => Figure::new(key, value, raw.median(key)),
    };
    ours.medians().map(figure).collect()
}
