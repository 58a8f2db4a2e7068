use backstory_event::Event;
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize)]
struct Place {
    x: u32,
}

#[derive(Serialize, Deserialize, Event)]
#[event(prefix = "todo", crate = "backstory_event")]
enum TodoEvent {
    Added {
        #[event(tag)]
        place: Option<Place>,
    },
}

fn main() {}
