//! What a user's event types can do.

use crate::{Payload, Tag, Upcasters, error::Invalid};

/// One kind of event: its name on disk, its schema version and what its payload looks like.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct EventType {
    /// The stable name: `todo.added`.
    pub name: &'static str,
    /// The schema version of payloads written today, from 1.
    pub version: u32,
    /// The fields and their types, for the golden file: `{ title: String }`.
    pub shape: &'static str,
    /// The Rust type, for error messages.
    pub rust_type: &'static str,
}

/// What became of a stored event.
#[derive(Debug, Clone, PartialEq)]
pub enum Decoded<E> {
    /// The type does not know the name.
    Unknown,
    /// The event.
    One(E),
    /// The parts into which an upcaster split the stored event, possibly none.
    Parts(Vec<E>),
}

impl<E> Decoded<E> {
    /// Turns each event into another type.
    pub fn map<T>(self, mut f: impl FnMut(E) -> T) -> Decoded<T> {
        match self {
            Self::Unknown => Decoded::Unknown,
            Self::One(event) => Decoded::One(f(event)),
            Self::Parts(parts) => Decoded::Parts(parts.into_iter().map(f).collect()),
        }
    }
}

/// Types that stored events decode into. Derive it, or [`Event`], which includes it.
///
/// A view over several aggregates is an enum of event types; it can be read but not appended:
///
/// ```
/// # use serde::{Serialize, Deserialize};
/// # use backstory_event::{DecodeEvent, Event};
/// # #[derive(Serialize, Deserialize, Event)] #[event(prefix = "todo", crate = "backstory_event")]
/// # enum TodoEvent { Added { title: String } }
/// # #[derive(Serialize, Deserialize, Event)] #[event(prefix = "list", crate = "backstory_event")]
/// # enum ListEvent { Opened }
/// #[derive(DecodeEvent)]
/// # #[event(crate = "backstory_event")]
/// enum Feed {
///     Todo(TodoEvent),
///     List(ListEvent),
/// }
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not an event type",
    label = "stored events cannot be decoded into this",
    note = "add `#[derive(Event)]` and `#[event(prefix = \"…\")]`, or `#[derive(DecodeEvent)]` for a view over several event types"
)]
pub trait DecodeEvent: Sized + Send + Sync + 'static {
    /// The kinds of events of this type.
    fn types() -> Vec<EventType>;

    /// Decodes a payload of the current schema; `None` when the name is not of this type.
    ///
    /// # Errors
    /// When the name is known and the payload does not fit.
    fn decode(name: &str, payload: &Payload) -> Result<Option<Self>, serde_json::Error>;

    /// How older payloads become current ones. None by default.
    fn upcasters() -> &'static Upcasters {
        Upcasters::none()
    }

    /// Stored names that this type once had and now passes over.
    fn ignored() -> &'static [&'static str] {
        &[]
    }

    /// All stored names that can become an event of this type: for filters and conditions.
    fn stored_names() -> Vec<String> {
        let current = Self::types()
            .into_iter()
            .map(|kind| kind.name.to_owned())
            .collect();
        Self::stored_as(current)
    }

    /// Current names, and all names that their events were ever stored with.
    fn stored_as(current: Vec<String>) -> Vec<String> {
        Self::upcasters().stored_names(current)
    }

    /// Decodes what is stored, of any schema version.
    ///
    /// # Errors
    /// The reason, when the name is known and the payload does not fit or comes from a newer
    /// schema version.
    fn decode_stored(name: &str, version: u32, payload: &Payload) -> Result<Decoded<Self>, String> {
        Self::upcasters().decode(name, version, payload)
    }
}

/// A user's facts: an enum (or a struct) that can be appended and read. Derive it.
///
/// Names on disk are the prefix and the variant's name in snake case; they never follow the Rust
/// path. Payloads are JSON by serde.
///
/// ```
/// use backstory_event::{DecodeEvent, Event};
/// use serde::{Deserialize, Serialize};
///
/// #[derive(Serialize, Deserialize, Event)]
/// #[event(prefix = "todo")]
/// # #[event(crate = "backstory_event")]
/// enum TodoEvent {
///     Added {
///         title: String,
///         #[event(tag)]
///         list: u32,
///     },
///     #[event(rename = "finished", version = 2)]
///     Completed,
/// }
///
/// let event = TodoEvent::Added { title: "buy milk".into(), list: 7 };
/// assert_eq!(event.name(), "todo.added");
/// assert_eq!(event.tags().unwrap()[0].as_str(), "list:7");
/// assert_eq!(TodoEvent::types()[1].name, "todo.finished");
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not an event that can be appended",
    label = "not an event",
    note = "add `#[derive(Serialize, Deserialize, Event)]` and `#[event(prefix = \"…\")]`"
)]
pub trait Event: DecodeEvent {
    /// The stable name on disk.
    fn name(&self) -> &'static str;

    /// The schema version of the payload.
    fn version(&self) -> u32 {
        1
    }

    /// The payload.
    ///
    /// # Errors
    /// [`Invalid`] when a value cannot be stored: NaN, NUL, integers beyond 64 bits.
    fn encode(&self) -> Result<Payload, Invalid>;

    /// The labels of this event. None by default.
    ///
    /// # Errors
    /// [`Invalid`] when a value is no tag: empty, too long, control characters.
    fn tags(&self) -> Result<Vec<Tag>, Invalid> {
        Ok(Vec::new())
    }
}
