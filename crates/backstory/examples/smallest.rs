//! The smallest complete program: a domain, an error, one command, a read model, and one test.
//!
//! Run it with `cargo run -p backstory --example smallest --features test-util`; with the features
//! `sqlite` and `postgres` it also takes a `sqlite:` or `postgres:` URL.

use backstory::{
    Aggregate, Command, CommandBus, Documents, Envelope, Event, Handle, Projection, Projector,
    Reject, Schedule, Store, async_trait, projection::Result,
};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Event)]
#[event(prefix = "todo")] // on disk: "todo.added", "todo.completed"
enum TodoEvent {
    Added { title: String },
    Completed,
}

#[derive(Debug, Default)]
enum Todo {
    #[default]
    Unknown,
    Open,
    Done,
}

impl Aggregate for Todo {
    const CATEGORY: &'static str = "todo";
    type Id = Uuid;
    type Event = TodoEvent;
    fn apply(&mut self, event: &TodoEvent) {
        *self = match event {
            TodoEvent::Added { .. } => Self::Open,
            TodoEvent::Completed => Self::Done,
        }
    }
}

#[derive(Debug, Clone, Serialize, Deserialize, Command)]
#[command(name = "todo.add", aggregate = Todo)]
struct AddTodo {
    id: Uuid,
    title: String,
}

#[derive(Debug, PartialEq, thiserror::Error, Reject)]
#[error("this to-do was added before")]
#[reject(code = "todo.already_added")]
struct AlreadyAdded;

impl Handle<AddTodo> for Todo {
    type Error = AlreadyAdded;
    fn handle(&self, command: &AddTodo) -> Result<Vec<TodoEvent>, AlreadyAdded> {
        let title = command.title.clone();
        match self {
            Self::Unknown => Ok(vec![TodoEvent::Added { title }]),
            Self::Open | Self::Done => Err(AlreadyAdded),
        }
    }
}

struct OpenTodos; // the read model: the titles of open to-dos by id

#[async_trait]
impl Projection<Documents> for OpenTodos {
    type Event = TodoEvent;
    const NAME: &'static str = "open_todos"; // the checkpoint's name on disk
    async fn project(&self, batch: &[Envelope<TodoEvent>], docs: &mut Documents) -> Result {
        for e in batch {
            let id = e.id::<Todo>()?;
            match &e.event {
                TodoEvent::Added { title } => docs.put("open_todos", &id, title).await?,
                TodoEvent::Completed => docs.delete("open_todos", &id).await?,
            }
        }
        Ok(())
    }
}

#[tokio::main]
async fn main() -> Result {
    // "memory:", "sqlite:…" or "postgres:…"
    let store = Store::connect(&std::env::args().nth(1).unwrap_or("memory:".into())).await?;
    let commands = CommandBus::new(&store);
    let projector = Projector::new(&store).with(OpenTodos, Schedule::continuous());
    let projector = projector.start().await?;

    let (id, title) = (Uuid::now_v7(), "buy milk".into());
    let receipt = commands.dispatch(AddTodo { id, title }).await?;
    projector.caught_up(&receipt).await?; // read your own write
    let open: Option<String> = store.documents().get("open_todos", &id).await?;
    assert_eq!(open.as_deref(), Some("buy milk"));
    projector.shutdown().await?;
    Ok(())
}

#[test]
fn a_todo_is_added_once() {
    use backstory::test::given;
    let (id, title) = (Uuid::now_v7(), || String::from("buy milk"));
    let add = AddTodo { id, title: title() };
    let added = TodoEvent::Added { title: title() };
    given::<Todo>([]).when(add.clone()).then([added.clone()]);
    given::<Todo>([added]).when(add).then_error(AlreadyAdded);
}
