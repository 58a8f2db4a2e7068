//! Streams, tags, lifecycle events and requests: what is refused, and how it is said.

use backstory_event::{
    Aggregate, Append, Decoded, Event, EventId, ExpectedVersion, Lifecycle, Limits, NewEvent,
    Payload, Position, StreamId, StreamVersion, Tag, TagChange,
};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::recorded_in;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Event)]
#[event(prefix = "todo", crate = "backstory_event")]
enum TodoEvent {
    Done,
}

#[derive(Default)]
struct Todo;

impl Aggregate for Todo {
    const CATEGORY: &'static str = "todo";
    type Id = Uuid;
    type Event = TodoEvent;
    fn apply(&mut self, _: &TodoEvent) {}
}

#[test]
fn an_envelope_gives_the_typed_id_of_its_own_aggregate_only() {
    let id = Uuid::now_v7();
    let envelope = |stream: StreamId| {
        let stored = recorded_in(stream, 1, NewEvent::of(&TodoEvent::Done).unwrap());
        match stored.decode::<TodoEvent>().unwrap() {
            Decoded::One(envelope) => envelope,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(envelope(Todo::stream(&id).unwrap()).id::<Todo>(), Ok(id));
    let other = envelope(StreamId::new("list", id).unwrap());
    assert_eq!(other.id::<Todo>().unwrap_err().what(), "stream category");
    let number = envelope(StreamId::new("todo", 7).unwrap());
    assert_eq!(number.id::<Todo>().unwrap_err().what(), "stream key");
}

#[test]
fn an_erased_event_decodes_to_nothing() {
    let stored = recorded_in(
        StreamId::new("todo", 1).unwrap(),
        1,
        NewEvent::raw("todo.done", Payload::stored("null")),
    );
    let mut erased = stored.recorded().clone();
    erased.erased_at = Some(erased.recorded_at);
    let erased = backstory_event::RecordedEvent::new(erased);
    assert_eq!(
        erased.decode::<TodoEvent>().unwrap(),
        Decoded::Parts(vec![])
    );
}

#[test]
fn odd_names_are_fine_and_impossible_ones_are_refused() {
    for text in ["{", ",", "\"", "a b", "ü", "'; --", "%", "\\"] {
        assert!(StreamId::new(text, text).is_ok(), "{text}");
        assert!(Tag::new(text).is_ok(), "{text}");
    }
    let long = "x".repeat(256);
    for text in ["", " a", "a ", "a\nb", "\0", &long] {
        assert!(StreamId::new("todo", text).is_err(), "{text}");
        assert!(StreamId::new(text, 1).is_err(), "{text}");
        assert!(Tag::new(text).is_err(), "{text}");
    }
    assert!(StreamId::new("todo", Uuid::nil()).is_err());
    assert!(StreamId::new("backstory.todo", 1).is_err());
    assert_eq!(StreamId::new("todo", "").unwrap_err().what(), "stream key");
}

#[test]
fn expected_versions_accept_what_they_say() {
    use ExpectedVersion::{Any, Exact, NoStream, StreamExists};
    let version = StreamVersion::new;
    for (expected, accepted) in [
        (Any, [true, true, true]),
        (NoStream, [true, false, false]),
        (StreamExists, [false, true, true]),
        (Exact(version(0)), [true, false, false]),
        (Exact(version(2)), [false, false, true]),
    ] {
        assert_eq!(
            [0, 1, 2].map(|actual| expected.accepts(version(actual))),
            accepted
        );
    }
}

#[test]
fn a_request_is_checked_before_any_store_sees_it() {
    let todo = || StreamId::new("todo", 1).unwrap();
    let event = |name: &str| NewEvent::raw(name, Payload::empty());
    let to = |events: Vec<NewEvent>| Append::to(todo(), ExpectedVersion::Any, events);
    let limits = Limits::default().with_payload(10).with_events(3);
    let check = |append: Append| append.validate(&limits).map_err(|invalid| invalid.what());

    let fine = to(vec![event("todo.done")])
        .check(StreamId::new("list", 1).unwrap(), ExpectedVersion::NoStream);
    assert_eq!(check(fine), Ok(()));

    let same = event("todo.done");
    let big = NewEvent::raw("todo.noted", Payload::parse("\"123456789\"").unwrap());
    let mut version_0 = event("todo.done");
    version_0.version = 0;
    let tagged = NewEvent::raw("backstory.tagged", Payload::empty());
    let nonsense = NewEvent::raw("backstory.tagged", Payload::parse("[1]").unwrap());
    for (append, what) in [
        (Append::new(), "append"),
        (to(vec![]), "append"),
        (to((0..4).map(|_| event("todo.done")).collect()), "append"),
        (to(vec![same.clone(), same]), "event id"),
        (
            to(vec![event("todo.done").with_id(EventId::NIL)]),
            "event id",
        ),
        (
            to(vec![NewEvent::raw("todo.noted", Payload::stored("{"))]),
            "payload",
        ),
        (
            to(vec![NewEvent::raw("todo.noted", Payload::stored("1e2"))]),
            "payload",
        ),
        (
            to(vec![event("todo.done").with_tag(Tag::stored("\0"))]),
            "tag",
        ),
        (
            to(vec![event("todo.done")]).check(StreamId::stored("", "1"), ExpectedVersion::Any),
            "stream category",
        ),
        (
            to(vec![event("todo.done")])
                .claim("name", "x", todo())
                .release("name", "x", StreamId::new("todo", 2).unwrap()),
            "claim value",
        ),
        (to(vec![event("")]), "event name"),
        (to(vec![event("todo.*")]), "event name"),
        (to(vec![event("backstory.invented")]), "event name"),
        (to(vec![version_0]), "schema version"),
        (to(vec![big]), "payload"),
        (to(vec![nonsense]), "payload of backstory.tagged"),
        (
            to(vec![event("a")]).and(todo(), ExpectedVersion::Any, [event("b")]),
            "stream",
        ),
        (
            to(vec![Lifecycle::Erased.event(), event("b")]),
            "stream part",
        ),
        (to(vec![event("a")]).claim("", "x", todo()), "claim scope"),
        (
            to(vec![event("a")]).claim("email", "", todo()),
            "claim value",
        ),
    ] {
        assert_eq!(check(append.clone()), Err(what), "{append:?}");
    }
    assert_eq!(check(to(vec![tagged])), Ok(()));
}

#[test]
fn a_change_of_tags_comes_back_from_its_event() {
    let change = TagChange {
        add: vec![Tag::new("a\"{").unwrap()],
        remove: vec![Tag::new("b").unwrap()],
    };
    let event = change.event();
    assert_eq!(Lifecycle::parse(&event.name), Some(Lifecycle::Tagged));
    assert_eq!(TagChange::parse(&event.payload), Ok(change));
    assert!(TagChange::parse(&Payload::parse(r#"{"add":[""]}"#).unwrap()).is_err());
    for lifecycle in Lifecycle::ALL {
        assert_eq!(Lifecycle::parse(lifecycle.name()), Some(lifecycle));
    }
    assert_eq!(Lifecycle::parse("backstory.invented"), None);
}

#[test]
fn positions_and_versions_are_never_negative() {
    let position: Position = serde_json::from_str("-3").unwrap();
    assert_eq!(position, Position::START);
    let version: StreamVersion = serde_json::from_str("-3").unwrap();
    assert_eq!(version, StreamVersion::EMPTY);
    assert_eq!(serde_json::to_string(&Position::new(7)).unwrap(), "7");
}
