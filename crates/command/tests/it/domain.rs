//! A to-do, with derives.

use backstory_command::{Aggregate, Command, Handle, Reject};
use backstory_event::Event;
use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Event)]
#[event(prefix = "todo", crate = "backstory_event")]
pub(crate) enum TodoEvent {
    Added { title: String },
    Completed,
}

#[derive(Debug, Default, Clone, PartialEq)]
pub(crate) enum Todo {
    #[default]
    Unknown,
    Open,
    Done,
}

impl Aggregate for Todo {
    const CATEGORY: &'static str = "todo";
    type Id = u64;
    type Event = TodoEvent;

    fn apply(&mut self, event: &TodoEvent) {
        *self = match event {
            TodoEvent::Added { .. } => Self::Open,
            TodoEvent::Completed => Self::Done,
        }
    }
}

#[derive(Debug, Command)]
#[command(name = "todo.add", aggregate = Todo, crate = "backstory_command")]
pub(crate) struct AddTodo {
    pub(crate) id: u64,
    pub(crate) title: String,
}

#[derive(Debug, Command)]
#[command(name = "todo.complete", aggregate = Todo, id = todo, crate = "backstory_command")]
pub(crate) struct CompleteTodo {
    pub(crate) todo: u64,
}

#[derive(Debug, PartialEq, thiserror::Error, Reject)]
#[reject(prefix = "todo", crate = "backstory_command")]
pub(crate) enum TodoError {
    #[error("this to-do was added before")]
    AlreadyAdded,
    #[error("there is no to-do {0}")]
    NoSuchTodo(u64),
}

impl Handle<AddTodo> for Todo {
    type Error = TodoError;

    fn handle(&self, command: &AddTodo) -> Result<Vec<TodoEvent>, TodoError> {
        match self {
            Self::Unknown => Ok(vec![TodoEvent::Added {
                title: command.title.clone(),
            }]),
            _ => Err(TodoError::AlreadyAdded),
        }
    }
}

impl Handle<CompleteTodo> for Todo {
    type Error = TodoError;

    fn handle(&self, command: &CompleteTodo) -> Result<Vec<TodoEvent>, TodoError> {
        match self {
            Self::Unknown => Err(TodoError::NoSuchTodo(command.todo)),
            Self::Open => Ok(vec![TodoEvent::Completed]),
            Self::Done => Ok(vec![]),
        }
    }
}

pub(crate) fn add(title: &str) -> AddTodo {
    AddTodo {
        id: 7,
        title: title.into(),
    }
}

pub(crate) fn added(title: &str) -> TodoEvent {
    TodoEvent::Added {
        title: title.into(),
    }
}
