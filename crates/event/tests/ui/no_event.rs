use backstory_event::Event;

#[derive(Clone, Copy, Event)]
#[event(prefix = "todo", crate = "backstory_event")]
union TodoEvent {
    added: u8,
}

#[derive(Event)]
#[event(prefix = "list", crate = "backstory_event")]
enum ListEvent<T> {
    Opened(T),
}

#[derive(Event)]
#[event(prefix = "empty", crate = "backstory_event")]
enum Empty {}

fn main() {}
