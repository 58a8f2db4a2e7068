//! Pages that listen.

use serde_json::json;

use crate::support::{Server, data, ok};

#[tokio::test]
async fn a_page_gets_the_state_and_then_each_change() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(&data(folder.path())).await;
    let list = server.post("/api/lists", json!({ "name": "Home" })).await;
    let before = list.receipt();
    let state = server.get_including("/api/state", &before).await.json();
    let list = list.id();

    let mut page = server.listen().await;
    let first = page.expect("snapshot").await;
    assert_eq!(first.data, state);

    let task = server
        .post("/api/tasks", json!({ "list": list, "title": "sweep" }))
        .await;
    // The list itself may still be on its way: the snapshot had it, and it may be told again.
    let change = loop {
        let change = page.expect("change").await;
        if !change.data["tasks"].as_array().unwrap().is_empty() {
            break change;
        }
    };
    assert_eq!(change.id, task.receipt(), "the id says what is included");
    assert_eq!(change.data["tasks"][0]["id"], json!(task.id()));
    assert_eq!(change.data["lists"][0]["active"], 1);
    assert_eq!(change.data["counters"]["active"], 1);

    let done = format!("/api/tasks/{}/done", task.id());
    server.post(&done, json!({})).await;
    let change = page.expect("change").await;
    assert_eq!(change.data["tasks"][0]["state"], "done");
    assert_eq!(
        change.data["counters"],
        json!({ "active": 0, "done": 1, "removed": 0 })
    );
}

#[tokio::test]
async fn a_page_is_told_what_other_processes_change() {
    let folder = tempfile::tempdir().unwrap();
    let place = data(folder.path());
    let server = Server::start(&place).await;
    let other = Server::start(&place).await;
    let mut pages = [server.listen().await, other.listen().await];
    for page in &mut pages {
        page.expect("snapshot").await;
    }
    ok(&place, &["add", "sweep", "--list", "Home"]).await;
    for page in &mut pages {
        loop {
            let change = page.next().await.expect("the stream goes on");
            if change.data["tasks"]
                .as_array()
                .unwrap()
                .iter()
                .any(|task| task["title"] == "sweep")
            {
                assert_eq!(change.data["counters"]["active"], 1);
                break;
            }
        }
    }
}
