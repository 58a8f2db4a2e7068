//! given / when / then: what passes, and what a failure says.

use std::panic::{AssertUnwindSafe, catch_unwind};

use backstory_command::{Aggregate, Command, Handle, given};
use backstory_event::Event;
use serde::{Deserialize, Serialize};

use crate::domain::{CompleteTodo, Todo, TodoError, TodoEvent, add, added};

#[test]
fn a_story() {
    given::<Todo>([])
        .when(add("buy milk"))
        .then([added("buy milk")])
        .when(CompleteTodo { todo: 7 })
        .then([TodoEvent::Completed])
        .when(CompleteTodo { todo: 7 })
        .then_nothing()
        .when(add("again"))
        .then_error(TodoError::AlreadyAdded);
    let given = given::<Todo>([added("buy milk"), TodoEvent::Completed]);
    assert_eq!(given.state(), &Todo::Done);
}

/// What the test prints when it fails.
#[track_caller]
fn failure<T>(test: impl FnOnce() -> T) -> String {
    let panic = catch_unwind(AssertUnwindSafe(|| drop(test()))).unwrap_err();
    *panic.downcast::<String>().unwrap()
}

#[test]
fn other_events_are_shown_line_by_line() {
    let message = failure(|| given::<Todo>([]).when(add("milk")).then([added("bread")]));
    let expected = r#"other events than expected (- expected, + decided):
  [
      Added {
-         title: "bread",
+         title: "milk",
      },
  ]"#;
    assert_eq!(message, expected);
}

#[test]
fn more_and_fewer_events_are_shown() {
    let message = failure(|| {
        given::<Todo>([added("milk")])
            .when(CompleteTodo { todo: 7 })
            .then([added("milk"), TodoEvent::Completed])
    });
    assert!(message.ends_with(
        "  [\n-     Added {\n-         title: \"milk\",\n-     },\n      Completed,\n  ]"
    ));
    let message = failure(|| given::<Todo>([]).when(add("milk")).then_nothing());
    assert!(message.contains("+     Added {"), "{message}");
}

#[test]
fn an_unexpected_rejection_is_shown() {
    let message = failure(|| {
        given::<Todo>([])
            .when(CompleteTodo { todo: 7 })
            .then([TodoEvent::Completed])
    });
    assert!(message.contains("rejected with `todo.no_such_todo`: there is no to-do 7"));
    let message = failure(|| {
        given::<Todo>([])
            .when(CompleteTodo { todo: 7 })
            .then_error(TodoError::NoSuchTodo(8))
    });
    assert!(message.contains("-     8,\n+     7,"), "{message}");
    let message = failure(|| {
        given::<Todo>([])
            .when(add("milk"))
            .then_error(TodoError::AlreadyAdded)
    });
    assert!(message.starts_with("the rejection `todo.already_added` was expected"));
    assert!(message.contains("these events were decided"));
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Event)]
#[event(prefix = "lossy", crate = "backstory_event")]
enum LossyEvent {
    Measured {
        value: f64,
        #[serde(skip)]
        unit: String,
    },
}

#[derive(Debug, Default)]
struct Lossy;

impl Aggregate for Lossy {
    const CATEGORY: &'static str = "lossy";
    type Id = u64;
    type Event = LossyEvent;
    fn apply(&mut self, _: &LossyEvent) {}
}

#[derive(Command)]
#[command(name = "lossy.measure", aggregate = Lossy, crate = "backstory_command")]
struct Measure {
    id: u64,
    value: f64,
}

impl Handle<Measure> for Lossy {
    type Error = TodoError;
    fn handle(&self, command: &Measure) -> Result<Vec<LossyEvent>, TodoError> {
        Ok(vec![measured(command.value, "")])
    }
}

fn measured(value: f64, unit: &str) -> LossyEvent {
    LossyEvent::Measured {
        value,
        unit: unit.into(),
    }
}

#[test]
fn an_event_that_changes_when_stored_fails_the_test() {
    let message = failure(|| given::<Lossy>([measured(1.5, "kg")]));
    assert!(
        message.contains(r#"stored as `lossy.measured` v1 {"value":1.5}"#),
        "{message}"
    );
    assert!(
        message.contains("-     unit: \"kg\",\n+     unit: \"\","),
        "{message}"
    );
}

#[test]
fn an_event_that_cannot_be_stored_fails_the_test() {
    let infinite = Measure {
        id: 1,
        value: f64::INFINITY,
    };
    let expected = measured(f64::INFINITY, "");
    let message = failure(|| given::<Lossy>([]).when(infinite).then([expected]));
    assert!(message.contains("the event cannot be stored"), "{message}");
}
