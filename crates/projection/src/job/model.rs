//! Read models in memory that a job keeps up to date.

use backstory_event::{Checkpoint, DecodeEvent, Envelope, EventFilter, Fold, Folded};

/// A read model in memory that [`JobRun::apply`](crate::JobRun::apply) keeps up to date.
///
/// One that says up to where it contains the log gets what is behind that, and nothing twice: a
/// fresh one the whole history, page by page. One that does not gets what the job gets.
/// [`Folded`] is one that does.
///
/// ```
/// use backstory_event::{Checkpoint, Envelope};
/// use backstory_projection::ReadModel;
/// # #[derive(serde::Serialize, serde::Deserialize, backstory_event::Event)]
/// # #[event(prefix = "seat", crate = "backstory_event")]
/// # enum SeatEvent { Taken, Left }
///
/// #[derive(Default)]
/// struct Seats {
///     taken: u32,
///     reached: Checkpoint,
/// }
///
/// impl ReadModel for Seats {
///     type Event = SeatEvent;
///
///     fn apply(&mut self, envelope: &Envelope<SeatEvent>) {
///         match envelope.event {
///             SeatEvent::Taken => self.taken += 1,
///             SeatEvent::Left => self.taken -= 1,
///         }
///     }
///
///     fn reached(&self) -> Option<Checkpoint> {
///         Some(self.reached)
///     }
///
///     fn set_reached(&mut self, reached: Checkpoint) {
///         self.reached = reached;
///     }
/// }
/// ```
pub trait ReadModel: Send {
    /// The events that it knows; others are passed over.
    type Event: DecodeEvent;

    /// What an event does to it.
    fn apply(&mut self, envelope: &Envelope<Self::Event>);

    /// Which events it gets; all that [`Self::Event`] decodes by default.
    fn filter(&self) -> EventFilter {
        EventFilter::of::<Self::Event>()
    }

    /// Up to where it contains the log, if it knows; it does not by default.
    fn reached(&self) -> Option<Checkpoint> {
        None
    }

    /// From now on it contains the log up to here. One that knows must say so from then on.
    fn set_reached(&mut self, reached: Checkpoint) {
        let _ = reached;
    }
}

impl<S: Fold> ReadModel for Folded<S> {
    type Event = S::Event;

    fn apply(&mut self, envelope: &Envelope<S::Event>) {
        self.state.fold(envelope);
    }

    fn filter(&self) -> EventFilter {
        self.filter.clone()
    }

    fn reached(&self) -> Option<Checkpoint> {
        Some(self.read_to)
    }

    fn set_reached(&mut self, reached: Checkpoint) {
        self.read_to = reached;
    }
}
