//! The database goes away and comes back, while the server stays.

use backstory_test_postgres::TestCluster;
use serde_json::json;

use crate::support::Server;

#[tokio::test]
async fn while_the_database_is_away_everything_is_503_and_then_goes_on() {
    let cluster = TestCluster::start().await;
    let url = cluster.url("postgres");
    let server = Server::start(&["--database", &url]).await;
    let list = server
        .post("/api/lists", json!({ "name": "Home" }))
        .await
        .id();
    let first = server
        .post("/api/tasks", json!({ "list": list, "title": "before" }))
        .await;
    server.get_including("/api/state", &first.receipt()).await;
    let mut page = server.listen().await;
    page.expect("snapshot").await;

    cluster.kill9().await;
    for (path, body) in [
        ("/api/lists", json!({ "name": "Work" })),
        ("/api/tasks", json!({ "list": list, "title": "lost" })),
        (&format!("/api/tasks/{}/done", first.id()), json!({})),
    ] {
        server
            .post(path, body)
            .await
            .is_problem(503, "store.unavailable");
    }
    for path in ["/api/state", "/api/status"] {
        server.get(path).await.is_problem(503, "store.unavailable");
    }
    assert_eq!(server.get("/").await.status, 200);

    cluster.restart().await;
    let list = server
        .post("/api/lists", json!({ "name": "Work" }))
        .await
        .id();
    let task = server
        .post("/api/tasks", json!({ "list": list, "title": "after" }))
        .await;
    let state = server
        .get_including("/api/state", &task.receipt())
        .await
        .json();
    assert_eq!(
        state["counters"],
        json!({ "active": 2, "done": 0, "removed": 0 })
    );
    // The page that listened all the time is told, or its stream has ended and it comes again.
    loop {
        let Some(message) = page.next().await else {
            page = server.listen().await;
            continue;
        };
        if message.data["counters"] == state["counters"] {
            break;
        }
    }
    assert_eq!(server.terminate("TERM").await, Some(0));
}
