//! The domain: lists and the tasks on them. No I/O, no clock, no runtime.
//!
//! Each aggregate stands together with its events, its commands and its reasons to say no.

use backstory::{Aggregate, Command, Event, Handle, Reject};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

// ---- a list ----------------------------------------------------------------------------------

/// What happens to lists.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Event)]
#[event(prefix = "list")] // on disk: "list.opened"
pub enum ListEvent {
    /// There is a new list.
    Opened {
        /// What it is called.
        name: String,
    },
}

/// A list of tasks.
#[derive(Debug, Default)]
pub struct List {
    name: Option<String>,
}

impl Aggregate for List {
    const CATEGORY: &'static str = "list";
    type Id = Uuid;
    type Event = ListEvent;

    fn apply(&mut self, event: &ListEvent) {
        let ListEvent::Opened { name } = event;
        self.name = Some(name.clone());
    }
}

/// Opens a list. That no other list has its name is not for this list alone to decide: see
/// [`crate::app::Todos::open_list`].
#[derive(Debug, Clone, Serialize, Deserialize, Command)]
#[command(name = "list.open", aggregate = List, creates)]
pub struct OpenList {
    /// The id of the new list.
    pub id: Uuid,
    /// What it is to be called: 1 to 60 characters.
    pub name: String,
}

/// Why a list says no.
#[derive(Debug, Clone, PartialEq, thiserror::Error, Reject)]
#[reject(prefix = "list")] // codes: "list.bad_name", "list.already_opened"
pub enum ListError {
    /// The name is empty, too long, or holds control characters.
    #[error("a list's name has 1 to {MAX_NAME} characters, on one line")]
    BadName,
    /// There is a list with this id.
    #[error("this list was opened before")]
    AlreadyOpened,
}

/// The longest name of a list. It is claimed as a unique value, and those have 255 bytes at most.
const MAX_NAME: usize = 60;

impl Handle<OpenList> for List {
    type Error = ListError;

    fn handle(&self, command: &OpenList) -> Result<Vec<ListEvent>, ListError> {
        if self.name.is_some() {
            return Err(ListError::AlreadyOpened);
        }
        let name = text(&command.name, MAX_NAME).ok_or(ListError::BadName)?;
        Ok(vec![ListEvent::Opened { name }])
    }
}

// ---- a task ----------------------------------------------------------------------------------

/// What happens to tasks.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Event)]
#[event(prefix = "task")] // on disk: "task.added", "task.completed", "task.removed"
pub enum TaskEvent {
    /// There is something to do.
    Added {
        /// On which list.
        list: Uuid,
        /// What is to be done.
        title: String,
    },
    /// It is done.
    Completed,
    /// It is not wanted any more. What happened to it stays in the log.
    Removed,
}

/// A task.
#[derive(Debug, Default)]
pub enum Task {
    /// There is none with this id.
    #[default]
    Unknown,
    /// It is to be done.
    Active,
    /// It is done.
    Done,
    /// It was removed.
    Removed,
}

impl Aggregate for Task {
    const CATEGORY: &'static str = "task";
    type Id = Uuid;
    type Event = TaskEvent;

    fn apply(&mut self, event: &TaskEvent) {
        *self = match event {
            TaskEvent::Added { .. } => Self::Active,
            TaskEvent::Completed => Self::Done,
            TaskEvent::Removed => Self::Removed,
        }
    }
}

/// Adds a task to a list.
#[derive(Debug, Clone, Serialize, Deserialize, Command)]
#[command(name = "task.add", aggregate = Task, creates)]
pub struct AddTask {
    /// The id of the new task.
    pub id: Uuid,
    /// The list.
    pub list: Uuid,
    /// What is to be done: 1 to 200 characters.
    pub title: String,
}

/// Says that a task is done. Saying it twice changes nothing.
#[derive(Debug, Clone, Serialize, Deserialize, Command)]
#[command(name = "task.complete", aggregate = Task)]
pub struct CompleteTask {
    /// The task.
    pub id: Uuid,
}

/// Removes a task, done or not. Removing it twice changes nothing.
#[derive(Debug, Clone, Serialize, Deserialize, Command)]
#[command(name = "task.remove", aggregate = Task)]
pub struct RemoveTask {
    /// The task.
    pub id: Uuid,
}

/// Why a task says no.
#[derive(Debug, Clone, PartialEq, thiserror::Error, Reject)]
#[reject(prefix = "task")] // codes: "task.unknown", "task.bad_title" …
pub enum TaskError {
    /// There is no task with this id.
    #[error("there is no such task")]
    Unknown,
    /// The title is empty, too long, or holds control characters.
    #[error("a task's title has 1 to {MAX_TITLE} characters, on one line")]
    BadTitle,
    /// There is a task with this id.
    #[error("this task was added before")]
    AlreadyAdded,
    /// It was removed, and cannot be done any more.
    #[error("this task was removed")]
    Removed,
}

const MAX_TITLE: usize = 200;

impl Handle<AddTask> for Task {
    type Error = TaskError;

    fn handle(&self, command: &AddTask) -> Result<Vec<TaskEvent>, TaskError> {
        let Self::Unknown = self else {
            return Err(TaskError::AlreadyAdded);
        };
        let list = command.list;
        let title = text(&command.title, MAX_TITLE).ok_or(TaskError::BadTitle)?;
        Ok(vec![TaskEvent::Added { list, title }])
    }
}

impl Handle<CompleteTask> for Task {
    type Error = TaskError;

    fn handle(&self, _: &CompleteTask) -> Result<Vec<TaskEvent>, TaskError> {
        match self {
            Self::Unknown => Err(TaskError::Unknown),
            Self::Active => Ok(vec![TaskEvent::Completed]),
            Self::Done => Ok(vec![]), // nothing to do is success
            Self::Removed => Err(TaskError::Removed),
        }
    }
}

impl Handle<RemoveTask> for Task {
    type Error = TaskError;

    fn handle(&self, _: &RemoveTask) -> Result<Vec<TaskEvent>, TaskError> {
        match self {
            Self::Unknown => Err(TaskError::Unknown),
            Self::Active | Self::Done => Ok(vec![TaskEvent::Removed]),
            Self::Removed => Ok(vec![]),
        }
    }
}

/// What somebody typed, without white space around it; `None` when it is empty, longer than `max`
/// characters, or holds control characters.
fn text(typed: &str, max: usize) -> Option<String> {
    let text = typed.trim();
    let fits = (1..=max).contains(&text.chars().count()) && !text.chars().any(char::is_control);
    fits.then(|| text.to_owned())
}
