use backstory_command::{Aggregate, Command};
use backstory_event::Event;

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
#[command(crate = "backstory_command")]
struct AddTodo {
    id: u64,
}

#[derive(Command)]
#[command(name = "todo.remove", aggregate = Todo, crate = "backstory_command")]
struct RemoveTodo {
    todo: u64,
}

#[derive(Command)]
#[command(name = "todo.rename", aggregate = Todo, crate = "backstory_command")]
struct RenameTodo {
    id: String,
}

fn main() {}
