//! What the derives write can be written by hand, and is the same.

use backstory_command::{Command, Handle, Reject, given};

use crate::domain::{AddTodo, CompleteTodo, Todo, TodoError, TodoEvent, added};

struct AddByHand {
    id: u64,
}

impl Command for AddByHand {
    const NAME: &'static str = "todo.add_by_hand";
    type Aggregate = Todo;

    fn aggregate_id(&self) -> &u64 {
        &self.id
    }
}

#[derive(Debug, PartialEq, thiserror::Error)]
#[error("no")]
struct No;

impl Reject for No {
    fn code(&self) -> &str {
        "todo.no"
    }
}

impl Handle<AddByHand> for Todo {
    type Error = No;

    fn handle(&self, _: &AddByHand) -> Result<Vec<TodoEvent>, No> {
        match self {
            Self::Unknown => Ok(vec![added("by hand")]),
            _ => Err(No),
        }
    }
}

#[test]
fn a_command_by_hand_works() {
    given::<Todo>([])
        .when(AddByHand { id: 1 })
        .then([added("by hand")])
        .when(AddByHand { id: 1 })
        .then_error(No);
    assert_eq!(AddByHand { id: 3 }.aggregate_id(), &3);
}

#[test]
fn derived_commands_and_rejections_say_the_same() {
    assert_eq!(
        (AddTodo::NAME, CompleteTodo::NAME),
        ("todo.add", "todo.complete")
    );
    assert_eq!(CompleteTodo { todo: 9 }.aggregate_id(), &9);
    assert_eq!(TodoError::AlreadyAdded.code(), "todo.already_added");
    assert_eq!(TodoError::NoSuchTodo(1).code(), "todo.no_such_todo");
}
