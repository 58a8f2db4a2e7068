//! Dumps, old backups and forks of the log.

use std::{
    future::Future,
    process::{Command, Stdio},
    time::Duration,
};

use backstory_event::{
    Append, Checkpoint, EventFilter, EventStore, EventStoreExt, ExpectedVersion, NewEvent, Payload,
    Position, RecordedEvent, StoreError, StoreErrorKind, StreamId, Subscription,
};
use backstory_store_postgres::PostgresStore;
use backstory_test_postgres::{TestCluster, TestDatabase};
use tokio::{task::JoinSet, time::timeout};
use torture::Proxy;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_checkpoint_stays_valid_over_dump_and_restore() {
    let cluster = TestCluster::start().await;
    let (from, to) = (
        cluster.create_database().await,
        cluster.create_database().await,
    );
    let store = PostgresStore::connect(from.url()).await.unwrap();
    append(&store, 50).await;
    let before = log(&store).await;

    dump_and_restore(&cluster, &from, &to);
    let restored = PostgresStore::connect(to.url()).await.unwrap();
    assert_eq!(log(&restored).await, before);
    append(&restored, 10).await;
    let after = log(&restored).await;
    assert_eq!(after.len(), 60);
    assert!(after.iter().map(|event| event.position().get()).eq(1..=60));
    for seen in 0..=before.len() {
        let from = seen
            .checked_sub(1)
            .map_or(Checkpoint::START, |last| before[last].checkpoint());
        let mut subscription = restored.subscribe(from, EventFilter::all());
        assert_eq!(
            rest(&mut subscription, 60).await,
            after[seen..],
            "from {from}"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_older_backup_is_reported_by_those_who_were_ahead_of_it() {
    let cluster = TestCluster::start().await;
    let database = cluster.create_database().await;
    let store = PostgresStore::connect(database.url()).await.unwrap();
    append(&store, 20).await;
    store.close().await;
    cluster.stop().await;
    let backup = cluster.copy().await;
    cluster.restart().await;

    let proxy = Proxy::start(address(&cluster)).await.unwrap();
    let store = PostgresStore::connect(&through(&proxy, &database))
        .await
        .unwrap();
    append(&store, 10).await;
    let seen = log(&store).await;
    let mut ahead = JoinSet::new();
    // One of them has read all there was, and waits.
    for last in [&seen[20], &seen[25], &seen[29]] {
        let mut subscription = store.subscribe(last.checkpoint(), EventFilter::all());
        ahead.spawn(async move { failure(&mut subscription).await });
    }
    let mut behind = store.subscribe(seen[9].checkpoint(), EventFilter::all());
    rest(
        &mut store.subscribe(Checkpoint::START, EventFilter::all()),
        30,
    )
    .await;
    all_wait(&mut ahead).await;

    proxy.switch(address(&backup));
    let there = PostgresStore::connect(&backup.url(name(&database)))
        .await
        .unwrap();
    append(&there, 5).await;
    while let Some(error) = within(ahead.join_next()).await {
        assert_diverged(&error.unwrap(), &seen);
    }
    // Whoever was not beyond the backup goes on, with the events that are there now.
    let now = log(&there).await;
    assert_eq!(rest(&mut behind, 25).await, now[10..]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_switch_to_another_cluster_from_the_same_backup_is_reported() {
    let origin = TestCluster::start().await;
    let database = origin.create_database().await;
    let store = PostgresStore::connect(database.url()).await.unwrap();
    append(&store, 20).await;
    store.close().await;
    origin.stop().await;
    let (one, two) = (origin.copy().await, origin.copy().await);
    // Both go on by themselves, equally far: no growth gives the switch away.
    for cluster in [&one, &two] {
        let store = PostgresStore::connect(&cluster.url(name(&database)))
            .await
            .unwrap();
        append(&store, 10).await;
        store.close().await;
    }

    let proxy = Proxy::start(address(&one)).await.unwrap();
    let store = PostgresStore::connect(&through(&proxy, &database))
        .await
        .unwrap();
    let seen = log(&store).await;
    assert_eq!(seen.len(), 30);
    let mut live = JoinSet::new();
    for last in [&seen[20], &seen[29]] {
        let mut subscription = store.subscribe(last.checkpoint(), EventFilter::all());
        live.spawn(async move { failure(&mut subscription).await });
    }
    let mut filtered = store.subscribe(seen[29].checkpoint(), EventFilter::category("other"));
    live.spawn(async move { failure(&mut filtered).await });
    all_wait(&mut live).await;

    proxy.switch(address(&two));
    while let Some(error) = within(live.join_next()).await {
        assert_diverged(&error.unwrap(), &seen);
    }
    // What both have in common is still proved.
    let mut common = store.subscribe(seen[19].checkpoint(), EventFilter::all());
    assert_eq!(rest(&mut common, 30).await.len(), 10);
}

/// While the log is the one that they know, nobody has anything to say.
async fn all_wait(subscribers: &mut JoinSet<StoreError>) {
    let first = timeout(Duration::from_secs(1), subscribers.join_next()).await;
    assert!(first.is_err(), "{first:?}");
}

/// The error that ends a subscription; what it gives before is only what was there.
async fn failure(subscription: &mut Subscription) -> StoreError {
    loop {
        match subscription.next_page().await {
            Ok(page) => assert!(
                page.head <= Position::new(30),
                "a page of another log: {page:?}"
            ),
            Err(error) => return error,
        }
    }
}

fn assert_diverged(error: &StoreError, seen: &[RecordedEvent]) {
    let StoreErrorKind::Diverged {
        position,
        expected,
        found,
    } = error.kind()
    else {
        panic!("{error}");
    };
    let last = seen.iter().find(|event| event.position() == *position);
    assert_eq!(last.unwrap().id(), *expected);
    assert_ne!(*found, Some(*expected));
}

/// What a subscription gives up to a position.
async fn rest(subscription: &mut Subscription, up_to: i64) -> Vec<RecordedEvent> {
    let mut events = Vec::new();
    while subscription.checkpoint().position < Position::new(up_to) {
        events.extend(within(subscription.next_page()).await.unwrap().events);
    }
    events
}

async fn append(store: &PostgresStore, count: usize) {
    for number in 0..count {
        let stream = StreamId::new("todo", number % 7).unwrap();
        let event = NewEvent::raw("todo.added", Payload::parse(r#"{"title":"x"}"#).unwrap());
        let append = Append::to(stream, ExpectedVersion::Any, [event]);
        within(store.append(append)).await.unwrap();
    }
}

async fn log(store: &PostgresStore) -> Vec<RecordedEvent> {
    let all = backstory_event::EventQuery::new(EventFilter::all());
    within(store.collect(all)).await.unwrap()
}

async fn within<T>(work: impl Future<Output = T>) -> T {
    timeout(Duration::from_secs(60), work).await.unwrap()
}

fn dump_and_restore(cluster: &TestCluster, from: &TestDatabase, to: &TestDatabase) {
    let mut dump = Command::new(cluster.program("pg_dump"))
        .arg(from.url())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let restore = Command::new(cluster.program("psql"))
        .args(["--quiet", "--no-psqlrc", "--set=ON_ERROR_STOP=1", to.url()])
        .stdin(dump.stdout.take().unwrap())
        .stdout(Stdio::null())
        .status()
        .unwrap();
    assert!(dump.wait().unwrap().success() && restore.success());
}

fn name(database: &TestDatabase) -> &str {
    database.url().rsplit('/').next().unwrap()
}

fn address(cluster: &TestCluster) -> String {
    format!("127.0.0.1:{}", cluster.port())
}

fn through(proxy: &Proxy, database: &TestDatabase) -> String {
    format!(
        "postgres://postgres@127.0.0.1:{}/{}",
        proxy.port(),
        name(database)
    )
}
