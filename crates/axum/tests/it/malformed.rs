//! Receipts that are none, and several of them.

use axum::http::{Method, header::COOKIE};
use backstory_axum::{RECEIPT, ReceiptCookie, ReceiptLayer};
use backstory_projection::Schedule;
use backstory_store_memory::MemoryStore;

use crate::kit::{COUNTER, Counter, HOUR, Server, projector};

async fn server() -> Server {
    let store = MemoryStore::new();
    let schedule = Schedule::continuous().debounce(HOUR);
    let projector = projector(&store, &Counter::default(), schedule).await;
    let layer = ReceiptLayer::new(projector).with_cookie(ReceiptCookie::default());
    Server::start(&store, layer).await
}

fn wrong() -> Vec<Vec<u8>> {
    let id = "0190a8b2c3d47e5f8a9b0c1d2e3f4a5b";
    let mut wrong: Vec<Vec<u8>> = [
        "garbage",
        "b1-",
        "b1-1",
        "b2-1-0190a8b2c3d47e5f8a9b0c1d2e3f4a5b",
        "b1--1-0190a8b2c3d47e5f8a9b0c1d2e3f4a5b",
        "b1-ffffffffffffffffff-0190a8b2c3d47e5f8a9b0c1d2e3f4a5b",
        "b1-1-0190a8b2c3d47e5f8a9b0c1d2e3f4a5b0",
        "b1-01-0190a8b2c3d47e5f8a9b0c1d2e3f4a5b",
        "{\"position\":1}",
        "\u{1f980}",
    ]
    .map(|text| text.as_bytes().to_vec())
    .to_vec();
    wrong.push(vec![0xff, 0xfe, 0x80]);
    wrong.push(format!("b1-1-{id}").into_bytes().repeat(100));
    wrong
}

#[tokio::test]
async fn what_is_no_receipt_is_refused() {
    let server = server().await;
    let mut values = wrong();
    let many = format!("b1-1-{:032}", 1);
    values.push(vec![many.as_str(); 1_000].join(",").into_bytes());
    values.extend([b"".to_vec(), b",".to_vec(), format!("{many},").into_bytes()]);
    for value in values {
        for method in [Method::GET, Method::POST] {
            let answer = server.ask(method, &[(RECEIPT, &value)]).await;
            answer.is_problem(400, "receipt.malformed");
        }
    }
    assert_eq!(server.handled(), 0);
}

#[tokio::test]
async fn a_cookie_that_is_no_receipt_is_refused_and_taken_back() {
    let server = server().await;
    for value in wrong() {
        let cookie = [b"theme=dark; backstory-receipt=", &value[..], b"; x=y"].concat();
        let answer = server.ask(Method::GET, &[(COOKIE, &cookie)]).await;
        answer.is_problem(400, "receipt.malformed");
        let cleared = answer.header("set-cookie").unwrap();
        assert!(
            cleared.starts_with("backstory-receipt=; Max-Age=0;"),
            "{cleared}"
        );
    }
    assert_eq!(server.handled(), 0);
    // Whatever else is in the cookies is not looked at.
    let odd = b"theme=\xff\xfe; xbackstory-receipt=1; backstory-receiptx=1; ;;=;a";
    let answer = server.ask(Method::GET, &[(COOKIE, odd)]).await;
    assert_eq!(answer.status, 200);
}

/// The older one is contained, the newer one is not: that one counts, wherever it stands.
#[tokio::test]
async fn of_several_receipts_the_newest_counts() {
    let store = MemoryStore::new();
    let projector = projector(&store, &Counter::default(), Schedule::continuous()).await;
    let layer = ReceiptLayer::new(projector.clone()).with_cookie(ReceiptCookie::default());
    let server = Server::start(&store, layer).await;
    let old = server.click().await.receipt();
    assert_eq!(server.until_fresh(&old).await.count(), 1);
    projector.pause(COUNTER).await.unwrap();
    let new = server.click().await.receipt();
    let header = |receipt: &str| (RECEIPT, receipt.as_bytes().to_vec());
    let pair = |one: &str, two: &str| header(&format!("{one} , {two}"));
    let cookie = |receipt: &str| {
        let cookies = format!("a=b;backstory-receipt={receipt}");
        (COOKIE, cookies.into_bytes())
    };
    for headers in [
        vec![pair(&old, &new)],
        vec![pair(&new, &old)],
        vec![header(&old), header(&new)],
        vec![header(&new), header(&old)],
        vec![header(&old), cookie(&new)],
        vec![header(&new), cookie(&old)],
        vec![cookie(&old), cookie(&new)],
        vec![cookie(&new), cookie(&old)],
    ] {
        let headers: Vec<_> = headers
            .iter()
            .map(|(name, value)| (name.clone(), &value[..]))
            .collect();
        let answer = server.ask(Method::GET, &headers).await;
        assert_eq!(answer.stale(), Some("paused"), "{headers:?}");
    }
    assert_eq!(server.get_with(&old).await.stale(), None);
}
