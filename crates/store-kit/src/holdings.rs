//! Who has which values in the course of a batch: claimed by one stream, or entered by many.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use backstory_event::{Companion, Conflict, StreamId};

/// Scope and value of a unique claim.
pub type ClaimKey = (String, String);

/// Values that go, of whatever kind.
#[derive(Debug, Clone, PartialEq)]
pub struct Removal {
    /// The scope.
    pub scope: String,
    /// The value; `None`: all that the owner has in the scope.
    pub value: Option<String>,
    /// Whose values.
    pub owner: StreamId,
}

/// A value that many streams may have.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Entry {
    /// Whose value.
    pub owner: StreamId,
    /// The scope.
    pub scope: String,
    /// The value.
    pub value: String,
}

/// What becomes of values. To be applied in the order of the fields.
#[derive(Debug, Default, Clone, PartialEq)]
pub struct ValueChanges {
    /// Values that go if they are there.
    pub removed: Vec<Removal>,
    /// Claims to set, whoever holds them.
    pub claims: BTreeMap<ClaimKey, StreamId>,
    /// Entries to make if they are not there.
    pub entries: BTreeSet<Entry>,
}

impl ValueChanges {
    /// True when there is nothing to write.
    pub fn is_empty(&self) -> bool {
        self.removed.is_empty() && self.claims.is_empty() && self.entries.is_empty()
    }
}

pub(crate) struct Holdings {
    holders: HashMap<ClaimKey, StreamId>,
    held: HashMap<StreamId, HashSet<ClaimKey>>,
    changes: ValueChanges,
}

impl Holdings {
    /// From the claims that are stored, of those that the batch speaks of.
    pub(crate) fn new(holders: HashMap<ClaimKey, StreamId>) -> Self {
        let mut held: HashMap<_, HashSet<_>> = HashMap::new();
        for (key, owner) in &holders {
            held.entry(owner.clone()).or_default().insert(key.clone());
        }
        Self {
            holders,
            held,
            changes: ValueChanges::default(),
        }
    }

    pub(crate) fn into_changes(self) -> ValueChanges {
        self.changes
    }

    /// Whether the companions of an append can be applied, one after another.
    pub(crate) fn check(&self, companions: &[Companion]) -> Result<(), Conflict> {
        let mut freed = Vec::new();
        for companion in companions {
            if let Companion::Clear { .. } = companion {
                freed.push(companion);
            }
            let Some((scope, value)) = companion.claim() else {
                continue;
            };
            let key = (scope.to_owned(), value.to_owned());
            let Some(holder) = self.holders.get(&key) else {
                continue;
            };
            let is_freed = || {
                freed.iter().any(|clear| {
                    clear.owner() == holder
                        && clear.scope() == scope
                        && clear.value().is_none_or(|freed| freed == value)
                })
            };
            if holder != companion.owner() && !is_freed() {
                let owner = holder.clone();
                let (scope, value) = key;
                return Err(Conflict::Claim {
                    scope,
                    value,
                    owner,
                });
            }
        }
        Ok(())
    }

    /// Applies companions that were checked.
    pub(crate) fn apply(&mut self, companions: &[Companion]) {
        for companion in companions {
            let (scope, owner) = (companion.scope().to_owned(), companion.owner().clone());
            match companion {
                Companion::Claim { value, .. } => self.take((scope, value.clone()), owner),
                Companion::Entry { value, .. } => {
                    let value = value.clone();
                    self.changes.entries.insert(Entry {
                        owner,
                        scope,
                        value,
                    });
                }
                _ => {
                    let value = companion.value().map(str::to_owned);
                    self.forget(&owner, Some(&scope), value.as_deref());
                    self.changes.removed.push(Removal {
                        scope,
                        value,
                        owner,
                    });
                }
            }
        }
    }

    /// Takes all values of a stream. Those that are stored go with its content.
    pub(crate) fn erase(&mut self, stream: &StreamId) {
        self.forget(stream, None, None);
    }

    fn take(&mut self, key: ClaimKey, owner: StreamId) {
        self.holders.insert(key.clone(), owner.clone());
        let held = self.held.entry(owner.clone()).or_default();
        held.insert(key.clone());
        self.changes.claims.insert(key, owner);
    }

    /// Takes back what the batch gave to a stream, and what is known to be stored.
    fn forget(&mut self, owner: &StreamId, scope: Option<&str>, value: Option<&str>) {
        let is_meant = |of: &str, text: &str| {
            scope.is_none_or(|scope| scope == of) && value.is_none_or(|value| value == text)
        };
        let Self {
            holders,
            held,
            changes,
        } = self;
        if let Some(keys) = held.get_mut(owner) {
            keys.retain(|key| {
                let goes = is_meant(&key.0, &key.1);
                if goes {
                    holders.remove(key);
                    changes.claims.remove(key);
                }
                !goes
            });
        }
        let first = Entry {
            owner: owner.clone(),
            scope: scope.unwrap_or_default().to_owned(),
            value: value.unwrap_or_default().to_owned(),
        };
        let gone: Vec<_> = changes
            .entries
            .range(first..)
            .take_while(|entry| {
                entry.owner == *owner && scope.is_none_or(|scope| scope == entry.scope)
            })
            .filter(|entry| is_meant(&entry.scope, &entry.value))
            .cloned()
            .collect();
        for entry in &gone {
            changes.entries.remove(entry);
        }
    }
}
