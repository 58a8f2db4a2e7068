//! The vocabulary, as a user of the crate meets it.

#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test may fail"
)]

use std::time::Duration;

use backstory_event::{
    EventId, Metadata, NewEvent, Position, Recorded, RecordedEvent, StreamId, StreamVersion,
};

mod bus;
mod by_hand;
mod catalog;
mod clock;
mod cursor;
mod derive;
mod filter;
mod payload;
mod subscription;
mod ui;
mod upcast;
mod view;
mod vocabulary;

/// What a future gives, or a failed test instead of one that hangs.
async fn soon<T>(future: impl Future<Output = T>) -> T {
    let outcome = tokio::time::timeout(Duration::from_secs(10), future).await;
    outcome.expect("an answer within ten seconds")
}

/// The event as a store would have it at this position of one stream.
fn recorded_in(stream: StreamId, position: i64, event: NewEvent) -> RecordedEvent {
    RecordedEvent::new(Recorded {
        position: Position::new(position),
        stream,
        version: StreamVersion::new(position),
        id: event.id,
        name: event.name.into(),
        schema_version: event.version,
        payload: event.payload,
        metadata: event.metadata,
        tags: event.tags,
        recorded_at: chrono::DateTime::from_timestamp(1_600_000_000 + position, 0).unwrap(),
        erased_at: None,
    })
}

fn recorded(position: i64, event: NewEvent) -> RecordedEvent {
    recorded_in(StreamId::new("todo", 7).unwrap(), position, event)
}

/// What a store holds, from its columns.
fn stored(name: &str, version: u32, payload: &str) -> RecordedEvent {
    let mut event = NewEvent::raw(name, backstory_event::Payload::stored(payload));
    event.version = version;
    event.id = EventId::new();
    event.metadata = Metadata::new();
    recorded(1, event)
}
