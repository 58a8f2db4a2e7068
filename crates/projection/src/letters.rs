//! Dead letters: the events that a projection left out, as its store keeps them.

use std::{fmt::Debug, sync::Arc};

use async_trait::async_trait;
use backstory_event::{EventId, Position, RecordedEvent, StoreError, StreamId};
use chrono::{DateTime, Utc};

/// The longest reason that is kept, in bytes.
const MAX_REASON: usize = 2_000;

/// An event that a projection left out, and why. Its content stays in the log alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeadLetter {
    /// The projection.
    pub projection: String,
    /// Where the event is.
    pub position: Position,
    /// The event.
    pub event_id: EventId,
    /// Its name.
    pub name: String,
    /// Its stream. When that is erased, the letter goes too: its reason may quote the event.
    pub stream: StreamId,
    /// Its [key](crate::Projection::key).
    pub key: String,
    /// The error and its causes, at most 2,000 bytes.
    pub reason: String,
    /// How often the projection tried it; 0: not at all, it waits for earlier ones of its key.
    pub attempts: u32,
    /// When it was left out, or failed last.
    pub at: DateTime<Utc>,
    /// True when later events of its key wait for it.
    pub parked: bool,
}

impl DeadLetter {
    /// A letter of an event. Of a reason that is too long only the beginning is kept.
    pub fn new(
        projection: impl Into<String>,
        event: &RecordedEvent,
        key: impl Into<String>,
        at: DateTime<Utc>,
    ) -> Self {
        Self {
            projection: projection.into(),
            position: event.position(),
            event_id: event.id(),
            name: event.name().to_owned(),
            stream: event.stream().clone(),
            key: key.into(),
            reason: String::new(),
            attempts: 0,
            at,
            parked: false,
        }
    }

    /// With a reason, of which at most 2,000 bytes are kept, and the number of attempts.
    #[must_use]
    pub fn because(mut self, reason: &str, attempts: u32) -> Self {
        let end = reason.floor_char_boundary(MAX_REASON);
        // Not every database keeps it.
        self.reason = reason[..end].replace('\0', "\u{fffd}");
        self.attempts = attempts;
        self
    }

    /// One for which later events of its key wait.
    #[must_use]
    pub fn parked(mut self) -> Self {
        self.parked = true;
        self
    }
}

/// A change of a projection's letters. A position occurs at most once in a step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LetterWrite {
    /// Stores or replaces the letter of an event, unless the event is erased by now.
    Put(DeadLetter),
    /// Removes the letter of the event there, if there is one.
    Remove(Position),
}

/// Which letters to list: those of a projection, by position.
///
/// ```
/// use backstory_projection::LetterQuery;
///
/// let first_page = LetterQuery::of("open_todos").limit(50);
/// let of_one_key = LetterQuery::of("open_todos").key("todo/7");
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use]
pub struct LetterQuery {
    /// The projection.
    pub projection: String,
    /// Only of this key.
    pub key: Option<String>,
    /// Only behind this position.
    pub after: Position,
    /// At most so many, at least 1.
    pub limit: usize,
}

impl LetterQuery {
    /// The first 100 letters of a projection.
    pub fn of(projection: impl Into<String>) -> Self {
        Self {
            projection: projection.into(),
            key: None,
            after: Position::START,
            limit: 100,
        }
    }

    /// Only of this key.
    pub fn key(mut self, key: impl Into<String>) -> Self {
        self.key = Some(key.into());
        self
    }

    /// Only behind this position: that of the last letter of the page before.
    pub fn after(mut self, position: Position) -> Self {
        self.after = position;
        self
    }

    /// At most so many, at least 1.
    pub fn limit(mut self, letters: usize) -> Self {
        self.limit = letters.max(1);
        self
    }
}

/// How many letters a projection has.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct LetterCount {
    /// All of them.
    pub letters: u64,
    /// The keys that are parked: those with a parked letter.
    pub parked_keys: u64,
}

/// Reads the dead letters of projections. They are written only together with a read model: with
/// the [`Step`](crate::Step) of a batch.
#[async_trait]
pub trait DeadLetters: Debug + Send + Sync + 'static {
    /// One page of letters, by position.
    ///
    /// # Errors
    /// When the store is away.
    async fn list_letters(&self, query: &LetterQuery) -> Result<Vec<DeadLetter>, StoreError>;

    /// How many letters a projection has.
    ///
    /// # Errors
    /// When the store is away.
    async fn count_letters(&self, projection: &str) -> Result<LetterCount, StoreError>;

    /// Which of these keys are parked.
    ///
    /// # Errors
    /// When the store is away.
    async fn parked_keys(
        &self,
        projection: &str,
        keys: &[String],
    ) -> Result<Vec<String>, StoreError>;

    /// The letter of the event at a position.
    ///
    /// # Errors
    /// When the store is away.
    async fn letter(
        &self,
        projection: &str,
        position: Position,
    ) -> Result<Option<DeadLetter>, StoreError> {
        let before = Position::new(position.get() - 1);
        let query = LetterQuery::of(projection).after(before).limit(1);
        let first = self.list_letters(&query).await?.into_iter().next();
        Ok(first.filter(|letter| letter.position == position))
    }
}

#[async_trait]
impl<T: DeadLetters + ?Sized> DeadLetters for Arc<T> {
    async fn list_letters(&self, query: &LetterQuery) -> Result<Vec<DeadLetter>, StoreError> {
        (**self).list_letters(query).await
    }

    async fn count_letters(&self, projection: &str) -> Result<LetterCount, StoreError> {
        (**self).count_letters(projection).await
    }

    async fn parked_keys(
        &self,
        projection: &str,
        keys: &[String],
    ) -> Result<Vec<String>, StoreError> {
        (**self).parked_keys(projection, keys).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_is_bounded_at_a_character_and_holds_no_nul() {
        let letter = DeadLetter {
            projection: "p".into(),
            position: Position::new(1),
            event_id: EventId::new(),
            name: "n".into(),
            stream: StreamId::stored("s", "1"),
            key: "k".into(),
            reason: String::new(),
            attempts: 0,
            at: DateTime::UNIX_EPOCH,
            parked: false,
        };
        let long = letter
            .clone()
            .because(&format!("x{}", "ä".repeat(2_000)), 3);
        assert_eq!((long.reason.len(), long.attempts), (1_999, 3));
        assert_eq!(letter.because("a\0b", 1).reason, "a\u{fffd}b");
    }
}
