//! What becomes of an event that a projection fails on.

use std::time::Duration;

/// What a projection does about an event that its code fails on: by an error or a panic, or because
/// the event does not decode.
///
/// A batch that fails is halved until the event fails alone; what is before it is stored. The event
/// is then tried again, later and later, and when the attempts are used up the policy decides. An
/// event that does not decode has one attempt. A store that is away is no failure of an event: it
/// is asked again for as long as it takes, and no attempt counts.
///
/// ```
/// use std::time::Duration;
/// use backstory_projection::OnFailure;
///
/// let patient = OnFailure::stop(); // the default: 10 attempts within about a minute
/// let lenient = OnFailure::skip().after(3);
/// let orderly = OnFailure::park()
///     .after(5)
///     .backoff(Duration::from_millis(50), Duration::from_secs(2));
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub struct OnFailure {
    pub(crate) outcome: Outcome,
    pub(crate) attempts: u32,
    pub(crate) first: Duration,
    pub(crate) longest: Duration,
}

/// What happens to an event whose attempts are used up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    Stop,
    Skip,
    Park,
}

impl OnFailure {
    const fn new(outcome: Outcome) -> Self {
        Self {
            outcome,
            attempts: 10,
            first: Duration::from_millis(100),
            longest: Duration::from_secs(30),
        }
    }

    /// The projection stops at the event until it is resumed, reset or started again. The default.
    pub const fn stop() -> Self {
        Self::new(Outcome::Stop)
    }

    /// The event is left out: a [`DeadLetter`](crate::DeadLetter) of it is stored together with the
    /// checkpoint behind it.
    pub const fn skip() -> Self {
        Self::new(Outcome::Skip)
    }

    /// The event and all later events of its [key](crate::Projection::key) are left out and wait as
    /// dead letters, in order, until they are replayed or discarded. Events of other keys go on.
    pub const fn park() -> Self {
        Self::new(Outcome::Park)
    }

    /// After so many attempts. At least 1; 10 by default.
    pub const fn after(mut self, attempts: u32) -> Self {
        self.attempts = if attempts == 0 { 1 } else { attempts };
        self
    }

    /// The pause after the first attempt, which doubles with each further one up to the longest;
    /// chance shortens each by up to a half. 100 milliseconds and 30 seconds by default.
    pub const fn backoff(mut self, first: Duration, longest: Duration) -> Self {
        self.first = first;
        self.longest = longest;
        self
    }
}

impl Default for OnFailure {
    fn default() -> Self {
        Self::stop()
    }
}
