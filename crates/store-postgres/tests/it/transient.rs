//! Errors that time heals.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use backstory_event::{EventStore, StoreErrorKind, StreamQuery};
use backstory_store_postgres::{PostgresOptions, PostgresStore};
use backstory_test_postgres::{TestCluster, TestPooler};
use sqlx::{Connection, PgConnection};

use crate::{
    kit::{eventually, log, one, stream, within},
    pooler::pooled,
};

/// Readers see nothing of a server that goes away and comes back.
async fn reads_go_on(cluster: &TestCluster, store: PostgresStore) {
    store.append(one(&stream("todo", 1))).await.unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let done = Arc::new(AtomicUsize::new(0));
    let readers: Vec<_> = (0..4)
        .map(|_| {
            let (store, stop, done) = (store.clone(), stop.clone(), done.clone());
            tokio::spawn(async move {
                while !stop.load(Ordering::Relaxed) {
                    assert_eq!(log(&store).await.len(), 1);
                    let streams = store.streams(&StreamQuery::default()).await.unwrap();
                    assert_eq!(streams.streams.len(), 1);
                    done.fetch_add(1, Ordering::Relaxed);
                }
            })
        })
        .collect();
    for round in 0..4 {
        let before = done.load(Ordering::Relaxed);
        eventually(async || done.load(Ordering::Relaxed) > before + 20).await;
        if round % 2 == 0 {
            cluster.kill9().await;
        } else {
            cluster.stop().await;
        }
        // Long enough for readers to meet a server that is away.
        tokio::time::sleep(Duration::from_millis(200)).await;
        cluster.restart().await;
    }
    let before = done.load(Ordering::Relaxed);
    eventually(async || done.load(Ordering::Relaxed) > before + 20).await;
    stop.store(true, Ordering::Relaxed);
    for reader in readers {
        within(reader).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reads_outlive_a_restart_of_the_server() {
    let cluster = TestCluster::start().await;
    let database = cluster.create_database().await;
    let options = PostgresOptions::default()
        .with_connect_timeout(Duration::from_millis(100))
        .with_retry(Duration::from_secs(30));
    let store = PostgresStore::connect_with(database.url(), options).await;
    reads_go_on(&cluster, store.unwrap()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reads_outlive_a_restart_of_the_server_behind_a_pooler() {
    let cluster = TestCluster::start().await;
    let database = cluster.create_database().await;
    let pooler = TestPooler::start(&cluster).await;
    let options = pooled().with_retry(Duration::from_secs(30));
    let store = PostgresStore::connect_with(&pooler.url(database.url()), options).await;
    reads_go_on(&cluster, store.unwrap()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readers_and_new_stores_wait_for_a_server_without_free_connections() {
    let cluster = TestCluster::start_with(&[("max_connections", "12")]).await;
    let database = cluster.create_database().await;
    let options = PostgresOptions::default().with_connect_timeout(Duration::from_millis(200));
    let open = |retry| {
        let options = options.clone().with_retry(retry);
        PostgresStore::connect_with(database.url(), options)
    };
    let patient = open(Duration::from_secs(60)).await.unwrap();
    let hasty = open(Duration::ZERO).await.unwrap();
    let mut others = Vec::new();
    let full = loop {
        match PgConnection::connect(database.url()).await {
            Ok(other) => others.push(other),
            Err(error) => break error,
        }
    };
    let code = full.as_database_error().and_then(|error| error.code());
    assert_eq!(code.as_deref(), Some("53300"), "{full}");

    let list = StreamQuery::default();
    let error = hasty.streams(&list).await.unwrap_err();
    assert!(
        matches!(error.kind(), StoreErrorKind::Unavailable { .. }),
        "{error:?}"
    );
    let error = open(Duration::ZERO).await.unwrap_err();
    assert!(
        matches!(error.kind(), StoreErrorKind::Unavailable { .. }),
        "{error:?}"
    );
    let mut read = std::pin::pin!(patient.streams(&list));
    let mut another = std::pin::pin!(open(Duration::from_secs(60)));
    let while_full = Duration::from_secs(1);
    tokio::select! {
        answer = &mut read => panic!("there was no connection: {answer:?}"),
        answer = &mut another => panic!("there was no connection: {answer:?}"),
        () = tokio::time::sleep(while_full) => {}
    }
    drop(others);
    within(read).await.unwrap();
    let another = within(another).await.unwrap();
    assert_eq!(log(&another).await.len(), 0);
}
