use backstory_command::{Aggregate, Command, Handle};
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
#[command(name = "todo.add", aggregate = Todo, crate = "backstory_command")]
struct AddTodo {
    id: u64,
}

#[derive(Debug)]
struct TodoError;

impl Handle<AddTodo> for Todo {
    type Error = TodoError;
    fn handle(&self, _: &AddTodo) -> Result<Vec<TodoEvent>, TodoError> {
        Ok(vec![TodoEvent::Added])
    }
}

fn main() {}
