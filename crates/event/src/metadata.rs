//! What is known about an event beside its payload.

use std::{collections::BTreeMap, fmt};

use chrono::{DateTime, Utc};
use serde::{
    Deserialize, Serialize,
    de::{Deserializer, MapAccess, Visitor},
};
use serde_json::Value;
use uuid::Uuid;

use crate::{Payload, error::Invalid};

/// The circumstances of an event: why it happened, who did it, and whatever else is worth keeping.
#[derive(Debug, Default, Clone, PartialEq, Serialize)]
pub struct Metadata {
    /// The same for everything that one request set in motion.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub correlation_id: Option<Uuid>,
    /// The id of the command or event that caused this one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub causation_id: Option<Uuid>,
    /// Who did it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub actor: Option<String>,
    /// When it happened, if that is not when it was recorded: for imports.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub occurred_at: Option<DateTime<Utc>>,
    /// Everything else.
    #[serde(flatten)]
    pub extra: BTreeMap<String, Value>,
}

impl Metadata {
    /// Empty metadata.
    pub fn new() -> Self {
        Self::default()
    }

    /// With a correlation id.
    #[must_use]
    pub fn with_correlation_id(mut self, id: Uuid) -> Self {
        self.correlation_id = Some(id);
        self
    }

    /// With a causation id.
    #[must_use]
    pub fn with_causation_id(mut self, id: Uuid) -> Self {
        self.causation_id = Some(id);
        self
    }

    /// With an actor.
    #[must_use]
    pub fn with_actor(mut self, actor: impl Into<String>) -> Self {
        self.actor = Some(actor.into());
        self
    }

    /// With a free key.
    #[must_use]
    pub fn with(mut self, key: impl Into<String>, value: impl Into<Value>) -> Self {
        self.extra.insert(key.into(), value.into());
        self
    }

    /// The metadata as stores keep it.
    ///
    /// # Errors
    /// [`Invalid`] when it holds something that a store cannot keep.
    pub fn to_payload(&self) -> Result<Payload, Invalid> {
        if *self == Self::default() {
            return Ok(Payload::empty());
        }
        Payload::encode(self)
            .map_err(|invalid| Invalid::new("metadata", "", invalid.reason().to_owned()))
    }
}

/// By hand: readers do it for each event, and what is derived for a flattened map buffers it first.
impl<'de> Deserialize<'de> for Metadata {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(MetadataVisitor)
    }
}

struct MetadataVisitor;

impl<'de> Visitor<'de> for MetadataVisitor {
    type Value = Metadata;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Metadata, A::Error> {
        let mut metadata = Metadata::default();
        while let Some(key) = map.next_key::<String>()? {
            match key.as_str() {
                "correlation_id" => metadata.correlation_id = map.next_value()?,
                "causation_id" => metadata.causation_id = map.next_value()?,
                "actor" => metadata.actor = map.next_value()?,
                "occurred_at" => metadata.occurred_at = map.next_value()?,
                _ => {
                    metadata.extra.insert(key, map.next_value()?);
                }
            }
        }
        Ok(metadata)
    }
}
