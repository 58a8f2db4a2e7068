//! Finding tasks by how their words begin.

use backstory::test::given_events;
use backstory_test_postgres::TestDatabase;
use serde_json::{Value, json};
use todo::{
    search::SearchProjection,
    todo::{Task, TaskEvent},
};
use uuid::Uuid;

use crate::support::{Server, data};

fn added(title: &str) -> TaskEvent {
    TaskEvent::Added {
        list: Uuid::nil(),
        title: title.to_owned(),
    }
}

#[test]
fn a_removed_task_leaves_no_words_behind() {
    let (milk, letter) = (Uuid::from_u128(1), Uuid::from_u128(2));
    given_events::<Task>(
        SearchProjection,
        [
            (milk, added("Buy milk, MILK!")),
            (letter, added("type it")),
            (letter, TaskEvent::Removed),
            (milk, TaskEvent::Completed),
        ],
    )
    .then_collection(
        "search.words",
        [
            (format!("buy {milk}"), json!(milk)),
            (format!("milk {milk}"), json!(milk)),
        ],
    )
    .then_collection(
        "search.hits",
        [(
            milk,
            json!({ "id": milk, "list": Uuid::nil(), "title": "Buy milk, MILK!", "done": true }),
        )],
    );
}

/// Titles of what is found once a change is included.
async fn titles(server: &Server, typed: &str, receipt: &str) -> Vec<String> {
    let found = server
        .get_including(&format!("/api/search?q={typed}"), receipt)
        .await;
    let found: Value = found.json();
    let tasks = found["tasks"]
        .as_array()
        .unwrap_or_else(|| panic!("{found}"));
    let title = |task: &Value| task["title"].as_str().unwrap().to_owned();
    tasks.iter().map(title).collect()
}

async fn tasks_are_found(place: &[&str]) {
    let server = Server::start(place).await;
    let list = server
        .post("/api/lists", json!({ "name": "Home" }))
        .await
        .id();
    let add = async |title: &str| {
        let new = json!({ "list": list, "title": title });
        server.post("/api/tasks", new).await
    };
    add("Buy milk").await;
    add("Buy a milking machine").await;
    add("sell 100% of the \u{c4}pfel").await;
    let last = add("buy bread_and_butter").await;
    let at = last.receipt();
    for (typed, found) in [
        ("milk", &["Buy a milking machine", "Buy milk"][..]),
        ("MILKI", &["Buy a milking machine"]),
        ("mi%20bu", &["Buy a milking machine", "Buy milk"]),
        ("mi%20bread", &[]),
        ("ilk", &[]),
        ("%C3%A4pf", &["sell 100% of the \u{c4}pfel"]),
        ("100%25", &["sell 100% of the \u{c4}pfel"]),
        ("butter_bread", &["buy bread_and_butter"]),
        ("%25", &[]),
        ("", &[]),
    ] {
        assert_eq!(titles(&server, typed, &at).await, found, "{typed:?}");
    }
    // What is removed is not found any more.
    let removed = server
        .post(&format!("/api/tasks/{}/remove", last.id()), json!({}))
        .await;
    assert!(
        titles(&server, "bread", &removed.receipt())
            .await
            .is_empty()
    );
    let found = server.get("/api/search?q=milk").await.json();
    assert_eq!(found["tasks"][0]["done"], false);
    assert_eq!(found["tasks"][0]["list"], json!(list));
    assert_eq!(found["more"], false);
}

#[tokio::test]
async fn tasks_are_found_on_sqlite() {
    let folder = tempfile::tempdir().unwrap();
    tasks_are_found(&data(folder.path())).await;
}

#[tokio::test]
async fn tasks_are_found_on_postgres() {
    let database = TestDatabase::create().await;
    tasks_are_found(&["--database", database.url()]).await;
}

#[tokio::test]
async fn tasks_are_found_in_memory() {
    tasks_are_found(&["--database", "memory:"]).await;
}

#[tokio::test]
async fn of_many_tasks_the_newest_are_shown_and_that_there_are_more() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(&data(folder.path())).await;
    let list = server
        .post("/api/lists", json!({ "name": "Home" }))
        .await
        .id();
    let mut last = String::new();
    for n in 1..=25 {
        let new = json!({ "list": list, "title": format!("task number {n}") });
        last = server.post("/api/tasks", new).await.receipt();
    }
    let found = titles(&server, "num", &last).await;
    assert_eq!(found.len(), 20);
    assert_eq!(found[0], "task number 25");
    let found = server.get("/api/search?q=num").await.json();
    assert_eq!(found["more"], true);
    let found = server.get("/api/search?q=num%207").await.json();
    assert_eq!(found["tasks"][0]["title"], "task number 7");
    assert_eq!(found["more"], false);
    server.get("/api/search").await.is_problem(400, "query");
}
