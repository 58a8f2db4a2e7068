use backstory_event::Event;
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize, Event)]
#[event(prefix = "todo", crate = "backstory_event", ignore("todo.done"))]
enum TodoEvent {
    Done,
    #[event(rename = "done")]
    Finished,
    #[event(name = "todo.done")]
    Completed,
}

fn main() {}
