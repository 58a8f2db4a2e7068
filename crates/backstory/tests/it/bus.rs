//! The bus of a process.

use std::time::Duration;

use backstory::{
    Append, Bus, Delivery, EventStore, ExpectedVersion, NewEvent, Payload, Store, StreamId, Topic,
};
use futures::StreamExt as _;

fn added(number: u32) -> Append {
    let stream = StreamId::new("todo", number).unwrap();
    let event = NewEvent::raw("todo.added", Payload::empty());
    Append::to(stream, ExpectedVersion::NoStream, [event])
}

#[tokio::test]
async fn a_subscriber_hears_what_is_stored_in_order() {
    let store = Store::connect("memory:").await.unwrap();
    let bus = Bus::start(&store).await.unwrap();
    let mut todos = bus.subscribe(Topic::pattern("todo.*"));
    for number in 1..=50 {
        store.append(added(number)).await.unwrap();
    }
    for position in 1..=50 {
        let event = todos.next_event(Duration::from_secs(10)).await.unwrap();
        assert_eq!(event.position().get(), position);
    }
}

#[tokio::test]
async fn the_bus_ends_with_its_last_handle() {
    let store = Store::connect("memory:").await.unwrap();
    let bus = Bus::start(&store).await.unwrap();
    let mut all = bus.subscribe(Topic::All);
    store.append(added(1)).await.unwrap();
    assert!(matches!(all.next().await, Some(Delivery::Event(_))));
    drop(bus);
    assert_eq!(all.next().await, None);
}

#[cfg(feature = "sqlite")]
#[tokio::test]
async fn subscriptions_end_with_the_store_that_feeds_them() {
    let folder = tempfile::tempdir().unwrap();
    let url = format!("sqlite:{}/todo.db", folder.path().display());
    let store = Store::connect(&url).await.unwrap();
    let bus = Bus::start(&store).await.unwrap();
    let mut all = bus.subscribe(Topic::All);
    store.append(added(1)).await.unwrap();
    assert!(matches!(all.next().await, Some(Delivery::Event(_))));
    store.close().await;
    let within = Duration::from_secs(10);
    let ended = tokio::time::timeout(within, all.next()).await;
    assert_eq!(ended.unwrap(), None);
    assert_eq!(bus.subscribe(Topic::All).next().await, None);
}
