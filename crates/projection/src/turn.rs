//! Which read model of a projection is the live one: while a new one is built beside it, and after
//! that has taken its place.

use crate::Progress;

/// A read model of a projection. Each has its own progress, its own letters and its own collections
/// or tables, whose names carry [`Slot::suffix`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Slot {
    /// The one that is read.
    Live,
    /// The one that a rebuild builds.
    Next,
    /// The one that was read before the last rebuild.
    Previous,
}

impl Slot {
    /// What names in this slot end with.
    pub fn suffix(self) -> &'static str {
        match self {
            Self::Live => "",
            Self::Next => "~next",
            Self::Previous => "~previous",
        }
    }

    /// A name in this slot.
    pub fn name(self, name: &str) -> String {
        format!("{name}{}", self.suffix())
    }

    /// The slot of a name, and the name without its suffix.
    pub fn split(name: &str) -> (&str, Self) {
        let beside = [Self::Next, Self::Previous].into_iter();
        beside
            .filter_map(|slot| Some((name.strip_suffix(slot.suffix())?, slot)))
            .next()
            .unwrap_or((name, Self::Live))
    }
}

/// A change of a projection's slots, all or nothing. It holds only if the live read model still is
/// at `from`, whose epoch it raises.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Turn {
    /// The progress of the live read model.
    pub from: Progress,
    /// What changes.
    pub kind: TurnKind,
    /// The tables of the read model, if it has some of its own.
    pub tables: &'static [&'static str],
}

/// What changes of a projection's slots.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TurnKind {
    /// `Next` is there, empty, with its progress at the start and the epoch that the live one has
    /// then. `Previous` is gone. Refused while there is a `Next`.
    Begin,
    /// `Next` is gone. Refused when there is none.
    Abort,
    /// `Next` becomes the live one, and what was that becomes `Previous`. Refused when there is no
    /// `Next`, or when it is behind the live one.
    Swap,
    /// `Previous` becomes the live one, and what was that becomes `Previous`. Refused when there is
    /// none.
    RollBack,
    /// `Previous` is gone. Refused when there is none.
    DropPrevious,
}

impl Turn {
    /// The progress of the live read model afterwards. `beside` is that of the slot which becomes
    /// the live one, at a swap or when rolling back.
    pub fn result(&self, beside: Option<&Progress>) -> Progress {
        let checkpoint = beside.map_or(self.from.checkpoint, |beside| beside.checkpoint);
        Progress {
            projection: self.from.projection.clone(),
            checkpoint,
            epoch: self.from.epoch + 1,
        }
    }

    /// The slot that has to be there, and the one that must not.
    pub fn needs(&self) -> (Option<Slot>, Option<Slot>) {
        match self.kind {
            TurnKind::Begin => (None, Some(Slot::Next)),
            TurnKind::Abort | TurnKind::Swap => (Some(Slot::Next), None),
            TurnKind::RollBack | TurnKind::DropPrevious => (Some(Slot::Previous), None),
        }
    }

    /// Why it cannot be when this collection belongs to another projection.
    pub fn taken(collection: &str) -> String {
        format!(
            "collection {collection:?} belongs to another projection: a projection that is rebuilt \
             needs collections of its own"
        )
    }

    /// Why it cannot be, given the progress of the slots beside the live one.
    pub fn refusal(&self, next: Option<&Progress>, previous: Option<&Progress>) -> Option<String> {
        let there = |slot| match slot {
            Slot::Live => Some(&self.from),
            Slot::Next => next,
            Slot::Previous => previous,
        };
        let (needed, forbidden) = self.needs();
        if forbidden.is_some_and(|slot| there(slot).is_some()) {
            return Some("it is being rebuilt already: abort that first".to_owned());
        }
        let beside = needed.map(there);
        match (needed, beside, self.kind) {
            (Some(Slot::Next), Some(None), _) => Some("it is not being rebuilt".to_owned()),
            (Some(_), Some(None), _) => Some(
                "there is no previous read model: only the one before the last rebuild is kept"
                    .to_owned(),
            ),
            (_, Some(Some(next)), TurnKind::Swap)
                if next.checkpoint.position < self.from.checkpoint.position =>
            {
                Some("what is being built is behind what is read".to_owned())
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_tells_its_slot() {
        for slot in [Slot::Live, Slot::Next, Slot::Previous] {
            let name = slot.name("open_todos");
            assert_eq!(Slot::split(&name), ("open_todos", slot));
        }
    }
}
