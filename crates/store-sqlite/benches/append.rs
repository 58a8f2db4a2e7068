//! Appends per second at 1 and 32 callers, beside what SQLite itself does with the same rows:
//! hand-written INSERTs of as many rows per transaction into a table with the same indexes.
//! `cargo bench -p backstory-store-sqlite`; `BACKSTORY_BENCH_SECONDS` per round, 3 by default.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a benchmark reports and stops at the first error"
)]

use std::time::{Duration, Instant};

use backstory_event::{Append, EventStore, ExpectedVersion, NewEvent, Payload, StreamId};
use backstory_store_sqlite::SqliteStore;
use sqlx::{
    AssertSqlSafe, ConnectOptions, Connection, SqliteConnection,
    sqlite::{SqliteConnectOptions, SqliteJournalMode, SqliteSynchronous},
};
use tempfile::TempDir;
use uuid::Uuid;

fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .unwrap();
    let seconds = std::env::var("BACKSTORY_BENCH_SECONDS")
        .map_or(3.0, |seconds| seconds.parse::<f64>().unwrap());
    let round = Duration::from_secs_f64(seconds);
    println!(
        "synchronous = FULL, 1 event of {} bytes per append",
        payload().len()
    );
    println!(
        "{:<42}{:>12}{:>12}{:>12}",
        "", "events/s", "p50 ms", "p99 ms"
    );
    for callers in [1, 32] {
        let raw = runtime.block_on(raw(callers, round));
        report(&format!("raw INSERT, {callers} rows per transaction"), raw);
        let store = runtime.block_on(store(callers, round));
        report(&format!("store, {callers} callers"), store);
    }
}

fn report(what: &str, mut run: Run) {
    run.waits.sort_unstable();
    let at = |part: usize| {
        let wait = run.waits[(run.waits.len() * part / 100).min(run.waits.len() - 1)];
        wait.as_secs_f64() * 1_000.0
    };
    let rate = f64::from(run.events) / run.took.as_secs_f64();
    println!("{what:<42}{rate:>12.0}{:>12.2}{:>12.2}", at(50), at(99));
}

struct Run {
    events: u32,
    took: Duration,
    waits: Vec<Duration>,
}

fn payload() -> String {
    let note = "x".repeat(140);
    format!(
        r#"{{"title":"buy milk","list":"errands","due":"2030-01-01","done":false,"note":"{note}"}}"#
    )
}

async fn store(callers: u32, round: Duration) -> Run {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("bench.db");
    let store = SqliteStore::connect(path.to_str().unwrap()).await.unwrap();
    let payload = Payload::parse(&payload()).unwrap();
    let begin = Instant::now();
    let tasks: Vec<_> = (0..callers)
        .map(|_| {
            let (store, payload) = (store.clone(), payload.clone());
            tokio::spawn(async move {
                let mut waits = Vec::new();
                while begin.elapsed() < round {
                    let stream = StreamId::new("todo", Uuid::now_v7()).unwrap();
                    let event = NewEvent::raw("todo.added", payload.clone());
                    let append = Append::to(stream, ExpectedVersion::NoStream, [event]);
                    let one = Instant::now();
                    store.append(append).await.unwrap();
                    waits.push(one.elapsed());
                }
                waits
            })
        })
        .collect();
    let mut waits = Vec::new();
    for task in tasks {
        waits.extend(task.await.unwrap());
    }
    let took = begin.elapsed();
    store.close().await;
    let events = u32::try_from(waits.len()).unwrap();
    Run {
        events,
        took,
        waits,
    }
}

async fn raw(rows: u32, round: Duration) -> Run {
    let directory = TempDir::new().unwrap();
    let mut connection = SqliteConnectOptions::new()
        .filename(directory.path().join("raw.db"))
        .create_if_missing(true)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Full)
        .disable_statement_logging()
        .connect()
        .await
        .unwrap();
    sqlx::raw_sql(
        "CREATE TABLE event (
            position INTEGER PRIMARY KEY, category TEXT NOT NULL, key TEXT NOT NULL,
            version INTEGER NOT NULL, id BLOB NOT NULL, name TEXT NOT NULL,
            schema_version INTEGER NOT NULL, recorded_at INTEGER NOT NULL, erased_at INTEGER,
            tags TEXT NOT NULL, metadata TEXT NOT NULL, payload TEXT NOT NULL
        ) STRICT;
        CREATE UNIQUE INDEX event_stream ON event (category, key, version);
        CREATE UNIQUE INDEX event_id ON event (id);
        CREATE INDEX event_name ON event (name);",
    )
    .execute(&mut connection)
    .await
    .unwrap();
    let values = vec!["(?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"; rows as usize].join(", ");
    let insert = format!("INSERT INTO event VALUES {values}");
    let payload = payload();
    let begin = Instant::now();
    let (mut position, mut waits) = (0_i64, Vec::new());
    while begin.elapsed() < round {
        let one = Instant::now();
        insert_rows(&mut connection, &insert, rows, &mut position, &payload).await;
        waits.push(one.elapsed());
    }
    let took = begin.elapsed();
    connection.close().await.unwrap();
    let events = u32::try_from(position).unwrap();
    Run {
        events,
        took,
        waits,
    }
}

async fn insert_rows(
    connection: &mut SqliteConnection,
    insert: &str,
    rows: u32,
    position: &mut i64,
    payload: &str,
) {
    let mut transaction = connection.begin_with("BEGIN IMMEDIATE").await.unwrap();
    let mut query = sqlx::query(AssertSqlSafe(insert));
    for _ in 0..rows {
        *position += 1;
        query = query
            .bind(*position)
            .bind("todo")
            .bind(Uuid::now_v7().to_string())
            .bind(1_i64)
            .bind(Uuid::now_v7())
            .bind("todo.added")
            .bind(1_i64)
            .bind(1_700_000_000_000_000_i64)
            .bind(None::<i64>)
            .bind("[]")
            .bind("{}")
            .bind(payload);
    }
    query.execute(&mut *transaction).await.unwrap();
    transaction.commit().await.unwrap();
}
