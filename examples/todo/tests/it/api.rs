//! The API: what works, and each way in which it says no.

use serde_json::json;
use uuid::Uuid;

use crate::support::{RECEIPT, Server, data};

#[tokio::test]
async fn lists_and_tasks_are_added_done_removed_and_shown() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(&data(folder.path())).await;

    let list = server
        .post("/api/lists", json!({ "name": " Home " }))
        .await
        .id();
    let add = async |title: &str| {
        server
            .post("/api/tasks", json!({ "list": list, "title": title }))
            .await
            .id()
    };
    let (milk, bread, cake) = (
        add("buy milk").await,
        add("buy bread").await,
        add("cake").await,
    );
    let done = server
        .post_text(&format!("/api/tasks/{milk}/done"), "", String::new())
        .await;
    assert_eq!((done.status.as_u16(), done.json()), (200, json!({})));
    let removed = server
        .post(&format!("/api/tasks/{bread}/remove"), json!(null))
        .await;

    let state = server.get_including("/api/state", &removed.receipt()).await;
    assert_eq!(state.status, 200);
    let counters = json!({ "active": 1, "done": 1, "removed": 1 });
    let (board, one_of_each) = (state.json(), counters.clone());
    assert_eq!(board["counters"], counters);
    let [shown] = board["lists"].as_array().unwrap().as_slice() else {
        panic!("{board}")
    };
    let mut expected = json!({ "id": list, "name": "Home" });
    expected
        .as_object_mut()
        .unwrap()
        .extend(one_of_each.as_object().unwrap().clone());
    assert_eq!(*shown, expected);
    let tasks: Vec<_> = board["tasks"].as_array().unwrap().iter().collect();
    for (task, (id, title, state)) in tasks.iter().zip([
        (&milk, "buy milk", "done"),
        (&bread, "buy bread", "removed"),
        (&cake, "cake", "active"),
    ]) {
        assert_eq!((&task["id"], &task["list"]), (&json!(id), &json!(list)));
        assert_eq!(
            (&task["title"], &task["state"]),
            (&json!(title), &json!(state))
        );
        let added: chrono::DateTime<chrono::Utc> =
            task["added_at"].as_str().unwrap().parse().unwrap();
        assert!((chrono::Utc::now() - added).num_minutes().abs() < 10);
    }
    assert_eq!(tasks.len(), 3);
}

#[tokio::test]
async fn the_state_of_one_list_has_its_tasks_only() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(&data(folder.path())).await;
    let home = server
        .post("/api/lists", json!({ "name": "Home" }))
        .await
        .id();
    let work = server
        .post("/api/lists", json!({ "name": "Work" }))
        .await
        .id();
    server
        .post("/api/tasks", json!({ "list": home, "title": "sweep" }))
        .await
        .id();
    let last = server
        .post("/api/tasks", json!({ "list": work, "title": "type" }))
        .await;

    let path = format!("/api/state?list={work}");
    let board = server.get_including(&path, &last.receipt()).await.json();
    let tasks = board["tasks"].as_array().unwrap();
    assert_eq!(tasks.len(), 1);
    assert_eq!(tasks[0]["title"], "type");
    assert_eq!(board["lists"].as_array().unwrap().len(), 2);
    assert_eq!(board["counters"]["active"], 2);
}

#[tokio::test]
async fn each_no_is_a_problem_with_a_code() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(&data(folder.path())).await;
    let list = server
        .post("/api/lists", json!({ "name": "Home" }))
        .await
        .id();
    let task = server
        .post("/api/tasks", json!({ "list": list, "title": "a" }))
        .await
        .id();
    let nobody = Uuid::now_v7();
    server
        .post(&format!("/api/tasks/{task}/remove"), json!({}))
        .await
        .receipt();

    // 422: the domain said no.
    let long = "a".repeat(201);
    for (path, body, code) in [
        ("/api/lists", json!({ "name": "" }), "list.bad_name"),
        (
            "/api/lists",
            json!({ "name": "two\nlines" }),
            "list.bad_name",
        ),
        (
            "/api/tasks",
            json!({ "list": list, "title": "  " }),
            "task.bad_title",
        ),
        (
            "/api/tasks",
            json!({ "list": list, "title": long }),
            "task.bad_title",
        ),
        (
            "/api/tasks",
            json!({ "list": list, "title": "nul\0" }),
            "task.bad_title",
        ),
        (
            &format!("/api/tasks/{task}/done"),
            json!({}),
            "task.removed",
        ),
    ] {
        server.post(path, body).await.is_problem(422, code);
    }

    // 409: another one was first.
    server
        .post("/api/lists", json!({ "name": " hOmE" }))
        .await
        .is_problem(409, "list.name_taken");

    // 404: there is none.
    for (path, body, code) in [
        (
            "/api/tasks",
            json!({ "list": nobody, "title": "a" }),
            "list.unknown",
        ),
        (
            &format!("/api/tasks/{nobody}/done"),
            json!({}),
            "task.unknown",
        ),
        (
            &format!("/api/tasks/{nobody}/remove"),
            json!({}),
            "task.unknown",
        ),
        ("/api/nothing", json!({}), "unknown_path"),
    ] {
        server.post(path, body).await.is_problem(404, code);
    }
    server
        .get(&format!("/api/state?list={nobody}"))
        .await
        .is_problem(404, "list.unknown");
    server.get("/nothing").await.is_problem(404, "unknown_path");
    server.get("/api/lists").await.is_problem(405, "method");

    // 400, 413, 415: it cannot be read.
    for body in ["", "{", "[]", r#"{"name":7}"#, r#"{"title":"x"}"#] {
        let answer = server
            .post_text("/api/lists", "application/json", body.to_owned())
            .await;
        answer.is_problem(400, "body");
    }
    server
        .post("/api/tasks", json!({ "list": "x", "title": "a" }))
        .await
        .is_problem(400, "body");
    let nil = json!({ "list": Uuid::nil(), "title": "a" });
    server
        .post("/api/tasks", nil)
        .await
        .is_problem(400, "invalid");
    for id in ["7", "%00", &Uuid::nil().to_string()] {
        server
            .post(&format!("/api/tasks/{id}/done"), json!({}))
            .await
            .is_problem(400, "id");
    }
    server
        .get("/api/state?list=x")
        .await
        .is_problem(400, "query");
    for receipt in ["garbage", "b1-", "b1-1"] {
        server
            .get_including("/api/state", receipt)
            .await
            .is_problem(400, "receipt.bad");
    }
    let huge = json!({ "name": "a".repeat(20_000) });
    server
        .post("/api/lists", huge)
        .await
        .is_problem(413, "body.too_large");
    let form = server
        .post_text("/api/lists", "text/plain", r#"{"name":"x"}"#.to_owned())
        .await;
    form.is_problem(415, "body.not_json");

    // None of it was stored, and the server still works.
    let last = server.post("/api/lists", json!({ "name": "Work" })).await;
    let board = server
        .get_including("/api/state", &last.receipt())
        .await
        .json();
    assert_eq!(board["lists"].as_array().unwrap().len(), 2);
    assert_eq!(
        board["counters"],
        json!({ "active": 0, "done": 0, "removed": 1 })
    );
}

#[tokio::test]
async fn a_receipt_of_another_database_is_refused() {
    let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let one = Server::start(&data(one.path())).await;
    let two = Server::start(&data(two.path())).await;
    let theirs = one
        .post("/api/lists", json!({ "name": "Home" }))
        .await
        .receipt();
    two.post("/api/lists", json!({ "name": "Home" }))
        .await
        .receipt();
    two.get_including("/api/state", &theirs)
        .await
        .is_problem(400, "receipt.foreign");
}

#[tokio::test]
async fn a_receipt_that_the_log_never_reaches_is_answered_within_seconds() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(&data(folder.path())).await;
    let future = format!("b1-ffff-{}", Uuid::now_v7().simple());
    server
        .get_including("/api/state", &future)
        .await
        .is_problem(503, "read_model.behind");
}

#[tokio::test]
async fn the_page_is_part_of_the_program_and_may_load_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(&data(folder.path())).await;
    for (path, kind) in [
        ("/", "text/html; charset=utf-8"),
        ("/style.css", "text/css; charset=utf-8"),
        ("/app.js", "text/javascript; charset=utf-8"),
        ("/favicon.svg", "image/svg+xml; charset=utf-8"),
    ] {
        let answer = server.get(path).await;
        assert_eq!(answer.status, 200, "{path}");
        assert_eq!(answer.headers["content-type"], kind);
        let policy = answer.headers["content-security-policy"].to_str().unwrap();
        assert!(
            policy.starts_with("default-src 'none'") && !policy.contains("unsafe"),
            "{policy}"
        );
        for elsewhere in ["src=\"http", "href=\"http", "@import", "url(http"] {
            assert!(
                !answer.text.contains(elsewhere),
                "{path} loads from elsewhere"
            );
        }
    }
}

#[tokio::test]
async fn the_status_counts_requests_and_events() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(&data(folder.path())).await;
    let list = server.post("/api/lists", json!({ "name": "Home" })).await;
    let state = server.get_including("/api/state", &list.receipt()).await;
    assert!(state.headers.contains_key(RECEIPT));

    let status = server.get("/api/status").await.json();
    assert_eq!(status["events_projected"], 1);
    assert_eq!(status["head"], 1);
    assert_eq!(status["writer"]["stored"], 1);
    assert_eq!(status["version"], env!("CARGO_PKG_VERSION"));
    let projection = &status["projections"][0];
    assert_eq!(projection["name"], "board");
    assert_eq!(
        (&projection["checkpoint"], &projection["lag"]),
        (&json!(1), &json!(0))
    );
    assert_eq!(projection["state"], "running");
    let requests = &status["requests"];
    assert_eq!(
        (&requests["POST /api/lists"], &requests["GET /api/state"]),
        (&json!(1), &json!(1))
    );
}
