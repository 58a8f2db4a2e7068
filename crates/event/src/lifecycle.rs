//! The framework's own events in a stream.

use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::{NewEvent, Payload, Tag, error::Invalid};

/// The beginning of the names that belong to the framework.
pub(crate) const RESERVED_PREFIX: &str = "backstory.";

/// What a framework event does to its stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Lifecycle {
    /// `backstory.deleted`: the stream refuses all but restore and erase.
    Deleted,
    /// `backstory.restored`: it is live again; also the revival of an erased stream.
    Restored,
    /// `backstory.erased`: payloads, metadata and tags of all earlier events are gone.
    Erased,
    /// `backstory.tagged`: the stream got or lost tags.
    Tagged,
}

impl Lifecycle {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Deleted, Self::Restored, Self::Erased, Self::Tagged];

    /// The event's name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Deleted => "backstory.deleted",
            Self::Restored => "backstory.restored",
            Self::Erased => "backstory.erased",
            Self::Tagged => "backstory.tagged",
        }
    }

    /// The framework event of this name.
    pub fn parse(name: &str) -> Option<Self> {
        if !name.starts_with(RESERVED_PREFIX) {
            return None;
        }
        Self::ALL
            .into_iter()
            .find(|lifecycle| lifecycle.name() == name)
    }

    /// The event to append. For tags see [`TagChange::event`].
    pub fn event(self) -> NewEvent {
        NewEvent::raw(self.name(), Payload::empty())
    }
}

/// The payload of `backstory.tagged`: what changes in the tags of a stream.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct TagChange {
    /// Tags that the stream gets.
    pub add: Vec<Tag>,
    /// Tags that it loses.
    pub remove: Vec<Tag>,
}

#[derive(Serialize, Deserialize)]
struct Stored {
    #[serde(default)]
    add: Vec<String>,
    #[serde(default)]
    remove: Vec<String>,
}

impl TagChange {
    /// The event to append.
    pub fn event(&self) -> NewEvent {
        let payload = json!({ "add": self.add, "remove": self.remove });
        NewEvent::raw(
            Lifecycle::Tagged.name(),
            Payload::stored(payload.to_string()),
        )
    }

    /// Reads the payload of `backstory.tagged`.
    ///
    /// # Errors
    /// [`Invalid`] when it is something else.
    pub fn parse(payload: &Payload) -> Result<Self, Invalid> {
        let stored: Stored = payload.decode().map_err(|error| {
            Invalid::new(
                "payload of backstory.tagged",
                payload.as_str(),
                error.to_string(),
            )
        })?;
        let tags = |texts: Vec<String>| texts.into_iter().map(Tag::new).collect::<Result<_, _>>();
        Ok(Self {
            add: tags(stored.add)?,
            remove: tags(stored.remove)?,
        })
    }
}

/// What the lifecycle events have made of a stream.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StreamState {
    /// It takes events.
    #[default]
    Live,
    /// It is deleted and can be restored.
    Deleted,
    /// Its content is gone; its key can be used again only after a revival.
    Erased,
}

impl StreamState {
    /// The name of the state in a database: `live`, `deleted`, `erased`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Live => "live",
            Self::Deleted => "deleted",
            Self::Erased => "erased",
        }
    }

    /// The state of this name.
    pub fn parse(name: &str) -> Option<Self> {
        [Self::Live, Self::Deleted, Self::Erased]
            .into_iter()
            .find(|state| state.as_str() == name)
    }
}
