//! Stopping and starting again, gently and not.

use serde_json::{Value, json};

use crate::support::{Server, data};

async fn board(server: &Server) -> Value {
    // With the receipt of what is there: whatever was stored before is to be seen.
    let status = server.get("/api/status").await.json();
    let head = status["head"].as_i64().unwrap();
    let receipt = format!("b1-{head:x}-{}", uuid::Uuid::nil().simple());
    server.get_including("/api/state", &receipt).await.json()
}

#[tokio::test]
async fn after_a_restart_no_old_event_is_projected_again() {
    let folder = tempfile::tempdir().unwrap();
    let place = data(folder.path());
    let server = Server::start(&place).await;
    let list = server
        .post("/api/lists", json!({ "name": "Home" }))
        .await
        .id();
    for n in 0..20 {
        server
            .post(
                "/api/tasks",
                json!({ "list": list, "title": format!("{n}") }),
            )
            .await
            .id();
    }
    let before = board(&server).await;
    assert_eq!(
        server.get("/api/status").await.json()["events_projected"],
        21
    );
    assert_eq!(server.terminate("TERM").await, Some(0));

    let server = Server::start(&place).await;
    assert_eq!(board(&server).await, before);
    assert_eq!(
        server.get("/api/status").await.json()["events_projected"],
        0
    );
    // And it does project what is new.
    server
        .post("/api/tasks", json!({ "list": list, "title": "new" }))
        .await
        .id();
    assert_eq!(board(&server).await["counters"]["active"], 21);
    assert_eq!(
        server.get("/api/status").await.json()["events_projected"],
        1
    );
}

#[tokio::test]
async fn after_a_crash_everything_that_was_answered_is_there_once() {
    let folder = tempfile::tempdir().unwrap();
    let place = data(folder.path());
    let mut server = Server::start(&place).await;
    let list = server
        .post("/api/lists", json!({ "name": "Home" }))
        .await
        .id();
    let mut tasks = Vec::new();
    for _ in 0..5 {
        for n in 0..10 {
            let new = json!({ "list": list, "title": format!("{n}") });
            tasks.push(server.post("/api/tasks", new).await.id());
        }
        let done = tasks.last().unwrap();
        server
            .post(&format!("/api/tasks/{done}/done"), json!({}))
            .await
            .receipt();
        server.kill().await;

        server = Server::start(&place).await;
        let board = board(&server).await;
        let shown: Vec<_> = board["tasks"]
            .as_array()
            .unwrap()
            .iter()
            .map(|t| &t["id"])
            .collect();
        assert_eq!(
            shown,
            tasks
                .iter()
                .map(|id| json!(id))
                .collect::<Vec<_>>()
                .iter()
                .collect::<Vec<_>>()
        );
        let done = tasks.len() / 10;
        let counters = json!({ "active": tasks.len() - done, "done": done, "removed": 0 });
        assert_eq!(board["counters"], counters);
        // At most the batch that had not ended: 11 events were new.
        let again = server.get("/api/status").await.json()["events_projected"]
            .as_u64()
            .unwrap();
        assert!(again <= 11, "{again} events were projected again");
    }
}

#[tokio::test]
async fn it_ends_well_while_pages_listen() {
    for signal in ["TERM", "INT"] {
        let folder = tempfile::tempdir().unwrap();
        let server = Server::start(&data(folder.path())).await;
        let mut page = server.listen().await;
        page.expect("snapshot").await;
        assert_eq!(server.terminate(signal).await, Some(0), "{signal}");
        while page.next().await.is_some() {}
    }
}
