//! Projections in several processes that are killed and frozen.

use std::{
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use async_trait::async_trait;
use backstory_event::{Append, Envelope, Event, EventStoreExt, ExpectedVersion, NewEvent};
use backstory_projection::{
    self as projection, Control, OnFailure, Projection, Projector, ProjectorOptions, RowState,
    Schedule,
};
use backstory_store_postgres::{PostgresOptions, PostgresStore};
use backstory_test_postgres::TestDatabase;
use serde::{Deserialize, Serialize};
use sqlx::PgConnection;

use crate::{
    crash::own_program,
    kit::{raw, run, scalar, stream, within},
};

const LEASE: Duration = Duration::from_secs(1);
const REPLICAS: usize = 3;
pub(crate) const NAME: &str = "tally";
/// Where votes make the tally fail.
pub(crate) const POISON: &str = "poison";

#[derive(Debug, Serialize, Deserialize, Event)]
#[event(prefix = "vote", crate = "backstory_event")]
pub(crate) enum Vote {
    Cast,
}

/// Counts the votes of each stream. A batch that is given twice, or not at all, shows.
pub(crate) struct Tally;

#[async_trait]
impl Projection<PgConnection> for Tally {
    type Event = Vote;
    const NAME: &'static str = NAME;

    fn tables(&self) -> &'static [&'static str] {
        &["tally"]
    }

    fn on_failure(&self) -> OnFailure {
        OnFailure::park().after(1)
    }

    async fn project(
        &self,
        batch: &[Envelope<Vote>],
        connection: &mut PgConnection,
    ) -> projection::Result {
        for vote in batch {
            if vote.stream().key() == POISON {
                return Err("nobody may vote there".into());
            }
            sqlx::query(
                "INSERT INTO tally VALUES ($1, 1) \
                 ON CONFLICT (key) DO UPDATE SET votes = tally.votes + 1",
            )
            .bind(vote.stream().key())
            .execute(&mut *connection)
            .await?;
            let frozen = sqlx::query("DELETE FROM to_freeze WHERE pid = $1")
                .bind(i64::from(std::process::id()))
                .execute(&mut *connection)
                .await?;
            if frozen.rows_affected() > 0 {
                // With the locks of what it has written so far.
                signal(std::process::id(), "STOP");
            }
        }
        Ok(())
    }
}

fn signal(process: u32, name: &str) {
    let sent = Command::new("kill")
        .args([format!("-{name}"), process.to_string()])
        .status();
    assert!(sent.unwrap().success());
}

/// A process of the test below; without its environment it has nothing to do.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replica() {
    let Ok(url) = std::env::var("TAKEOVER_URL") else {
        return;
    };
    let options = PostgresOptions::default().with_projection_idle_timeout(LEASE);
    let store = PostgresStore::connect_with(&url, options).await.unwrap();
    let lease = std::env::var("TAKEOVER_LEASE").unwrap().parse().unwrap();
    let partitions = std::env::var("TAKEOVER_PARTITIONS")
        .unwrap()
        .parse()
        .unwrap();
    let options = ProjectorOptions::default()
        .with_lease(Duration::from_secs(lease))
        .with_process(std::process::id().to_string());
    let projector = Projector::new(&store)
        .with(
            Tally,
            Schedule::continuous().max_batch(7).partitions(partitions),
        )
        .with_options(options);
    let _running = projector.start().await.unwrap();
    // Until it is killed, or its test is gone.
    tokio::time::sleep(Duration::from_secs(120)).await;
}

/// Processes that end with their test.
pub(crate) struct Replicas {
    children: Vec<Child>,
    partitions: u32,
}

impl Replicas {
    pub(crate) fn none() -> Self {
        Self::of_parts(1)
    }

    pub(crate) fn of_parts(partitions: u32) -> Self {
        let children = Vec::new();
        Self {
            children,
            partitions,
        }
    }

    pub(crate) fn processes(&self) -> Vec<u32> {
        self.children.iter().map(Child::id).collect()
    }

    pub(crate) fn start(&mut self, url: &str, lease: Duration) {
        let child = Command::new(own_program())
            .args(["--exact", "takeover::replica", "--nocapture"])
            .env("TAKEOVER_URL", url)
            .env("TAKEOVER_LEASE", lease.as_secs().to_string())
            .env("TAKEOVER_PARTITIONS", self.partitions.to_string())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        self.children.push(child.unwrap());
    }

    pub(crate) fn kill(&mut self, process: u32) {
        let at = self.children.iter().position(|child| child.id() == process);
        let mut child = self.children.remove(at.unwrap());
        child.kill().unwrap();
        child.wait().unwrap();
    }
}

impl Drop for Replicas {
    fn drop(&mut self) {
        for child in &mut self.children {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

pub(crate) async fn leader(store: &PostgresStore) -> Option<u32> {
    let rows = store.list_projections().await.unwrap();
    let row = rows.into_iter().find(|row| row.projection == NAME)?;
    match row.state {
        RowState::Idle => None,
        _ => row.process?.parse().ok(),
    }
}

/// Who leads when it is not this one any more, and has projected all that is in the log now.
pub(crate) async fn next_leader(store: &PostgresStore, before: Option<u32>) -> u32 {
    let head = store.head().await.unwrap().position;
    within(async {
        loop {
            let rows = store.list_projections().await.unwrap();
            let row = rows.iter().find(|row| row.projection == NAME);
            let there = row.is_some_and(|row| row.progress.checkpoint.position >= head);
            match leader(store).await {
                Some(process) if there && Some(process) != before => return process,
                _ => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        }
    })
    .await
}

pub(crate) async fn vote(store: &PostgresStore, votes: usize) {
    for number in 0..votes {
        let vote = NewEvent::of(&Vote::Cast).unwrap();
        let append = Append::to(stream("poll", number % 5), ExpectedVersion::Any, [vote]);
        backstory_event::EventStore::append(store, append)
            .await
            .unwrap();
    }
}

/// Each vote is counted, or left out.
pub(crate) const LOST_OR_REPEATED: &str = "SELECT count(*) FROM \
    (SELECT e.key, count(*) AS votes FROM backstory.event e WHERE e.name = 'vote.cast' \
      AND NOT EXISTS (SELECT FROM backstory.dead_letter d WHERE d.projection = 'tally' AND d.position = e.position) \
      GROUP BY e.key) e \
    FULL JOIN tally t ON t.key = e.key WHERE t.votes IS DISTINCT FROM e.votes";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn processes_that_die_or_freeze_lose_and_repeat_nothing() {
    let database = TestDatabase::create().await;
    let store = PostgresStore::connect(database.url()).await.unwrap();
    let mut admin = raw(database.url()).await;
    run(
        &mut admin,
        "CREATE TABLE tally (key text PRIMARY KEY, votes bigint NOT NULL); CREATE TABLE to_freeze (pid bigint)",
    )
    .await;
    let mut replicas = Replicas::none();
    // On one machine it is seen at once that a process is gone, however long its lease is.
    replicas.start(database.url(), Duration::from_secs(3_600));
    vote(&store, 20).await;
    let first = next_leader(&store, None).await;
    replicas.kill(first);
    for _ in 0..REPLICAS {
        replicas.start(database.url(), LEASE);
    }
    let mut leads = next_leader(&store, Some(first)).await;
    for round in 0..6 {
        let begun = Instant::now();
        let before = leads;
        if round % 2 == 0 {
            let busy = tokio::spawn({
                let store = store.clone();
                async move { vote(&store, 60).await }
            });
            replicas.kill(before);
            busy.await.unwrap();
            leads = next_leader(&store, Some(before)).await;
            replicas.start(database.url(), LEASE);
        } else {
            run(
                &mut admin,
                &format!("INSERT INTO to_freeze VALUES ({before})"),
            )
            .await;
            vote(&store, 60).await;
            leads = next_leader(&store, Some(before)).await;
            // It wakes, and would like to go on where it stood.
            signal(before, "CONT");
            run(&mut admin, "DELETE FROM to_freeze").await;
        }
        // Two leases, and what a busy machine takes for the rest.
        assert!(
            begun.elapsed() < 2 * LEASE + Duration::from_secs(4),
            "round {round}: taking over took {:?}",
            begun.elapsed()
        );
        vote(&store, 10).await;
        assert_eq!(next_leader(&store, Some(before)).await, leads);
        assert_eq!(
            scalar::<i64>(&mut admin, LOST_OR_REPEATED).await,
            0,
            "round {round}"
        );
    }
    assert_eq!(
        scalar::<i64>(&mut admin, "SELECT sum(votes)::bigint FROM tally").await,
        440
    );
}
