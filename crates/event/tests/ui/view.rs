use backstory_event::{DecodeEvent, Event};
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize, Event)]
#[event(prefix = "todo", crate = "backstory_event")]
enum TodoEvent {
    Done,
}

#[derive(DecodeEvent)]
#[event(prefix = "feed", crate = "backstory_event")]
enum Feed {
    #[event(rename = "todos")]
    Todo(TodoEvent),
    Named { event: TodoEvent },
    Two(TodoEvent, TodoEvent),
    Unit,
}

#[derive(DecodeEvent)]
struct Single(TodoEvent);

fn main() {}
