//! What can be wrong with a schema, and what it means.

use std::fmt::{self, Display};

use backstory_event::{EventId, Position, StreamId, StreamVersion};
use serde::Serialize;

macro_rules! kinds {
    ($($(#[$doc:meta])* $kind:ident = $name:literal: $meaning:literal;)*) => {
        /// What is wrong with a row.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
        #[serde(rename_all = "snake_case")]
        #[non_exhaustive]
        pub enum FindingKind {
            $($(#[$doc])* $kind,)*
        }

        impl FindingKind {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$kind,)*];

            /// Its name, stable, for programs: `position_gap`.
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$kind => $name,)*
                }
            }

            /// What it means, in a sentence.
            pub const fn meaning(self) -> &'static str {
                match self {
                    $(Self::$kind => $meaning,)*
                }
            }
        }
    };
}

kinds! {
    /// Positions are missing before this event.
    PositionGap = "position_gap":
        "events were removed or lost; readers that were there before have seen them";
    /// Another event has the same position.
    PositionRepeated = "position_repeated":
        "readers see only one of two events, or both in any order";
    /// The event was recorded earlier than the one before it.
    TimeDecreased = "time_decreased":
        "reads by time miss events: times must follow the positions";
    /// Two events have the same id.
    IdRepeated = "id_repeated":
        "checkpoints and repeated appends cannot tell the two events apart";
    /// The id of the event is nil.
    IdNil = "id_nil":
        "the event cannot be proved: nil stands for no event";
    /// The event cannot be read.
    EventUnreadable = "event_unreadable":
        "readers stop at this event";
    /// The payload is stored in a form that this program does not know.
    TransformUnknown = "transform_unknown":
        "readers of this version stop at this event";
    /// Versions are missing before this event of the stream.
    VersionGap = "version_gap":
        "events of the stream were removed or lost; its state is another one without them";
    /// Another event of the stream has the same version.
    VersionRepeated = "version_repeated":
        "two writers decided on the same state";
    /// The versions of the stream do not follow the positions.
    VersionDisordered = "version_disordered":
        "readers of the log and readers of the stream see another order";
    /// The event still has content although it is marked as erased.
    ErasedContent = "erased_content":
        "content that was to be erased is still stored";
    /// The event is not erased although its stream was.
    NotErased = "not_erased":
        "content that was to be erased is still stored and readable";
    /// The event is erased although its stream was not.
    ErasedWithoutCause = "erased_without_cause":
        "content was taken that nobody asked to erase";
    /// The stream was deleted, erased or tagged, and has no row that says so.
    StateMissing = "state_missing":
        "appends and lists take the stream for a live one without tags; the row can be derived from the events again";
    /// The stream has a row that its events do not ask for, or has no events.
    StateSuperfluous = "state_superfluous":
        "appends and lists believe the row; delete it";
    /// The row of the stream says something else than its events.
    StateDiffers = "state_differs":
        "appends and lists believe the row; it can be derived from the events again";
    /// The projection is behind the end of the log.
    ProgressBeyondLog = "progress_beyond_log":
        "the log lost its tail, or an older backup was restored; rebuild the projection";
    /// The log holds another event where the projection has read.
    ProgressDiverged = "progress_diverged":
        "the log is not the one that was projected; rebuild the projection";
    /// Events that the projection has not seen were trimmed.
    ProgressTrimmed = "progress_trimmed":
        "the projection cannot go on; rebuild it";
    /// The log holds another event where the snapshot was taken.
    SnapshotDiverged = "snapshot_diverged":
        "the snapshot is of another history; it is passed over and can be deleted";
    /// The snapshot was taken of events that are erased.
    SnapshotErased = "snapshot_erased":
        "content that was to be erased may still be stored in the snapshot; delete it";
    /// The owner of the claim is erased.
    ClaimOfErased = "claim_of_erased":
        "the value of an owner that was to be erased is still stored, or was taken for it afterwards; release it";
    /// The owner of the entry of a lookup is erased.
    EntryOfErased = "entry_of_erased":
        "the value of an owner that was to be erased is still stored, or was entered for it afterwards; rebuild the lookup";
    /// The owner of the document is erased.
    DocumentOfErased = "document_of_erased":
        "content that was to be erased is still stored in a read model";
    /// The log holds another event where a projection left one out.
    LetterDiverged = "letter_diverged":
        "the log is not the one that was projected; rebuild the projection";
    /// The event of the dead letter is erased.
    LetterOfErased = "letter_of_erased":
        "the reason of the letter may quote content that was to be erased; delete it";
    /// A trigger that protects the events is missing.
    GuardMissing = "guard_missing":
        "events can be changed or removed";
    /// A trigger that protects the events does not always fire, or does something else.
    GuardOff = "guard_off":
        "events can be changed or removed";
    /// A function of the schema is missing.
    FunctionMissing = "function_missing":
        "programs fail that call it";
    /// A function of the schema is not the one that belongs there.
    FunctionChanged = "function_changed":
        "it may do something else; functions are never changed, new versions get new names";
    /// An index or the constraint that it serves is missing or not valid.
    IndexMissing = "index_missing":
        "appends or reads scan whole tables, and rows that must be unique may not be";
}

impl Display for FindingKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The row that a [`Finding`] is about.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Subject {
    /// An event.
    Event(Position),
    /// The events with this id.
    Id(EventId),
    /// A row of the table `stream`.
    Stream(StreamId),
    /// The progress of a projection.
    Projection(String),
    /// A snapshot.
    Snapshot {
        /// Of which stream.
        stream: StreamId,
        /// At which version.
        version: StreamVersion,
    },
    /// A unique claim.
    Claim {
        /// Within which values are unique.
        scope: String,
        /// The value.
        value: String,
    },
    /// A value of a lookup that is not unique.
    Entry {
        /// The name of the lookup.
        scope: String,
        /// The value.
        value: String,
        /// Whose it is.
        owner: StreamId,
    },
    /// A document.
    Document {
        /// Its collection; `None`: one that no reader can name any more.
        collection: Option<String>,
        /// Its key.
        key: String,
    },
    /// A dead letter.
    DeadLetter {
        /// Of which projection.
        projection: String,
        /// Of the event at which position.
        position: Position,
    },
    /// A trigger, function or index, by name.
    Object(String),
}

impl Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Event(position) => write!(f, "event at position {position}"),
            Self::Id(id) => write!(f, "event id {id}"),
            Self::Stream(stream) => write!(f, "stream {stream}"),
            Self::Projection(name) => write!(f, "projection `{name}`"),
            Self::Snapshot { stream, version } => {
                write!(f, "snapshot of {stream} at version {version}")
            }
            Self::Claim { scope, value } => write!(f, "claim `{value}` in `{scope}`"),
            Self::Entry {
                scope,
                value,
                owner,
            } => write!(f, "entry `{value}` of {owner} in `{scope}`"),
            Self::Document { collection, key } => {
                let collection = collection.as_deref().unwrap_or("(without a name)");
                write!(f, "document `{key}` in `{collection}`")
            }
            Self::DeadLetter {
                projection,
                position,
            } => write!(f, "dead letter of `{projection}` at position {position}"),
            Self::Object(name) => write!(f, "`{name}`"),
        }
    }
}

/// One thing that is wrong. Its text names the row, says what is wrong, and what that means.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Finding {
    /// What is wrong.
    pub kind: FindingKind,
    /// Which row.
    pub subject: Subject,
    /// What was found, and what was expected.
    pub detail: String,
}

impl Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            kind,
            subject,
            detail,
        } = self;
        write!(f, "{kind}: {subject}: {detail} ({})", kind.meaning())
    }
}

#[cfg(test)]
mod tests {
    use super::FindingKind;

    #[test]
    fn names_are_those_of_the_json_and_differ() {
        let mut names = std::collections::BTreeSet::new();
        for kind in FindingKind::ALL {
            assert_eq!(
                serde_json::to_value(kind).ok(),
                Some(kind.as_str().into()),
                "{kind:?}"
            );
            assert!(names.insert(kind.as_str()));
        }
    }
}
