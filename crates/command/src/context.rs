//! The circumstances of a command.

use std::time::Duration;

use backstory_event::{ExpectedVersion, Metadata, RecordedEvent};
use uuid::Uuid;

/// The circumstances of a command: who sends it, why, and until when.
///
/// ```
/// # use std::time::Duration;
/// # use backstory_command::CommandContext;
/// let context = CommandContext::new()
///     .with_actor("ann")
///     .with_deadline(Duration::from_secs(2));
/// ```
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct CommandContext {
    /// The metadata of the events. Without a correlation id they get a new one; without a
    /// causation id they get the id of this dispatch.
    pub metadata: Metadata,
    /// How long the dispatch may take; `None`: as the bus says.
    pub deadline: Option<Duration>,
    /// What the sender expects of the aggregate's version; anything by default.
    pub expected: ExpectedVersion,
}

impl Default for CommandContext {
    fn default() -> Self {
        Self {
            metadata: Metadata::default(),
            deadline: None,
            expected: ExpectedVersion::Any,
        }
    }
}

impl CommandContext {
    /// Nothing special.
    pub fn new() -> Self {
        Self::default()
    }

    /// With the id of what set it in motion.
    #[must_use]
    pub fn with_correlation_id(mut self, id: Uuid) -> Self {
        self.metadata.correlation_id = Some(id);
        self
    }

    /// With the id of what caused it, instead of the id of the dispatch.
    #[must_use]
    pub fn with_causation_id(mut self, id: Uuid) -> Self {
        self.metadata.causation_id = Some(id);
        self
    }

    /// As a consequence of an event: the same correlation, caused by this event.
    #[must_use]
    pub fn caused_by(self, event: &RecordedEvent) -> Self {
        let id = event.id().as_uuid();
        self.with_correlation_id(event.metadata().correlation_id.unwrap_or(id))
            .with_causation_id(id)
    }

    /// With the one who sends it.
    #[must_use]
    pub fn with_actor(mut self, actor: impl Into<String>) -> Self {
        self.metadata.actor = Some(actor.into());
        self
    }

    /// With all this metadata.
    #[must_use]
    pub fn with_metadata(mut self, metadata: Metadata) -> Self {
        self.metadata = metadata;
        self
    }

    /// With a deadline from the dispatch on.
    #[must_use]
    pub fn with_deadline(mut self, deadline: Duration) -> Self {
        self.deadline = Some(deadline);
        self
    }

    /// Only if the aggregate is still as the sender saw it; otherwise it is a conflict that is
    /// not tried again.
    #[must_use]
    pub fn with_expected(mut self, expected: ExpectedVersion) -> Self {
        self.expected = expected;
        self
    }

    /// The metadata of the events of one dispatch.
    pub(crate) fn into_metadata(self, dispatch: Uuid) -> Metadata {
        let mut metadata = self.metadata;
        metadata.correlation_id.get_or_insert(dispatch);
        metadata.causation_id.get_or_insert(dispatch);
        metadata
    }
}
