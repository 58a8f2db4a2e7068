//! Which event makes batches fail: batches are halved until one event fails alone.

use backstory_event::Position;

use crate::{OnFailure, failure::Outcome};

/// What follows from a failed batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// A part of it is tried at once.
    Halve,
    /// The event is tried again after a pause.
    Later,
    /// The projection stops.
    Stop,
    /// The event is left out.
    LeaveOut,
}

/// See the [module](self).
#[derive(Debug)]
pub(super) struct Suspects {
    policy: OnFailure,
    /// So many events at the front of the buffer hold one that fails; 0: nothing is known of any.
    events: usize,
    /// The event that failed alone, and how often.
    guilty: Option<(Position, u32)>,
    /// The first event of the buffer is to be left out.
    condemned: bool,
}

impl Suspects {
    pub(super) fn new(policy: OnFailure) -> Self {
        Self {
            policy,
            events: 0,
            guilty: None,
            condemned: false,
        }
    }

    pub(super) fn policy(&self) -> OnFailure {
        self.policy
    }

    /// How many of so many buffered events the next batch takes.
    pub(super) fn portion(&self, events: usize) -> usize {
        match self.events {
            0 => events,
            suspects => (suspects / 2).clamp(1, events.max(1)),
        }
    }

    /// True while it is not known which event fails.
    pub(super) fn any(&self) -> bool {
        self.events > 0
    }

    /// The first event of the buffer is to be left out.
    pub(super) fn is_condemned(&self) -> bool {
        self.condemned
    }

    /// How often the event that fails alone was tried.
    pub(super) fn attempts(&self) -> u32 {
        self.guilty.map_or(0, |(_, attempts)| attempts)
    }

    /// A batch of so many events failed, of which the first one is there. `for_good`: that one fails,
    /// and always will.
    pub(super) fn failed(&mut self, events: usize, first: Position, for_good: bool) -> Verdict {
        if events > 1 && !for_good {
            self.events = events;
            return Verdict::Halve;
        }
        self.events = 1;
        let before = self.guilty.filter(|(position, _)| *position == first);
        let attempts = before.map_or(0, |(_, attempts)| attempts).saturating_add(1);
        self.guilty = Some((first, attempts));
        if attempts < self.policy.attempts && !for_good {
            return Verdict::Later;
        }
        if self.policy.outcome == Outcome::Stop {
            return Verdict::Stop;
        }
        self.condemned = true;
        Verdict::LeaveOut
    }

    /// So many events at the front of the buffer are behind the checkpoint now.
    pub(super) fn passed(&mut self, events: usize) {
        self.events = self.events.saturating_sub(events);
        if events > 0 {
            self.guilty = None;
            self.condemned = false;
        }
    }

    /// The buffer was emptied: only what is known of the event that failed alone still holds.
    pub(super) fn dropped(&mut self) {
        self.events = 0;
        self.condemned = false;
    }

    /// All attempts are granted again.
    pub(super) fn acquit(&mut self) {
        self.guilty = None;
        self.condemned = false;
    }
}
