//! What a reader asks of a store, page by page.

use std::{
    fmt::{self, Display},
    str::FromStr,
};

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::{
    Appended, EventFilter, EventId, Position, RecordedEvent, StreamId, StreamState, StreamVersion,
    Tag, error::Invalid,
};

/// How far somebody has read: a position, and the id of the event there as proof that the log is
/// still the same one. Its text form is opaque, for headers and cookies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Checkpoint {
    /// The position.
    pub position: Position,
    /// The event there; nil at the start.
    pub event_id: EventId,
}

impl Checkpoint {
    /// Before the first event.
    pub const START: Self = Self {
        position: Position::START,
        event_id: EventId::NIL,
    };

    /// A position whose event is not known: nothing is proved.
    pub const fn at(position: Position) -> Self {
        Self {
            position,
            event_id: EventId::NIL,
        }
    }
}

impl Default for Checkpoint {
    fn default() -> Self {
        Self::START
    }
}

impl From<Position> for Checkpoint {
    fn from(position: Position) -> Self {
        Self::at(position)
    }
}

impl From<&Appended> for Checkpoint {
    fn from(receipt: &Appended) -> Self {
        receipt.checkpoint
    }
}

impl Display for Checkpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "b1-{:x}-{}",
            self.position.get(),
            self.event_id.as_uuid().simple()
        )
    }
}

impl FromStr for Checkpoint {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let parse = || {
            let (position, id) = text.strip_prefix("b1-")?.split_once('-')?;
            let position = i64::from_str_radix(position, 16)
                .ok()
                .filter(|number| *number >= 0)?;
            let event_id = id.parse().ok()?;
            Some(Self {
                position: Position::new(position),
                event_id,
            })
        };
        let canonical = |parsed: &Self| parsed.to_string() == text;
        parse().filter(canonical).ok_or_else(|| {
            Invalid::new(
                "receipt",
                text,
                "it is not the text of a receipt; pass it on unchanged",
            )
        })
    }
}

/// Towards newer or older events.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Direction {
    /// From old to new.
    #[default]
    Forward,
    /// From new to old.
    Backward,
}

/// What to read: a filter, bounds, a direction and a limit.
///
/// ```
/// use backstory_event::{EventFilter, EventQuery, Position};
///
/// let newest_ten = EventQuery::new(EventFilter::all()).backward().limit(10);
/// let rest = EventQuery::new(EventFilter::category("todo")).after(Position::new(120));
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct EventQuery {
    /// Which events.
    pub filter: EventFilter,
    /// Only behind this. When it names an event, the store proves that it is still there.
    pub after: Checkpoint,
    /// Only up to this position, inclusive.
    pub up_to: Option<Position>,
    /// Only from this number within the stream on, inclusive.
    pub from_version: Option<StreamVersion>,
    /// Only up to this number within the stream, inclusive.
    pub to_version: Option<StreamVersion>,
    /// Only recorded at or after this time.
    pub since: Option<DateTime<Utc>>,
    /// Only recorded before this time.
    pub until: Option<DateTime<Utc>>,
    /// Which end first.
    pub direction: Direction,
    /// At most so many events.
    pub limit: Option<usize>,
}

impl EventQuery {
    /// All that the filter means, from the start.
    pub fn new(filter: EventFilter) -> Self {
        Self {
            filter,
            after: Checkpoint::START,
            up_to: None,
            from_version: None,
            to_version: None,
            since: None,
            until: None,
            direction: Direction::Forward,
            limit: None,
        }
    }

    /// All events of a stream.
    pub fn stream(stream: StreamId) -> Self {
        Self::new(EventFilter::stream(stream))
    }

    /// Only behind a position or checkpoint.
    #[must_use]
    pub fn after(mut self, after: impl Into<Checkpoint>) -> Self {
        self.after = after.into();
        self
    }

    /// Only up to this position, inclusive.
    #[must_use]
    pub fn up_to(mut self, position: Position) -> Self {
        self.up_to = Some(position);
        self
    }

    /// Only from this number within the stream on, inclusive.
    #[must_use]
    pub fn from_version(mut self, version: StreamVersion) -> Self {
        self.from_version = Some(version);
        self
    }

    /// Only up to this number within the stream, inclusive.
    #[must_use]
    pub fn to_version(mut self, version: StreamVersion) -> Self {
        self.to_version = Some(version);
        self
    }

    /// Only recorded at or after this time.
    #[must_use]
    pub fn since(mut self, time: DateTime<Utc>) -> Self {
        self.since = Some(time);
        self
    }

    /// Only recorded before this time.
    #[must_use]
    pub fn until(mut self, time: DateTime<Utc>) -> Self {
        self.until = Some(time);
        self
    }

    /// Newest first.
    #[must_use]
    pub fn backward(mut self) -> Self {
        self.direction = Direction::Backward;
        self
    }

    /// At most so many events.
    #[must_use]
    pub fn limit(mut self, limit: usize) -> Self {
        self.limit = Some(limit);
        self
    }

    /// True when an event is within filter and bounds; direction and limit do not count.
    pub fn matches(&self, event: &RecordedEvent) -> bool {
        event.position() > self.after.position
            && self.up_to.is_none_or(|bound| event.position() <= bound)
            && self
                .from_version
                .is_none_or(|bound| event.version() >= bound)
            && self.to_version.is_none_or(|bound| event.version() <= bound)
            && self.since.is_none_or(|bound| event.recorded_at() >= bound)
            && self.until.is_none_or(|bound| event.recorded_at() < bound)
            && self.filter.matches(event)
    }
}

/// One page of an answer.
#[derive(Debug, Clone, PartialEq)]
pub struct Page {
    /// The events, in the direction of the query.
    pub events: Vec<RecordedEvent>,
    /// Forward: everything up to here has been looked at, also when nothing matched; the event
    /// that stands there (or the query's own `after` when nothing is behind it).
    /// Backward: the same as the query's `after`.
    pub checkpoint: Checkpoint,
    /// The newest position in the log when the page was read.
    pub head: Position,
    /// The query that continues after this page; `None` when the query is answered in full.
    pub next: Option<EventQuery>,
}

/// Which streams to list, in the order of category and key (bytes).
#[derive(Debug, Default, Clone, PartialEq)]
#[non_exhaustive]
pub struct StreamQuery {
    /// Only of this category.
    pub category: Option<String>,
    /// Only with these keys; empty: any.
    pub keys: Vec<String>,
    /// Only with all of these tags.
    pub tags: Vec<Tag>,
    /// Only in these states; empty: only live ones.
    pub states: Vec<StreamState>,
    /// Only behind this stream: the cursor of the page before.
    pub after: Option<StreamCursor>,
    /// At most so many; 100 by default, 1,000 at most.
    pub limit: Option<usize>,
}

impl StreamQuery {
    /// Every live stream.
    pub fn new() -> Self {
        Self::default()
    }

    /// Only of this category.
    #[must_use]
    pub fn category(mut self, category: impl Into<String>) -> Self {
        self.category = Some(category.into());
        self
    }

    /// Also with this key.
    #[must_use]
    pub fn key(mut self, key: impl Display) -> Self {
        self.keys.push(key.to_string());
        self
    }

    /// Only with this tag too.
    #[must_use]
    pub fn tag(mut self, tag: Tag) -> Self {
        self.tags.push(tag);
        self
    }

    /// Also streams in this state; without any, only live ones are listed.
    #[must_use]
    pub fn state(mut self, state: StreamState) -> Self {
        self.states.push(state);
        self
    }

    /// Continue behind a page.
    #[must_use]
    pub fn after(mut self, cursor: StreamCursor) -> Self {
        self.after = Some(cursor);
        self
    }

    /// At most so many.
    #[must_use]
    pub fn limit(mut self, limit: usize) -> Self {
        self.limit = Some(limit);
        self
    }

    /// The limit that a store uses: 1 to 1,000.
    pub fn page_size(&self) -> usize {
        self.limit.unwrap_or(100).clamp(1, 1_000)
    }

    /// The states that a store looks for.
    pub fn wanted_states(&self) -> Vec<StreamState> {
        if self.states.is_empty() {
            vec![StreamState::Live]
        } else {
            self.states.clone()
        }
    }

    /// True when the query means this stream; cursor and limit do not count.
    pub fn matches(&self, info: &StreamInfo) -> bool {
        self.category
            .as_ref()
            .is_none_or(|category| category == info.stream.category())
            && (self.keys.is_empty() || self.keys.iter().any(|key| key == info.stream.key()))
            && self.tags.iter().all(|tag| info.tags.contains(tag))
            && self.wanted_states().contains(&info.state)
    }
}

/// Where the next page of streams begins. Its text form is opaque.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StreamCursor(StreamId);

impl StreamCursor {
    /// Behind this stream.
    pub fn behind(stream: StreamId) -> Self {
        Self(stream)
    }

    /// The last stream of the page before.
    pub fn stream(&self) -> &StreamId {
        &self.0
    }
}

impl Display for StreamCursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for byte in self
            .0
            .category()
            .bytes()
            .chain([0])
            .chain(self.0.key().bytes())
        {
            write!(f, "{byte:02x}")?;
        }
        Ok(())
    }
}

impl FromStr for StreamCursor {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let parse = || {
            let bytes: Option<Vec<u8>> = (0..text.len())
                .step_by(2)
                .map(|at| u8::from_str_radix(text.get(at..at + 2)?, 16).ok())
                .collect();
            let joined = String::from_utf8(bytes?).ok()?;
            let (category, key) = joined.split_once('\0')?;
            StreamId::new(category, key).ok()
        };
        let canonical = |parsed: &Self| parsed.to_string() == text;
        parse().map(Self).filter(canonical).ok_or_else(|| {
            Invalid::new(
                "cursor",
                text,
                "it is not the text of a cursor; pass it on unchanged",
            )
        })
    }
}

/// What a store knows of a stream without reading it.
#[derive(Debug, Clone, PartialEq)]
pub struct StreamInfo {
    /// The stream.
    pub stream: StreamId,
    /// How many events it holds, framework events included.
    pub version: StreamVersion,
    /// Live, deleted or erased.
    pub state: StreamState,
    /// Its tags, in byte order.
    pub tags: Vec<Tag>,
    /// Where its first event is.
    pub first_position: Position,
    /// Where its last event is.
    pub last_position: Position,
}

/// One page of streams.
#[derive(Debug, Clone, PartialEq)]
pub struct StreamPage {
    /// The streams. They can be fewer than asked for, or none, and others follow all the same: a
    /// store passes over only so many in other states at a time.
    pub streams: Vec<StreamInfo>,
    /// Where the next page begins; `None` after the last.
    pub next: Option<StreamCursor>,
}
