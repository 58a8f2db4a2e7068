//! The throwaway clusters themselves.

#![allow(
    clippy::unwrap_used,
    reason = "helpers of tests are not in a test function"
)]

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use backstory_test_postgres::{TestCluster, TestDatabase, TestPooler};
use sqlx::postgres::PgConnectOptions;
use sqlx::{Connection, PgConnection, Row};

#[tokio::test]
async fn databases_do_not_see_each_other() {
    let (one, two) = tokio::join!(TestDatabase::create(), TestDatabase::create());
    assert_ne!(one.url(), two.url());
    write(one.url(), 1).await;
    write(two.url(), 2).await;
    assert_eq!(read(one.url()).await, [1]);
    assert_eq!(read(two.url()).await, [2]);
}

#[tokio::test]
async fn a_dropped_database_is_gone_even_with_an_open_connection() {
    let cluster = TestCluster::start().await;
    let database = cluster.create_database().await;
    let _open = connect(database.url()).await;
    assert_eq!(databases(&cluster).await, 1);
    drop(database);
    let deadline = deadline();
    while databases(&cluster).await > 0 {
        assert!(Instant::now() < deadline, "the database is still there");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn committed_data_outlives_kill9_and_restart_on_the_same_port() {
    let cluster = TestCluster::start().await;
    let database = cluster.create_database().await;
    write(database.url(), 1).await;
    let mut open = connect(database.url()).await;
    let mut busy = connect(database.url()).await;
    let busy =
        tokio::spawn(async move { sqlx::query("SELECT pg_sleep(600)").execute(&mut busy).await });
    let (first, port) = (cluster.pid(), cluster.port());

    cluster.kill9().await;
    assert!(
        open.ping().await.is_err(),
        "the killed server still answers"
    );
    assert!(
        busy.await.unwrap().is_err(),
        "the killed server has slept on"
    );
    assert!(
        PgConnection::connect(database.url()).await.is_err(),
        "the killed server still listens"
    );
    assert_eq!(cluster.pid(), None);

    cluster.restart().await;
    assert_ne!(cluster.pid(), first);
    assert_eq!(cluster.port(), port);
    assert_eq!(read(database.url()).await, [1]);
}

#[tokio::test]
async fn a_stopped_server_does_not_answer_until_it_is_restarted() {
    let cluster =
        TestCluster::start_with(&[("fsync", "on"), ("application_name", "it's a test")]).await;
    let database = cluster.create_database().await;
    write(database.url(), 1).await;

    cluster.stop().await;
    cluster.stop().await;
    assert!(PgConnection::connect(database.url()).await.is_err());

    cluster.restart().await;
    cluster.restart().await;
    assert_eq!(read(database.url()).await, [1]);
    assert_eq!(show(database.url(), "fsync").await, "on");
    assert_eq!(
        show(database.url(), "application_name").await,
        "it's a test"
    );
}

#[tokio::test]
async fn a_copy_begins_with_the_data_and_goes_its_own_way() {
    let cluster = TestCluster::start_with(&[("application_name", "it's a test")]).await;
    let database = cluster.create_database().await;
    write(database.url(), 1).await;
    cluster.stop().await;

    let copy = cluster.copy().await;
    cluster.restart().await;
    let there = copy.url(database.url().rsplit('/').next().unwrap());
    assert_eq!(show(&there, "application_name").await, "it's a test");
    sqlx::query("INSERT INTO numbers VALUES (2)")
        .execute(&mut connect(&there).await)
        .await
        .unwrap();
    assert_eq!(read(&there).await, [1, 2]);
    assert_eq!(read(database.url()).await, [1]);
}

#[tokio::test]
async fn a_dropped_cluster_leaves_nothing() {
    let cluster = TestCluster::start().await;
    let (pid, directory) = (cluster.pid().unwrap(), cluster.directory().to_owned());
    assert!(is_alive(pid) && directory.exists());
    drop(cluster);
    assert_all_gone(pid, &directory).await;
}

#[tokio::test]
async fn a_killed_process_leaves_nothing() {
    let mut holder = Holder::start();
    write(&holder.url, 1).await;
    let _open = connect(&holder.url).await;
    assert!(is_alive(holder.pid) && holder.directory.exists());
    holder.process.kill().unwrap(); // SIGKILL
    holder.process.wait().unwrap();
    assert_all_gone(holder.pid, &holder.directory).await;
}

#[tokio::test]
async fn a_child_of_a_killed_process_does_not_keep_the_server_alive() {
    let cluster = TestCluster::start().await;
    let (pid, directory) = (cluster.pid().unwrap(), cluster.directory().to_owned());
    let mut child = Command::new("cat").stdin(Stdio::piped()).spawn().unwrap();
    drop(cluster); // closes the pipe in this process, as its end would
    assert_all_gone(pid, &directory).await;
    assert!(
        child.try_wait().unwrap().is_none(),
        "the child has ended before the server"
    );
    child.kill().unwrap();
    child.wait().unwrap();
}

#[tokio::test]
async fn a_pooler_shares_two_connections_and_comes_back_on_its_port() {
    let cluster = TestCluster::start().await;
    let database = cluster.create_database().await;
    let pooler = TestPooler::start(&cluster).await;
    let url = pooler.url(database.url());
    let options = url.parse::<PgConnectOptions>().unwrap();
    let options = options.extra_float_digits(None);
    let mut clients = Vec::new();
    let mut backends = BTreeSet::new();
    for _ in 0..5 {
        clients.push(PgConnection::connect_with(&options).await.unwrap());
    }
    for client in &mut clients {
        backends.insert(backend(client).await);
    }
    assert!(backends.len() <= 2, "{backends:?}");

    pooler.kill9().await;
    assert!(PgConnection::connect_with(&options).await.is_err());
    pooler.restart().await;
    pooler.restart().await;
    let mut client = PgConnection::connect_with(&options).await.unwrap();
    backend(&mut client).await;
    drop(pooler);
    let deadline = deadline();
    while PgConnection::connect_with(&options).await.is_ok() {
        assert!(Instant::now() < deadline, "the pooler is still there");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// The process at the server.
async fn backend(connection: &mut PgConnection) -> i32 {
    let row = sqlx::raw_sql("SELECT pg_backend_pid()").fetch_one(connection);
    row.await.unwrap().get(0)
}

/// Another process with a cluster of its own.
struct Holder {
    process: Child,
    url: String,
    pid: u32,
    directory: PathBuf,
}

impl Holder {
    fn start() -> Self {
        let mut process = Command::new(env!("CARGO_BIN_EXE_throwaway-postgres"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(process.stdout.take().unwrap())
            .lines()
            .map(Result::unwrap);
        Self {
            process,
            url: lines.next().unwrap(),
            pid: lines.next().unwrap().parse().unwrap(),
            directory: lines.next().unwrap().into(),
        }
    }
}

async fn assert_all_gone(pid: u32, directory: &Path) {
    let deadline = deadline();
    while is_alive(pid) || directory.exists() {
        assert!(
            Instant::now() < deadline,
            "server {pid} or {} is still there",
            directory.display()
        );
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

fn is_alive(pid: u32) -> bool {
    let status = Command::new("sh")
        .args(["-c", "kill -0 \"$0\" 2>/dev/null", &pid.to_string()])
        .status();
    status.unwrap().success()
}

fn deadline() -> Instant {
    Instant::now() + Duration::from_secs(30)
}

async fn connect(url: &str) -> PgConnection {
    PgConnection::connect(url).await.unwrap()
}

async fn write(url: &str, number: i32) {
    let mut connection = connect(url).await;
    sqlx::query("CREATE TABLE numbers (number int)")
        .execute(&mut connection)
        .await
        .unwrap();
    sqlx::query("INSERT INTO numbers VALUES ($1)")
        .bind(number)
        .execute(&mut connection)
        .await
        .unwrap();
}

async fn read(url: &str) -> Vec<i32> {
    sqlx::query_scalar("SELECT number FROM numbers")
        .fetch_all(&mut connect(url).await)
        .await
        .unwrap()
}

async fn show(url: &str, setting: &str) -> String {
    let query = sqlx::query_scalar("SELECT current_setting($1)").bind(setting.to_owned());
    query.fetch_one(&mut connect(url).await).await.unwrap()
}

async fn databases(cluster: &TestCluster) -> i64 {
    let query = sqlx::query_scalar(
        "SELECT count(*) FROM pg_database WHERE datname LIKE 'backstory_test_%'",
    );
    query
        .fetch_one(&mut connect(&cluster.url("postgres")).await)
        .await
        .unwrap()
}

#[tokio::test]
async fn a_replica_follows_its_primary_and_takes_no_writes() {
    let primary = TestCluster::start().await;
    let database = primary.create_database().await;
    write(database.url(), 1).await;
    let replica = primary.replica().await;
    let name = database.url().rsplit_once('/').unwrap().1;
    let url = replica.url(name);
    assert_eq!(read(&url).await, [1]);
    let mut on_primary = connect(database.url()).await;
    sqlx::query("INSERT INTO numbers VALUES (2)")
        .execute(&mut on_primary)
        .await
        .unwrap();
    let deadline = deadline();
    while read(&url).await != [1, 2] {
        assert!(Instant::now() < deadline, "the replica does not follow");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let refused = sqlx::query("INSERT INTO numbers VALUES (3)")
        .execute(&mut connect(&url).await)
        .await
        .unwrap_err();
    let code = refused
        .as_database_error()
        .and_then(|error| error.code())
        .map(String::from);
    assert_eq!(code.as_deref(), Some("25006"), "{refused}");
}
