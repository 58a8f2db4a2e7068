//! What PgBouncer in transaction mode costs: appends and reads through it and past it, in turns.
//!
//! `cargo run --release -p backstory-store-postgres --example pooler -- [seconds] [rounds]`

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a program that prints figures"
)]

use std::time::{Duration, Instant};

use backstory_event::{
    Append, EventFilter, EventQuery, EventStore, ExpectedVersion, NewEvent, Payload, StreamId,
};
use backstory_store_postgres::{Pooler, PostgresOptions, PostgresStore};
use backstory_test_postgres::{TestCluster, TestPooler};

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() {
    let numbers: Vec<u64> = std::env::args()
        .filter_map(|text| text.parse().ok())
        .collect();
    let time = Duration::from_secs(numbers.first().copied().unwrap_or(3));
    let rounds = numbers.get(1).copied().unwrap_or(3);
    // Durable, as in production.
    let cluster = TestCluster::start_with(&[("fsync", "on"), ("full_page_writes", "on")]).await;
    let pooler = TestPooler::start(&cluster).await;
    let database = cluster.create_database().await;
    let direct = open(database.url(), Pooler::None).await;
    let pooled = open(&pooler.url(database.url()), Pooler::Transaction).await;
    println!(
        "{:<8} {:>7} {:>11} {:>11} {:>6} {:>14} {:>14}",
        "case", "callers", "direct/s", "pooler/s", "ratio", "direct p50 ms", "pooler p50 ms"
    );
    for (case, work) in [("append", Work::Append), ("read", Work::Read)] {
        for callers in [1, 32] {
            let (mut one, mut other) = (Vec::new(), Vec::new());
            for _ in 0..rounds {
                one.push(measure(&direct, work, callers, time).await);
                other.push(measure(&pooled, work, callers, time).await);
            }
            let (one, other) = (median(one), median(other));
            println!(
                "{case:<8} {callers:>7} {:>11.0} {:>11.0} {:>6.2} {:>14.2} {:>14.2}",
                one.0,
                other.0,
                other.0 / one.0,
                one.1,
                other.1
            );
        }
    }
}

#[derive(Clone, Copy)]
enum Work {
    /// One event to a new stream.
    Append,
    /// A page of ten events.
    Read,
}

async fn open(url: &str, pooler: Pooler) -> PostgresStore {
    let options = PostgresOptions::default().with_pooler(pooler);
    PostgresStore::connect_with(url, options).await.unwrap()
}

/// How often a second, and the median of the latencies in milliseconds.
async fn measure(store: &PostgresStore, work: Work, callers: usize, time: Duration) -> (f64, f64) {
    let began = Instant::now();
    let tasks: Vec<_> = (0..callers)
        .map(|_| {
            let store = store.clone();
            tokio::spawn(async move {
                let mut latencies = Vec::new();
                while began.elapsed() < time {
                    let start = Instant::now();
                    run(&store, work).await;
                    latencies.push(start.elapsed().as_secs_f64() * 1e3);
                }
                latencies
            })
        })
        .collect();
    let mut latencies = Vec::new();
    for task in tasks {
        latencies.extend(task.await.unwrap());
    }
    let rate = latencies.len() as f64 / began.elapsed().as_secs_f64();
    latencies.sort_by(f64::total_cmp);
    (rate, latencies[latencies.len() / 2])
}

async fn run(store: &PostgresStore, work: Work) {
    match work {
        Work::Append => {
            let event = NewEvent::raw("todo.added", Payload::parse(r#"{"title":"milk"}"#).unwrap());
            let stream = StreamId::new("todo", event.id).unwrap();
            let append = Append::to(stream, ExpectedVersion::NoStream, [event]);
            store.append(append).await.unwrap();
        }
        Work::Read => {
            let query = EventQuery::new(EventFilter::all()).limit(10);
            store.read(&query).await.unwrap();
        }
    }
}

/// Of the rates, and of the latencies.
fn median(figures: Vec<(f64, f64)>) -> (f64, f64) {
    let (mut rates, mut latencies): (Vec<_>, Vec<_>) = figures.into_iter().unzip();
    rates.sort_by(f64::total_cmp);
    latencies.sort_by(f64::total_cmp);
    (rates[rates.len() / 2], latencies[latencies.len() / 2])
}
