//! A small domain, written by hand: seats that are taken and left.

use std::sync::OnceLock;

use backstory_event::{
    DecodeEvent, Envelope, Event, EventType, Fold, Invalid, Payload, Tag, Upcasters,
};
use serde_json::json;

#[derive(Debug, Clone, PartialEq)]
pub enum SeatEvent {
    Taken { seat: u32, by: String },
    Left { seat: u32 },
}

pub const TAKEN: &str = "seat.taken";
pub const LEFT: &str = "seat.left";
/// What `seat.taken` was called once.
pub const BOOKED: &str = "seat.booked";

impl SeatEvent {
    pub fn taken(seat: u32) -> Self {
        Self::Taken {
            seat,
            by: "ann".to_owned(),
        }
    }

    pub fn left(seat: u32) -> Self {
        Self::Left { seat }
    }

    pub fn seat(&self) -> u32 {
        let (Self::Taken { seat, .. } | Self::Left { seat }) = self;
        *seat
    }
}

#[derive(serde::Deserialize)]
struct Taken {
    seat: u32,
    by: String,
}

#[derive(serde::Deserialize)]
struct Left {
    seat: u32,
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
            kind(TAKEN, "{ seat: u32, by: String }"),
            kind(LEFT, "{ seat: u32 }"),
        ]
    }

    fn decode(name: &str, payload: &Payload) -> Result<Option<Self>, serde_json::Error> {
        Ok(match name {
            TAKEN => {
                let Taken { seat, by } = payload.decode()?;
                Some(Self::Taken { seat, by })
            }
            LEFT => {
                let Left { seat } = payload.decode()?;
                Some(Self::Left { seat })
            }
            _ => None,
        })
    }

    fn upcasters() -> &'static Upcasters {
        static UPCASTERS: OnceLock<Upcasters> = OnceLock::new();
        UPCASTERS.get_or_init(|| Upcasters::new().rename(BOOKED, TAKEN))
    }
}

impl Event for SeatEvent {
    fn name(&self) -> &'static str {
        match self {
            Self::Taken { .. } => TAKEN,
            Self::Left { .. } => LEFT,
        }
    }

    fn encode(&self) -> Result<Payload, Invalid> {
        match self {
            Self::Taken { seat, by } => Payload::encode(&json!({ "seat": seat, "by": by })),
            Self::Left { seat } => Payload::encode(&json!({ "seat": seat })),
        }
    }

    fn tags(&self) -> Result<Vec<Tag>, Invalid> {
        Ok(vec![Tag::pair("seat", self.seat())?])
    }
}

/// How many seats are taken.
#[derive(Debug, Default, Clone, PartialEq)]
pub struct Occupied(pub i64);

impl Fold for Occupied {
    type Event = SeatEvent;

    fn fold(&mut self, envelope: &Envelope<SeatEvent>) {
        self.0 += match envelope.event {
            SeatEvent::Taken { .. } => 1,
            SeatEvent::Left { .. } => -1,
        };
    }
}
