use backstory_event::Event;
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize, Event)]
#[event(prefix = "todo", crate = "backstory_event")]
enum TodoEvent {
    Added(#[event(tag)] u32),
    Moved(#[event(tag = "")] u32),
}

fn main() {}
