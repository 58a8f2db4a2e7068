//! Read models that do not get there.

use std::time::{Duration, Instant};

use axum::http::Method;
use backstory_axum::{RECEIPT, ReceiptLayer, Stale};
use backstory_event::{Checkpoint, EventId, EventStoreExt};
use backstory_projection::Schedule;
use backstory_store_memory::MemoryStore;

use crate::kit::{COUNTER, Counter, HOUR, Server, click, projector};

#[tokio::test]
async fn what_is_behind_is_served_and_says_so() {
    let (store, counter) = (MemoryStore::new(), Counter::default());
    let projector = projector(&store, &counter, Schedule::continuous()).await;
    let deadline = Duration::from_millis(50);
    let layer = ReceiptLayer::new(projector).with_deadline(deadline);
    let server = Server::start(&store, layer).await;
    counter.hold(true);
    let receipt = server.click().await.receipt();
    let began = Instant::now();
    let answer = server.get_with(&receipt).await;
    assert!(began.elapsed() >= deadline, "it was given its time");
    assert_eq!((answer.count(), answer.stale()), (0, Some("behind")));
    let answer = server.get().await;
    assert_eq!(answer.stale(), None, "nothing was asked for");
    counter.hold(false);
    assert_eq!(server.until_fresh(&receipt).await.count(), 1);
}

#[tokio::test]
async fn what_is_behind_is_refused_if_it_shall_be() {
    let (store, counter) = (MemoryStore::new(), Counter::default());
    let projector = projector(&store, &counter, Schedule::continuous()).await;
    let layer = ReceiptLayer::new(projector)
        .with_deadline(Duration::from_millis(50))
        .with_stale(Stale::Refuse);
    let server = Server::start(&store, layer).await;
    counter.hold(true);
    let receipt = server.click().await.receipt();
    let answer = server.get_with(&receipt).await;
    answer.is_problem(503, "read_model.behind");
    assert_eq!(answer.header("retry-after"), Some("1"));
    assert_eq!(answer.stale(), Some("behind"));
    assert_eq!(server.handled(), 1, "only the click came through");
    counter.hold(false);
}

/// Nobody waits for a projection that will not get there by itself.
#[tokio::test]
async fn what_does_not_get_on_answers_at_once() {
    let (store, counter) = (MemoryStore::new(), Counter::default());
    let projector = projector(&store, &counter, Schedule::continuous()).await;
    let layer = ReceiptLayer::new(projector.clone()).with_deadline(HOUR);
    let server = Server::start(&store, layer).await;

    projector.pause(COUNTER).await.unwrap();
    let receipt = server.click().await.receipt();
    assert_eq!(server.get_with(&receipt).await.stale(), Some("paused"));
    counter.fail(true);
    projector.resume(COUNTER).await.unwrap();
    assert_eq!(server.get_with(&receipt).await.stale(), Some("failing"));
    counter.fail(false);
    projector.resume(COUNTER).await.unwrap();
    assert_eq!(server.until_fresh(&receipt).await.count(), 1);

    projector.shutdown().await.unwrap();
    let receipt = server.click().await.receipt();
    assert_eq!(server.get_with(&receipt).await.stale(), Some("stopped"));
    assert_eq!(server.get().await.count(), 1, "what is there is served");
}

#[tokio::test]
async fn a_change_is_not_held_up_by_a_read_model() {
    let (store, counter) = (MemoryStore::new(), Counter::default());
    let projector = projector(&store, &counter, Schedule::continuous()).await;
    projector.pause(COUNTER).await.unwrap();
    let refuse = ReceiptLayer::new(projector.clone()).with_stale(Stale::Refuse);
    let server = Server::start(&store, refuse.clone()).await;
    let receipt = server.click().await.receipt();
    let bring = [(RECEIPT, receipt.as_bytes())];
    let answer = server.ask(Method::POST, &bring).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_ne!(answer.receipt(), receipt);
    // Unless its routes read by it.
    let server = Server::start(&store, refuse.with_every_method()).await;
    let answer = server.ask(Method::POST, &bring).await;
    answer.is_problem(503, "read_model.behind");
}

#[tokio::test]
async fn the_receipt_of_another_log_is_said_to_be_one() {
    let (store, counter) = (MemoryStore::new(), Counter::default());
    let projector = projector(&store, &counter, Schedule::continuous()).await;
    let serve = ReceiptLayer::new(projector);
    let refuse = serve.clone().with_stale(Stale::Refuse);
    let serving = Server::start(&store, serve).await;
    let refusing = Server::start(&store, refuse).await;
    click(&store).await;
    let position = store.head().await.unwrap().position;
    let foreign = Checkpoint {
        position,
        event_id: EventId::new(),
    };
    let foreign = foreign.to_string();
    let answer = serving.get_with(&foreign).await;
    assert_eq!(
        (answer.status.as_u16(), answer.stale()),
        (200, Some("diverged"))
    );
    let answer = refusing.get_with(&foreign).await;
    answer.is_problem(409, "receipt.diverged");
    assert_eq!(answer.header("retry-after"), None, "it never gets better");
}

#[tokio::test]
async fn only_the_named_projections_are_waited_for() {
    let (store, counter) = (MemoryStore::new(), Counter::default());
    let projector = projector(&store, &counter, Schedule::continuous()).await;
    let layer = ReceiptLayer::new(projector.clone());
    let error = layer.clone().with_projections(["conuter"]).unwrap_err();
    assert!(error.to_string().contains(COUNTER), "{error}");
    let layer = layer.with_projections([COUNTER]).unwrap();
    let server = Server::start(&store, layer).await;
    let receipt = server.click().await.receipt();
    assert_eq!(server.get_with(&receipt).await.count(), 1);
    projector.pause(COUNTER).await.unwrap();
    let receipt = server.click().await.receipt();
    assert_eq!(server.get_with(&receipt).await.stale(), Some("paused"));
}
