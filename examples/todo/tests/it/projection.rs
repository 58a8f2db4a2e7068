//! What the read model shows: no store, no runtime.

use backstory::test::given_events;
use serde_json::json;
use todo::{
    read_model::BoardProjection,
    todo::{List, ListEvent, Task, TaskEvent},
};
use uuid::Uuid;

const HOME: Uuid = Uuid::from_u128(1);
const WORK: Uuid = Uuid::from_u128(2);

fn task(number: u128) -> Uuid {
    Uuid::from_u128(100 + number)
}

fn opened(name: &str) -> ListEvent {
    ListEvent::Opened {
        name: name.to_owned(),
    }
}

fn added(list: Uuid, title: &str) -> TaskEvent {
    TaskEvent::Added {
        list,
        title: title.to_owned(),
    }
}

#[test]
fn a_new_list_is_empty() {
    given_events::<List>(BoardProjection, [(HOME, opened("Home"))]).then_document(
        "lists",
        &HOME,
        &json!({ "id": HOME, "name": "Home", "active": 0, "done": 0, "removed": 0 }),
    );
}

#[test]
fn counters_follow_the_tasks_of_each_list_and_of_all() {
    given_events::<List>(
        BoardProjection,
        [(HOME, opened("Home")), (WORK, opened("Work"))],
    )
    .and::<Task>([
        (task(1), added(HOME, "sweep")),
        (task(2), added(HOME, "cook")),
        (task(3), added(WORK, "type")),
        (task(1), TaskEvent::Completed),
        (task(2), TaskEvent::Removed),
        (task(1), TaskEvent::Removed),
    ])
    .then_document(
        "lists",
        &HOME,
        &json!({ "id": HOME, "name": "Home", "active": 0, "done": 0, "removed": 2 }),
    )
    .then_document(
        "lists",
        &WORK,
        &json!({ "id": WORK, "name": "Work", "active": 1, "done": 0, "removed": 0 }),
    )
    .then_document(
        "counters",
        "all",
        &json!({ "active": 1, "done": 0, "removed": 2 }),
    );
}
