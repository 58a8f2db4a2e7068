//! How fast history is loaded, and what of it is the server's work.
//!
//! `cargo bench -p backstory-store-postgres --bench import -- [events]`

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a program that prints figures"
)]

use std::time::Instant;

use backstory_event::{NewEvent, Payload, StreamId, Tag};
use backstory_store_postgres::PostgresStore;
use backstory_test_postgres::TestCluster;
use sqlx::{Connection, PgConnection};
use uuid::Uuid;

fn main() {
    let events = std::env::args().find_map(|text| text.parse().ok());
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(run(events.unwrap_or(500_000)));
}

async fn run(events: usize) {
    // Durable, as in production.
    let settings = [
        ("fsync", "on"),
        ("full_page_writes", "on"),
        ("shared_buffers", "512MB"),
        ("max_wal_size", "8GB"),
        ("min_wal_size", "4GB"),
    ];
    let cluster = TestCluster::start_with(&settings).await;
    // The first round makes the files of the log; a server that has run for a while uses its old
    // ones again, and has a fifth less to do.
    for (round, tags) in [0, 0, 2].into_iter().enumerate() {
        let database = cluster.create_database().await;
        let store = PostgresStore::connect(database.url()).await.unwrap();
        let mut admin = PgConnection::connect(database.url()).await.unwrap();
        for statement in ["SELECT pg_switch_wal()", "CHECKPOINT"] {
            sqlx::query(statement).execute(&mut admin).await.unwrap();
        }
        let server = cpu_of_children(cluster.pid().unwrap());
        let own = cpu("self");
        let began = Instant::now();
        let imported = store
            .import(futures::stream::iter(history(events, tags)))
            .await
            .unwrap();
        let seconds = began.elapsed().as_secs_f64();
        assert_eq!(imported.events, events as u64);
        let per_event = |ticks: u64| ticks as f64 * 10_000.0 / events as f64;
        println!(
            "{}{tags} tags: {:.0} events/s; CPU per event: client {:.2} us, server {:.2} us",
            if round == 0 { "new server, " } else { "" },
            events as f64 / seconds,
            per_event(cpu("self") - own),
            per_event(cpu_of_children(cluster.pid().unwrap()) - server),
        );
        store.close().await;
    }
}

/// Ten events a stream, some 200 bytes each.
fn history(events: usize, tags: usize) -> impl Iterator<Item = (StreamId, NewEvent)> {
    const NAMES: [&str; 3] = ["todo.added", "todo.renamed", "todo.completed"];
    let text = "x".repeat(110);
    let payload = format!(
        r#"{{"title":"{text}","list":42,"done":false,"note":"something nice","rank":7.5}}"#
    );
    let payload = Payload::parse(&payload).unwrap();
    let mut stream = StreamId::new("todo", Uuid::now_v7()).unwrap();
    (0..events).map(move |number| {
        if number % 10 == 0 {
            stream = StreamId::new("todo", Uuid::now_v7()).unwrap();
        }
        let mut event = NewEvent::raw(NAMES[number % 3], payload.clone());
        event.tags = (0..tags)
            .map(|tag| Tag::pair("list", (number / 10 + tag) % 1_000).unwrap())
            .collect();
        (stream.clone(), event)
    })
}

/// The CPU time of a process so far, in ticks of 10 ms.
fn cpu(pid: &str) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let fields = stat.rsplit(')').next().unwrap_or_default();
    let fields = fields.split_whitespace().skip(11).take(4);
    fields.filter_map(|text| text.parse::<u64>().ok()).sum()
}

/// That of a server: its own, of its sessions and of those that have ended.
fn cpu_of_children(server: u32) -> u64 {
    let children = std::fs::read_to_string(format!("/proc/{server}/task/{server}/children"));
    let children = children.unwrap_or_default();
    cpu(&server.to_string()) + children.split_whitespace().map(cpu).sum::<u64>()
}
