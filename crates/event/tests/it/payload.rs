//! What no store could give back unchanged is refused before it reaches one.

use std::collections::BTreeMap;

use backstory_event::{DecodeEvent, Event, NewEvent, Payload};
use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Event)]
#[event(prefix = "measure", crate = "backstory_event")]
enum MeasureEvent {
    Taken { value: f64 },
    Pair(f32, Option<f64>),
    Counted(u128),
    Noted { text: String },
    Tabled(BTreeMap<String, i64>),
}

fn refused(event: &MeasureEvent) -> String {
    let error = NewEvent::of(event).unwrap_err();
    assert_eq!(error.what(), "payload");
    error.reason().to_owned()
}

#[test]
fn numbers_that_json_cannot_hold_are_refused_in_every_form_of_variant() {
    for value in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
        assert!(refused(&MeasureEvent::Taken { value }).contains("not finite"));
    }
    refused(&MeasureEvent::Pair(f32::NAN, None));
    refused(&MeasureEvent::Pair(1.0, Some(f64::NAN)));
    assert!(refused(&MeasureEvent::Counted(u128::MAX)).contains("64 bits"));
}

#[test]
fn nul_is_refused_in_texts_and_keys() {
    let noted = |text: &str| MeasureEvent::Noted { text: text.into() };
    assert!(refused(&noted("a\0b")).contains("NUL"));
    refused(&MeasureEvent::Tabled([("\0".to_owned(), 1)].into()));
    assert!(NewEvent::of(&noted("\u{1}\u{ffff}\u{10ffff}{,\"\\")).is_ok());
}

#[test]
fn raw_json_is_checked_too() {
    for json in [
        r#""\ud800""#,
        r#""\udc00\ud800""#,
        r#"{"a":{"b":1,"b":2}}"#,
        r#"["\u0000"]"#,
        "{} {}",
        "[1,]",
        "-Infinity",
    ] {
        assert!(Payload::parse(json).is_err(), "{json}");
    }
    // A pair of surrogates is one character.
    assert_eq!(
        Payload::parse(r#""\ud83d\ude00""#).unwrap().as_str(),
        "\"😀\""
    );
}

proptest::proptest! {
    #[test]
    fn numbers_come_back_as_they_went_in(value in proptest::num::f64::NORMAL | proptest::num::f64::SUBNORMAL) {
        let event = MeasureEvent::Taken { value };
        let payload = event.encode().unwrap();
        let back = MeasureEvent::decode("measure.taken", &payload).unwrap();
        proptest::prop_assert_eq!(back, Some(event));
    }
}

#[test]
fn whole_numbers_go_up_to_64_bits() {
    let most = MeasureEvent::Counted(u64::MAX.into());
    let payload = most.encode().unwrap();
    let back = MeasureEvent::decode("measure.counted", &payload).unwrap();
    assert_eq!(back, Some(most));
}

/// What the derive refuses when it sees it, refused also when it is hidden.
#[test]
fn an_enum_in_another_form_is_refused() {
    #[derive(Serialize)]
    #[serde(tag = "type")]
    enum Tagged {
        Added { title: String },
    }
    #[derive(Serialize)]
    #[serde(untagged)]
    enum Untagged {
        Added(u8),
    }
    let tagged = Tagged::Added {
        title: String::new(),
    };
    for outcome in [
        backstory_event::variant::encode(&tagged),
        backstory_event::variant::encode(&Untagged::Added(1)),
        backstory_event::variant::encode(&Some(1)),
        backstory_event::variant::encode(&"text"),
    ] {
        assert_eq!(outcome.unwrap_err().what(), "payload");
    }
}
