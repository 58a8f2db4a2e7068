//! What events make of the values of one aggregate.

use std::collections::{BTreeMap, BTreeSet};

use backstory_event::{Aggregate, Companion, StreamId};

use super::{Lookup, LookupChange, OnDelete};

/// The values of an aggregate as some of its events leave them: what matters is the end, so that
/// a value that comes and goes in one save is never taken.
#[derive(Debug, Default, Clone, PartialEq)]
pub(crate) struct Values {
    /// What was there before is gone.
    cleared: bool,
    /// True: it has the value; false: it does not have it any more.
    values: BTreeMap<String, bool>,
}

impl Values {
    pub(crate) fn follow(&mut self, change: LookupChange) {
        match change {
            LookupChange::Keep => {}
            LookupChange::Clear => {
                self.cleared = true;
                self.values.clear();
            }
            LookupChange::Set(value) => {
                self.follow(LookupChange::Clear);
                self.values.insert(value, true);
            }
            LookupChange::Add(value) => drop(self.values.insert(value, true)),
            LookupChange::Remove(value) => drop(self.values.insert(value, false)),
            LookupChange::Many(changes) => changes.into_iter().for_each(|one| self.follow(one)),
        }
    }

    /// The values, if the events were all there are.
    pub(crate) fn all(self) -> BTreeSet<String> {
        let values = self.values.into_iter();
        values
            .filter_map(|(value, has)| has.then_some(value))
            .collect()
    }

    /// The rows that follow from it.
    fn companions(self, scope: &str, unique: bool, owner: &StreamId) -> Vec<Companion> {
        let clear = |value| Companion::Clear {
            scope: scope.to_owned(),
            value,
            owner: owner.clone(),
        };
        let mut companions = Vec::new();
        if self.cleared {
            companions.push(clear(None));
        }
        for (value, has) in self.values {
            match has {
                true => companions.push(has_value(scope, value, unique, owner)),
                false if self.cleared => {}
                false => companions.push(clear(Some(value))),
            }
        }
        companions
    }
}

/// That a stream has a value.
pub(crate) fn has_value(scope: &str, value: String, unique: bool, owner: &StreamId) -> Companion {
    let (scope, owner) = (scope.to_owned(), owner.clone());
    match unique {
        true => Companion::Claim {
            scope,
            value,
            owner,
        },
        false => Companion::Entry {
            scope,
            value,
            owner,
        },
    }
}

/// A lookup of this type of aggregate, whichever.
pub(crate) trait Indexing<A: Aggregate>: Send + Sync {
    fn name(&self) -> &'static str;

    fn on_delete(&self) -> OnDelete;

    fn change_by(&self, event: &A::Event) -> LookupChange;

    /// The rows by which a stream has these values and no others.
    fn set(&self, values: BTreeSet<String>, owner: &StreamId) -> Vec<Companion>;

    /// The rows that go with these events of a stream.
    fn companions(
        &self,
        events: &mut dyn Iterator<Item = &A::Event>,
        owner: &StreamId,
    ) -> Vec<Companion>;
}

impl<L: Lookup> Indexing<L::Aggregate> for L {
    fn name(&self) -> &'static str {
        L::NAME
    }

    fn on_delete(&self) -> OnDelete {
        L::ON_DELETE
    }

    fn change_by(&self, event: &<L::Aggregate as Aggregate>::Event) -> LookupChange {
        self.change(event)
    }

    fn set(&self, values: BTreeSet<String>, owner: &StreamId) -> Vec<Companion> {
        let mut only = Values::default();
        only.follow(LookupChange::Clear);
        let add = values.into_iter().map(LookupChange::Add);
        only.follow(LookupChange::Many(add.collect()));
        only.companions(L::NAME, L::UNIQUE, owner)
    }

    fn companions(
        &self,
        events: &mut dyn Iterator<Item = &<L::Aggregate as Aggregate>::Event>,
        owner: &StreamId,
    ) -> Vec<Companion> {
        let mut values = Values::default();
        events.for_each(|event| values.follow(self.change(event)));
        values.companions(L::NAME, L::UNIQUE, owner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owner() -> StreamId {
        StreamId::stored("user", "1")
    }

    fn follow(changes: impl IntoIterator<Item = LookupChange>) -> Values {
        let mut values = Values::default();
        changes.into_iter().for_each(|change| values.follow(change));
        values
    }

    #[test]
    fn only_the_end_of_a_save_counts() {
        use LookupChange::{Add, Clear, Keep, Many, Remove, Set};
        let clear = |value: Option<&str>| Companion::Clear {
            scope: "s".into(),
            value: value.map(str::to_owned),
            owner: owner(),
        };
        let claim = |value: &str| has_value("s", value.into(), true, &owner());
        let set = |value: &str| Set(value.into());
        let (add, remove) = (|v: &str| Add(v.into()), |v: &str| Remove(v.into()));
        for (changes, expected) in [
            (vec![Keep], vec![]),
            (vec![Clear], vec![clear(None)]),
            (vec![set("a")], vec![clear(None), claim("a")]),
            (vec![set("a"), set("b")], vec![clear(None), claim("b")]),
            (vec![set("a"), Clear], vec![clear(None)]),
            (vec![set("a"), remove("a")], vec![clear(None)]),
            (vec![add("a"), remove("a")], vec![clear(Some("a"))]),
            (vec![remove("a"), add("a")], vec![claim("a")]),
            (
                vec![Many(vec![Clear, add("b"), add("a")]), remove("b"), Keep],
                vec![clear(None), claim("a")],
            ),
        ] {
            let found = follow(changes.clone()).companions("s", true, &owner());
            assert_eq!(found, expected, "{changes:?}");
        }
    }

    #[test]
    fn a_history_leaves_values() {
        use LookupChange::{Add, Remove, Set};
        let values = follow([
            Add("a".into()),
            Set("b".into()),
            Add("c".into()),
            Remove("b".into()),
            Remove("never".into()),
        ]);
        assert_eq!(values.all(), BTreeSet::from(["c".to_owned()]));
    }
}
