use backstory_command::{Aggregate, Command, CommandBus};
use backstory_event::{Event, EventStore};

#[derive(serde::Serialize, serde::Deserialize, Event)]
#[event(prefix = "todo", crate = "backstory_event")]
enum TodoEvent {
    Added,
}

#[derive(Default)]
struct Todo;

impl Aggregate for Todo {
    const CATEGORY: &'static str = "todo";
    type Id = u64;
    type Event = TodoEvent;
    fn apply(&mut self, _: &TodoEvent) {}
}

#[derive(Command)]
#[command(name = "todo.add", aggregate = Todo, crate = "backstory_command")]
struct AddTodo {
    id: u64,
}

async fn dispatch(store: impl EventStore + Clone) {
    let _ = CommandBus::new(&store).dispatch(AddTodo { id: 1 }).await;
}

fn main() {}
