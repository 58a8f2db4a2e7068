//! Browsers, which bring cookies back.

use std::{sync::Arc, time::Duration};

use axum::{
    Extension, Router,
    http::{Method, header::COOKIE},
    routing::{get, post},
};
use backstory_axum::{RECEIPT, Receipt, ReceiptCookie, ReceiptLayer};
use backstory_event::{Checkpoint, EventId, EventStoreExt, Position};
use backstory_projection::Schedule;
use backstory_store_memory::MemoryStore;

use crate::kit::{COUNTER, Counter, HOUR, Server, click, projector};

#[tokio::test]
async fn a_browser_reads_its_own_writes() {
    let store = MemoryStore::new();
    let schedule = Schedule::continuous().debounce(HOUR);
    let projector = projector(&store, &Counter::default(), schedule).await;
    let cookie = ReceiptCookie::default()
        .with_name("clicks")
        .unwrap()
        .with_max_age(Duration::from_secs(90));
    let layer = ReceiptLayer::new(projector).with_cookie(cookie);
    let server = Server::start(&store, layer).await;
    for n in 1..=20 {
        let answer = server.click().await;
        let cookie = answer.header("set-cookie").unwrap();
        let (pair, attributes) = cookie.split_once("; ").unwrap();
        assert_eq!(pair, format!("clicks={}", answer.receipt()));
        let wanted = "Max-Age=90; Path=/; HttpOnly; SameSite=Lax; Secure";
        assert_eq!(attributes, wanted);
        assert_eq!(server.get().await.count(), n - 1, "others are behind");
        let answer = server.ask(Method::GET, &[(COOKIE, pair.as_bytes())]).await;
        assert_eq!(answer.count(), n);
        assert_eq!(answer.header("set-cookie"), None, "nothing is new");
    }
}

#[tokio::test]
async fn the_receipt_of_another_log_is_taken_back() {
    let store = MemoryStore::new();
    click(&store).await;
    let projector = projector(&store, &Counter::default(), Schedule::continuous()).await;
    let layer = ReceiptLayer::new(projector).with_cookie(ReceiptCookie::default());
    let server = Server::start(&store, layer).await;
    let foreign = Checkpoint {
        position: store.head().await.unwrap().position,
        event_id: EventId::new(),
    };
    let cookie = format!("backstory-receipt={foreign}");
    let answer = server
        .ask(Method::GET, &[(COOKIE, cookie.as_bytes())])
        .await;
    assert_eq!(answer.stale(), Some("diverged"));
    let cleared = answer.header("set-cookie").unwrap();
    assert!(
        cleared.starts_with("backstory-receipt=; Max-Age=0;"),
        "{cleared}"
    );
}

#[test]
fn names_of_cookies_are_checked() {
    for name in ["", "a=b", "a;b", "a b", "\u{e4}", "a\n", &"a".repeat(65)] {
        assert!(
            ReceiptCookie::default().with_name(name).is_err(),
            "{name:?}"
        );
    }
}

/// However a handler says it.
#[tokio::test]
async fn a_receipt_is_taken_from_what_the_handler_left() {
    let store = MemoryStore::new();
    let projector = projector(&store, &Counter::default(), Schedule::continuous()).await;
    let appended = click(&store).await;
    let newer = click(&store).await.checkpoint;
    let routes = [
        post({
            let appended = appended.clone();
            async || Extension(appended)
        }),
        post(async move || Extension(appended.checkpoint)),
        post(async move || Receipt(appended.checkpoint)),
        post(async move || {
            (
                Receipt(appended.checkpoint),
                Receipt(Checkpoint::START),
                "both",
            )
        }),
    ];
    for route in routes {
        let layer = ReceiptLayer::new(Arc::clone(&projector)).with_cookie(ReceiptCookie::default());
        let router = Router::new().route("/", route).layer(layer);
        let server = Server::serve(router, Arc::default()).await;
        let answer = server.click().await;
        assert_eq!(answer.receipt(), appended.to_string());
        assert!(answer.header("set-cookie").is_some());
        // What the browser has is newer: it keeps that.
        let cookie = format!("backstory-receipt={newer}");
        let answer = server
            .ask(Method::POST, &[(COOKIE, cookie.as_bytes())])
            .await;
        assert_eq!(answer.receipt(), newer.to_string());
        assert_eq!(answer.header("set-cookie"), None);
    }
}

#[tokio::test]
async fn a_handler_finds_the_receipt_that_it_includes() {
    let store = MemoryStore::new();
    let projector = projector(&store, &Counter::default(), Schedule::continuous()).await;
    let receipt = click(&store).await.to_string();
    let route = get(async |found: Option<Extension<Receipt>>| match found {
        Some(Extension(Receipt(receipt))) => receipt.to_string(),
        None => "none".to_owned(),
    });
    let layer = ReceiptLayer::new(Arc::clone(&projector));
    let layer = layer.with_deadline(Duration::from_millis(5));
    let router = Router::new().route("/", route).layer(layer);
    let server = Server::serve(router, Arc::default()).await;
    assert_eq!(server.get().await.text, "none");
    let mut found = server.get_with(&receipt).await;
    while found.stale().is_some() {
        assert_eq!(found.text, "none", "it is not included");
        found = server.get_with(&receipt).await;
    }
    assert_eq!(found.text, receipt);
    projector.pause(COUNTER).await.unwrap();
    let beyond = Checkpoint::at(Position::new(7)).to_string();
    let stale = server
        .ask(Method::GET, &[(RECEIPT, beyond.as_bytes())])
        .await;
    assert_eq!(
        (stale.text.as_str(), stale.stale()),
        ("none", Some("paused"))
    );
}
