//! Load, decide, append through the command bus, beside the two round trips by hand: a SELECT of the
//! stream's events and an INSERT of the row. On new aggregates, where the bus learns that there is
//! nothing to load or is told so, and on some that are there.

use std::sync::{
    Arc,
    atomic::{AtomicI64, Ordering},
};

use backstory::{
    Append, BoxError, CommandBus, EventStore, ExpectedVersion, NewEvent, StreamId,
    postgres::PostgresStore,
};
use futures::future::try_join_all;
use sqlx::{Connection, PgConnection};
use uuid::Uuid;

use crate::{
    bench::{Bench, Ground},
    domain::{CATEGORY, ExtendOrder, PlaceNewOrder, PlaceOrder, placed},
    load::Caller,
    raw::numbers,
    report::{COMMANDS, Figure, Key, MILLIS, Sample, Series, Target},
};

const CASE: &str = "command";
const CALLERS: [usize; 2] = [1, 32];

/// How many orders are there before, for commands to such: a prime, so that callers who go on by any
/// number of them meet all.
const ORDERS: usize = 20_011;

struct Dispatcher {
    commands: CommandBus,
    number: u32,
    orders: Orders,
    there: Arc<Vec<Uuid>>,
    place: usize,
    step: usize,
}

/// What the commands are for.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Orders {
    New,
    /// The same, and the command says so.
    Creates,
    There,
}

impl Orders {
    const ALL: [Self; 3] = [Self::New, Self::Creates, Self::There];

    fn text(self) -> &'static str {
        match self {
            Self::New => "new",
            Self::Creates => "creates",
            Self::There => "there",
        }
    }
}

impl Caller for Dispatcher {
    async fn call(&mut self) -> Result<u64, BoxError> {
        self.number = self.number.wrapping_add(1);
        let (id, number) = (Uuid::now_v7(), self.number);
        match self.orders {
            Orders::New => self.commands.dispatch(PlaceOrder { id, number }).await?,
            Orders::Creates => {
                let command = PlaceNewOrder { id, number };
                self.commands.dispatch(command).await?
            }
            Orders::There => {
                // Another one each time: nobody is in anybody's way.
                self.place = (self.place + self.step) % self.there.len();
                let id = self.there[self.place];
                let command = ExtendOrder { id, number };
                self.commands.dispatch(command).await?
            }
        };
        Ok(1)
    }
}

fn key(callers: usize, orders: Orders, unit: &'static str) -> Key {
    let key = Key::new(CASE, unit).with("callers", callers);
    match orders {
        Orders::New => key,
        _ => key.with("orders", orders.text()),
    }
}

/// Orders of one line.
async fn place(store: &PostgresStore) -> Result<Vec<Uuid>, BoxError> {
    let ids: Vec<_> = (0..ORDERS).map(|_| Uuid::now_v7()).collect();
    for some in ids.chunks(500) {
        try_join_all(some.iter().map(async |id| {
            let stream = StreamId::new(CATEGORY, id)?;
            let line = NewEvent::of(&placed(0))?;
            let append = Append::to(stream, ExpectedVersion::NoStream, [line]);
            Ok::<_, BoxError>(store.append(append).await?)
        }))
        .await?;
    }
    Ok(ids)
}

pub async fn ours(bench: &Bench, ground: Ground) -> Result<Vec<Sample>, BoxError> {
    let mut all = Vec::new();
    let cases = CALLERS.map(|callers| Orders::ALL.map(|orders| (callers, orders)));
    for (callers, orders) in cases.into_iter().flatten() {
        let database = bench.enter(ground).await?;
        let store = bench.store(&database).await?;
        let there = match orders {
            Orders::There => Arc::new(place(&store).await?),
            _ => Arc::default(),
        };
        let commands = CommandBus::new(&store);
        let dispatcher = |place| Dispatcher {
            commands: commands.clone(),
            number: 0,
            orders,
            there: there.clone(),
            place,
            step: callers,
        };
        let run = bench.drive((0..callers).map(dispatcher).collect()).await?;
        store.close().await;
        bench.leave(ground, database).await?;
        bench.say_cpu(
            &format!("ours: {callers} callers, {} orders", orders.text()),
            &run,
        );
        all.push((key(callers, orders, COMMANDS), run.rate()));
        for (stat, percent) in [("p50", 50.0), ("p99", 99.0)] {
            all.push((
                key(callers, orders, MILLIS).with("stat", stat),
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
        all.push((key(connections, Orders::New, COMMANDS), run.rate()));
        for (stat, percent) in [("p50", 50.0), ("p99", 99.0)] {
            all.push((
                key(connections, Orders::New, MILLIS).with("stat", stat),
                run.percentile(percent),
            ));
        }
    }
    Ok(all)
}

pub fn figures(ours: &Series, raw: &Series) -> Vec<Figure> {
    // Raw looks for events of a new order and finds none, whatever ours is for.
    let one = |unit, stat: &str| {
        raw.best(unit, |raw| {
            raw.number("callers") == 1 && raw.text("stat") == stat
        })
    };
    let figure = |(key, value): (&Key, f64)| {
        let callers = key.number("callers");
        let beside = match (callers, key.unit) {
            (1, unit) => one(unit, key.text("stat")),
            (_, COMMANDS) => raw.best(COMMANDS, |_| true),
            _ => raw.median(key),
        };
        let figure = Figure::new(key, value, beside);
        match (key.label("orders"), key.unit, callers) {
            (None, COMMANDS, 1) => figure.target(Target::RatioAtLeast(1.0)),
            (None, COMMANDS, _) => figure.target(Target::AtLeast(20_000.0)),
            _ => figure,
        }
    };
    ours.medians().map(figure).collect()
}
