//! What projections cost that have nothing to do: 100 in one process use at most three connections
//! and one hundredth of a core, their process and its server processes together.

use std::{
    collections::BTreeMap,
    fs,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use async_trait::async_trait;
use backstory_event::Envelope;
use backstory_projection::{
    self as projection, Control, Documents, Projection, Projector, Schedule,
};
use backstory_store_postgres::PostgresStore;
use backstory_test_postgres::{TestCluster, TestDatabase};
use sqlx::{PgConnection, Row};

use crate::{
    crash::own_program,
    kit::{eventually, raw, within},
    takeover::{Vote, vote},
};

const PROJECTIONS: usize = 100;
const CONNECTIONS: usize = 3;
/// Of one core.
const SHARE: f64 = 0.01;
/// So long that the ticks in which CPU time is told are a twentieth of what is allowed.
const MEASURED: Duration = Duration::from_secs(20);

/// Votes by stream, for one of a hundred readers.
struct Idle<const TENS: u8, const ONES: u8>;

impl<const TENS: u8, const ONES: u8> Idle<TENS, ONES> {
    const BYTES: [u8; 6] = [b'i', b'd', b'l', b'e', b'0' + TENS, b'0' + ONES];
}

#[async_trait]
impl<const TENS: u8, const ONES: u8> Projection<Documents> for Idle<TENS, ONES> {
    type Event = Vote;
    const NAME: &'static str = match str::from_utf8(&Self::BYTES) {
        Ok(name) => name,
        Err(_) => panic!("digits are text"),
    };

    async fn project(&self, batch: &[Envelope<Vote>], docs: &mut Documents) -> projection::Result {
        for vote in batch {
            let count = |count: Option<u64>| Some(count.unwrap_or_default() + 1);
            docs.update(Self::NAME, vote.stream().key(), count).await?;
        }
        Ok(())
    }
}

fn ten<const TENS: u8>(projector: Projector<PostgresStore>) -> Projector<PostgresStore> {
    projector
        .with(Idle::<TENS, 0>, Schedule::continuous())
        .with(Idle::<TENS, 1>, Schedule::continuous())
        .with(Idle::<TENS, 2>, Schedule::continuous())
        .with(Idle::<TENS, 3>, Schedule::continuous())
        .with(Idle::<TENS, 4>, Schedule::continuous())
        .with(Idle::<TENS, 5>, Schedule::continuous())
        .with(Idle::<TENS, 6>, Schedule::continuous())
        .with(Idle::<TENS, 7>, Schedule::continuous())
        .with(Idle::<TENS, 8>, Schedule::continuous())
        .with(Idle::<TENS, 9>, Schedule::continuous())
}

/// The process of the test below; without its environment it has nothing to do.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hundred() {
    let Ok(url) = std::env::var("IDLE_URL") else {
        return;
    };
    let store = PostgresStore::connect(&url).await.unwrap();
    let projector = Projector::new(&store);
    let projector = ten::<4>(ten::<3>(ten::<2>(ten::<1>(ten::<0>(projector)))));
    let projector = ten::<9>(ten::<8>(ten::<7>(ten::<6>(ten::<5>(projector)))));
    let _running = projector.start().await.unwrap();
    // Until it is killed, or its test is gone.
    tokio::time::sleep(Duration::from_secs(120)).await;
}

struct Process(Child);

impl Process {
    fn start(database: &TestDatabase) -> Self {
        let child = Command::new(own_program())
            .args(["--exact", "idle::hundred", "--nocapture"])
            .env("IDLE_URL", database.url())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        Self(child.unwrap())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The server's processes for everybody else in this database.
async fn backends(connection: &mut PgConnection) -> Vec<u32> {
    let rows = sqlx::query(
        "SELECT pid FROM pg_stat_activity \
         WHERE datname = current_database() AND pid <> pg_backend_pid() \
         AND backend_type = 'client backend'",
    )
    .fetch_all(connection)
    .await
    .unwrap();
    let pids = rows.iter().map(|row| row.get::<i32, _>(0).unsigned_abs());
    pids.collect()
}

/// What these processes have used of a core until now; nothing for those that are gone.
fn cpu(processes: impl IntoIterator<Item = u32>) -> BTreeMap<u32, Duration> {
    // Of the kernel, for programs: the same on all machines that Linux runs on today.
    const TICK: Duration = Duration::from_millis(10);
    let used = |process: &u32| {
        let stat = fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
        // The name may hold anything, and ends with the last bracket.
        let fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11).take(2);
        let ticks: u32 = fields.map(|field| field.parse::<u32>().unwrap()).sum();
        Some(TICK * ticks)
    };
    processes
        .into_iter()
        .filter_map(|process| Some((process, used(&process)?)))
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_idle_projections_cost_next_to_nothing() {
    // One whose processes can be looked at.
    let database = TestCluster::shared().await.create_database().await;
    let store = PostgresStore::connect(database.url()).await.unwrap();
    vote(&store, 100).await;
    let process = Process::start(&database);
    eventually(async || {
        let rows = store.list_projections().await.unwrap();
        let there =
            |row: &&projection::ProjectionRow| row.progress.checkpoint.position.get() == 100;
        rows.iter().filter(there).count() == PROJECTIONS
    })
    .await;
    // The rest is the other process's.
    store.close().await;
    let mut admin = raw(database.url()).await;
    // What was needed to catch up is given back.
    within(async {
        while backends(&mut admin).await.len() > CONNECTIONS {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    })
    .await;

    // Other tests disturb it: they only ever make it look more than it is.
    let mut cost = Cost::measure(&mut admin, &process).await;
    if cost.all > SHARE {
        cost = Cost::measure(&mut admin, &process).await;
    }
    assert!(
        cost.connections <= CONNECTIONS,
        "{} connections",
        cost.connections
    );
    assert!(
        cost.all <= SHARE,
        "{:.2} % of a core, {:.2} % of them here and not in the server",
        cost.all * 100.0,
        cost.own * 100.0
    );
}

/// What idle projections cost for a while.
struct Cost {
    connections: usize,
    /// Shares of a core, of all and of those that are not in the server.
    all: f64,
    own: f64,
}

impl Cost {
    async fn measure(admin: &mut PgConnection, process: &Process) -> Self {
        let own = process.0.id();
        let before = cpu(backends(admin).await.into_iter().chain([own]));
        let began = Instant::now();
        let mut connections = 0;
        while began.elapsed() < MEASURED {
            connections = backends(admin).await.len().max(connections);
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
        let after = cpu(backends(admin).await.into_iter().chain([own]));
        let elapsed = began.elapsed();
        let used = |process: &u32| {
            let before = before.get(process).copied().unwrap_or_default();
            (after[process] - before).as_secs_f64() / elapsed.as_secs_f64()
        };
        Self {
            connections,
            all: after.keys().map(used).sum(),
            own: used(&own),
        }
    }
}
