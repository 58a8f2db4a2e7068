//! The command line: sub-commands beside a server, and what it says to mistakes.

use std::{collections::HashSet, process::Stdio};

use backstory_test_postgres::TestDatabase;
use futures::future::join_all;
use serde_json::json;
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    time::timeout,
};

use crate::support::{LONG, Server, data, events, ok, refused, run, todo};

#[tokio::test]
async fn a_day_at_the_command_line() {
    let folder = tempfile::tempdir().unwrap();
    let place = data(folder.path());
    assert!(ok(&place, &["list"]).await.contains("no lists yet"));

    let added = ok(&place, &["add", "buy milk"]).await;
    let milk = added.trim().rsplit(' ').next().unwrap().to_owned();
    ok(&place, &["add", "type", "a", "letter", "--list", "Work"]).await;
    ok(&place, &["add", "sort letters", "--list", "work"]).await; // the same list
    let shown = ok(&place, &["list"]).await;
    assert!(shown.contains("Inbox (1 active, 0 done)"), "{shown}");
    assert!(shown.contains("Work (2 active, 0 done)"), "{shown}");

    // By the whole id, and by the end of it that `list` shows.
    ok(&place, &["done", &milk]).await;
    let line = shown
        .lines()
        .find(|line| line.contains("type a letter"))
        .unwrap();
    let letter = line.split_whitespace().nth(2).unwrap();
    ok(&place, &["remove", letter]).await;
    let shown = ok(&place, &["list"]).await;
    assert!(
        !shown.contains("milk") && !shown.contains("type a letter"),
        "{shown}"
    );
    let shown = ok(&place, &["list", "--all"]).await;
    assert!(
        shown.contains("[x]") && shown.contains("[-]") && shown.contains("[ ]"),
        "{shown}"
    );

    let log = ok(&place, &["events"]).await;
    assert_eq!(log.lines().count(), 7);
    assert!(
        log.contains("task.completed") && log.contains("buy milk"),
        "{log}"
    );
}

/// 24 sub-commands at once, and a server: nothing is lost and nothing is refused.
async fn crowd(place: &[&str]) {
    let server = Server::start(place).await;
    let mut page = server.listen().await;
    page.expect("snapshot").await;
    let titles: Vec<_> = (0..24).map(|n| format!("task {n}")).collect();
    let added = join_all(titles.iter().map(|title| async move {
        match title.len() % 2 {
            0 => ok(place, &["add", title]).await,
            _ => ok(place, &["add", title, "--list", "Other"]).await,
        }
    }));
    let added = added.await;
    let ids: HashSet<_> = added
        .iter()
        .map(|line| line.trim().rsplit(' ').next())
        .collect();
    assert_eq!(ids.len(), 24);

    let mixed = added.iter().enumerate().map(|(n, line)| async move {
        let id = line.trim().rsplit(' ').next().unwrap();
        match n % 4 {
            0 => ok(place, &["done", id]).await,
            1 => ok(place, &["remove", id]).await,
            2 => ok(place, &["list", "--all"]).await,
            _ => ok(place, &["demo", "--tasks", "2"]).await,
        }
    });
    join_all(mixed).await;

    let events = events(place).await;
    let count = |name| events.iter().filter(|event| event["name"] == name).count();
    let all = [
        "list.opened",
        "task.added",
        "task.completed",
        "task.removed",
    ]
    .map(count);
    assert_eq!(all, [2 + 6, 24 + 12, 6, 6 + 6]);
    loop {
        let counters = page.next().await.expect("the stream goes on").data["counters"].clone();
        if counters == json!({ "active": 24 + 12 - 6 - 12, "done": 6, "removed": 12 }) {
            break;
        }
    }
}

#[tokio::test]
async fn a_crowd_beside_a_server_on_sqlite() {
    let folder = tempfile::tempdir().unwrap();
    crowd(&data(folder.path())).await;
}

#[tokio::test]
async fn a_crowd_beside_a_server_on_postgres() {
    let database = TestDatabase::create().await;
    crowd(&["--database", database.url()]).await;
}

#[tokio::test]
async fn a_taken_port_is_named_and_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    let place = data(folder.path());
    let server = Server::start(&place).await;
    let port = server.port().to_string();
    for arguments in [&["serve", "--port", &port][..], &["--port", &port]] {
        let said = refused(&place, arguments).await;
        assert!(said.contains(&format!("port {port} is taken")), "{said}");
        assert!(said.contains("--port"), "{said}");
        assert_eq!(said.lines().count(), 1, "{said}");
    }
}

#[tokio::test]
async fn without_a_command_it_serves() {
    let folder = tempfile::tempdir().unwrap();
    let mut alone = todo(&data(folder.path()));
    let child = alone.args(["--port", "0"]).stdout(Stdio::piped());
    let mut child = child.spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let first = timeout(LONG, lines.next_line())
        .await
        .unwrap()
        .unwrap()
        .unwrap();
    assert!(first.starts_with("todo: http://127.0.0.1:"), "{first}");
}

#[tokio::test]
async fn a_bad_database_is_named_without_its_secrets() {
    let missing = "sqlite:/nowhere/at/all/todo.db";
    for (url, says) in [
        ("mysql://ann:hunter2@localhost/todo", "postgres:"),
        ("ann:hunter2@localhost", "postgres:"),
        (
            "postgres://ann:hunter2@127.0.0.1:1/todo",
            "cannot be reached",
        ),
        ("postgres://ann:hunter2@host:port/todo", "URL"),
        (missing, "nowhere"),
    ] {
        let said = refused(&["--database", url], &["list"]).await;
        assert!(
            said.starts_with("error: cannot use the database of --database: "),
            "{said}"
        );
        assert!(said.contains(says), "{url}: {said}");
        assert!(!said.contains("hunter2"), "a secret is shown: {said}");
        assert!(!said.contains("panicked"), "{said}");
    }
    // The environment's URL is not shown either, in no help and no error.
    for arguments in [&["--help"][..], &["list", "--help"], &["list"]] {
        let mut command = todo(&[]);
        command
            .args(arguments)
            .env("DATABASE_URL", "mysql://ann:hunter2@localhost/todo");
        let output = command.output().await.unwrap();
        let said = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
        assert!(
            said.contains("DATABASE_URL") && !said.contains("hunter2"),
            "{said}"
        );
    }
}

#[tokio::test]
async fn a_wrong_password_is_called_so() {
    let database = TestDatabase::create().await;
    let (scheme, rest) = database.url().split_once("://").unwrap();
    let place = rest.rsplit_once('@').map_or(rest, |(_, place)| place);
    let url = format!("{scheme}://nobody_of_this_name:hunter2@{place}");
    let said = refused(&["--database", &url], &["list"]).await;
    assert!(said.contains("denies access"), "{said}");
    assert!(!said.contains("hunter2"), "{said}");
}

#[tokio::test]
async fn mistakes_are_answered_with_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    let place = data(folder.path());
    ok(&place, &["add", "buy milk"]).await;
    let nobody = uuid::Uuid::now_v7().to_string();
    for (arguments, says) in [
        (&["done", &nobody][..], "no such task"),
        (&["done", "00000000ffff"], "todo list --all"),
        (&["done", "x"], "too short"),
        (&["add", "  "], "1 to 200 characters"),
        (&["add", "a", "--list", " "], "1 to 60 characters"),
        (&["add"], "Usage: todo add"),
        (&["ad", "x"], "add"),
        (&["--port", "1", "list"], "--port is for"),
        (&["serve", "--port", "70000"], "70000"),
        (&["--database", "memory:", "list"], "cannot be used with"),
    ] {
        let said = refused(&place, arguments).await;
        assert!(said.contains(says), "{arguments:?}: {said}");
    }
    assert_eq!(events(&place).await.len(), 2, "nothing of it was stored");
}

#[tokio::test]
async fn a_folder_that_cannot_be_made_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    std::fs::write(&file, "").unwrap();
    let inside = file.join("data");
    let said = refused(&data(&inside), &["list"]).await;
    assert!(
        said.contains("cannot make the folder") && said.contains("--data"),
        "{said}"
    );
}

#[tokio::test]
async fn any_name_of_a_folder_will_do() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["a b", "what?", "100%20", "#1", "nested/deep"] {
        let inside = folder.path().join(name);
        ok(&data(&inside), &["add", "buy milk"]).await;
        assert!(inside.join("todo.db").exists(), "{name}");
    }
}

#[tokio::test]
async fn a_reader_that_goes_away_is_no_error() {
    let folder = tempfile::tempdir().unwrap();
    let place = data(folder.path());
    ok(&place, &["demo", "--tasks", "500"]).await;
    let program = env!("CARGO_BIN_EXE_todo");
    let line = format!(
        "set -o pipefail; '{program}' --data '{}' events | head -n 1",
        place[1]
    );
    let output = tokio::process::Command::new("bash")
        .args(["-c", &line])
        .output()
        .await
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    assert!(output.stderr.is_empty(), "{output:?}");
    assert!(run(&place, &["events"]).await.status.success());
}
