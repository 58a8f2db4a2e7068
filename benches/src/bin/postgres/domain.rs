//! What is stored: orders. A payload has five fields and about 200 bytes, as in `memory.rs`.

use backstory::{Aggregate, BoxError, Command, Event, Handle, NewEvent, Payload, Reject, Snapshot};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// The category of all streams.
pub const CATEGORY: &str = "order";
/// The name of all events.
pub const NAME: &str = "order.placed";

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Event)]
#[event(prefix = "order")]
pub enum OrderEvent {
    Placed {
        customer: String,
        article: String,
        amount: u32,
        price: f64,
        note: String,
    },
}

/// An event.
pub fn placed(number: u32) -> OrderEvent {
    OrderEvent::Placed {
        customer: format!("customer-{number:08}-from-a-rather-long-list"),
        article: "an article with a name of usual length".into(),
        amount: number % 7 + 1,
        price: 19.99,
        note: "please leave the parcel at the neighbour's door".into(),
    }
}

/// The payload that both sides write.
pub fn payload() -> Result<Payload, BoxError> {
    Ok(NewEvent::of(&placed(42))?.payload)
}

#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Order {
    pub lines: u64,
    pub amount: u64,
}

impl Aggregate for Order {
    const CATEGORY: &'static str = CATEGORY;
    type Id = Uuid;
    type Event = OrderEvent;

    fn apply(&mut self, event: &OrderEvent) {
        let OrderEvent::Placed { amount, .. } = event;
        self.lines += 1;
        self.amount += u64::from(*amount);
    }
}

impl Snapshot for Order {
    const SHAPE: u32 = 1;
}

#[derive(Debug, Clone, Command)]
#[command(name = "order.place", aggregate = Order)]
pub struct PlaceOrder {
    pub id: Uuid,
    pub number: u32,
}

/// The same, decided before anything is loaded.
#[derive(Debug, Clone, Command)]
#[command(name = "order.place_new", aggregate = Order, creates)]
pub struct PlaceNewOrder {
    pub id: Uuid,
    pub number: u32,
}

/// One more line of an order that is there.
#[derive(Debug, Clone, Command)]
#[command(name = "order.extend", aggregate = Order)]
pub struct ExtendOrder {
    pub id: Uuid,
    pub number: u32,
}

#[derive(Debug, PartialEq, thiserror::Error, Reject)]
#[error("this order was placed before")]
#[reject(code = "order.already_placed")]
pub struct AlreadyPlaced;

impl Handle<PlaceOrder> for Order {
    type Error = AlreadyPlaced;

    fn handle(&self, command: &PlaceOrder) -> Result<Vec<OrderEvent>, AlreadyPlaced> {
        match self.lines {
            0 => Ok(vec![placed(command.number)]),
            _ => Err(AlreadyPlaced),
        }
    }
}

#[derive(Debug, PartialEq, thiserror::Error, Reject)]
#[error("there is no such order")]
#[reject(code = "order.not_there")]
pub struct NotThere;

impl Handle<ExtendOrder> for Order {
    type Error = NotThere;

    fn handle(&self, command: &ExtendOrder) -> Result<Vec<OrderEvent>, NotThere> {
        match self.lines {
            0 => Err(NotThere),
            _ => Ok(vec![placed(command.number)]),
        }
    }
}

impl Handle<PlaceNewOrder> for Order {
    type Error = AlreadyPlaced;

    fn handle(&self, command: &PlaceNewOrder) -> Result<Vec<OrderEvent>, AlreadyPlaced> {
        let PlaceNewOrder { id, number } = *command;
        Handle::handle(self, &PlaceOrder { id, number })
    }
}
