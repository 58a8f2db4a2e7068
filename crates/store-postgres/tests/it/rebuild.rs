//! Rebuilds of SQL projections: what readers and plain SQL see.

use std::time::Duration;

use async_trait::async_trait;
use backstory_event::{Append, Envelope, EventStore, ExpectedVersion, NewEvent};
use backstory_projection::{
    self as projection, Control, Letters, Operator, Projection, Projector, ProjectorErrorKind,
    RowState, RunningProjector, Schedule, by_key,
};
use backstory_store_postgres::PostgresStore;
use backstory_test_postgres::TestDatabase;
use sqlx::PgConnection;

use crate::{
    kit::{eventually, raw, refused, run, scalar, stream, until_count, within},
    takeover::{LOST_OR_REPEATED, NAME, POISON, Replicas, Tally, Vote, next_leader, vote},
};

const TABLES: &str = "CREATE TABLE tally (key text PRIMARY KEY, votes bigint NOT NULL); \
    CREATE TABLE to_freeze (pid bigint)";

async fn prepared() -> (TestDatabase, PostgresStore, PgConnection) {
    let database = TestDatabase::create().await;
    let store = PostgresStore::connect(database.url()).await.unwrap();
    let mut admin = raw(database.url()).await;
    run(&mut admin, TABLES).await;
    (database, store, admin)
}

async fn start<P: Projection<PgConnection>>(
    store: &PostgresStore,
    projection: P,
) -> RunningProjector {
    let projector = Projector::new(store).with(projection, Schedule::continuous());
    let projector = projector.start().await.unwrap();
    within(projector.catch_up()).await.unwrap();
    projector
}

#[tokio::test]
async fn tables_change_places_with_their_rights_and_indexes() {
    let (database, store, mut admin) = prepared().await;
    let role = format!("reader_{}", std::process::id());
    run(
        &mut admin,
        &format!(
            "CREATE INDEX votes ON tally (votes); CREATE ROLE {role}; \
             GRANT SELECT ON tally TO {role}; GRANT INSERT ON tally TO PUBLIC"
        ),
    )
    .await;
    vote(&store, 20).await;
    let projector = start(&store, Tally).await;
    // What is wrong in the read model goes with it.
    run(&mut admin, "UPDATE tally SET votes = votes + 7").await;
    let mut prepared = raw(database.url()).await;
    let votes = "SELECT sum(votes)::bigint FROM tally";
    assert_eq!(scalar::<i64>(&mut prepared, votes).await, 55);
    within(projector.rebuild(NAME)).await.unwrap();
    within(projector.rebuilt(NAME)).await.unwrap();
    // The same session, the same statement.
    assert_eq!(scalar::<i64>(&mut prepared, votes).await, 20);
    assert_eq!(scalar::<i64>(&mut admin, LOST_OR_REPEATED).await, 0);
    let previous = "SELECT sum(votes)::bigint FROM backstory_previous.tally";
    assert_eq!(scalar::<i64>(&mut admin, previous).await, 55);
    let indexes =
        "SELECT count(*) FROM pg_indexes WHERE schemaname = 'public' AND tablename = 'tally'";
    assert_eq!(scalar::<i64>(&mut admin, indexes).await, 2);
    for right in ["SELECT", "INSERT"] {
        let has = format!("SELECT has_table_privilege('{role}', 'public.tally', '{right}')");
        assert!(scalar::<bool>(&mut admin, &has).await, "{right}");
    }

    vote(&store, 5).await;
    within(projector.catch_up()).await.unwrap();
    assert_eq!(scalar::<i64>(&mut prepared, votes).await, 25);
    within(projector.roll_back(NAME)).await.unwrap();
    within(projector.catch_up()).await.unwrap();
    assert_eq!(scalar::<i64>(&mut prepared, votes).await, 60);
    within(projector.roll_back(NAME)).await.unwrap();
    within(projector.drop_previous(NAME)).await.unwrap();
    within(projector.catch_up()).await.unwrap();
    assert_eq!(scalar::<i64>(&mut prepared, votes).await, 25);
    assert_eq!(refused(&mut admin, previous).await, "42P01");
    run(
        &mut admin,
        &format!("DROP OWNED BY {role}; DROP ROLE {role}"),
    )
    .await;
}

/// Counts in a table of another shape.
struct NewTally;

#[async_trait]
impl Projection<PgConnection> for NewTally {
    type Event = Vote;
    const NAME: &'static str = NAME;

    fn tables(&self) -> &'static [&'static str] {
        &["tally"]
    }

    async fn prepare(&self, connection: &mut PgConnection) -> projection::Result {
        sqlx::query("ALTER TABLE tally ADD COLUMN IF NOT EXISTS last bigint")
            .execute(connection)
            .await?;
        Ok(())
    }

    async fn project(
        &self,
        batch: &[Envelope<Vote>],
        connection: &mut PgConnection,
    ) -> projection::Result {
        let polls = by_key(batch, |vote| vote.stream().key().to_owned());
        let counts: Vec<_> = polls.values().map(|votes| votes.len() as i64).collect();
        let last = polls.values().filter_map(|votes| votes.last());
        let last: Vec<_> = last.map(|vote| vote.position().get()).collect();
        sqlx::query(
            "INSERT INTO tally SELECT * FROM unnest($1::text[], $2::bigint[], $3::bigint[]) \
             ON CONFLICT (key) DO UPDATE SET votes = tally.votes + excluded.votes, last = excluded.last",
        )
        .bind(polls.into_keys().collect::<Vec<_>>())
        .bind(counts)
        .bind(last)
        .execute(connection)
        .await?;
        Ok(())
    }
}

#[tokio::test]
async fn a_new_version_makes_tables_of_another_shape() {
    let (_database, store, mut admin) = prepared().await;
    vote(&store, 20).await;
    let old = start(&store, Tally).await;
    within(old.shutdown()).await.unwrap();
    let projector = start(&store, NewTally).await;
    within(projector.rebuild(NAME)).await.unwrap();
    within(projector.rebuilt(NAME)).await.unwrap();
    assert_eq!(scalar::<i64>(&mut admin, LOST_OR_REPEATED).await, 0);
    let last = "SELECT max(last) FROM tally";
    assert_eq!(scalar::<i64>(&mut admin, last).await, 20);
}

#[tokio::test]
async fn somebody_who_reads_for_long_delays_only_the_exchange() {
    let (database, store, mut admin) = prepared().await;
    vote(&store, 20).await;
    let projector = start(&store, Tally).await;
    let mut reader = raw(database.url()).await;
    run(&mut reader, "BEGIN; SELECT * FROM tally").await;
    within(projector.rebuild(NAME)).await.unwrap();
    let waits = || {
        let status = projector.projection(NAME).status().unwrap();
        let rebuild = status.rebuild.map(|rebuild| rebuild.state.to_string());
        rebuild.is_some_and(|state| state.contains("lock timeout"))
    };
    eventually(async || waits()).await;
    // New readers and the projection itself go on.
    vote(&store, 5).await;
    within(projector.catch_up()).await.unwrap();
    let votes = "SELECT sum(votes)::bigint FROM tally";
    assert_eq!(scalar::<i64>(&mut admin, votes).await, 25);
    run(&mut reader, "COMMIT").await;
    within(projector.rebuilt(NAME)).await.unwrap();
    assert_eq!(scalar::<i64>(&mut admin, LOST_OR_REPEATED).await, 0);
}

/// Does not say which tables are its own, or wrongly.
struct Careless<const N: usize>;

#[async_trait]
impl<const N: usize> Projection<PgConnection> for Careless<N> {
    type Event = Vote;
    const NAME: &'static str = ["silent", "mistaken"][N];

    fn tables(&self) -> &'static [&'static str] {
        [&[][..], &["taly"]][N]
    }

    async fn project(&self, _: &[Envelope<Vote>], _: &mut PgConnection) -> projection::Result {
        Ok(())
    }
}

#[tokio::test]
async fn tables_that_are_not_named_or_not_there_are_asked_for() {
    let (_database, store, _) = prepared().await;
    let projector = Projector::new(&store)
        .with(Careless::<0>, Schedule::continuous())
        .with(Careless::<1>, Schedule::continuous());
    let projector = projector.start().await.unwrap();
    for (name, wanted) in [
        ("silent", "implement `Projection::tables`"),
        ("mistaken", "there is no table \"taly\""),
    ] {
        let error = within(projector.rebuild(name)).await.unwrap_err();
        let kind = error.kind();
        assert!(
            matches!(kind, ProjectorErrorKind::Refused { .. }),
            "{error}"
        );
        assert!(error.to_string().contains(wanted), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rebuild_under_load_outlives_processes_that_are_killed() {
    let (database, store, mut admin) = prepared().await;
    vote(&store, 1_500).await;
    let mut replicas = Replicas::none();
    for _ in 0..2 {
        replicas.start(database.url(), Duration::from_secs(1));
    }
    let mut leads = next_leader(&store, None).await;
    // What a rebuild repairs.
    run(&mut admin, "UPDATE tally SET votes = votes + 7").await;
    let busy = tokio::spawn({
        let store = store.clone();
        async move { vote(&store, 600).await }
    });
    let operator = Operator::new(&store).with_patience(Duration::from_secs(30));
    within(operator.rebuild(NAME)).await.unwrap();
    let mut kills = 0;
    while !busy.is_finished() || kills < 3 {
        let rows = store.list_projections().await.unwrap();
        let row = rows.iter().find(|row| row.projection == NAME).unwrap();
        let Some(rebuild) = &row.rebuild else { break };
        if rebuild.state == RowState::Running && rebuild.reached.get() > 200 * kills {
            replicas.kill(leads);
            replicas.start(database.url(), Duration::from_secs(1));
            leads = next_leader(&store, Some(leads)).await;
            kills += 1;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert!(kills > 0, "the rebuild was over before anybody was killed");
    within(busy).await.unwrap();
    within(operator.rebuilt(NAME, |_| {})).await.unwrap();
    next_leader(&store, None).await;
    assert_eq!(scalar::<i64>(&mut admin, LOST_OR_REPEATED).await, 0);
    // The old one went on until then: it was wrong by as much as before.
    let previous = "SELECT min(p.votes - e.votes) = 7 AND max(p.votes - e.votes) = 7 \
        FROM backstory_previous.tally p JOIN (SELECT e.key, count(*) AS votes FROM backstory.event e \
          WHERE e.position <= (SELECT position FROM backstory.progress WHERE projection = 'tally~previous') \
          GROUP BY e.key) e ON e.key = p.key";
    assert!(scalar::<bool>(&mut admin, previous).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn processes_share_parts_and_lose_nothing_when_they_are_killed() {
    let (database, store, mut admin) = prepared().await;
    let mut replicas = Replicas::of_parts(6);
    let lease = Duration::from_secs(1);
    for _ in 0..3 {
        replicas.start(database.url(), lease);
    }
    let shares = "SELECT count(*) FILTER (WHERE n = 2) FROM (SELECT count(*) AS n \
        FROM backstory.projection WHERE leased_until > now() GROUP BY owner) s";
    until_count(&mut admin, shares, 3).await;
    for round in 0..6 {
        let victim = replicas.processes()[round % 2];
        vote(&store, 60).await;
        replicas.kill(victim);
        vote(&store, 60).await;
        if round == 2 {
            // Those that stay take over what it had.
            let taken = "SELECT count(*) FILTER (WHERE n = 3) FROM (SELECT count(*) AS n \
                FROM backstory.projection WHERE leased_until > now() GROUP BY owner) s";
            until_count(&mut admin, taken, 2).await;
        }
        replicas.start(database.url(), lease);
        until_count(&mut admin, shares, 3).await;
        until_count(&mut admin, LOST_OR_REPEATED, 0).await;
    }
    let operator = Operator::new(&store).with_patience(Duration::from_secs(30));
    within(operator.rebuild(NAME)).await.unwrap();
    vote(&store, 60).await;
    within(operator.rebuilt(NAME, |_| {})).await.unwrap();
    until_count(&mut admin, LOST_OR_REPEATED, 0).await;
    let votes = "SELECT sum(votes)::bigint FROM tally";
    assert_eq!(scalar::<i64>(&mut admin, votes).await, 780);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn poisoned_votes_are_left_out_once_whoever_is_killed() {
    let (database, store, mut admin) = prepared().await;
    let mut replicas = Replicas::of_parts(2);
    let lease = Duration::from_secs(1);
    for _ in 0..2 {
        replicas.start(database.url(), lease);
    }
    let poison = stream("poll", POISON);
    for round in 0..5 {
        vote(&store, 20).await;
        let cast = NewEvent::of(&Vote::Cast).unwrap();
        let append = Append::to(poison.clone(), ExpectedVersion::Any, [cast]);
        store.append(append).await.unwrap();
        replicas.kill(replicas.processes()[round % 2]);
        vote(&store, 20).await;
        replicas.start(database.url(), lease);
    }
    let letters =
        "SELECT count(*) FROM backstory.dead_letter WHERE projection = 'tally' AND parked";
    until_count(&mut admin, letters, 5).await;
    until_count(&mut admin, LOST_OR_REPEATED, 0).await;
    let votes = "SELECT sum(votes)::bigint FROM tally";
    assert_eq!(scalar::<i64>(&mut admin, votes).await, 200);
    let operator = Operator::new(&store).with_patience(Duration::from_secs(30));
    let done = within(operator.discard(NAME, Letters::All)).await.unwrap();
    assert_eq!(done.note.as_deref(), Some("5 discarded"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_restarts_lose_and_repeat_nothing() {
    let (database, store, mut admin) = prepared().await;
    let mut replicas = Replicas::none();
    replicas.start(database.url(), Duration::from_secs(1));
    let mut leads = next_leader(&store, None).await;
    for _ in 0..100 {
        replicas.start(database.url(), Duration::from_secs(1));
        vote(&store, 9).await;
        replicas.kill(leads);
        vote(&store, 3).await;
        leads = next_leader(&store, Some(leads)).await;
    }
    assert_eq!(scalar::<i64>(&mut admin, LOST_OR_REPEATED).await, 0);
    let votes = "SELECT sum(votes)::bigint FROM tally";
    assert_eq!(scalar::<i64>(&mut admin, votes).await, 1_200);
}
