//! Streams, their versions, and the global order.

use std::{
    fmt::{self, Debug, Display},
    str::FromStr,
    sync::Arc,
};

use serde::{Deserialize, Serialize};

use crate::error::Invalid;

/// The longest event name, category, key or tag, in bytes.
pub const MAX_NAME: usize = 255;

/// The place of an event in the global order: 1, 2, 3 … without holes, in commit order.
///
/// Position 0 is the place before the first event.
#[derive(
    Debug, Default, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(from = "i64", into = "i64")]
pub struct Position(i64);

impl From<i64> for Position {
    fn from(number: i64) -> Self {
        Self::new(number)
    }
}

impl From<Position> for i64 {
    fn from(position: Position) -> Self {
        position.0
    }
}

impl Position {
    /// The place before the first event.
    pub const START: Self = Self(0);
    /// A place behind every event that can exist.
    pub const END: Self = Self(i64::MAX);

    /// A position from its number; negative numbers become [`Position::START`].
    pub const fn new(number: i64) -> Self {
        Self(if number < 0 { 0 } else { number })
    }

    /// The number.
    pub const fn get(self) -> i64 {
        self.0
    }

    /// The next position.
    pub const fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

impl Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Display::fmt(&self.0, f)
    }
}

/// How many events a stream holds: 0 = empty, then 1, 2, 3 … without holes.
///
/// It is also the number of an event within its stream.
#[derive(
    Debug, Default, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(from = "i64", into = "i64")]
pub struct StreamVersion(i64);

impl From<i64> for StreamVersion {
    fn from(number: i64) -> Self {
        Self::new(number)
    }
}

impl From<StreamVersion> for i64 {
    fn from(version: StreamVersion) -> Self {
        version.0
    }
}

impl StreamVersion {
    /// The version of a stream without events.
    pub const EMPTY: Self = Self(0);

    /// A version from its number; negative numbers become [`StreamVersion::EMPTY`].
    pub const fn new(number: i64) -> Self {
        Self(if number < 0 { 0 } else { number })
    }

    /// The number.
    pub const fn get(self) -> i64 {
        self.0
    }

    /// The next version.
    pub const fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

impl Display for StreamVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Display::fmt(&self.0, f)
    }
}

/// What an append expects of a stream before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ExpectedVersion {
    /// Nothing.
    Any,
    /// The stream has no events.
    NoStream,
    /// The stream has at least one event.
    StreamExists,
    /// The stream has exactly this version; `Exact(0)` means the same as [`Self::NoStream`].
    Exact(StreamVersion),
}

impl ExpectedVersion {
    /// True when a stream at version `actual` fulfils the expectation.
    pub fn accepts(self, actual: StreamVersion) -> bool {
        match self {
            Self::Any => true,
            Self::NoStream => actual == StreamVersion::EMPTY,
            Self::StreamExists => actual > StreamVersion::EMPTY,
            Self::Exact(version) => actual == version,
        }
    }
}

impl Display for ExpectedVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Any => f.write_str("any version"),
            Self::NoStream => f.write_str("no stream"),
            Self::StreamExists => f.write_str("an existing stream"),
            Self::Exact(version) => write!(f, "version {version}"),
        }
    }
}

/// The typed id of an aggregate: a uuid, a string, an integer, or a newtype of one.
///
/// Implemented for everything that prints and parses its own text. The text is what is stored,
/// so it must not change and must parse back to the same value.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be the id of an aggregate",
    label = "needs `Display`, `FromStr`, `Clone`, `Debug`, `Send` and `Sync`",
    note = "use a `Uuid`, `String` or integer, or implement `Display` and `FromStr` for your newtype"
)]
pub trait StreamKey: Display + FromStr + Clone + Debug + Send + Sync + 'static {}

impl<T: Display + FromStr + Clone + Debug + Send + Sync + 'static> StreamKey for T {}

/// The name of one aggregate's history: a category and a key.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct StreamId {
    category: Arc<str>,
    key: Arc<str>,
}

impl StreamId {
    /// A stream from its category and key.
    ///
    /// # Errors
    /// [`Invalid`] when one of them is empty, longer than 255 bytes or holds a control
    /// character, when the category begins with `backstory.`, or when the key is the nil uuid.
    pub fn new(category: &str, key: impl Display) -> Result<Self, Invalid> {
        let stream = Self {
            category: category.into(),
            key: key.to_string().into(),
        };
        stream.check()?;
        Ok(stream)
    }

    /// What [`StreamId::new`] checks; a stream that is [`StreamId::stored`] may be anything.
    pub(crate) fn check(&self) -> Result<(), Invalid> {
        let Self { category, key } = self;
        check_name("stream category", category)?;
        check_name("stream key", key)?;
        if category.starts_with("backstory.") {
            return Err(Invalid::new(
                "stream category",
                category,
                "`backstory.` is reserved",
            ));
        }
        if uuid::Uuid::try_parse(key).is_ok_and(|id| id.is_nil()) {
            return Err(Invalid::new(
                "stream key",
                key,
                "it is the nil uuid; use a real id",
            ));
        }
        Ok(())
    }

    /// A stream as a store has it, unchecked until it is appended to.
    pub fn stored(category: impl Into<Arc<str>>, key: impl Into<Arc<str>>) -> Self {
        Self {
            category: category.into(),
            key: key.into(),
        }
    }

    /// The category.
    pub fn category(&self) -> &str {
        &self.category
    }

    /// The key as text.
    pub fn key(&self) -> &str {
        &self.key
    }
}

impl Display for StreamId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.category, self.key)
    }
}

impl Debug for StreamId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "StreamId({self})")
    }
}

/// Checks a name, category, key or tag: 1 to 255 bytes, no control characters, no space at an end.
pub(crate) fn check_name(what: &'static str, text: &str) -> Result<(), Invalid> {
    let reason = if text.is_empty() {
        "it is empty"
    } else if text.len() > MAX_NAME {
        "it is longer than 255 bytes"
    } else if text.chars().any(char::is_control) {
        "it holds a control character"
    } else if text.trim() != text {
        "it begins or ends with white space"
    } else {
        return Ok(());
    };
    Err(Invalid::new(what, text, reason))
}

/// A label of an event or a stream, for filters and conditions: `list:42`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct Tag(Arc<str>);

impl Tag {
    /// A tag from its text.
    ///
    /// # Errors
    /// [`Invalid`] when it is empty, longer than 255 bytes, holds a control character, or begins
    /// or ends with white space. Braces, commas and quotes are fine.
    pub fn new(text: impl AsRef<str>) -> Result<Self, Invalid> {
        check_name("tag", text.as_ref())?;
        Ok(Self(text.as_ref().into()))
    }

    /// The tag `name:value`.
    ///
    /// # Errors
    /// As [`Tag::new`].
    pub fn pair(name: &str, value: impl Display) -> Result<Self, Invalid> {
        Self::new(format!("{name}:{value}"))
    }

    /// A tag as a store has it, unchecked until it is appended.
    pub fn stored(text: impl Into<Arc<str>>) -> Self {
        Self(text.into())
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Display for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl AsRef<str> for Tag {
    fn as_ref(&self) -> &str {
        &self.0
    }
}
