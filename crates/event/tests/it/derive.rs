//! `#[derive(Event)]` on every form of enum and struct.

use std::fmt::Debug;

use backstory_event::{DecodeEvent, Decoded, Event, NewEvent, Tag};
use serde::{Deserialize, Serialize};

use crate::{recorded, stored};

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Event)]
#[event(prefix = "todo", crate = "backstory_event")]
#[event(ignore("todo.nagged", "todo.poked"), ignore("todo.seen"))]
enum TodoEvent {
    Added {
        title: String,
        #[event(tag)]
        list: Option<u32>,
        #[event(tag = "label")]
        labels: Vec<String>,
    },
    MovedToList(#[event(tag = "list")] u32, String),
    Noted(String),
    #[event(rename = "finished", version = 2)]
    Completed,
    #[event(name = "task.dropped")]
    Removed {},
    Typed {
        #[event(tag)]
        r#type: u8,
        #[serde(rename = "dueOn")]
        due_on: Option<Vec<(u8, u8)>>,
    },
    #[serde(rename = "serde names of variants do not matter")]
    HTTPCalled,
}

fn round_trip<E: Event + PartialEq + Debug>(event: &E) -> NewEvent {
    let new = NewEvent::of(event).unwrap();
    let kinds = E::types();
    let kind = kinds.iter().find(|kind| kind.name == new.name).unwrap();
    assert_eq!(new.version, kind.version);
    let Decoded::One(envelope) = recorded(1, new.clone()).decode::<E>().unwrap() else {
        panic!("{} is not one event", new.name);
    };
    assert_eq!(&envelope.event, event);
    assert_eq!(envelope.part(), 0);
    new
}

fn added(list: Option<u32>, labels: &[&str]) -> TodoEvent {
    TodoEvent::Added {
        title: "buy milk".into(),
        list,
        labels: labels.iter().map(|&label| label.into()).collect(),
    }
}

fn tags(event: &impl Event) -> Vec<String> {
    let tags = event.tags().unwrap();
    tags.iter().map(Tag::to_string).collect()
}

#[test]
fn every_form_of_variant_comes_back_from_its_stored_form() {
    for (event, name, payload) in [
        (
            added(None, &["a"]),
            "todo.added",
            r#"{"title":"buy milk","list":null,"labels":["a"]}"#,
        ),
        (
            TodoEvent::MovedToList(3, "later".into()),
            "todo.moved_to_list",
            r#"[3,"later"]"#,
        ),
        (TodoEvent::Noted("x".into()), "todo.noted", r#""x""#),
        (TodoEvent::Completed, "todo.finished", "{}"),
        (TodoEvent::Removed {}, "task.dropped", "{}"),
        (
            TodoEvent::Typed {
                r#type: 1,
                due_on: Some(vec![(2, 3)]),
            },
            "todo.typed",
            r#"{"type":1,"dueOn":[[2,3]]}"#,
        ),
        (TodoEvent::HTTPCalled, "todo.http_called", "{}"),
    ] {
        let new = round_trip(&event);
        assert_eq!(new.name, name);
        assert_eq!(
            new.payload,
            backstory_event::Payload::parse(payload).unwrap()
        );
    }
}

#[test]
fn the_catalog_text_says_names_versions_and_fields() {
    let lines: Vec<_> = TodoEvent::types()
        .into_iter()
        .map(|kind| format!("{} v{} {}", kind.name, kind.version, kind.shape))
        .collect();
    assert_eq!(
        lines,
        [
            "todo.added v1 { title: String, list: Option<u32>, labels: Vec<String> }",
            "todo.moved_to_list v1 (u32, String)",
            "todo.noted v1 String",
            "todo.finished v2 {}",
            "task.dropped v1 {}",
            "todo.typed v1 { type: u8, dueOn: Option<Vec<(u8, u8)>> }",
            "todo.http_called v1 {}",
        ]
    );
    assert_eq!(TodoEvent::types()[0].rust_type, "it::derive::TodoEvent");
}

#[test]
fn fields_become_tags() {
    assert_eq!(
        tags(&added(Some(7), &["a", "b, {c}"])),
        ["list:7", "label:a", "label:b, {c}"]
    );
    assert_eq!(tags(&added(None, &[])), [""; 0]);
    assert_eq!(tags(&TodoEvent::MovedToList(3, "x".into())), ["list:3"]);
    assert_eq!(tags(&TodoEvent::Completed), [""; 0]);
    let typed = TodoEvent::Typed {
        r#type: 1,
        due_on: None,
    };
    assert_eq!(tags(&typed), ["type:1"]);
}

#[test]
fn a_value_that_is_no_tag_is_refused_with_its_text() {
    let error = NewEvent::of(&added(None, &["two\nlines"])).unwrap_err();
    assert_eq!(error.what(), "tag");
    assert!(NewEvent::of(&added(None, &[&"x".repeat(300)])).is_err());
}

#[test]
fn ignored_names_are_merged() {
    assert_eq!(
        TodoEvent::ignored(),
        ["todo.nagged", "todo.poked", "todo.seen"]
    );
}

#[test]
fn unknown_names_are_not_decoded_and_known_ones_must_fit() {
    let unknown = stored("todo.nagged", 1, "this is no JSON");
    assert_eq!(unknown.decode::<TodoEvent>().unwrap(), Decoded::Unknown);

    let broken = stored("todo.noted", 1, "{}");
    let error = broken.decode::<TodoEvent>().unwrap_err();
    assert_eq!(
        (error.name.as_str(), error.event_id),
        ("todo.noted", broken.id())
    );
    assert!(
        stored("todo.finished", 2, "no JSON")
            .decode::<TodoEvent>()
            .is_err()
    );
}

#[test]
fn fields_that_an_older_program_wrote_are_passed_over() {
    let old = stored("todo.finished", 1, r#"{"by":"me"}"#);
    let Decoded::One(envelope) = old.decode::<TodoEvent>().unwrap() else {
        panic!("not one event");
    };
    assert_eq!(envelope.event, TodoEvent::Completed);
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Event)]
#[event(name = "account.opened", version = 3, crate = "backstory_event")]
#[serde(rename_all = "camelCase")]
struct AccountOpened {
    #[event(tag = "bank")]
    bank_code: String,
    #[serde(skip)]
    cached: u8,
    #[serde(rename(serialize = "holder", deserialize = "holder"))]
    owner: String,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Event)]
#[event(name = "account.paid_in", crate = "backstory_event")]
struct PaidIn(i64);

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Event)]
#[event(name = "account.moved", crate = "backstory_event")]
struct Moved(
    #[event(tag = "to")] String,
    #[event(tag = "via")] Option<u8>,
);

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Event)]
#[event(name = "account.closed", crate = "backstory_event")]
struct Closed;

#[test]
fn a_struct_is_an_event_by_itself() {
    let opened = AccountOpened {
        bank_code: "77".into(),
        cached: 0,
        owner: "me".into(),
    };
    let new = round_trip(&opened);
    assert_eq!((new.name.as_str(), new.version), ("account.opened", 3));
    assert_eq!(new.payload.as_str(), r#"{"bankCode":"77","holder":"me"}"#);
    assert_eq!(tags(&opened), ["bank:77"]);
    let shape = AccountOpened::types()[0].shape;
    assert_eq!(shape, "{ bankCode: String, holder: String }");

    assert_eq!(round_trip(&PaidIn(5)).payload.as_str(), "5");
    assert_eq!(
        round_trip(&Moved("b".into(), None)).payload.as_str(),
        r#"["b",null]"#
    );
    assert_eq!(tags(&Moved("b".into(), Some(1))), ["to:b", "via:1"]);
    assert_eq!(round_trip(&Closed).payload.as_str(), "{}");
    assert_eq!(Closed::types()[0].shape, "{}");
    assert_eq!(
        stored("account.paid_in", 1, "1")
            .decode::<Closed>()
            .unwrap(),
        Decoded::Unknown
    );
}

/// Names that the expansion must not take for those of the standard library.
mod shadows {
    use backstory_event::Event;

    #[allow(dead_code)]
    struct Option;
    #[allow(dead_code)]
    struct Vec;
    #[allow(dead_code)]
    struct Result;
    #[allow(dead_code)]
    struct Payload;

    #[derive(serde::Serialize, serde::Deserialize, Event)]
    #[event(prefix = "shadow", crate = "backstory_event")]
    pub(super) enum Shadow {
        Some(u8),
        None,
        Ok {
            #[event(tag)]
            name: std::string::String,
        },
        Err,
    }
}

#[test]
fn names_of_the_user_do_not_disturb() {
    let event = shadows::Shadow::Ok { name: "x".into() };
    assert_eq!(event.name(), "shadow.ok");
    assert_eq!(tags(&event), ["name:x"]);
    assert_eq!(shadows::Shadow::Some(1).name(), "shadow.some");
    assert_eq!(shadows::Shadow::None.name(), "shadow.none");
    assert_eq!(shadows::Shadow::Err.name(), "shadow.err");
}

macro_rules! noted {
    ($event:ident, $prefix:literal, $note:ty) => {
        #[derive(Debug, PartialEq, Serialize, Deserialize, Event)]
        #[event(prefix = $prefix, crate = "backstory_event")]
        enum $event {
            Noted {
                #[event(tag)]
                note: Option<$note>,
            },
        }
    };
}

noted!(Numbered, "numbered", u8);
noted!(Listed, "listed", Vec<u8>);

#[test]
fn a_macro_may_write_the_enum() {
    let event = Listed::Noted {
        note: Some(vec![1, 2]),
    };
    assert_eq!(round_trip(&event).name, "listed.noted");
    assert_eq!(tags(&event), ["note:1", "note:2"]);
    assert_eq!(tags(&Numbered::Noted { note: Some(1) }), ["note:1"]);
    let shape = "{ note: Option<Vec<u8>> }";
    assert_eq!(Listed::types()[0].shape, shape);
}
