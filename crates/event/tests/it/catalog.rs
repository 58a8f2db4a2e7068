//! The list of all event types, and its golden file.

use std::fs;

use backstory_event::{CatalogError, DecodeEvent, Event, catalog};
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize, Event)]
#[event(prefix = "todo", crate = "backstory_event")]
enum TodoEvent {
    Added {
        title: String,
    },
    #[event(version = 2)]
    Done,
}

#[derive(Serialize, Deserialize, Event)]
#[event(prefix = "list", crate = "backstory_event")]
enum ListEvent {
    Opened(u32, String),
}

#[derive(Serialize, Deserialize, Event)]
#[event(name = "todo.done", crate = "backstory_event")]
struct Finished;

#[derive(DecodeEvent)]
#[expect(dead_code, reason = "only its types are asked for")]
#[event(crate = "backstory_event")]
enum Feed {
    Todo(TodoEvent),
    List(ListEvent),
}

const GOLDEN: &str = "\
list.opened v1 (u32, String)
todo.added v1 { title: String }
todo.done v2 {}
";

#[test]
fn two_types_with_one_name_are_refused_and_both_are_named() {
    let error = catalog![TodoEvent, ListEvent, Finished].unwrap_err();
    let CatalogError::Duplicate { name, .. } = &error else {
        panic!("{error}");
    };
    assert_eq!(*name, "todo.done");
    let text = error.to_string();
    assert!(text.contains("catalog::TodoEvent"), "{text}");
    assert!(text.contains("catalog::Finished"), "{text}");
}

#[test]
fn a_view_and_its_parts_are_no_duplicates() {
    let catalog = catalog![TodoEvent, Feed, ListEvent, TodoEvent].unwrap();
    assert_eq!(catalog.golden(), GOLDEN);
    assert_eq!(catalog![].unwrap().types(), []);
}

#[test]
fn the_golden_file_is_written_once_and_then_holds() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("events.txt");
    let catalog = catalog![TodoEvent, ListEvent].unwrap();

    catalog.check_golden(&path).unwrap();
    assert_eq!(fs::read_to_string(&path).unwrap(), GOLDEN);
    catalog.check_golden(&path).unwrap();
    assert_eq!(fs::read_to_string(&path).unwrap(), GOLDEN);
}

#[test]
fn a_change_is_shown_line_by_line_and_the_file_stays() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("events.txt");
    let older = GOLDEN.replace("todo.done v2 {}", "todo.done v1 { at: u64 }");
    fs::write(&path, &older).unwrap();

    let error = catalog![Feed].unwrap().check_golden(&path).unwrap_err();
    let CatalogError::Changed { difference, .. } = &error else {
        panic!("{error}");
    };
    assert_eq!(difference, "- todo.done v1 { at: u64 }\n+ todo.done v2 {}");
    assert!(error.to_string().contains("events.txt"));
    assert_eq!(fs::read_to_string(&path).unwrap(), older);
}

#[test]
fn a_file_that_cannot_be_written_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("missing").join("events.txt");
    let error = catalog![Feed].unwrap().check_golden(&path).unwrap_err();
    assert!(matches!(error, CatalogError::File { .. }));
    assert!(error.to_string().contains("missing"), "{error}");
}
