//! Kills, lost answers and frozen clients: each caller learns the outcome.

use std::{
    io::Read as _,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use backstory_event::{EventFilter, EventStore, EventStoreExt, StoreErrorKind};
use backstory_store_postgres::{PostgresOptions, PostgresStore};
use backstory_test_postgres::{TestCluster, TestPooler};
use futures::StreamExt;
use sqlx::Connection;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

use crate::kit::{
    LOCK_WAITERS, TAKE_LOCK, assert_stored_once, eventually, fresh, log, looked, one, raw, run,
    scalar, stream, until_count, within,
};
use crate::pooler::pooled;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_append_survives_kills_of_the_server_exactly_once() {
    let cluster = TestCluster::start().await;
    let database = cluster.create_database().await;
    let store = PostgresStore::connect(database.url()).await.unwrap();
    survives(&store, 2, async |_| {
        cluster.kill9().await;
        cluster.restart().await;
    })
    .await;
}

/// Each append of eight callers is stored once, whatever happens so many times meanwhile.
pub(crate) async fn survives(store: &PostgresStore, times: usize, fault: impl AsyncFn(usize)) {
    let done = Arc::new(AtomicUsize::new(0));
    let stop = Arc::new(AtomicBool::new(false));
    let writers: Vec<_> = (0..8)
        .map(|writer| {
            let (store, done, stop) = (store.clone(), done.clone(), stop.clone());
            tokio::spawn(async move {
                let mut receipts = Vec::new();
                while !stop.load(Ordering::Relaxed) {
                    let append =
                        one(&stream("todo", writer)).with_deadline(Duration::from_secs(60));
                    let receipt = store.append(append.clone()).await.unwrap();
                    receipts.push((append, receipt));
                    done.fetch_add(1, Ordering::Relaxed);
                }
                receipts
            })
        })
        .collect();
    for time in 0..times {
        let before = done.load(Ordering::Relaxed);
        eventually(async || done.load(Ordering::Relaxed) > before + 100).await;
        fault(time).await;
    }
    let before = done.load(Ordering::Relaxed);
    eventually(async || done.load(Ordering::Relaxed) > before + 100).await;
    stop.store(true, Ordering::Relaxed);
    let mut receipts = Vec::new();
    for writer in writers {
        receipts.extend(within(writer).await.unwrap());
    }
    assert_stored_once(store, &receipts).await;
    // All outcomes are known, so nothing else is there either.
    assert_eq!(log(store).await.len(), receipts.len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_subscription_goes_on_after_a_restart_without_gap() {
    let cluster = TestCluster::start().await;
    let database = cluster.create_database().await;
    let store = PostgresStore::connect(database.url()).await.unwrap();
    let reader = PostgresStore::connect(database.url()).await.unwrap();
    let seen = Arc::new(AtomicUsize::new(0));
    let subscriber = tokio::spawn({
        let seen = seen.clone();
        async move {
            let start = backstory_event::Checkpoint::START;
            let subscription = reader.subscribe(start, EventFilter::all());
            let mut events = std::pin::pin!(subscription.into_stream());
            for expected in 1..=40 {
                let event = events.next().await.unwrap().unwrap();
                assert_eq!(event.position().get(), expected);
                seen.fetch_add(1, Ordering::Relaxed);
            }
        }
    });
    let todo = stream("todo", 1);
    for round in 0..4 {
        for _ in 0..10 {
            let append = one(&todo).with_deadline(Duration::from_secs(60));
            store.append(append).await.unwrap();
        }
        if round < 3 {
            eventually(async || seen.load(Ordering::Relaxed) >= (round + 1) * 10).await;
            cluster.restart().await;
        }
    }
    within(subscriber).await.unwrap();
}

/// Passes bytes between clients and the server, until while it is armed the message comes along
/// that commits: COMMIT itself, or the call that stores a batch at once.
pub(crate) struct Proxy {
    pub(crate) url: String,
    armed: Arc<AtomicUsize>,
}

/// The server gets the message, the client no answer.
pub(crate) const LOSE_ANSWER: usize = 1;
/// The server does not get the message and does not notice that the client is gone.
pub(crate) const LOSE_COMMIT: usize = 2;

impl Proxy {
    /// The next such message meets this fault.
    pub(crate) fn arm(&self, mode: usize) {
        self.armed.store(mode, Ordering::SeqCst);
    }

    /// True until the fault has happened.
    pub(crate) fn is_armed(&self) -> bool {
        self.armed.load(Ordering::SeqCst) != 0
    }

    pub(crate) async fn start(url: &str, message: &'static [u8]) -> Self {
        let (before, rest) = url.split_once("127.0.0.1:").unwrap();
        let (port, after) = rest.split_once('/').unwrap();
        let server: u16 = port.parse().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let own = listener.local_addr().unwrap().port();
        let armed = Arc::new(AtomicUsize::new(0));
        tokio::spawn({
            let armed = armed.clone();
            async move {
                while let Ok((client, _)) = listener.accept().await {
                    let server = TcpStream::connect(("127.0.0.1", server)).await.unwrap();
                    tokio::spawn(Self::pass(client, server, armed.clone(), message));
                }
            }
        });
        Self {
            url: format!("{before}127.0.0.1:{own}/{after}"),
            armed,
        }
    }

    async fn pass(
        client: TcpStream,
        server: TcpStream,
        armed: Arc<AtomicUsize>,
        message: &'static [u8],
    ) {
        let (mut client_reads, mut client_writes) = client.into_split();
        let (mut server_reads, mut server_writes) = server.into_split();
        let answers = async move {
            let _ = tokio::io::copy(&mut server_reads, &mut client_writes).await;
        };
        let requests = async move {
            let mut buffer = vec![0; 64 << 10];
            loop {
                let Ok(length @ 1..) = client_reads.read(&mut buffer).await else {
                    return None;
                };
                let bytes = &buffer[..length];
                let mode = if bytes.windows(message.len()).any(|part| part == message) {
                    armed.swap(0, Ordering::SeqCst)
                } else {
                    0
                };
                if mode != LOSE_COMMIT && server_writes.write_all(bytes).await.is_err() {
                    return None;
                }
                if mode != 0 {
                    return Some((mode, server_writes));
                }
            }
        };
        tokio::select! {
            biased;
            lost = requests => {
                // The server keeps its side of the connection.
                if let Some((LOSE_COMMIT, server_writes)) = lost {
                    std::mem::forget(server_writes);
                }
            }
            () = answers => {}
        }
    }
}

/// A batch that needs a look before it can be stored ends with COMMIT, others with one call.
async fn a_lost_commit(mode: usize, look: bool) {
    let cluster = TestCluster::start().await;
    let database = cluster.create_database().await;
    let message: &[u8] = if look { b"COMMIT\0" } else { b"todo.added" };
    let proxy = Proxy::start(database.url(), message).await;
    lose(&proxy, mode, look, PostgresOptions::default()).await;
}

async fn a_lost_commit_behind_a_pooler(mode: usize) {
    let cluster = TestCluster::start().await;
    let database = cluster.create_database().await;
    let pooler = TestPooler::start(&cluster).await;
    let proxy = Proxy::start(&pooler.url(database.url()), b"COMMIT\0").await;
    let options = pooled();
    lose(&proxy, mode, true, options).await;
}

async fn lose(proxy: &Proxy, mode: usize, look: bool, options: PostgresOptions) {
    // Longer than the test: nobody but us ends the old backend.
    let options = options.with_append_idle_timeout(Duration::from_secs(300));
    let store = PostgresStore::connect_with(&proxy.url, options)
        .await
        .unwrap();
    let todo = stream("todo", 1);
    let mut receipts = Vec::new();
    for _ in 0..3 {
        proxy.arm(mode);
        let append = match look {
            true => looked(&todo),
            false => one(&todo),
        };
        let receipt = within(store.append(append.clone())).await.unwrap();
        assert!(!proxy.is_armed(), "the fault happened");
        assert_eq!(within(store.append(append.clone())).await.unwrap(), receipt);
        receipts.push((append, receipt));
    }
    assert_eq!(store.stats().writer.resent, 3);
    assert_stored_once(&store, &receipts).await;
    assert_eq!(log(&store).await.len(), 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_answer_to_commit_is_asked_for_again() {
    a_lost_commit(LOSE_ANSWER, true).await;
    a_lost_commit(LOSE_ANSWER, false).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backend_that_lost_its_client_before_commit_is_ended() {
    a_lost_commit(LOSE_COMMIT, true).await;
    a_lost_commit(LOSE_COMMIT, false).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_that_is_lost_before_a_pooler_is_asked_for_again() {
    a_lost_commit_behind_a_pooler(LOSE_ANSWER).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transaction_behind_a_pooler_that_lost_its_client_before_commit_is_ended() {
    a_lost_commit_behind_a_pooler(LOSE_COMMIT).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_append_survives_kills_of_the_pooler_and_of_the_server_behind_it_exactly_once() {
    let cluster = TestCluster::start().await;
    let database = cluster.create_database().await;
    let pooler = TestPooler::start(&cluster).await;
    let options = pooled();
    let store = PostgresStore::connect_with(&pooler.url(database.url()), options)
        .await
        .unwrap();
    survives(&store, 6, async |time| match time % 3 {
        0 => pooler.restart().await,
        1 => {
            pooler.kill9().await;
            pooler.restart().await;
        }
        _ => {
            cluster.kill9().await;
            cluster.restart().await;
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_writer_whose_backend_is_terminated_while_it_waits_sends_again() {
    let (database, store) = fresh().await;
    let mut other = raw(database.url()).await;
    let mut watch = raw(database.url()).await;
    run(&mut other, "BEGIN").await;
    run(&mut other, TAKE_LOCK).await;
    let append = one(&stream("todo", 1));
    let call = tokio::spawn({
        let (store, append) = (store.clone(), append.clone());
        async move { store.append(append).await }
    });
    until_count(&mut watch, LOCK_WAITERS, 1).await;
    run(
        &mut watch,
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
         WHERE datname = current_database() AND wait_event = 'advisory'",
    )
    .await;
    run(&mut other, "COMMIT").await;
    let receipt = within(call).await.unwrap().unwrap();
    assert_stored_once(&store, &[(append, receipt)]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_dies_while_it_waits_stores_nothing_later() {
    let (database, store) = fresh().await;
    let mut other = raw(database.url()).await;
    let mut watch = raw(database.url()).await;
    run(&mut other, "BEGIN").await;
    run(&mut other, TAKE_LOCK).await;
    let append = one(&stream("todo", 1));
    // A process of its own, so that it can be killed.
    let mut client = std::process::Command::new(own_program())
        .args(["--exact", "crash::client", "--nocapture"])
        .env("CRASH_CLIENT_URL", database.url())
        .env("CRASH_CLIENT_EVENT", append.event_ids()[0].to_string())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    until_count(&mut watch, LOCK_WAITERS, 1).await;
    client.kill().unwrap();
    client.wait().unwrap();
    let mut output = String::new();
    client
        .stdout
        .take()
        .unwrap()
        .read_to_string(&mut output)
        .unwrap();
    // The server notices although the backend waits for a lock.
    until_count(&mut watch, LOCK_WAITERS, 0).await;
    run(&mut other, "COMMIT").await;
    // Whoever has the lock next sees that nothing was stored, and sends it again.
    store.append(one(&stream("todo", 2))).await.unwrap();
    assert_eq!(log(&store).await.len(), 1);
    let receipt = store.append(append.clone()).await.unwrap();
    assert_eq!(store.append(append).await.unwrap(), receipt);
    assert_eq!(log(&store).await.len(), 2);
}

/// This test program, also when a build has replaced its file meanwhile.
pub(crate) fn own_program() -> std::path::PathBuf {
    let linux = std::path::PathBuf::from("/proc/self/exe");
    if linux.exists() {
        linux
    } else {
        std::env::current_exe().unwrap()
    }
}

/// The process that the test above kills; without its environment it has nothing to do.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn client() {
    if let Ok(url) = std::env::var("CRASH_CLIENT_URL") {
        let id = std::env::var("CRASH_CLIENT_EVENT")
            .unwrap()
            .parse()
            .unwrap();
        let store = PostgresStore::connect(&url).await.unwrap();
        let mut append = one(&stream("todo", 1));
        append.parts[0].events[0].id = id;
        let outcome = store
            .append(append.with_deadline(Duration::from_secs(300)))
            .await;
        panic!("it should have been killed: {outcome:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_holder_that_freezes_in_append_in_is_named_and_ended() {
    let (database, store) = fresh().await;
    let named = format!("{}?application_name=frozen", database.url());
    let options = PostgresOptions::default().with_append_idle_timeout(Duration::from_secs(3));
    let other = PostgresStore::connect_with(&named, options).await.unwrap();
    let mut transaction = raw(&named).await;
    run(&mut transaction, "BEGIN").await;
    let pid: i32 = scalar(&mut transaction, "SELECT pg_backend_pid()").await;
    let frozen = one(&stream("todo", 1));
    let pending = other.append_in(&mut transaction, frozen).await.unwrap();

    let began = Instant::now();
    let hasty = one(&stream("todo", 2)).with_deadline(Duration::from_secs(1));
    let error = store.append(hasty).await.unwrap_err();
    assert!(
        matches!(error.kind(), StoreErrorKind::Unavailable { .. }),
        "{error:?}"
    );
    assert!(error.to_string().contains(&pid.to_string()), "{error}");
    assert!(error.to_string().contains("frozen"), "{error}");
    // The server ends the frozen client; whoever waits goes on.
    store.append(one(&stream("todo", 3))).await.unwrap();
    assert!(
        began.elapsed() < Duration::from_secs(7),
        "{:?}",
        began.elapsed()
    );

    let error = pending.committed(&store).await.unwrap_err();
    assert!(
        matches!(error.kind(), StoreErrorKind::NotStored { .. }),
        "{error:?}"
    );
    let keys: Vec<_> = log(&store)
        .await
        .iter()
        .map(|event| event.stream().key().to_owned())
        .collect();
    assert_eq!(keys, ["3"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_phase_commit_is_refused_and_a_foreign_one_is_named() {
    let cluster = TestCluster::start_with(&[("max_prepared_transactions", "4")]).await;
    let database = cluster.create_database().await;
    let store = PostgresStore::connect(database.url()).await.unwrap();
    let mut other = raw(database.url()).await;

    run(&mut other, "BEGIN").await;
    let _pending = store
        .append_in(&mut other, one(&stream("todo", 1)))
        .await
        .unwrap();
    let code = crate::kit::refused(&mut other, "PREPARE TRANSACTION 'mine'").await;
    assert_eq!(code, "0A000");
    // A repeated append writes nothing; it must not be prepared either.
    let stored = one(&stream("todo", 1));
    store.append(stored.clone()).await.unwrap();
    run(&mut other, "BEGIN").await;
    let _pending = store.append_in(&mut other, stored).await.unwrap();
    let code = crate::kit::refused(&mut other, "PREPARE TRANSACTION 'mine'").await;
    assert_eq!(code, "0A000");

    run(&mut other, "BEGIN").await;
    run(&mut other, TAKE_LOCK).await;
    run(&mut other, "PREPARE TRANSACTION 'left behind'").await;
    let hasty = one(&stream("todo", 2)).with_deadline(Duration::from_secs(1));
    let error = store.append(hasty).await.unwrap_err();
    assert!(error.to_string().contains("left behind"), "{error}");
    run(&mut other, "ROLLBACK PREPARED 'left behind'").await;
    store.append(one(&stream("todo", 3))).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn four_processes_append_densely_and_a_live_reader_skips_nothing() {
    const EACH: usize = 150;
    let (database, reader) = fresh().await;
    // A writing transaction that stays open for the whole run.
    let mut idler = raw(database.url()).await;
    run(
        &mut idler,
        "CREATE TABLE aside (n int); BEGIN; INSERT INTO aside VALUES (1)",
    )
    .await;
    let mut writers = Vec::new();
    for store in 0..4 {
        let store_handle = PostgresStore::connect(database.url()).await.unwrap();
        for caller in 0..4 {
            let handle = store_handle.clone();
            let mut connection = raw(database.url()).await;
            writers.push(tokio::spawn(async move {
                let own = stream("todo", format!("{store}-{caller}"));
                for turn in 0..EACH {
                    if turn % 10 == 9 {
                        // Rolled back: it must leave no hole.
                        let mut transaction = connection.begin().await.unwrap();
                        let _pending = handle.append_in(&mut transaction, one(&own)).await.unwrap();
                        transaction.rollback().await.unwrap();
                    }
                    handle.append(one(&own)).await.unwrap();
                }
            }));
        }
    }
    let expected = 16 * EACH;
    let mut seen = 0;
    let live = async {
        let mut connection = raw(database.url()).await;
        while seen < expected {
            let positions: Vec<i64> = sqlx::query_scalar(
                "SELECT position FROM backstory.event WHERE position > $1 ORDER BY position",
            )
            .bind(i64::try_from(seen).unwrap())
            .fetch_all(&mut connection)
            .await
            .unwrap();
            for position in positions {
                seen += 1;
                assert_eq!(position, i64::try_from(seen).unwrap());
            }
        }
    };
    within(live).await;
    for writer in writers {
        within(writer).await.unwrap();
    }
    let events = log(&reader).await;
    assert_eq!(events.len(), expected);
    assert!(events.is_sorted_by_key(|event| event.recorded_at()));
}
