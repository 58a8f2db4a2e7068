//! In memory, from JSON bytes: replaying one aggregate, and projecting a log.
//!
//! `cargo run --release --manifest-path benches/Cargo.toml --bin memory`. Payloads have five fields
//! and about 200 bytes. The raw limit of the same run is `serde_json` alone on the same bytes.

use std::{hint::black_box, time::Instant};

use backstory::{
    Aggregate, Append, BoxError, Documents, Envelope, Event, EventStore, ExpectedVersion, NewEvent,
    Projection, Projector, Repository, Schedule, Store, async_trait, projection,
};
use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Event)]
#[event(prefix = "order")]
enum OrderEvent {
    Placed {
        customer: String,
        article: String,
        amount: u32,
        price: f64,
        note: String,
    },
}

fn placed(number: u32) -> OrderEvent {
    OrderEvent::Placed {
        customer: format!("customer-{number:08}-from-a-rather-long-list"),
        article: "an article with a name of usual length".into(),
        amount: number % 7 + 1,
        price: 19.99,
        note: "please leave the parcel at the neighbour's door".into(),
    }
}

#[derive(Debug, Default)]
struct Order {
    amount: u64,
}

impl Aggregate for Order {
    const CATEGORY: &'static str = "order";
    type Id = u64;
    type Event = OrderEvent;

    fn apply(&mut self, event: &OrderEvent) {
        let OrderEvent::Placed { amount, .. } = event;
        self.amount += u64::from(*amount);
    }
}

struct Total;

#[async_trait]
impl Projection<Documents> for Total {
    type Event = OrderEvent;
    const NAME: &'static str = "total";

    async fn project(
        &self,
        batch: &[Envelope<OrderEvent>],
        docs: &mut Documents,
    ) -> projection::Result {
        let mut total: u64 = docs.get("total", "all").await?.unwrap_or(0);
        for envelope in batch {
            let OrderEvent::Placed { amount, .. } = &envelope.event;
            total += u64::from(*amount);
        }
        Ok(docs.put("total", "all", &total).await?)
    }
}

fn rate(what: &str, events: u32, start: Instant) {
    let rate = f64::from(events) / start.elapsed().as_secs_f64();
    println!("{what:<52} {:>9.0} k events/s", rate / 1e3);
}

async fn fill(store: &Store, streams: u64, each: u32) -> Result<(), BoxError> {
    for key in 1..=streams {
        let stream = Order::stream(&key)?;
        let mut left = each;
        while left > 0 {
            let events: Vec<_> = (0..left.min(5_000))
                .map(|n| NewEvent::of(&placed(n)))
                .collect::<Result<_, _>>()?;
            left -= u32::try_from(events.len())?;
            store
                .append(Append::to(stream.clone(), ExpectedVersion::Any, events))
                .await?;
        }
    }
    Ok(())
}

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let json: Vec<String> = (0..10_000)
        .map(|n| Ok(NewEvent::of(&placed(n))?.payload.as_str().to_owned()))
        .collect::<Result<_, BoxError>>()?;
    println!("payload: {} bytes", json[0].len());

    #[derive(Deserialize)]
    #[expect(dead_code, reason = "decoded like the event, then dropped")]
    struct Raw {
        customer: String,
        article: String,
        amount: u32,
        price: f64,
        note: String,
    }
    let start = Instant::now();
    for _ in 0..100 {
        for text in &json {
            black_box(serde_json::from_str::<Raw>(text)?);
        }
    }
    rate("raw limit: serde_json alone, one core", 1_000_000, start);

    let store = Store::connect("memory:").await?;
    fill(&store, 1, 10_000).await?;
    let orders = Repository::<Order>::new(&store);
    let start = Instant::now();
    for _ in 0..100 {
        black_box(orders.load(&1).await?);
    }
    rate("replay of one aggregate of 10,000 events", 1_000_000, start);

    let store = Store::connect("memory:").await?;
    fill(&store, 1_000, 1_000).await?;
    let start = Instant::now();
    let projector = Projector::new(&store)
        .with(Total, Schedule::continuous())
        .start()
        .await?;
    projector.catch_up().await?;
    rate("a projection over 1,000,000 events", 1_000_000, start);
    let total: Option<u64> = store.documents().get("total", "all").await?;
    println!("total: {total:?}");
    projector.shutdown().await?;
    Ok(())
}
