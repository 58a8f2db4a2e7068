//! What a user writes to do something about events outside of the store.

use async_trait::async_trait;
use backstory_event::{DecodeEvent, Envelope, EventFilter, RecordedEvent};

use crate::{OnFailure, Result};

/// Does something about events that cannot be taken back: sends mail, calls others, dispatches
/// commands.
///
/// ```
/// # use async_trait::async_trait;
/// # use backstory_event::{Envelope, Event};
/// # use backstory_projection::{self as projection, Effect, Reactor};
/// # struct Mailer;
/// # impl Mailer { async fn send(&self, to: &str, key: &str) -> Result<(), std::io::Error> { Ok(()) } }
/// # #[derive(serde::Serialize, serde::Deserialize, Event)]
/// # #[event(prefix = "account", crate = "backstory_event")]
/// # enum AccountEvent { Registered { mail: String }, Closed }
/// struct Welcome(Mailer);
///
/// #[async_trait]
/// impl Reactor for Welcome {
///     type Event = AccountEvent;
///     const NAME: &'static str = "welcome";
///
///     async fn react(&self, e: &Envelope<AccountEvent>, effect: &Effect) -> projection::Result {
///         if let AccountEvent::Registered { mail } = &e.event {
///             self.0.send(mail, effect.idempotency_key()).await?;
///         }
///         Ok(())
///     }
/// }
/// ```
///
/// Run it with [`Projector::with_reactor`](crate::Projector::with_reactor). It begins with what
/// comes after its first start, unless its schedule [says otherwise](crate::Start), and is never
/// replayed: neither by a reset nor by a rebuild of read models.
///
/// Each event is reacted to at least once, and once unless a process dies, loses its lease or does
/// not learn that its checkpoint is stored: then at most 128 events are reacted to again, with the
/// same [`Effect::idempotency_key`]. Events of one [key](Self::key) come one after another, those of
/// different ones at the same time. An event that it fails on is tried again alone; what its policy
/// leaves out is a dead letter, which can be [replayed](crate::RunningProjector::replay).
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a reactor",
    label = "not a reactor",
    note = "add `#[async_trait] impl Reactor for {Self}`"
)]
#[async_trait]
pub trait Reactor: Send + Sync + 'static {
    /// The events that it wants. Others are passed over and never decoded.
    type Event: DecodeEvent;

    /// The name of its checkpoint in the store. It must never change, and no other reactor,
    /// projection or job of a store may have it.
    const NAME: &'static str;

    /// Which events it gets; all that [`Self::Event`] decodes by default.
    fn filter(&self) -> EventFilter {
        EventFilter::of::<Self::Event>()
    }

    /// Reacts to an event.
    ///
    /// # Errors
    /// Any: the event is tried again, and [`Self::on_failure`] says what becomes of it. An error
    /// that holds an error of the store, because that is away, is no failure of the event.
    async fn react(&self, event: &Envelope<Self::Event>, effect: &Effect) -> Result;

    /// What an event is about, as text of 1 to 600 bytes: the stream by default. Events of a key are
    /// reacted to in their order.
    fn key(&self, event: &RecordedEvent) -> String {
        event.stream().to_string()
    }

    /// To how many events, of different keys, it reacts at the same time: 8 by default, at least 1.
    fn concurrency(&self) -> usize {
        8
    }

    /// What becomes of an event that it fails on: it stops there by default.
    fn on_failure(&self) -> OnFailure {
        OnFailure::default()
    }
}

/// What a reactor does about one event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Effect {
    key: String,
}

impl Effect {
    pub(crate) fn of<E>(reactor: &str, event: &Envelope<E>) -> Self {
        let mut key = format!("{reactor}/{}", event.event_id());
        if event.part() > 0 {
            key.push_str(&format!("/{}", event.part()));
        }
        Self { key }
    }

    /// The same whenever this reactor reacts to this event, and another one for every other event
    /// and reactor: for whoever must do it only once. The reactor's name and the event's id.
    pub fn idempotency_key(&self) -> &str {
        &self.key
    }
}

/// Reactors are not given events again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "reactor `{reactor}` is never replayed: what it did would be done again. To react to old \
     events, run it under another name with `start_at`"
)]
pub struct NeverReplayed {
    /// The reactor.
    pub reactor: &'static str,
}
