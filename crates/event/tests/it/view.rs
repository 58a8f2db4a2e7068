//! `#[derive(DecodeEvent)]`: one enum over the events of several aggregates.

use backstory_event::{DecodeEvent, Decoded, Event, EventFilter, NewEvent, Upcasters};
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::{recorded, stored};

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Event)]
#[event(prefix = "todo", crate = "backstory_event", upcasters = upcasters)]
enum TodoEvent {
    Added { title: String },
    Done,
}

fn upcasters() -> Upcasters {
    Upcasters::new()
        .rename("todo.created", "todo.added")
        .split("todo.imported", 1, |payload| {
            let titles = payload["titles"].as_array().cloned().unwrap_or_default();
            let part = |title| ("todo.added", json!({ "title": title }));
            Ok(titles.into_iter().map(part).collect())
        })
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Event)]
#[event(prefix = "list", crate = "backstory_event")]
enum ListEvent {
    Opened,
}

/// Knows one of the names of `TodoEvent`, and reads less.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Event)]
#[event(name = "todo.done", crate = "backstory_event")]
struct AnythingDone;

#[derive(Debug, PartialEq, DecodeEvent)]
#[event(crate = "backstory_event")]
enum Feed {
    Todo(TodoEvent),
    List(ListEvent),
    Never(AnythingDone),
}

#[derive(Debug, PartialEq, DecodeEvent)]
#[event(crate = "backstory_event")]
enum Wider {
    Feed(Feed),
}

fn decode<E: DecodeEvent>(event: &backstory_event::RecordedEvent) -> Vec<E> {
    match event.decode().unwrap() {
        Decoded::Unknown => Vec::new(),
        Decoded::One(envelope) => vec![envelope.event],
        Decoded::Parts(parts) => parts.into_iter().map(|part| part.event).collect(),
    }
}

#[test]
fn a_view_decodes_the_events_of_all_its_parts() {
    let opened = recorded(1, NewEvent::of(&ListEvent::Opened).unwrap());
    assert_eq!(decode::<Feed>(&opened), [Feed::List(ListEvent::Opened)]);
    assert_eq!(
        decode::<Wider>(&opened),
        [Wider::Feed(Feed::List(ListEvent::Opened))]
    );
    let elsewhere = stored("note.written", 1, "{}");
    assert_eq!(elsewhere.decode::<Feed>().unwrap(), Decoded::Unknown);
}

#[test]
fn the_first_part_that_knows_a_name_decodes_it() {
    let done = recorded(1, NewEvent::of(&TodoEvent::Done).unwrap());
    assert_eq!(decode::<Feed>(&done), [Feed::Todo(TodoEvent::Done)]);
}

#[test]
fn a_view_reads_old_events_through_the_upcasters_of_its_parts() {
    let added = |title: &str| {
        Feed::Todo(TodoEvent::Added {
            title: title.into(),
        })
    };
    let old = stored("todo.created", 1, r#"{"title":"a"}"#);
    assert_eq!(decode::<Feed>(&old), [added("a")]);
    let many = stored("todo.imported", 1, r#"{"titles":["a","b"]}"#);
    assert_eq!(decode::<Feed>(&many), [added("a"), added("b")]);
    assert!(stored("todo.added", 1, "{}").decode::<Feed>().is_err());
}

#[test]
fn a_filter_of_a_view_finds_what_its_parts_were_stored_as() {
    let names = |filter: EventFilter| -> Vec<String> {
        filter.items()[0].get_names().iter().cloned().collect()
    };
    let all = [
        "list.opened",
        "todo.added",
        "todo.created",
        "todo.done",
        "todo.imported",
    ];
    assert_eq!(names(EventFilter::of::<Feed>()), all);
    assert_eq!(names(EventFilter::of::<Wider>()), all);
    assert_eq!(
        names(EventFilter::named::<Wider>(["todo.added"])),
        ["todo.added", "todo.created", "todo.imported"]
    );
    assert_eq!(
        names(EventFilter::named::<Feed>(["list.opened"])),
        ["list.opened"]
    );
    assert_eq!(
        names(EventFilter::named::<Feed>(["note.written"])),
        ["note.written"]
    );
}

#[test]
fn the_types_of_a_view_are_those_of_its_parts() {
    let names: Vec<_> = Feed::types().iter().map(|kind| kind.name).collect();
    assert_eq!(
        names,
        ["todo.added", "todo.done", "list.opened", "todo.done"]
    );
}
