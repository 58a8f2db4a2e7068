//! What the derives write, written by hand.

use backstory_event::{DecodeEvent, Decoded, Event, EventType, Invalid, NewEvent, Payload, Tag};
use serde_json::{Error, json};

use crate::recorded;

#[derive(Debug, PartialEq)]
enum SeatEvent {
    Taken { guest: String },
    Left,
}

impl DecodeEvent for SeatEvent {
    fn types() -> Vec<EventType> {
        let kind = |name, shape| EventType {
            name,
            version: 1,
            shape,
            rust_type: "SeatEvent",
        };
        vec![
            kind("seat.taken", "{ guest: String }"),
            kind("seat.left", "{}"),
        ]
    }

    fn decode(name: &str, payload: &Payload) -> Result<Option<Self>, Error> {
        Ok(match name {
            "seat.taken" => {
                let guest = serde_json::from_value(payload.to_value()?["guest"].take())?;
                Some(Self::Taken { guest })
            }
            "seat.left" => Some(Self::Left),
            _ => None,
        })
    }
}

impl Event for SeatEvent {
    fn name(&self) -> &'static str {
        match self {
            Self::Taken { .. } => "seat.taken",
            Self::Left => "seat.left",
        }
    }

    fn encode(&self) -> Result<Payload, Invalid> {
        match self {
            Self::Taken { guest } => Payload::encode(&json!({ "guest": guest })),
            Self::Left => Ok(Payload::empty()),
        }
    }

    fn tags(&self) -> Result<Vec<Tag>, Invalid> {
        match self {
            Self::Taken { guest } => Ok(vec![Tag::pair("guest", guest)?]),
            Self::Left => Ok(Vec::new()),
        }
    }
}

/// A view by hand: only the arrivals, and only the name.
#[derive(Debug, PartialEq)]
struct Arrival(String);

impl DecodeEvent for Arrival {
    fn types() -> Vec<EventType> {
        SeatEvent::types()[..1].to_vec()
    }

    fn decode(name: &str, payload: &Payload) -> Result<Option<Self>, Error> {
        Ok(
            SeatEvent::decode(name, payload)?.and_then(|event| match event {
                SeatEvent::Taken { guest } => Some(Self(guest)),
                SeatEvent::Left => None,
            }),
        )
    }
}

#[test]
fn events_and_views_need_no_derive() {
    let taken = SeatEvent::Taken {
        guest: "Ada".into(),
    };
    let new = NewEvent::of(&taken).unwrap();
    assert_eq!(new.payload.as_str(), r#"{"guest":"Ada"}"#);
    assert_eq!(new.tags[0].as_str(), "guest:Ada");

    let stored = recorded(1, new);
    let Decoded::One(envelope) = stored.decode::<SeatEvent>().unwrap() else {
        panic!("not one event");
    };
    assert_eq!(envelope.event, taken);
    let Decoded::One(envelope) = stored.decode::<Arrival>().unwrap() else {
        panic!("not one event");
    };
    assert_eq!(envelope.event, Arrival("Ada".into()));

    let left = recorded(2, NewEvent::of(&SeatEvent::Left).unwrap());
    assert_eq!(left.decode::<Arrival>().unwrap(), Decoded::Unknown);
}
