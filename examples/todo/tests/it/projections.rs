//! Operating projections: on the command line and from the page.

use backstory_test_postgres::TestDatabase;
use serde_json::{Value, json};

use crate::support::{Events, Server, data, ok, refused};

/// The next thing that is told of a projection and is as wanted.
async fn told(page: &mut Events, name: &str, wanted: impl Fn(&Value) -> bool) -> Value {
    loop {
        let message = page.next().await.expect("the stream goes on");
        if message.name != "projections" {
            continue;
        }
        let rows = message.data.as_array().unwrap();
        let row = rows.iter().find(|row| row["name"] == name);
        if let Some(row) = row.filter(|row| wanted(row)) {
            return row.clone();
        }
    }
}

async fn a_page_shows_and_operates_projections(place: &[&str]) {
    let server = Server::start(place).await;
    let mut page = server.listen_to("/api/events?projections").await;
    page.expect("snapshot").await;
    told(&mut page, "board", |row| row["state"] == "running").await;

    // Paused, it lags behind; the other one goes on.
    let paused = server.post("/api/projections/board/pause", json!({})).await;
    assert_eq!((paused.status.as_u16(), paused.json()), (200, json!({})));
    let list = server.post("/api/lists", json!({ "name": "Home" })).await;
    let new = json!({ "list": list.id(), "title": "sweep" });
    let task = server.post("/api/tasks", new).await;
    told(&mut page, "board", |row| {
        row["state"] == "paused" && row["lag"] == 2
    })
    .await;
    let found = server
        .get_including("/api/search?q=sweep", &task.receipt())
        .await;
    assert_eq!(found.json()["tasks"][0]["title"], "sweep");
    server
        .get_including("/api/state", &task.receipt())
        .await
        .is_problem(503, "read_model.behind");

    // Resumed, it catches up, and the page gets what it missed.
    server
        .post("/api/projections/board/resume", json!({}))
        .await;
    let mut counted = json!(null);
    while counted["active"] != 1 {
        let message = page.next().await.expect("the stream goes on");
        counted = message.data["counters"].clone();
    }
    told(&mut page, "board", |row| {
        row["state"] == "running" && row["lag"] == 0
    })
    .await;

    // A rebuild ends by itself, and the page takes the new read model.
    let rebuild = server
        .post("/api/projections/board/rebuild", json!({}))
        .await;
    assert_eq!(rebuild.status, 200);
    assert_eq!(
        page.expect_soon("snapshot").await.data["counters"]["active"],
        1
    );

    server
        .post("/api/projections/nothing/pause", json!({}))
        .await
        .is_problem(404, "projection.unknown");
}

#[tokio::test]
async fn a_page_shows_and_operates_projections_on_sqlite() {
    let folder = tempfile::tempdir().unwrap();
    a_page_shows_and_operates_projections(&data(folder.path())).await;
}

#[tokio::test]
async fn a_page_shows_and_operates_projections_on_postgres() {
    let database = TestDatabase::create().await;
    a_page_shows_and_operates_projections(&["--database", database.url()]).await;
}

#[tokio::test]
async fn a_page_shows_and_operates_projections_in_memory() {
    a_page_shows_and_operates_projections(&["--database", "memory:"]).await;
}

async fn a_day_of_an_operator(place: &[&str]) {
    let said = ok(place, &["projections"]).await;
    assert_eq!(said, "no projections yet; begin with `todo`\n");
    ok(place, &["demo"]).await;

    // Without a server the command does the work itself.
    let said = ok(place, &["projections", "rebuild", "search"]).await;
    assert_eq!(said, "search is rebuilt\n");
    let said = ok(place, &["projections", "pause", "board"]).await;
    assert_eq!(said, "board is paused\n");
    let said = ok(place, &["projections", "list"]).await;
    let board = said.lines().find(|line| line.starts_with("board:"));
    assert!(board.unwrap().contains("paused"), "{said}");
    ok(place, &["add", "sweep"]).await;
    assert!(refused(place, &["list"]).await.contains("is paused"));

    // Beside a server, the server does.
    let server = Server::start(place).await;
    let mut page = server.listen_to("/api/events?projections").await;
    for name in ["board", "search"] {
        told(&mut page, name, |row| row["process"].is_string()).await;
    }
    let said = ok(place, &["projections", "resume", "board"]).await;
    assert_eq!(said, "board goes on\n");
    for name in ["board", "search"] {
        let said = ok(place, &["projections", "rebuild", name]).await;
        assert_eq!(said, format!("{name} is rebuilt\n"));
    }
    let said = ok(place, &["projections"]).await;
    for name in ["board", "search"] {
        let line = said.lines().find(|line| line.starts_with(name)).unwrap();
        assert!(
            line.contains("running") && line.contains("0 behind"),
            "{said}"
        );
        assert!(line.contains("in todo:"), "{said}");
    }
    let found = server.get("/api/search?q=task%202").await.json();
    assert_eq!(found["tasks"][0]["title"], "task 2");
    assert!(ok(place, &["list"]).await.contains("sweep"));

    let said = refused(place, &["projections", "pause", "bord"]).await;
    assert!(said.contains("board"), "{said}");
}

#[tokio::test]
async fn a_day_of_an_operator_on_sqlite() {
    let folder = tempfile::tempdir().unwrap();
    a_day_of_an_operator(&data(folder.path())).await;
}

#[tokio::test]
async fn a_day_of_an_operator_on_postgres() {
    let database = TestDatabase::create().await;
    a_day_of_an_operator(&["--database", database.url()]).await;
}

#[tokio::test]
async fn what_is_in_the_memory_of_a_server_is_operated_there() {
    let said = refused(&["--database", "memory:"], &["projections"]).await;
    assert!(said.contains("use the page"), "{said}");
}
