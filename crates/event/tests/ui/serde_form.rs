use backstory_event::Event;
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize, Event)]
#[serde(tag = "type")]
#[event(prefix = "todo", crate = "backstory_event")]
enum TodoEvent {
    Added,
    #[serde(skip)]
    Hidden,
    #[serde(other)]
    Unknown,
}

fn main() {}
