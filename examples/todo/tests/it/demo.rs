//! The demo, compared with the events that it left.

use std::{collections::HashMap, path::Path};

use serde_json::Value;

use crate::support::{data, events, ok};

/// The counters of the newest list, from the events alone.
fn counted(events: &[Value]) -> String {
    let list = events
        .iter()
        .rfind(|event| event["name"] == "list.opened")
        .expect("a list");
    let mut tasks: HashMap<&str, &str> = HashMap::new();
    for event in events.iter().filter(|event| event["category"] == "task") {
        let (key, name) = (
            event["key"].as_str().unwrap(),
            event["name"].as_str().unwrap(),
        );
        if name == "task.added" && event["payload"]["list"] != list["key"] {
            continue;
        }
        if name == "task.added" || tasks.contains_key(key) {
            tasks.insert(key, name);
        }
    }
    let count = |name| tasks.values().filter(|last| **last == name).count();
    let (active, removed) = (count("task.added"), count("task.removed"));
    format!(
        "active {active}, removed {removed}, archived {}",
        count("task.completed")
    )
}

#[tokio::test]
async fn its_last_line_counts_what_it_did_each_time() {
    let folder = tempfile::tempdir().unwrap();
    let place = data(folder.path());
    let mut lines = Vec::new();
    for arguments in [
        &["demo"][..],
        &["demo"],
        &["demo", "--tasks", "20"],
        &["demo", "--tasks", "0"],
    ] {
        let output = ok(&place, arguments).await;
        let events = events(&place).await;
        let last = output.lines().last().unwrap().to_owned();
        assert_eq!(last, counted(&events), "{arguments:?}");
        lines.push(last);
    }
    // Of ten: five odd ones removed, the 6th and the 10th done. Of twenty: ten, and also the 14th
    // and the 18th.
    let line = |active: u32, removed: u32, archived: u32| {
        format!("active {active}, removed {removed}, archived {archived}")
    };
    let ten = line(10 - 5 - 2, 5, 2);
    assert_eq!(
        lines,
        [
            ten.clone(),
            ten.clone(),
            line(20 - 10 - 4, 10, 4),
            line(0, 0, 0)
        ]
    );
    assert!(
        !said_in(Path::new(env!("CARGO_MANIFEST_DIR")), &ten),
        "it is counted, not written"
    );
}

fn said_in(folder: &Path, text: &str) -> bool {
    std::fs::read_dir(folder).unwrap().any(|entry| {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => said_in(&path, text),
            false => std::fs::read_to_string(&path).is_ok_and(|content| content.contains(text)),
        }
    })
}

#[tokio::test]
async fn its_events_are_those_that_were_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    let place = data(folder.path());
    ok(&place, &["demo"]).await;
    let events = events(&place).await;
    let count = |name| events.iter().filter(|event| event["name"] == name).count();
    let all = [
        "list.opened",
        "task.added",
        "task.removed",
        "task.completed",
    ]
    .map(count);
    assert_eq!(all, [1, 10, 5, 2]);
    let positions: Vec<_> = events
        .iter()
        .map(|event| event["position"].as_u64())
        .collect();
    assert_eq!(positions, (1..=18).map(Some).collect::<Vec<_>>());
}
