use backstory_event::Event;
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize, Event)]
#[event(prefix = "todo", prefix = "task", name = "todo", crate = "backstory_event")]
#[event(color = "red", upcasters)]
enum TodoEvent {
    #[event(prefix = "todo", version = "two")]
    Added {
        #[event(tags)]
        list: u32,
    },
}

#[derive(Serialize, Deserialize, Event)]
#[event(name = "account.opened", prefix = "account", crate = "backstory_event")]
struct AccountOpened;

fn main() {}
