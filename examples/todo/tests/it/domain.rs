//! What lists and tasks decide: no store, no runtime.

use backstory::{catalog, test::given};
use todo::todo::{
    AddTask, CompleteTask, List, ListError, ListEvent, OpenList, RemoveTask, Task, TaskError,
    TaskEvent,
};
use uuid::Uuid;

const ID: Uuid = Uuid::from_u128(1);
const LIST: Uuid = Uuid::from_u128(2);

fn add(title: &str) -> AddTask {
    AddTask {
        id: ID,
        list: LIST,
        title: title.to_owned(),
    }
}

fn added(title: &str) -> TaskEvent {
    TaskEvent::Added {
        list: LIST,
        title: title.to_owned(),
    }
}

#[test]
fn a_task_is_added_done_and_removed() {
    given::<Task>([])
        .when(add("buy milk"))
        .then([added("buy milk")])
        .when(CompleteTask { id: ID })
        .then([TaskEvent::Completed])
        .when(RemoveTask { id: ID })
        .then([TaskEvent::Removed]);
}

#[test]
fn saying_it_twice_changes_nothing() {
    let done = [added("buy milk"), TaskEvent::Completed];
    given::<Task>(done)
        .when(CompleteTask { id: ID })
        .then_nothing();
    let removed = [added("buy milk"), TaskEvent::Removed];
    given::<Task>(removed)
        .when(RemoveTask { id: ID })
        .then_nothing();
}

#[test]
fn what_is_removed_cannot_be_done() {
    let removed = [added("buy milk"), TaskEvent::Removed];
    given::<Task>(removed)
        .when(CompleteTask { id: ID })
        .then_error(TaskError::Removed);
}

#[test]
fn what_is_not_there_cannot_be_changed() {
    given::<Task>([])
        .when(CompleteTask { id: ID })
        .then_error(TaskError::Unknown);
    given::<Task>([])
        .when(RemoveTask { id: ID })
        .then_error(TaskError::Unknown);
}

#[test]
fn a_task_is_added_once() {
    given::<Task>([added("a")])
        .when(add("b"))
        .then_error(TaskError::AlreadyAdded);
}

#[test]
fn titles_are_trimmed_and_have_1_to_200_characters() {
    given::<Task>([])
        .when(add("  buy milk\n"))
        .then([added("buy milk")]);
    let longest = "ä".repeat(200);
    given::<Task>([])
        .when(add(&longest))
        .then([added(&longest)]);
    for bad in ["", " \t ", "two\nlines", "nul\0", &"a".repeat(201)] {
        given::<Task>([])
            .when(add(bad))
            .then_error(TaskError::BadTitle);
    }
}

#[test]
fn a_list_is_opened_once_under_a_name() {
    let open = |name: &str| OpenList {
        id: LIST,
        name: name.to_owned(),
    };
    let opened = || ListEvent::Opened {
        name: "Home".to_owned(),
    };
    given::<List>([]).when(open(" Home ")).then([opened()]);
    given::<List>([opened()])
        .when(open("Work"))
        .then_error(ListError::AlreadyOpened);
    for bad in ["", "\u{7}", &"a".repeat(61)] {
        given::<List>([])
            .when(open(bad))
            .then_error(ListError::BadName);
    }
}

/// Names and payloads on disk never change by accident: the file shows each change.
#[test]
fn the_events_on_disk_are_those_of_the_golden_file() {
    let golden = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/events.txt");
    let catalog = catalog![ListEvent, TaskEvent].expect("no name is used twice");
    catalog
        .check_golden(golden)
        .expect("the events on disk are unchanged");
}
