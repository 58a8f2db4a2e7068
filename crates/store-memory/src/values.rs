//! Who has which values: claimed by one stream, or entered by many.

use std::{
    collections::{BTreeSet, HashMap},
    ops::Bound,
};

use async_trait::async_trait;
use backstory_aggregate::{LookupFilter, LookupQuery, LookupRepair, LookupRow, LookupStore};
use backstory_event::{Conflict, StoreError, StreamId};
use backstory_store_kit::{ClaimKey, ValueChanges};

use crate::MemoryStore;

/// A value of a stream; true when it is claimed.
type Value = (String, String, bool);

#[derive(Debug, Default)]
pub(crate) struct Values {
    claims: HashMap<ClaimKey, StreamId>,
    rows: BTreeSet<(String, LookupRow)>,
    owned: HashMap<StreamId, BTreeSet<Value>>,
}

impl Values {
    pub(crate) fn holder(&self, key: &ClaimKey) -> Option<&StreamId> {
        self.claims.get(key)
    }

    pub(crate) fn apply(&mut self, changes: ValueChanges) {
        for removal in changes.removed {
            let value = removal.value.as_deref();
            self.take(&removal.owner, |(scope, text, _)| {
                *scope == removal.scope && value.is_none_or(|value| value == text)
            });
        }
        for (key, owner) in changes.claims {
            if let Some(before) = self.claims.insert(key.clone(), owner.clone()) {
                self.remove(&before, &(key.0.clone(), key.1.clone(), true));
            }
            self.insert(owner, (key.0, key.1, true));
        }
        for entry in changes.entries {
            self.insert(entry.owner, (entry.scope, entry.value, false));
        }
    }

    pub(crate) fn erase(&mut self, stream: &StreamId) {
        self.take(stream, |_| true);
    }

    fn insert(&mut self, owner: StreamId, value: Value) {
        self.rows.insert(row(&owner, &value));
        self.owned.entry(owner).or_default().insert(value);
    }

    fn remove(&mut self, owner: &StreamId, value: &Value) {
        self.rows.remove(&row(owner, value));
        if let Some(values) = self.owned.get_mut(owner) {
            values.remove(value);
            if values.is_empty() {
                self.owned.remove(owner);
            }
        }
    }

    fn take(&mut self, owner: &StreamId, is_meant: impl Fn(&Value) -> bool) {
        let owned = self.owned.get(owner).into_iter().flatten();
        let gone: Vec<_> = owned.filter(|value| is_meant(value)).cloned().collect();
        for value in gone {
            self.remove(owner, &value);
            if value.2 {
                self.claims.remove(&(value.0, value.1));
            }
        }
    }

    fn list(&self, query: &LookupQuery) -> Vec<LookupRow> {
        let is_after = |row: &LookupRow| {
            let after = query.after.as_ref();
            after.is_none_or(|(value, owner)| (&row.value, &row.owner) > (value, owner))
        };
        if let LookupFilter::Owner(owner) = &query.filter {
            let owned = self.owned.get(owner).into_iter().flatten();
            let rows = owned.filter(|(scope, ..)| *scope == query.scope);
            return rows
                .map(|value| row(owner, value).1)
                .filter(is_after)
                .take(query.limit)
                .collect();
        }
        let (low, high) = query.bounds();
        let bound = |value| {
            let owner = StreamId::stored("", "");
            let claimed = false;
            let row = LookupRow {
                value,
                owner,
                claimed,
            };
            (query.scope.clone(), row)
        };
        let range = (Bound::Included(bound(low)), Bound::Excluded(bound(high)));
        let rows = self.rows.range(range).map(|(_, row)| row);
        rows.filter(|row| is_after(row))
            .take(query.limit)
            .cloned()
            .collect()
    }
}

fn row(owner: &StreamId, (scope, value, claimed): &Value) -> (String, LookupRow) {
    let row = LookupRow {
        value: value.clone(),
        owner: owner.clone(),
        claimed: *claimed,
    };
    (scope.clone(), row)
}

#[async_trait]
impl LookupStore for MemoryStore {
    async fn lookup_rows(&self, query: &LookupQuery) -> Result<Vec<LookupRow>, StoreError> {
        Ok(self.with(|state| state.log.values().list(query)))
    }

    async fn repair_lookup(
        &self,
        repairs: &[LookupRepair],
    ) -> Result<Vec<Result<(), Conflict>>, StoreError> {
        let appends = repairs.iter().map(LookupRepair::to_append);
        let appends = appends.collect::<Result<Vec<_>, _>>()?;
        let now = self.0.options.clock.now();
        // One by one, but nobody comes in between.
        let outcomes = self.with(|state| {
            let outcomes = appends.iter().map(|append| {
                let decision = state.log.decide(append, now);
                state.log.apply(decision).0
            });
            let kinds = outcomes.map(|outcome| outcome.map_err(StoreError::into_kind));
            kinds.collect()
        });
        LookupRepair::answers(outcomes)
    }
}
