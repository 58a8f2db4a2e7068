//! Without axum: any service of tower whose bodies are made of text.

use std::{
    convert::Infallible,
    future::{Ready, ready},
    sync::Arc,
    task::{Context, Poll},
};

use axum::http::{Request, Response, StatusCode};
use backstory_axum::{RECEIPT, ReceiptLayer};
use backstory_event::Checkpoint;
use backstory_projection::Schedule;
use backstory_store_memory::MemoryStore;
use tower_layer::Layer;
use tower_service::Service;

use crate::kit::{Counter, click, projector, within};

/// Answers every request with a receipt.
#[derive(Clone)]
struct Answers(Checkpoint);

impl Service<Request<()>> for Answers {
    type Response = Response<String>;
    type Error = Infallible;
    type Future = Ready<Result<Response<String>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Request<()>) -> Self::Future {
        let mut response = Response::new("done".to_owned());
        response.extensions_mut().insert(self.0);
        ready(Ok(response))
    }
}

#[tokio::test]
async fn a_service_of_tower_needs_no_axum() {
    let store = MemoryStore::new();
    let projector = projector(&store, &Counter::default(), Schedule::continuous()).await;
    let receipt = click(&store).await.checkpoint;
    let mut service = ReceiptLayer::new(Arc::clone(&projector)).layer(Answers(receipt));
    let response = within(service.call(Request::new(()))).await.unwrap();
    assert_eq!(response.headers()[RECEIPT], receipt.to_string());
    let garbage = Request::builder()
        .header(RECEIPT, "garbage")
        .body(())
        .unwrap();
    let response = within(service.call(garbage)).await.unwrap();
    assert_eq!(response.status(), StatusCode::BAD_REQUEST);
    assert!(response.body().contains("receipt.malformed"));
}
