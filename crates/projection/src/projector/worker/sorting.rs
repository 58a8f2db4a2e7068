//! Which events of a batch are projected, and which become letters.

use std::{collections::HashSet, panic::AssertUnwindSafe};

use backstory_event::{BoxError, DecodeEvent, Decoded, Envelope, Invalid, RecordedEvent};

use super::{
    super::error::{Panicked, chain},
    Batch, BatchError, Done, message,
};
use crate::{DeadLetter, LetterWrite, Progress, Projection, Step, Target, failure::Outcome, owner};

/// Why an event of a parked key is left out.
pub(super) const WAITS: &str = "it waits for earlier events of its key";
/// The longest key, in bytes.
const MAX_KEY: usize = 600;

pub(super) struct Sorted<E> {
    /// What the projection is given.
    pub(super) envelopes: Vec<Envelope<E>>,
    /// What is left out.
    pub(super) letters: Vec<DeadLetter>,
    /// How many keys are parked by that, which were not before.
    pub(super) parked: u64,
    /// How many stored events were looked at.
    pub(super) taken: usize,
    /// How many of them the projection is given.
    pub(super) projected: usize,
}

impl<E> Sorted<E> {
    /// The step that stores what was sorted.
    pub(super) fn step(&self, batch: &Batch<'_>) -> Step {
        let cut = batch.events[..self.taken].last();
        let to = match cut.filter(|_| self.taken < batch.events.len()) {
            Some(last) => last.checkpoint(),
            None => batch.to,
        };
        let letters = self.letters.iter().cloned().map(LetterWrite::Put);
        Step::new(batch.from.clone(), Target::Advance(to)).with_letters(letters.collect())
    }

    /// It is stored.
    pub(super) fn done(self, progress: Progress) -> Done {
        Done {
            progress,
            taken: self.taken,
            projected: self.projected,
            letters: self.letters,
            parked: self.parked,
        }
    }
}

/// Sorts a batch, up to the first event that the projection stops at.
///
/// # Errors
/// `Guilty` when that is the first one.
pub(super) fn sort_out<Cx: Send, P: Projection<Cx>>(
    projection: &P,
    batch: &Batch<'_>,
) -> Result<Sorted<P::Event>, BatchError> {
    let mut sorted = Sorted {
        envelopes: Vec::with_capacity(batch.events.len()),
        letters: Vec::new(),
        parked: 0,
        taken: 0,
        projected: 0,
    };
    let mut parked: HashSet<String> = batch.parked.clone();
    for event in batch.events {
        let before = sorted.envelopes.len();
        let trouble = match decode(event, &mut sorted.envelopes) {
            // Unknown, erased, or split into nothing.
            Ok(()) if sorted.envelopes.len() == before => {
                sorted.taken += 1;
                continue;
            }
            Ok(()) => None,
            Err(error) => Some(Trouble { error, attempts: 1 }),
        };
        let trouble = batch.failure.clone().map(Trouble::from).or(trouble);
        if trouble.is_none() && parked.is_empty() {
            sorted.taken += 1;
            sorted.projected += 1;
            continue;
        }
        let (key, trouble) = match key(projection, event) {
            Ok(key) => (key, trouble),
            Err(error) => {
                let unknown = Trouble { error, attempts: 1 };
                (event.stream().to_string(), trouble.or(Some(unknown)))
            }
        };
        let waits = parked.contains(&key);
        let outcome = projection.on_failure().outcome;
        let letter =
            |key: &str| DeadLetter::new(owner(&batch.from.projection), event, key, batch.now);
        match trouble {
            None if waits => {
                sorted.letters.push(letter(&key).because(WAITS, 0).parked());
            }
            None => {
                sorted.taken += 1;
                sorted.projected += 1;
                continue;
            }
            // What comes before it is stored first.
            Some(_) if !waits && outcome == Outcome::Stop && sorted.taken > 0 => {
                sorted.envelopes.truncate(before);
                break;
            }
            Some(trouble) if !waits && outcome == Outcome::Stop => {
                return Err(BatchError::Guilty {
                    error: trouble.error.into(),
                    events: 1,
                    for_good: true,
                });
            }
            Some(trouble) => {
                let letter = letter(&key).because(&chain(&*trouble.error), trouble.attempts);
                let parks = waits || outcome == Outcome::Park;
                sorted
                    .letters
                    .push(if parks { letter.parked() } else { letter });
                if parks && parked.insert(key) {
                    sorted.parked += 1;
                }
            }
        }
        sorted.envelopes.truncate(before);
        sorted.taken += 1;
    }
    Ok(sorted)
}

/// Decodes an event, whatever that gives.
pub(super) fn decode<E: DecodeEvent>(
    event: &RecordedEvent,
    envelopes: &mut Vec<Envelope<E>>,
) -> Result<(), BoxError> {
    match caught(|| event.decode()) {
        Ok(Ok(Decoded::Unknown)) => {}
        Ok(Ok(Decoded::One(envelope))) => envelopes.push(envelope),
        Ok(Ok(Decoded::Parts(parts))) => envelopes.extend(parts),
        Ok(Err(error)) => return Err(error.into()),
        Err(panicked) => return Err(event.decode_error(panicked.to_string()).into()),
    }
    Ok(())
}

struct Trouble {
    error: BoxError,
    attempts: u32,
}

impl From<super::Failure> for Trouble {
    fn from(failure: super::Failure) -> Self {
        Self {
            error: failure.reason.into(),
            attempts: failure.attempts,
        }
    }
}

/// The key of an event.
pub(super) fn key<Cx: Send, P: Projection<Cx>>(
    projection: &P,
    event: &RecordedEvent,
) -> Result<String, BoxError> {
    let key = caught(|| projection.key(event))?;
    let reason = match key.len() {
        0 => "it is empty",
        length if length > MAX_KEY => "it is longer than 600 bytes",
        _ if key.contains('\0') => "it holds a NUL",
        _ => return Ok(key),
    };
    Err(Invalid::new("key of an event", &key, reason).into())
}

/// Runs a projection's code; a panic is an error like others.
fn caught<T>(code: impl FnOnce() -> T) -> Result<T, Panicked> {
    std::panic::catch_unwind(AssertUnwindSafe(code)).map_err(|panic| Panicked(message(&*panic)))
}
