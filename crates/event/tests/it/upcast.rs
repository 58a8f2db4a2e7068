//! Old events are read as if they had been written today.

use std::sync::atomic::{AtomicUsize, Ordering};

use backstory_event::{DecodeEvent, Decoded, Event, EventFilter, Upcasters};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::stored;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Event)]
#[event(prefix = "todo", crate = "backstory_event", upcasters = upcasters)]
enum TodoEvent {
    #[event(version = 3)]
    Added {
        title: String,
        list: String,
    },
    #[event(version = 2)]
    Estimated {
        minutes: u32,
    },
    Done,
}

static BUILT: AtomicUsize = AtomicUsize::new(0);

fn upcasters() -> Upcasters {
    BUILT.fetch_add(1, Ordering::SeqCst);
    Upcasters::new()
        .rename("todo.made", "todo.created")
        .rename("todo.created", "todo.added")
        .default_field("todo.added", 1, "list", json!("inbox"))
        .rename_field("todo.added", 2, "text", "title")
        .step("todo.estimated", 1, |mut payload| {
            let hours = payload["hours"].as_u64().ok_or("there are no hours")?;
            payload["minutes"] = json!(hours * 60);
            Ok(payload)
        })
        .split("todo.imported", 1, |payload| {
            let texts = payload["texts"].as_array().cloned().unwrap_or_default();
            let mut parts: Vec<_> = texts
                .into_iter()
                .map(|text| ("todo.made", json!({ "text": text })))
                .collect();
            if payload["done"] == json!(true) {
                parts.push(("todo.done", json!({})));
            }
            Ok(parts)
        })
}

fn added(title: &str, list: &str) -> TodoEvent {
    TodoEvent::Added {
        title: title.into(),
        list: list.into(),
    }
}

/// Everything that programs ever wrote, and how it is read today. Lines are only ever added.
#[test]
fn golden_samples_of_every_version_are_read_as_of_today() {
    for (name, version, payload, events) in [
        (
            "todo.made",
            1,
            json!({"text": "a"}),
            vec![added("a", "inbox")],
        ),
        (
            "todo.created",
            1,
            json!({"text": "a"}),
            vec![added("a", "inbox")],
        ),
        (
            "todo.created",
            2,
            json!({"text": "a", "list": "b"}),
            vec![added("a", "b")],
        ),
        (
            "todo.added",
            1,
            json!({"text": "a", "list": "b"}),
            vec![added("a", "b")],
        ),
        (
            "todo.added",
            3,
            json!({"title": "a", "list": "b"}),
            vec![added("a", "b")],
        ),
        (
            "todo.estimated",
            1,
            json!({"hours": 2}),
            vec![TodoEvent::Estimated { minutes: 120 }],
        ),
        (
            "todo.estimated",
            2,
            json!({"minutes": 5}),
            vec![TodoEvent::Estimated { minutes: 5 }],
        ),
        ("todo.done", 1, json!({}), vec![TodoEvent::Done]),
        ("todo.imported", 1, json!({"texts": []}), vec![]),
        (
            "todo.imported",
            1,
            json!({"texts": ["a"]}),
            vec![added("a", "inbox")],
        ),
        (
            "todo.imported",
            1,
            json!({"texts": ["a", "b"], "done": true}),
            vec![added("a", "inbox"), added("b", "inbox"), TodoEvent::Done],
        ),
    ] {
        let read = match stored(name, version, &payload.to_string())
            .decode::<TodoEvent>()
            .unwrap()
        {
            Decoded::Unknown => panic!("{name} v{version} is unknown"),
            Decoded::One(envelope) => vec![envelope.event],
            Decoded::Parts(parts) => parts.into_iter().map(|part| part.event).collect(),
        };
        assert_eq!(read, events, "{name} v{version} {payload}");
    }
    assert_eq!(BUILT.load(Ordering::SeqCst), 1, "the chain is built once");
}

#[test]
fn the_parts_of_a_split_share_the_stored_event_and_are_numbered() {
    let event = stored("todo.imported", 1, r#"{"texts":["a","b"],"done":true}"#);
    let Decoded::Parts(parts) = event.decode::<TodoEvent>().unwrap() else {
        panic!("not split");
    };
    let numbers: Vec<_> = parts.iter().map(backstory_event::Envelope::part).collect();
    assert_eq!(numbers, [0, 1, 2]);
    assert!(parts.iter().all(|part| part.event_id() == event.id()));
    assert!(parts.iter().all(|part| part.position() == event.position()));
}

#[test]
fn after_a_renaming_a_filter_on_the_new_name_finds_the_old_one() {
    for name in ["todo.made", "todo.created", "todo.added", "todo.imported"] {
        let event = stored(name, 1, "{}");
        assert!(
            EventFilter::named::<TodoEvent>(["todo.added"]).matches(&event),
            "{name}"
        );
        assert!(EventFilter::of::<TodoEvent>().matches(&event), "{name}");
    }
    let estimated = EventFilter::named::<TodoEvent>(["todo.estimated"]);
    assert!(!estimated.matches(&stored("todo.created", 1, "{}")));
    assert_eq!(
        TodoEvent::stored_names(),
        [
            "todo.added",
            "todo.created",
            "todo.done",
            "todo.estimated",
            "todo.imported",
            "todo.made"
        ]
    );
}

#[test]
fn a_newer_schema_version_is_an_error_that_says_what_to_do() {
    let newer = stored("todo.added", 4, r#"{"title":"a","list":"b","more":1}"#);
    let error = newer.decode::<TodoEvent>().unwrap_err();
    assert_eq!((error.version, error.name.as_str()), (4, "todo.added"));
    assert!(error.reason.contains("update the program"), "{error}");
    assert!(
        error.to_string().contains(&newer.id().to_string()),
        "{error}"
    );
    assert!(stored("todo.done", 2, "{}").decode::<TodoEvent>().is_err());
}

#[test]
fn a_step_that_fails_is_an_error_with_its_reason() {
    let error = stored("todo.estimated", 1, "{}")
        .decode::<TodoEvent>()
        .unwrap_err();
    assert_eq!(error.reason, "there are no hours");
    assert!(
        stored("todo.added", 1, "no JSON")
            .decode::<TodoEvent>()
            .is_err()
    );
}

/// A type whose upcasters are given by the test.
struct Anything;

impl DecodeEvent for Anything {
    fn types() -> Vec<backstory_event::EventType> {
        Vec::new()
    }

    fn decode(name: &str, _: &backstory_event::Payload) -> Result<Option<Self>, serde_json::Error> {
        Ok((name == "known").then_some(Self))
    }
}

fn decode(upcasters: &Upcasters, name: &str) -> Result<Decoded<Anything>, String> {
    upcasters.decode(name, 1, &backstory_event::Payload::empty())
}

#[test]
fn cycles_end() {
    let there_and_back = Upcasters::new()
        .split("a", 1, |_| Ok(vec![("b", Value::Null)]))
        .split("b", 1, |_| Ok(vec![("a", Value::Null)]));
    let error = decode(&there_and_back, "a").err().unwrap();
    assert!(error.contains("never end"), "{error}");

    let renamed = Upcasters::new().rename("a", "b").rename("b", "a");
    assert!(matches!(decode(&renamed, "a"), Ok(Decoded::Unknown)));
    assert_eq!(renamed.stored_names(vec!["a".into()]), ["a", "b"]);
}

#[test]
fn an_upcaster_that_leads_nowhere_is_an_error() {
    let lost = Upcasters::new().split("a", 1, |_| {
        Ok(vec![("known", Value::Null), ("lost", Value::Null)])
    });
    let error = decode(&lost, "a").err().unwrap();
    assert!(error.contains("`lost`"), "{error}");
}
