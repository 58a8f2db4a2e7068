use backstory_event::Event;
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize, Event)]
enum TodoEvent {
    Added { title: String },
}

#[derive(Serialize, Deserialize, Event)]
struct AccountOpened {
    owner: String,
}

fn main() {}
