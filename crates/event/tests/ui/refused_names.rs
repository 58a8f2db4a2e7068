use backstory_event::Event;
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize, Event)]
#[event(prefix = "todo.", crate = "backstory_event", ignore("todo list"))]
enum TodoEvent {
    #[event(name = "backstory.added")]
    Added,
    #[event(rename = "*")]
    Removed,
    #[event(rename = "")]
    Moved,
    #[event(name = "todo.gone", rename = "gone")]
    Gone,
    #[event(version = 0)]
    Done,
}

#[derive(Serialize, Deserialize, Event)]
#[event(prefix = "", crate = "backstory_event")]
enum ListEvent {
    Opened,
}

#[derive(Serialize, Deserialize, Event)]
#[event(prefix = "backstory", crate = "backstory_event")]
enum FrameworkEvent {
    Deleted,
}

#[derive(Serialize, Deserialize, Event)]
#[event(name = "account\topened", crate = "backstory_event")]
struct AccountOpened;

fn main() {}
