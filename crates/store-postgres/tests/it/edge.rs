//! Many who follow the log cost the database no more than one.

use std::{fs, time::Duration};

use backstory_event::{
    Append, Checkpoint, EventFilter, EventId, EventQuery, EventStore, EventStoreExt,
    ExpectedVersion, FilterItem, Lifecycle, RecordedEvent, Tag,
};
use backstory_store_postgres::{PostgresOptions, PostgresStore};
use backstory_test_postgres::{TestCluster, TestDatabase};
use tokio::{sync::mpsc, task::JoinSet, time::timeout};

use crate::kit::{event, fresh, log, one, raw, run, stream, within};

fn ids(events: &[RecordedEvent]) -> Vec<EventId> {
    events.iter().map(RecordedEvent::id).collect()
}

/// Two who wait for ever at the end of the log: from then on its newest events are shared.
async fn crowd(store: &PostgresStore) -> JoinSet<()> {
    let mut crowd = JoinSet::new();
    let (sender, mut ready) = mpsc::channel(2);
    let head = store.head().await.unwrap();
    for _ in 0..2 {
        let mut subscription = store.subscribe(head, EventFilter::all());
        let sender = sender.clone();
        crowd.spawn(async move {
            loop {
                subscription.next_page().await.unwrap();
                sender.send(subscription.checkpoint()).await.unwrap();
            }
        });
    }
    // Twice: the second time both come from waiting.
    for _ in 0..2 {
        let receipt = store.append(one(&stream("crowd", 1))).await.unwrap();
        for _ in 0..2 {
            assert_eq!(within(ready.recv()).await, Some(receipt.checkpoint));
        }
    }
    crowd.spawn(async move { while ready.recv().await.is_some() {} });
    crowd
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_subscriptions_cost_a_handful_of_statements() {
    let cluster = TestCluster::start_with(&[("log_statement", "all")]).await;
    let log_file = cluster.directory().join("log");
    let database = cluster.create_database().await;
    let options = PostgresOptions::default().with_poll(Duration::from_secs(600));
    let store = PostgresStore::connect_with(database.url(), options)
        .await
        .unwrap();
    let reads = || {
        let log = fs::read_to_string(&log_file).unwrap();
        log.matches("WITH head AS").count()
    };
    let filters = [
        EventFilter::all(),
        EventFilter::category("todo"),
        FilterItem::new().name("todo.done").into(),
        EventFilter::tag(Tag::new("urgent").unwrap()),
        EventFilter::stream(stream("todo", 3)),
    ];
    let (sender, mut pages) = mpsc::channel(100);
    let mut followers = JoinSet::new();
    for number in 0..100 {
        let filter = filters[number % filters.len()].clone();
        let mut subscription = store.subscribe(Checkpoint::START, filter.clone());
        let sender = sender.clone();
        followers.spawn(async move {
            let mut seen = Vec::new();
            while subscription.checkpoint().position.get() < 42 {
                seen.extend(subscription.next_page().await.unwrap().events);
                sender.send(subscription.checkpoint()).await.unwrap();
            }
            (filter, seen)
        });
    }
    let mut costs = Vec::new();
    for round in 0..21 {
        let before = reads();
        let key = round % 5;
        let events = [
            event("todo.added").with_tag(Tag::new("urgent").unwrap()),
            event("todo.done"),
        ];
        let append = Append::to(stream("todo", key), ExpectedVersion::Any, events);
        let receipt = store.append(append).await.unwrap();
        for _ in 0..100 {
            let checkpoint = within(pages.recv()).await.unwrap();
            assert_eq!(checkpoint, receipt.checkpoint);
        }
        costs.push(reads() - before);
    }
    let stored = log(&store).await;
    assert_eq!(stored.len(), 42);
    while let Some(follower) = followers.join_next().await {
        let (filter, seen) = follower.unwrap();
        let expected: Vec<_> = stored
            .iter()
            .filter(|event| filter.matches(event))
            .cloned()
            .collect();
        assert_eq!(seen, expected, "{filter:?}");
    }
    // The first two rounds find readers that have not waited yet. The server's log may lag.
    let cost: usize = costs[2..].iter().sum();
    assert!(cost <= 4 * 19, "{costs:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_subscription_reads_on_where_it_was() {
    let (_database, store) = fresh().await;
    let _crowd = crowd(&store).await;
    let mut slow = store.subscribe(store.head().await.unwrap(), EventFilter::category("todo"));
    let mut seen = Vec::new();
    for round in 0..12 {
        // More than is kept in memory.
        let events = (0..1_000).map(|_| event("todo.added"));
        let append = Append::to(stream("todo", round % 3), ExpectedVersion::Any, events);
        let receipt = store.append(append).await.unwrap();
        if round % 6 == 5 {
            while slow.checkpoint() != receipt.checkpoint {
                seen.extend(within(slow.next_page()).await.unwrap().events);
            }
        }
    }
    let stored: Vec<_> = log(&store).await.split_off(2);
    assert_eq!(ids(&seen), ids(&stored));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shared_page_is_as_fresh_as_a_read() {
    let (database, store) = fresh().await;
    let other = PostgresStore::connect(database.url()).await.unwrap();
    let _crowd = crowd(&store).await;
    let mut checkpoint = store.head().await.unwrap();
    for _ in 0..200 {
        // Nobody has told this store of it.
        let receipt = other.append(one(&stream("todo", 1))).await.unwrap();
        let query = EventQuery::new(EventFilter::all()).after(checkpoint);
        let page = within(store.read(&query)).await.unwrap();
        assert_eq!(page.checkpoint, receipt.checkpoint);
        assert_eq!(page.events.len(), 1);
        assert_eq!(page.next, None);
        checkpoint = receipt.checkpoint;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn erased_content_is_not_served_from_memory() {
    let (database, store) = fresh().await;
    let other = PostgresStore::connect(database.url()).await.unwrap();
    let _crowd = crowd(&store).await;
    for round in 0..50 {
        let todo = stream("todo", round);
        let from = store.head().await.unwrap();
        let query = EventQuery::new(EventFilter::all()).after(from);
        store.append(one(&todo)).await.unwrap();
        let page = store.read(&query).await.unwrap();
        assert!(page.events[0].payload().as_str().contains("milk"));
        let eraser = if round % 2 == 0 { &store } else { &other };
        let erase = [Lifecycle::Erased.event()];
        let erase = Append::to(todo, ExpectedVersion::Any, erase);
        eraser.append(erase).await.unwrap();
        let page = store.read(&query).await.unwrap();
        assert!(page.events[0].is_erased(), "round {round}");
        assert_eq!(page.events[0].payload().as_str(), "{}");
        assert_eq!(page.events.len(), 2);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_that_lost_its_end_is_noticed_by_those_who_wait() {
    let (database, store) = fresh().await;
    let _crowd = crowd(&store).await;
    for _ in 0..5 {
        store.append(one(&stream("todo", 1))).await.unwrap();
    }
    let head = store.head().await.unwrap();
    let before = log(&store).await[4].checkpoint();
    let waiting = tokio::spawn({
        let mut subscription = store.subscribe(head, EventFilter::all());
        async move { subscription.next_page().await }
    });
    // A failover to a server that had not got the last event yet.
    let mut server = raw(database.url()).await;
    run(
        &mut server,
        "ALTER TABLE backstory.event DISABLE TRIGGER guard_row; \
         DELETE FROM backstory.event WHERE position > 6; \
         ALTER TABLE backstory.event ENABLE ALWAYS TRIGGER guard_row; \
         SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
         WHERE datname = current_database() AND pid <> pg_backend_pid()",
    )
    .await;
    assert!(within(waiting).await.unwrap().unwrap_err().is_diverged());
    let query = EventQuery::new(EventFilter::all()).after(before);
    let page = store.read(&query).await.unwrap();
    assert_eq!((page.events.len(), page.head.get()), (1, 6));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn subscriptions_that_share_see_each_event_once_under_load() {
    let database = TestDatabase::create().await;
    let options = PostgresOptions::default().with_page(50);
    let store = PostgresStore::connect_with(database.url(), options)
        .await
        .unwrap();
    let other = PostgresStore::connect(database.url()).await.unwrap();
    const EVENTS: i64 = 3_000;
    let mut followers = JoinSet::new();
    for number in 0..20 {
        let mut subscription = store.subscribe(Checkpoint::START, EventFilter::all());
        if number % 4 == 3 {
            subscription = subscription.with_page_limit(7);
        }
        followers.spawn(async move {
            let (mut seen, mut patience) = (Vec::new(), number);
            while subscription.checkpoint().position.get() < EVENTS {
                // Given up now and then, wherever it is.
                let page = subscription.next_page();
                patience = (patience + 700) % 20_000;
                if number % 2 == 0 {
                    seen.extend(page.await.unwrap().events);
                } else if let Ok(page) = timeout(Duration::from_micros(patience), page).await {
                    seen.extend(page.unwrap().events);
                }
            }
            seen
        });
    }
    let mut writers = JoinSet::new();
    for writer in 0..6 {
        let store = if writer % 2 == 0 {
            store.clone()
        } else {
            other.clone()
        };
        writers.spawn(async move {
            for _ in 0..EVENTS / 6 {
                store.append(one(&stream("todo", writer))).await.unwrap();
            }
        });
    }
    let stored = within(async {
        while let Some(writer) = writers.join_next().await {
            writer.unwrap();
        }
        log(&store).await
    })
    .await;
    while let Some(follower) = within(followers.join_next()).await {
        assert_eq!(ids(&follower.unwrap()), ids(&stored));
    }
}
