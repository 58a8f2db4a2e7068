//! Learning of what other processes append.

use std::{
    fs,
    time::{Duration, Instant},
};

use backstory_event::{Checkpoint, EventFilter, EventQuery, EventStore, EventStoreExt, Position};
use backstory_store_postgres::{ListenerState, PostgresOptions, PostgresStore, Wake};
use backstory_test_postgres::TestCluster;
use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
    sync::{mpsc, watch},
    task::JoinSet,
};

use crate::kit::{eventually, fresh, one, raw, run, stream, within};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_foreign_append_wakes_at_once() {
    let (database, store) = fresh().await;
    // Nothing but the notification can wake it in time.
    let options = PostgresOptions::default().with_poll(Duration::from_secs(600));
    let reader = PostgresStore::connect_with(database.url(), options)
        .await
        .unwrap();
    let mut watch = raw(database.url()).await;
    for number in 1..=5 {
        let waiting = tokio::spawn({
            let reader = reader.clone();
            async move { reader.changed(Position::new(number - 1)).await.unwrap() }
        });
        store.append(one(&stream("todo", 1))).await.unwrap();
        assert_eq!(within(waiting).await.unwrap().get(), number);
    }
    // After a loss of its connection it looks by itself for what it missed.
    run(
        &mut watch,
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
         WHERE datname = current_database() AND pid <> pg_backend_pid()",
    )
    .await;
    store.append(one(&stream("todo", 1))).await.unwrap();
    // It may wake them once more for that.
    while within(reader.changed(Position::new(5)))
        .await
        .unwrap()
        .get()
        < 6
    {}
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_listening_it_polls_only_while_somebody_waits() {
    let (database, store) = fresh().await;
    let options = PostgresOptions::default().with_wake(Wake::Off);
    let reader = PostgresStore::connect_with(database.url(), options)
        .await
        .unwrap();
    let waiting = tokio::spawn({
        let reader = reader.clone();
        async move { reader.changed(Position::START).await.unwrap() }
    });
    store.append(one(&stream("todo", 1))).await.unwrap();
    assert_eq!(within(waiting).await.unwrap().get(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_notification_costs_latency_only() {
    let (database, store) = fresh().await;
    let options = PostgresOptions::default().with_poll(Duration::from_millis(50));
    let reader = PostgresStore::connect_with(database.url(), options)
        .await
        .unwrap();
    let mut other = raw(database.url()).await;
    let waiting = tokio::spawn({
        let reader = reader.clone();
        async move { reader.changed(Position::START).await.unwrap() }
    });
    drop(store);
    // An append that nobody announces.
    run(
        &mut other,
        "INSERT INTO backstory.event (position, category, key, version, id, name, schema_version, \
           payload, metadata, tags, recorded_at) \
         VALUES (1, 'todo', '1', 1, gen_random_uuid(), 'todo.added', 1, '{}', '{}', '{}', now())",
    )
    .await;
    assert_eq!(within(waiting).await.unwrap().get(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_false_notification_does_not_last() {
    let (database, store) = fresh().await;
    let options = PostgresOptions::default().with_poll(Duration::from_millis(20));
    let reader = PostgresStore::connect_with(database.url(), options)
        .await
        .unwrap();
    let mut other = raw(database.url()).await;
    store.append(one(&stream("todo", 1))).await.unwrap();
    within(reader.changed(Position::START)).await.unwrap();
    let waiting = tokio::spawn({
        let reader = reader.clone();
        async move { reader.changed(Position::new(1)).await.unwrap() }
    });
    eventually(async || reader.stats().listener.state == ListenerState::Listening).await;
    run(
        &mut other,
        "NOTIFY backstory_backstory, '99'; NOTIFY backstory_backstory, 'nonsense'",
    )
    .await;
    let began = Instant::now();
    let patience = Duration::from_millis(200);
    assert_eq!(within(waiting).await.unwrap().get(), 99);
    // It may be believed for two polls, but not for ever.
    while tokio::time::timeout(patience, reader.changed(Position::new(1)))
        .await
        .is_ok()
    {
        assert!(
            began.elapsed() < Duration::from_secs(20),
            "the false head stays"
        );
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// The CPU time of a thread or process of one thread.
fn cpu(path: &str) -> Duration {
    let schedstat = fs::read_to_string(format!("/proc/{path}/schedstat")).unwrap();
    let nanos = schedstat.split_whitespace().next().unwrap();
    Duration::from_nanos(nanos.parse().unwrap())
}

/// A store at rest, with readers that follow it, on a server of its own and in a thread of its own.
fn an_idle_store_costs_next_to_nothing(wake: Wake) {
    const WINDOW: Duration = Duration::from_secs(10);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let cluster = TestCluster::start_with(&[("log_statement", "all")]).await;
        let database = cluster.create_database().await;
        let options = PostgresOptions::default().with_wake(wake);
        let store = PostgresStore::connect_with(database.url(), options)
            .await
            .unwrap();
        let mut followers = JoinSet::new();
        for _ in 0..20 {
            let mut subscription = store.subscribe(Checkpoint::START, EventFilter::all());
            followers.spawn(async move {
                subscription.next_page().await.unwrap();
                subscription.next_page().await
            });
        }
        store.append(one(&stream("todo", 1))).await.unwrap();
        let mut watch = raw(database.url()).await;
        let pids: Vec<i32> = sqlx::query_scalar(
            "SELECT pid FROM pg_stat_activity WHERE datname = current_database() \
             AND pid <> pg_backend_pid()",
        )
        .fetch_all(&mut watch)
        .await
        .unwrap();
        drop(watch);
        assert!(pids.len() >= 2, "{pids:?}");
        // Until nothing happens any more: polling slows down.
        tokio::time::sleep(Duration::from_secs(3)).await;

        let log = || fs::read_to_string(cluster.directory().join("log")).unwrap();
        let queries = || log().matches(" LOG:  ").count();
        let used = || {
            let backends: Duration = pids.iter().map(|pid| cpu(&pid.to_string())).sum();
            cpu("thread-self") + backends
        };
        let (queries_before, used_before) = (queries(), used());
        tokio::time::sleep(WINDOW).await;
        let (queries, used) = (queries() - queries_before, used() - used_before);
        assert!(
            (5..=11).contains(&queries),
            "{queries} queries in {WINDOW:?}"
        );
        let share = used.as_secs_f64() / WINDOW.as_secs_f64();
        assert!(share <= 0.005, "{:.2} % of a core", share * 100.0);
        assert_eq!(followers.len(), 20);
        assert!(followers.try_join_next().is_none(), "they all wait");
    });
}

#[test]
fn an_idle_store_that_listens_costs_next_to_nothing() {
    an_idle_store_costs_next_to_nothing(Wake::Listen);
}

#[test]
fn an_idle_store_that_polls_costs_next_to_nothing() {
    an_idle_store_costs_next_to_nothing(Wake::Off);
}

/// Passes bytes between clients and a server, until it is told to keep all to itself: the open
/// connections stay open and fall silent, new ones work.
struct Proxy {
    url: String,
    silence: watch::Sender<u32>,
}

impl Proxy {
    async fn start(url: &str) -> Self {
        let (before, rest) = url.split_once("127.0.0.1:").unwrap();
        let (port, after) = rest.split_once('/').unwrap();
        let server: u16 = port.parse().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let own = listener.local_addr().unwrap().port();
        let silence = watch::Sender::new(0);
        tokio::spawn({
            let silence = silence.clone();
            async move {
                while let Ok((mut client, _)) = listener.accept().await {
                    let mut server = TcpStream::connect(("127.0.0.1", server)).await.unwrap();
                    let mut silenced = silence.subscribe();
                    tokio::spawn(async move {
                        tokio::select! {
                            _ = copy_bidirectional(&mut client, &mut server) => {}
                            _ = silenced.changed() => std::future::pending().await,
                        }
                    });
                }
            }
        });
        Self {
            url: format!("{before}127.0.0.1:{own}/{after}"),
            silence,
        }
    }
}

async fn a_silent_network_is_noticed_within_seconds(wake: Wake) {
    let (database, writer) = fresh().await;
    let proxy = Proxy::start(database.url()).await;
    let options = PostgresOptions::default()
        .with_wake(wake)
        .with_poll(Duration::from_millis(200));
    let store = PostgresStore::connect_with(&proxy.url, options)
        .await
        .unwrap();
    let mut reading = JoinSet::new();
    let (sender, mut seen) = mpsc::channel(3);
    for _ in 0..3 {
        let mut subscription = store.subscribe(Checkpoint::START, EventFilter::all());
        let sender = sender.clone();
        reading.spawn(async move {
            loop {
                let page = subscription.next_page().await.unwrap();
                for event in page.events {
                    sender.send(event.position().get()).await.unwrap();
                }
            }
        });
    }
    // Others read when it happens.
    for _ in 0..4 {
        let store = store.clone();
        reading.spawn(async move {
            loop {
                let query = EventQuery::new(EventFilter::all());
                let read = store.read(&query).await;
                // A connection that was just being made falls silent, too.
                assert!(read.is_ok() || read.unwrap_err().is_transient());
            }
        });
    }
    for round in 1..=3 {
        writer.append(one(&stream("todo", 1))).await.unwrap();
        for _ in 0..3 {
            assert_eq!(within(seen.recv()).await, Some(round));
        }
        proxy.silence.send_modify(|count| *count += 1);
    }
    let began = Instant::now();
    writer.append(one(&stream("todo", 1))).await.unwrap();
    for _ in 0..3 {
        assert_eq!(within(seen.recv()).await, Some(4));
    }
    assert!(
        began.elapsed() < Duration::from_secs(12),
        "{:?}",
        began.elapsed()
    );
    assert!(reading.try_join_next().is_none(), "all go on");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_listener_notices_a_silent_network_within_seconds() {
    a_silent_network_is_noticed_within_seconds(Wake::Listen).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn polling_notices_a_silent_network_within_seconds() {
    a_silent_network_is_noticed_within_seconds(Wake::Off).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn own_appends_wake_at_once_and_foreign_ones_are_polled_for_ever_more_seldom() {
    let cluster = TestCluster::start_with(&[("log_statement", "all")]).await;
    let database = cluster.create_database().await;
    let options = PostgresOptions::default()
        .with_wake(Wake::Off)
        .with_poll(Duration::from_secs(600));
    let store = PostgresStore::connect_with(database.url(), options)
        .await
        .unwrap();
    let mut subscription = store.subscribe(Checkpoint::START, EventFilter::all());
    let log = || fs::read_to_string(cluster.directory().join("log")).unwrap();
    let polls = || {
        log()
            .matches("SELECT coalesce(max(e.position), 0) FROM")
            .count()
    };
    let waiting = tokio::spawn(async move {
        let first = subscription.next_page().await.unwrap();
        (first, subscription)
    });
    // 10, 20, 40 … 640 ms
    eventually(async || polls() >= 8).await;
    let before = polls();
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(
        polls() <= before + 1,
        "{} polls in a second",
        polls() - before
    );
    let receipt = store.append(one(&stream("todo", 1))).await.unwrap();
    let (first, mut subscription) = within(waiting).await.unwrap();
    assert_eq!(first.checkpoint, receipt.checkpoint);
    // Each piece of its own news, although it polls once in minutes by now.
    for _ in 0..5 {
        let receipt = store.append(one(&stream("todo", 1))).await.unwrap();
        let page = within(subscription.next_page()).await.unwrap();
        assert_eq!(page.checkpoint, receipt.checkpoint);
    }
}
