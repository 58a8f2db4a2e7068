//! The README shows the compiled program and tells no lies about its length or its links.

use std::path::Path;

const README: &str = include_str!("../../../../README.md");
const SMALLEST: &str = include_str!("../../examples/smallest.rs");

#[test]
fn the_readme_shows_the_smallest_program() {
    let code = SMALLEST
        .split_once("use backstory")
        .map(|(_, rest)| format!("use backstory{rest}"));
    assert!(
        README.contains(code.unwrap().trim()),
        "the README's program differs from examples/smallest.rs"
    );
}

#[test]
fn the_smallest_program_has_fewer_than_90_lines() {
    let lines = SMALLEST.lines().map(str::trim);
    let code = lines
        .filter(|line| !line.is_empty() && !line.starts_with("//"))
        .count();
    assert!(code < 90, "{code} lines");
}

/// Each guarantee names its test as `path/to/file.rs::name`.
#[test]
fn every_guarantee_names_a_test_that_exists() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let mut tests = 0;
    for link in README.split('[').filter_map(|part| part.split_once("](")) {
        let (text, rest) = link;
        let Some(name) = text
            .strip_prefix('`')
            .and_then(|text| text.strip_suffix('`'))
        else {
            continue;
        };
        let Some(file) = rest.split(')').next().filter(|file| file.ends_with(".rs")) else {
            continue;
        };
        let source = std::fs::read_to_string(root.join(file))
            .unwrap_or_else(|error| panic!("the README links to {file}: {error}"));
        if source.contains(&format!("fn {name}")) {
            tests += 1;
        } else {
            panic!("the README names `{name}`, which is not in {file}");
        }
    }
    assert!(tests >= 10, "only {tests} guarantees name a test");
}
