//! Reading old events as if they had been written today.

use std::collections::HashMap;

use serde_json::Value;

use crate::{DecodeEvent, Decoded, Payload};

type Step = Box<dyn Fn(Value) -> Result<Vec<(String, Value)>, String> + Send + Sync>;

/// The chains from older stored events to the current ones, one step per name and version.
///
/// A step leads from version n of a name to version n + 1; a renaming keeps the version. The log
/// is never rewritten: steps run when an event is read, and filters on the new name also find the
/// old one.
///
/// ```
/// use backstory_event::Upcasters;
/// use serde_json::json;
///
/// fn upcasters() -> Upcasters {
///     Upcasters::new()
///         .rename("todo.created", "todo.added")
///         .default_field("todo.added", 1, "list", json!("inbox"))
///         .rename_field("todo.added", 2, "text", "title")
///         .split("todo.imported", 1, |payload| {
///             let titles = payload["titles"].as_array().cloned().unwrap_or_default();
///             Ok(titles.into_iter().map(|title| ("todo.added", json!({ "title": title }))).collect())
///         })
/// }
/// # assert_eq!(upcasters().stored_names(vec!["todo.added".into()]).len(), 3);
/// ```
#[derive(Default)]
pub struct Upcasters {
    renames: HashMap<String, String>,
    steps: HashMap<(String, u32), Step>,
    // A split leads to these names, each at version n + 1; `None` when the closure is free.
    splits: Vec<String>,
}

/// More steps than any honest chain has: the guard against a cycle.
const MAX_STEPS: usize = 1_000;

impl Upcasters {
    /// No upcasters.
    pub fn new() -> Self {
        Self::default()
    }

    /// The shared empty set.
    pub fn none() -> &'static Self {
        static NONE: std::sync::OnceLock<Upcasters> = std::sync::OnceLock::new();
        NONE.get_or_init(Self::new)
    }

    /// Events stored as `from` are read as `to`, with the same version and payload.
    #[must_use]
    pub fn rename(mut self, from: impl Into<String>, to: impl Into<String>) -> Self {
        self.renames.insert(from.into(), to.into());
        self
    }

    /// Turns the payload of `name` from `version` to `version + 1`.
    #[must_use]
    pub fn step(
        mut self,
        name: impl Into<String>,
        version: u32,
        step: impl Fn(Value) -> Result<Value, String> + Send + Sync + 'static,
    ) -> Self {
        let name = name.into();
        let same = name.clone();
        let step: Step = Box::new(move |payload| Ok(vec![(same.clone(), step(payload)?)]));
        self.steps.insert((name, version), step);
        self
    }

    /// From `version` to `version + 1`, the field `from` is called `to`.
    #[must_use]
    pub fn rename_field(
        self,
        name: impl Into<String>,
        version: u32,
        from: &'static str,
        to: &'static str,
    ) -> Self {
        self.step(name, version, move |mut payload| {
            if let Value::Object(fields) = &mut payload
                && let Some(value) = fields.remove(from)
            {
                fields.insert(to.to_owned(), value);
            }
            Ok(payload)
        })
    }

    /// From `version` to `version + 1`, a missing field gets this value.
    #[must_use]
    pub fn default_field(
        self,
        name: impl Into<String>,
        version: u32,
        field: &'static str,
        value: Value,
    ) -> Self {
        self.step(name, version, move |mut payload| {
            if let Value::Object(fields) = &mut payload {
                fields.entry(field).or_insert_with(|| value.clone());
            }
            Ok(payload)
        })
    }

    /// Splits the payload of `name` at `version` into parts, each with the name of a current
    /// event, at version `version + 1` when the name stays and at version 1 otherwise.
    ///
    /// The parts share the position and id of the stored event; see [`crate::Envelope::part`].
    #[must_use]
    pub fn split(
        mut self,
        name: impl Into<String>,
        version: u32,
        split: impl Fn(Value) -> Result<Vec<(&'static str, Value)>, String> + Send + Sync + 'static,
    ) -> Self {
        let name = name.into();
        let step: Step = Box::new(move |payload| {
            Ok(split(payload)?
                .into_iter()
                .map(|(name, part)| (name.to_owned(), part))
                .collect())
        });
        self.splits.push(name.clone());
        self.steps.insert((name, version), step);
        self
    }

    /// Adds the names of older events to the names of current ones.
    pub fn stored_names(&self, mut current: Vec<String>) -> Vec<String> {
        loop {
            let before = current.len();
            for (from, to) in &self.renames {
                if current.contains(to) && !current.contains(from) {
                    current.push(from.clone());
                }
            }
            // A split may lead to any name of the type; where it leads is only known from payloads.
            for name in &self.splits {
                if !current.contains(name) {
                    current.push(name.clone());
                }
            }
            if current.len() == before {
                current.sort();
                return current;
            }
        }
    }

    /// Decodes a stored event of any version into `E`.
    ///
    /// # Errors
    /// The reason, when a step fails, the payload does not fit, or the version is newer than `E`.
    pub fn decode<E: DecodeEvent>(
        &self,
        name: &str,
        version: u32,
        payload: &Payload,
    ) -> Result<Decoded<E>, String> {
        let name = self.current_name(name);
        if !self.steps.contains_key(&(name.to_owned(), version)) {
            return self.decode_current(name, version, payload);
        }
        let value = payload.to_value().map_err(|error| error.to_string())?;
        let mut todo = vec![(name.to_owned(), version, value)];
        let mut parts = Vec::new();
        let mut steps = 0;
        while let Some((name, version, value)) = todo.pop() {
            let Some(step) = self.steps.get(&(name.clone(), version)) else {
                let payload = Payload::stored(value.to_string());
                match self.decode_current(&name, version, &payload)? {
                    Decoded::Unknown => {
                        return Err(format!(
                            "an upcaster leads to `{name}`, which is not of this type"
                        ));
                    }
                    Decoded::One(event) => parts.push(event),
                    Decoded::Parts(more) => parts.extend(more),
                }
                continue;
            };
            steps += 1;
            if steps > MAX_STEPS {
                return Err(format!("the upcasters of `{name}` v{version} never end"));
            }
            // Last in, first out: pushed backwards, the parts come out in order.
            for (part, value) in step(value)?.into_iter().rev() {
                let part = self.current_name(&part).to_owned();
                let next = if part == name {
                    version.saturating_add(1)
                } else {
                    1
                };
                todo.push((part, next, value));
            }
        }
        if parts.len() == 1
            && let Some(event) = parts.pop()
        {
            return Ok(Decoded::One(event));
        }
        Ok(Decoded::Parts(parts))
    }

    fn decode_current<E: DecodeEvent>(
        &self,
        name: &str,
        version: u32,
        payload: &Payload,
    ) -> Result<Decoded<E>, String> {
        match E::decode(name, payload) {
            Ok(Some(event)) if version == 1 => Ok(Decoded::One(event)),
            Ok(None) => Ok(Decoded::Unknown),
            outcome => match E::types().iter().find(|kind| kind.name == name) {
                Some(kind) if version > kind.version => Err(format!(
                    "it has schema version {version}, this program knows up to {}: update the program",
                    kind.version
                )),
                _ => match outcome {
                    Ok(Some(event)) => Ok(Decoded::One(event)),
                    Ok(None) => Ok(Decoded::Unknown),
                    Err(error) => Err(error.to_string()),
                },
            },
        }
    }

    fn current_name<'a>(&'a self, name: &'a str) -> &'a str {
        let mut name = name;
        // As many hops as there are renamings: a cycle ends somewhere instead of never.
        for _ in 0..self.renames.len() {
            match self.renames.get(name) {
                Some(next) => name = next,
                None => break,
            }
        }
        name
    }
}

impl std::fmt::Debug for Upcasters {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut steps: Vec<_> = self.steps.keys().collect();
        steps.sort();
        f.debug_struct("Upcasters")
            .field("renames", &self.renames)
            .field("steps", &steps)
            .finish()
    }
}
