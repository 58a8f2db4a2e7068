//! What every store relies on.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "test code"
)]

mod coalescer;
mod histogram;
mod ledger;
mod limits;
mod meters;
mod scan;
mod writer;

use backstory_event::{Append, ExpectedVersion, NewEvent, Payload, StreamId};

fn stream(key: u32) -> StreamId {
    StreamId::new("todo", key).unwrap()
}

fn event(name: &str) -> NewEvent {
    NewEvent::raw(name, Payload::empty())
}

fn append(key: u32) -> Append {
    append_of(key, 1)
}

fn append_of(key: u32, events: usize) -> Append {
    let events = (0..events).map(|_| event("todo.added"));
    Append::to(stream(key), ExpectedVersion::Any, events)
}
