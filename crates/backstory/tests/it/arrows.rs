//! Dependencies point one way only.

use std::{
    collections::{BTreeMap, BTreeSet},
    process::Command,
};

/// Normal and build edges between the crates, by folder.
const ARROWS: &[(&str, &[&str])] = &[
    ("macros", &[]),
    ("event", &["macros"]),
    ("aggregate", &["event"]),
    ("axum", &["event", "projection"]),
    ("command", &["aggregate", "event", "macros"]),
    ("projection", &["event"]),
    ("store-kit", &["event"]),
    (
        "store-memory",
        &["aggregate", "event", "projection", "store-kit"],
    ),
    (
        "store-sqlite",
        &["aggregate", "event", "projection", "store-kit"],
    ),
    (
        "store-postgres",
        &["aggregate", "event", "projection", "store-kit"],
    ),
    (
        "conformance",
        &["aggregate", "command", "event", "macros", "projection"],
    ),
    (
        "backstory",
        &[
            "aggregate",
            "axum",
            "command",
            "event",
            "projection",
            "store-memory",
            "store-postgres",
            "store-sqlite",
        ],
    ),
    ("cli", &["event", "projection", "store-postgres"]),
    ("test-postgres", &[]),
    ("torture", &["event", "store-postgres", "test-postgres"]),
    ("todo", &["backstory"]),
];

/// Crates that only some may use.
const GUARDED: &[(&str, &[&str])] = &[
    (
        "sqlx",
        &["store-postgres", "store-sqlite", "test-postgres", "torture"],
    ),
    (
        "tokio",
        &[
            "aggregate",
            "backstory",
            "cli",
            "command",
            "conformance",
            "projection",
            "store-kit",
            "store-memory",
            "store-postgres",
            "store-sqlite",
            "test-postgres",
            "todo",
            "torture",
        ],
    ),
];

/// Whose crate a dependency is.
#[derive(Clone, Copy, PartialEq)]
enum Whose {
    Ours,
    Others,
}

fn normal_edges(whose: Whose) -> BTreeMap<String, BTreeSet<String>> {
    let output = Command::new(env!("CARGO"))
        .args([
            "metadata",
            "--format-version",
            "1",
            "--no-deps",
            "--offline",
        ])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let folder = |name: &str| name.strip_prefix("backstory-").unwrap_or(name).to_owned();
    metadata["packages"]
        .as_array()
        .unwrap()
        .iter()
        .map(|package| {
            let edges = package["dependencies"]
                .as_array()
                .unwrap()
                .iter()
                .filter(|edge| edge["kind"] != "dev")
                .filter(|edge| edge["path"].is_null() == (whose == Whose::Others))
                .map(|edge| folder(edge["name"].as_str().unwrap()))
                .collect();
            (folder(package["name"].as_str().unwrap()), edges)
        })
        .collect()
}

#[test]
fn dependencies_point_one_way_only() {
    let edges = normal_edges(Whose::Ours);
    let known: BTreeSet<_> = ARROWS.iter().map(|(name, _)| (*name).to_owned()).collect();
    assert_eq!(
        edges.keys().cloned().collect::<BTreeSet<_>>(),
        known,
        "a crate without arrows"
    );
    for (name, allowed) in ARROWS {
        for edge in edges[*name].intersection(&known) {
            assert!(
                allowed.contains(&edge.as_str()),
                "{name} must not depend on {edge}"
            );
        }
    }
}

#[test]
fn runtime_and_database_stay_where_they_belong() {
    for (name, edges) in normal_edges(Whose::Others) {
        for (guarded, allowed) in GUARDED {
            assert!(
                !edges.contains(*guarded) || allowed.contains(&name.as_str()),
                "{name} must not depend on {guarded}"
            );
        }
    }
}
