//! What a projection's task does about events that its projection fails on.

use std::{collections::HashSet, error::Error, fmt, sync::Arc};

use backstory_event::{DecodeError, EventId, Position, RecordedEvent, StoreError};

use super::{
    error::{SharedError, chain},
    task::Task,
    worker::Failure,
};
use crate::{DeadLetter, LetterCount, Progress};

/// The projection's code fails on an event.
#[derive(Debug)]
struct EventFails {
    name: String,
    event_id: EventId,
    position: Position,
    reason: SharedError,
}

impl EventFails {
    /// An error that names the event.
    fn name(event: &RecordedEvent, reason: SharedError) -> SharedError {
        match reason.is::<DecodeError>() {
            true => reason,
            false => Arc::new(Self {
                name: event.name().to_owned(),
                event_id: event.id(),
                position: event.position(),
                reason,
            }),
        }
    }
}

impl fmt::Display for EventFails {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            name,
            event_id,
            position,
            ..
        } = self;
        write!(
            f,
            "it fails on event `{name}` (id {event_id}, position {position})"
        )
    }
}

impl Error for EventFails {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(&*self.reason)
    }
}

impl Task {
    /// The projection's progress, and how many letters there are at it. In this order: who writes a
    /// letter moves the progress, so that letters which are too new fence whoever holds the older
    /// progress.
    pub(super) async fn load(&mut self) -> Result<(Progress, LetterCount), StoreError> {
        let progress = self.checkpoints.load_progress(self.worker.name()).await?;
        let left_out = self.letters.count_letters(self.worker.owner()).await?;
        Ok((progress, left_out))
    }

    /// How many letters there are. Whoever takes over asks: the progress that it has is older.
    pub(super) async fn know_letters(&mut self) -> Result<LetterCount, StoreError> {
        if let Some(left_out) = self.left_out {
            return Ok(left_out);
        }
        let left_out = self.letters.count_letters(self.worker.owner()).await?;
        self.left_out = Some(left_out);
        Ok(left_out)
    }

    /// Which keys of so many events of the buffer are parked. Asked of the store for each batch while any is: the
    /// keys could be too many to remember.
    pub(super) async fn parked_among(
        &mut self,
        portion: usize,
    ) -> Result<HashSet<String>, StoreError> {
        if portion == 0 || self.know_letters().await?.parked_keys == 0 {
            return Ok(HashSet::new());
        }
        let keys = self.keys(&self.buffer[..portion]);
        self.parked(keys).await
    }

    /// The keys of events, each once.
    pub(super) fn keys(&self, events: &[RecordedEvent]) -> Vec<String> {
        let keys: HashSet<_> = events.iter().map(|event| self.worker.key(event)).collect();
        keys.into_iter().collect()
    }

    /// Which of these keys are parked.
    pub(super) async fn parked(
        &mut self,
        keys: Vec<String>,
    ) -> Result<HashSet<String>, StoreError> {
        let parked = self.letters.parked_keys(self.worker.owner(), &keys).await?;
        Ok(parked.into_iter().collect())
    }

    /// Goes on from where the store has it.
    pub(super) async fn load_anew(&mut self) -> Result<(), StoreError> {
        let (progress, left_out) = self.load().await?;
        self.rewind(progress, Some(left_out));
        Ok(())
    }

    /// The projection's code failed on so many events of the buffer.
    pub(super) fn batch_failed(&mut self, error: SharedError, events: usize, for_good: bool) {
        let Some(first) = self.buffer.first().cloned() else {
            return self.failed(error);
        };
        let now = self.time.now();
        let known = self
            .engine
            .batch_failed(now, events, first.position(), for_good);
        // As long as it is not known which event fails, it is no failure.
        if known {
            self.blamed = Some(Arc::clone(&error));
            self.warn(EventFails::name(&first, error));
        }
    }

    /// Passes the first event of the buffer without projecting it.
    pub(super) async fn leave_out(&mut self) {
        let reason = self.blamed.as_ref().map(|error| chain(&**error));
        self.run_batch(Some(Failure {
            reason: reason.unwrap_or_default(),
            attempts: self.engine.attempts(),
        }))
        .await;
    }

    /// These letters were written, and so many keys parked by that.
    pub(super) fn count_letters(&mut self, letters: &[DeadLetter], parked: u64) {
        let Some(first) = letters.first() else { return };
        tracing::warn!(
            projection = self.worker.name(),
            letters = letters.len(),
            first = first.position.get(),
            reason = first.reason,
            "a projection left events out"
        );
        if let Some(left_out) = &mut self.left_out {
            left_out.letters += letters.len() as u64;
            left_out.parked_keys += parked;
        }
    }
}
