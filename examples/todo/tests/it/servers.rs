//! Several servers on one database.

use backstory_test_postgres::TestDatabase;
use serde_json::{Value, json};

use crate::support::{Server, data};

const TIMES: usize = 200;

/// What was changed at one server is in the very next answer of the other one.
async fn a_receipt_holds_everywhere(place: &[&str]) {
    let servers = [Server::start(place).await, Server::start(place).await];
    let list = servers[0]
        .post("/api/lists", json!({ "name": "Home" }))
        .await
        .id();
    for n in 0..TIMES {
        let (one, other) = (&servers[n % 2], &servers[(n + 1) % 2]);
        let task = one
            .post(
                "/api/tasks",
                json!({ "list": list, "title": format!("{n}") }),
            )
            .await;
        let state = other.get_including("/api/state", &task.receipt()).await;
        let board: Value = state.json();
        let tasks = board["tasks"]
            .as_array()
            .unwrap_or_else(|| panic!("{board}"));
        let id = task.id();
        assert!(
            tasks.iter().any(|task| task["id"] == json!(id)),
            "read {n} misses the change"
        );
        assert_eq!(board["counters"]["active"], n + 1);
    }
    // Both have the same events in the read model, each once.
    let mut projected = 0;
    for server in &servers {
        let status = server.get("/api/status").await.json();
        projected += status["events_projected"].as_u64().unwrap();
    }
    assert_eq!(projected, 1 + TIMES as u64);
}

#[tokio::test]
async fn a_receipt_holds_everywhere_on_sqlite() {
    let folder = tempfile::tempdir().unwrap();
    a_receipt_holds_everywhere(&data(folder.path())).await;
}

#[tokio::test]
async fn a_receipt_holds_everywhere_on_postgres() {
    let database = TestDatabase::create().await;
    a_receipt_holds_everywhere(&["--database", database.url()]).await;
}

#[tokio::test]
async fn a_name_is_given_once_whoever_asks() {
    let folder = tempfile::tempdir().unwrap();
    let place = data(folder.path());
    let servers = [Server::start(&place).await, Server::start(&place).await];
    let asked = (0..20).map(|n| servers[n % 2].post("/api/lists", json!({ "name": "Home" })));
    let answers = futures::future::join_all(asked).await;
    let created = answers.iter().filter(|answer| answer.status == 201).count();
    let taken = answers.iter().filter(|answer| answer.status == 409).count();
    assert_eq!((created, taken), (1, 19));
}
