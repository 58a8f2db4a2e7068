//! Appends per second beside the raw limit: the same rows by hand-written inserts, in turns.
//!
//! `cargo bench -p backstory-store-postgres -- [seconds] [rounds]`

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a program that prints figures"
)]

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use backstory_event::{Append, EventStore, ExpectedVersion, NewEvent, Payload, StreamId};
use backstory_store_postgres::PostgresStore;
use backstory_test_postgres::TestCluster;
use sqlx::{Connection, PgConnection, PgPool, postgres::PgPoolOptions};
use uuid::Uuid;

const CALLERS: [usize; 3] = [1, 32, 128];

fn main() {
    let numbers: Vec<u64> = std::env::args()
        .filter_map(|text| text.parse().ok())
        .collect();
    let seconds = Duration::from_secs(numbers.first().copied().unwrap_or(3));
    let rounds = usize::try_from(numbers.get(1).copied().unwrap_or(3)).unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(run(seconds, rounds));
}

async fn run(seconds: Duration, rounds: usize) {
    // Durable, as in production.
    let settings = [
        ("fsync", "on"),
        ("full_page_writes", "on"),
        ("shared_buffers", "512MB"),
    ];
    let cluster = TestCluster::start_with(&settings).await;
    println!(
        "{:>8} {:>12} {:>12} {:>7} {:>10}",
        "callers", "ours/s", "raw/s", "ratio", "p50 ms"
    );
    for callers in CALLERS {
        let (mut ours, mut raw, mut middle) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..rounds {
            let (rate, p50) = store(&cluster, callers, seconds).await;
            ours.push(rate);
            middle.push(p50);
            raw.push(inserts(&cluster, callers, seconds).await);
        }
        let (ours, raw, p50) = (median(ours), median(raw), median(middle));
        println!(
            "{callers:>8} {ours:>12.0} {raw:>12.0} {:>7.2} {p50:>10.2}",
            ours / raw
        );
    }
    let (first, last) = statistics(&cluster).await;
    println!(
        "without statistics, 100,000 events: first tenth {first:.0}/s, last tenth {last:.0}/s, ratio {:.2}",
        last / first
    );
}

fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures[figures.len() / 2]
}

fn payload() -> String {
    let text = "x".repeat(100);
    format!(r#"{{"title":"{text}","list":42,"done":false,"note":"something","rank":7.5}}"#)
}

async fn store(cluster: &TestCluster, callers: usize, seconds: Duration) -> (f64, f64) {
    let database = cluster.create_database().await;
    let store = PostgresStore::connect(database.url()).await.unwrap();
    let payload = Payload::parse(&payload()).unwrap();
    let end = Instant::now() + seconds;
    let tasks: Vec<_> = (0..callers)
        .map(|_| {
            let (store, payload) = (store.clone(), payload.clone());
            tokio::spawn(async move {
                let mut times = Vec::new();
                while Instant::now() < end {
                    let began = Instant::now();
                    let stream = StreamId::new("todo", Uuid::now_v7()).unwrap();
                    let event = NewEvent::raw("todo.added", payload.clone());
                    let append = Append::to(stream, ExpectedVersion::NoStream, [event]);
                    store.append(append).await.unwrap();
                    times.push(began.elapsed().as_secs_f64() * 1_000.0);
                }
                times
            })
        })
        .collect();
    let mut times = Vec::new();
    for task in tasks {
        times.extend(task.await.unwrap());
    }
    let rate = times.len() as f64 / seconds.as_secs_f64();
    store.close().await;
    (rate, median(times))
}

const INSERT: &str = "INSERT INTO backstory.event (position, category, key, version, id, name, schema_version, \
    payload, metadata, tags, recorded_at) \
    SELECT * FROM unnest($1::bigint[], $2::text[], $3::text[], $4::bigint[], $5::uuid[], $6::text[], $7::int[], \
    $8::jsonb[], $9::jsonb[]), (SELECT '{}'::text[], clock_timestamp()) AS rest";

/// One row per transaction into the same table with the same indexes; nothing is checked.
async fn inserts(cluster: &TestCluster, callers: usize, seconds: Duration) -> f64 {
    let database = cluster.create_database().await;
    PostgresStore::connect(database.url())
        .await
        .unwrap()
        .close()
        .await;
    let pool: PgPool = PgPoolOptions::new()
        .max_connections(u32::try_from(callers.min(32)).unwrap())
        .test_before_acquire(false)
        .connect(database.url())
        .await
        .unwrap();
    let payload: serde_json::Value = serde_json::from_str(&payload()).unwrap();
    let count = Arc::new(AtomicUsize::new(0));
    let end = Instant::now() + seconds;
    let tasks: Vec<_> = (0..callers.min(32))
        .map(|_| {
            let (pool, count, payload) = (pool.clone(), count.clone(), payload.clone());
            tokio::spawn(async move {
                let mut connection = pool.acquire().await.unwrap();
                while Instant::now() < end {
                    let number = count.fetch_add(1, Ordering::Relaxed) + 1;
                    sqlx::query(INSERT)
                        .bind(vec![i64::try_from(number).unwrap()])
                        .bind(vec!["todo"])
                        .bind(vec![Uuid::now_v7().to_string()])
                        .bind(vec![1_i64])
                        .bind(vec![Uuid::now_v7()])
                        .bind(vec!["todo.added"])
                        .bind(vec![1_i32])
                        .bind(vec![payload.clone()])
                        .bind(vec![serde_json::json!({})])
                        .execute(&mut *connection)
                        .await
                        .unwrap();
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    pool.close().await;
    count.load(Ordering::Relaxed) as f64 / seconds.as_secs_f64()
}

/// The rates of the first and the last tenth of 100,000 events, while the server knows nothing
/// about the tables.
async fn statistics(cluster: &TestCluster) -> (f64, f64) {
    let database = cluster.create_database().await;
    let store = PostgresStore::connect(database.url()).await.unwrap();
    let mut admin = PgConnection::connect(database.url()).await.unwrap();
    let off = "ALTER TABLE backstory.event SET (autovacuum_enabled = false); \
        ALTER TABLE backstory.stream SET (autovacuum_enabled = false); ANALYZE";
    sqlx::raw_sql(off).execute(&mut admin).await.unwrap();
    let payload = Payload::parse(&payload()).unwrap();
    let mut rates = Vec::new();
    for _ in 0..10 {
        let began = Instant::now();
        let tasks: Vec<_> = (0..100)
            .map(|_| {
                let (store, payload) = (store.clone(), payload.clone());
                tokio::spawn(async move {
                    for _ in 0..100 {
                        let stream = StreamId::new("todo", Uuid::now_v7()).unwrap();
                        let event = NewEvent::raw("todo.added", payload.clone());
                        let append = Append::to(stream, ExpectedVersion::NoStream, [event]);
                        store.append(append).await.unwrap();
                    }
                })
            })
            .collect();
        for task in tasks {
            task.await.unwrap();
        }
        rates.push(10_000.0 / began.elapsed().as_secs_f64());
    }
    store.close().await;
    (rates[0], rates[9])
}
