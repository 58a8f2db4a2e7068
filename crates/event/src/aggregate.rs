//! The trait that ties a state, its id and its events together.

use crate::{Event, StreamId, StreamKey, error::Invalid};

/// A state that events build: the unit of consistency.
///
/// ```
/// # use serde::{Deserialize, Serialize};
/// # use backstory_event::{Aggregate, Event};
/// # #[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Event)]
/// # #[event(prefix = "todo", crate = "backstory_event")]
/// # enum TodoEvent { Added { title: String }, Completed }
/// #[derive(Debug, Default)]
/// enum Todo {
///     #[default]
///     Unknown,
///     Open,
///     Done,
/// }
///
/// impl Aggregate for Todo {
///     const CATEGORY: &'static str = "todo"; // the category of its streams on disk
///     type Id = uuid::Uuid;
///     type Event = TodoEvent;
///     fn apply(&mut self, event: &TodoEvent) {
///         *self = match event {
///             TodoEvent::Added { .. } => Self::Open,
///             TodoEvent::Completed => Self::Done,
///         }
///     }
/// }
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not an aggregate",
    label = "not an aggregate",
    note = "add `impl Aggregate for {Self}` with its category, id, event type and `apply`"
)]
pub trait Aggregate: Default + Send + Sync + 'static {
    /// The category of its streams on disk. It must never change.
    const CATEGORY: &'static str;
    /// The typed id.
    type Id: StreamKey;
    /// Its events.
    type Event: Event;

    /// What an event does to the state. It cannot fail: the event is a fact.
    fn apply(&mut self, event: &Self::Event);

    /// The stream of the aggregate with this id.
    ///
    /// # Errors
    /// [`Invalid`] when the id's text is empty, too long or nil.
    fn stream(id: &Self::Id) -> Result<StreamId, Invalid> {
        StreamId::new(Self::CATEGORY, id)
    }
}
