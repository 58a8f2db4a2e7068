//! Which read model of a projection is the live one: while a new one is built beside it, and after
//! that has taken its place.

use crate::{CommitError, Progress, owner};

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

    /// The name of the progress in this slot that goes with a live one: of `Next` there is one for all
    /// parts, of `Previous` one for each.
    pub fn beside(self, live: &str) -> String {
        match self {
            Self::Next => self.name(owner(live)),
            Self::Live | Self::Previous => self.name(live),
        }
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
/// at `from`, whose epoch it raises. A projection in several parts changes as a whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Turn {
    /// The progress of the live read model, or of one of its parts.
    pub from: Progress,
    /// What changes.
    pub kind: TurnKind,
    /// The tables of the read model, if it has some of its own.
    pub tables: &'static [&'static str],
}

/// What changes of a projection's slots.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TurnKind {
    /// `Next` is there, empty, with its progress at the start and an epoch that no other had.
    /// `Previous` is gone. Refused while there is a `Next`.
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

/// A read model whose collections and letters change their projection, and their names the end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rename {
    /// The projection before.
    pub from: String,
    /// What its collections' names end with.
    pub from_suffix: &'static str,
    /// The projection afterwards.
    pub to: String,
    /// What its collections' names end with then.
    pub to_suffix: &'static str,
    /// True when it becomes the live one: no other projection may have collections of these names.
    pub is_live: bool,
}

impl Rename {
    /// The name of a collection afterwards.
    pub fn collection(&self, name: &str) -> String {
        let base = name.strip_suffix(self.from_suffix).unwrap_or(name);
        format!("{base}{}", self.to_suffix)
    }
}

/// What a [`Turn`] does to progress.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TurnPlan {
    /// Rows that are removed first.
    pub remove: Vec<String>,
    /// Rows that are stored then.
    pub put: Vec<Progress>,
    /// The slot whose collections or tables are dropped.
    pub clear: Option<Slot>,
    /// The slot that changes places with the live one.
    pub exchange: Option<Slot>,
    /// The progress of the live read model afterwards.
    pub result: Progress,
}

/// Why there is no plan.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TurnRefusal {
    /// The live read model is not at `from`.
    Fenced,
    /// It cannot be, for this reason.
    Refused(String),
}

impl Turn {
    /// The projection that it concerns: all its parts.
    pub fn projection(&self) -> &str {
        owner(&self.from.projection)
    }

    /// Why it cannot be when this collection belongs to another projection.
    pub fn taken(collection: &str) -> String {
        format!(
            "collection {collection:?} belongs to another projection: a projection that is rebuilt \
             needs collections of its own"
        )
    }

    /// How the read model of a slot and the live one change places, which becomes the previous one: one
    /// after another, so that no two have the same name.
    pub fn renames(&self, beside: Slot) -> [Rename; 3] {
        let name = self.projection();
        let live = (name.to_owned(), "");
        let aside = (format!("{name}~"), "~");
        let of = |slot: Slot| (slot.name(name), slot.suffix());
        [
            (live.clone(), aside.clone()),
            (of(beside), live),
            (aside, of(Slot::Previous)),
        ]
        .map(|((from, from_suffix), (to, to_suffix))| Rename {
            is_live: to == name,
            from,
            from_suffix,
            to,
            to_suffix,
        })
    }

    /// What it does, given the progress of all parts and slots of the projection: the rows whose
    /// names are that of the projection, or begin with it and a `~`.
    ///
    /// # Errors
    /// When it cannot be.
    pub fn plan(&self, rows: &[Progress]) -> Result<TurnPlan, TurnRefusal> {
        let name = self.projection();
        let of = |slot: Slot| {
            rows.iter().filter(move |row| {
                let (part, of) = Slot::split(&row.projection);
                of == slot && owner(part) == name
            })
        };
        let mut live: Vec<_> = of(Slot::Live).cloned().collect();
        if !live
            .iter()
            .any(|row| row.projection == self.from.projection)
        {
            live.push(Progress::start(&*self.from.projection));
        }
        if !live.contains(&self.from) {
            return Err(TurnRefusal::Fenced);
        }
        let next = of(Slot::Next).next();
        let previous: Vec<_> = of(Slot::Previous).collect();
        let refused = |reason: &str| Err(TurnRefusal::Refused(reason.to_owned()));
        let raised = |row: &Progress, checkpoint| Progress {
            projection: row.projection.clone(),
            checkpoint,
            epoch: row.epoch + 1,
        };
        let kept = |row: &Progress| Progress {
            projection: Slot::Previous.name(&row.projection),
            ..row.clone()
        };
        let result = raised(&self.from, self.from.checkpoint);
        let gone = || previous.iter().map(|row| row.projection.clone()).collect();
        let mut plan = TurnPlan {
            remove: Vec::new(),
            put: vec![result.clone()],
            clear: None,
            exchange: None,
            result,
        };
        match (self.kind, next) {
            (TurnKind::Begin, Some(_)) => {
                return refused("it is being rebuilt already: abort that first");
            }
            (TurnKind::Abort | TurnKind::Swap, None) => return refused("it is not being rebuilt"),
            (TurnKind::RollBack | TurnKind::DropPrevious, _) if previous.is_empty() => {
                return refused(
                    "there is no previous read model: only the one before the last rebuild is kept",
                );
            }
            (TurnKind::Begin, None) => {
                let highest = live.iter().map(|row| row.epoch).max().unwrap_or_default();
                plan.put.push(Progress {
                    epoch: highest + 1,
                    ..Progress::start(Slot::Next.name(name))
                });
                plan.remove = gone();
                plan.clear = Some(Slot::Previous);
            }
            (TurnKind::Abort, Some(next)) => {
                plan.remove = vec![next.projection.clone()];
                plan.clear = Some(Slot::Next);
            }
            (TurnKind::Swap, Some(next)) => {
                let to = next.checkpoint;
                if live.iter().any(|row| row.checkpoint.position > to.position) {
                    return refused("what is being built is behind what is read");
                }
                plan.remove = gone();
                plan.remove.push(next.projection.clone());
                plan.put = live.iter().map(|row| raised(row, to)).collect();
                plan.put.extend(live.iter().map(kept));
                plan.clear = Some(Slot::Previous);
                plan.exchange = Some(Slot::Next);
                plan.result.checkpoint = to;
            }
            (TurnKind::RollBack, _) => {
                plan.put.clear();
                for row in &live {
                    let before = Slot::Previous.name(&row.projection);
                    let Some(before) = previous.iter().find(|one| one.projection == before) else {
                        return refused("the previous read model has other parts");
                    };
                    plan.put.push(raised(row, before.checkpoint));
                    plan.put.push(kept(row));
                    if row.projection == self.from.projection {
                        plan.result.checkpoint = before.checkpoint;
                    }
                }
                plan.exchange = Some(Slot::Previous);
            }
            (TurnKind::DropPrevious, _) => {
                plan.remove = gone();
                plan.clear = Some(Slot::Previous);
            }
        }
        Ok(plan)
    }
}

impl TurnRefusal {
    /// The error of a commit.
    pub fn of(self, projection: &str) -> CommitError {
        let projection = projection.to_owned();
        match self {
            Self::Fenced => CommitError::Fenced { projection },
            Self::Refused(reason) => CommitError::Refused { projection, reason },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rebuild_is_one_for_all_parts() {
        assert_eq!(Slot::Next.beside("orders~1of4"), "orders~next");
        assert_eq!(Slot::Previous.beside("orders~1of4"), "orders~1of4~previous");
        assert_eq!(Slot::Live.beside("orders"), "orders");
    }

    #[test]
    fn a_name_tells_its_slot() {
        for slot in [Slot::Live, Slot::Next, Slot::Previous] {
            let name = slot.name("open_todos");
            assert_eq!(Slot::split(&name), ("open_todos", slot));
        }
    }
}
