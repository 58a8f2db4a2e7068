//! Where the values of lookups are kept: the stores that have claims and entries.

use std::{collections::BTreeSet, sync::Arc};

use async_trait::async_trait;
use backstory_event::{
    Append, Appended, Companion, Conflict, EventStore, ExpectedVersion, Invalid, StoreError,
    StoreErrorKind, StreamId, StreamVersion,
};

use super::change::has_value;

/// A value and the stream that has it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct LookupRow {
    /// The value.
    pub value: String,
    /// Whose it is.
    pub owner: StreamId,
    /// Whether it is claimed, so that no other stream may claim it.
    pub claimed: bool,
}

/// Which values of a scope.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LookupFilter {
    /// Those that are this value.
    Value(String),
    /// Those that begin so; all, when it is empty.
    Prefix(String),
    /// Those of a stream.
    Owner(StreamId),
}

/// Which values to read, in the byte order of value, category and key of the owner.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LookupQuery {
    /// The scope.
    pub scope: String,
    /// Which of it.
    pub filter: LookupFilter,
    /// Behind the row of this value and owner.
    pub after: Option<(String, StreamId)>,
    /// How many at most, from 1.
    pub limit: usize,
}

/// Behind every value: they have at most 255 bytes.
const LAST: [char; 64] = [char::MAX; 64];

impl LookupQuery {
    /// From where, inclusive, and up to where, exclusive, the values are that it means: for
    /// stores that read them in order.
    pub fn bounds(&self) -> (String, String) {
        let (low, high) = match &self.filter {
            // No value holds a control character.
            LookupFilter::Value(value) => (value.as_str(), format!("{value}\u{1}")),
            LookupFilter::Prefix(prefix) => (
                prefix.as_str(),
                prefix.chars().chain(LAST).collect::<String>(),
            ),
            LookupFilter::Owner(_) => ("", LAST.iter().collect()),
        };
        let after = self.after.as_ref().map(|(value, _)| value.as_str());
        (after.unwrap_or_default().max(low).to_owned(), high)
    }
}

/// The values that a stream shall have in a scope, as its events up to a version say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LookupRepair {
    /// The scope.
    pub scope: String,
    /// Whether values are claimed, or entered.
    pub unique: bool,
    /// The stream.
    pub owner: StreamId,
    /// The version up to which its events were read.
    pub version: StreamVersion,
    /// The values.
    pub values: BTreeSet<String>,
}

impl LookupRepair {
    /// The same as the rows of an append without events, by the rules of an append.
    ///
    /// # Errors
    /// [`Invalid`] when one of the values is none.
    pub fn to_append(&self) -> Result<Arc<Append>, Invalid> {
        let expected = ExpectedVersion::Exact(self.version);
        let mut append = Append::new()
            .check(self.owner.clone(), expected)
            .clear(&self.scope, self.owner.clone());
        for value in &self.values {
            let row = has_value(&self.scope, value.clone(), self.unique, &self.owner);
            append.companions.push(row);
        }
        append.companions.iter().try_for_each(Companion::validate)?;
        Ok(Arc::new(append))
    }

    /// What a store answers to repairs, by the outcomes of their appends.
    ///
    /// # Errors
    /// The first one that is no conflict.
    pub fn answers(
        outcomes: Vec<Result<Appended, StoreErrorKind>>,
    ) -> Result<Vec<Result<(), Conflict>>, StoreError> {
        let answers = outcomes.into_iter().map(|outcome| match outcome {
            Ok(_) => Ok(Ok(())),
            Err(StoreErrorKind::Conflict(conflict)) => Ok(Err(conflict)),
            Err(other) => Err(StoreError::new(other)),
        });
        answers.collect()
    }
}

/// A store that keeps values beside the events: see [`backstory_event::Companion`].
/// [`LookupStoreExt`](super::LookupStoreExt) adds comfort.
#[async_trait]
pub trait LookupStore: EventStore {
    /// Reads values, claimed and entered ones. What an append that was answered before this call
    /// wrote is there.
    ///
    /// # Errors
    /// When the store is away.
    async fn lookup_rows(&self, query: &LookupQuery) -> Result<Vec<LookupRow>, StoreError>;

    /// Gives streams the values that they shall have, one after another in one transaction, each
    /// only if its stream is at the version. One answer per repair: a version conflict when the
    /// stream has another version, a conflict of claims when another stream holds a value. Then
    /// nothing of this repair is written.
    ///
    /// # Errors
    /// `Invalid` when a value is none, or when the store is away. Doing it again does no harm.
    async fn repair_lookup(
        &self,
        repairs: &[LookupRepair],
    ) -> Result<Vec<Result<(), Conflict>>, StoreError>;
}

#[async_trait]
impl<T: LookupStore + ?Sized> LookupStore for Arc<T> {
    async fn lookup_rows(&self, query: &LookupQuery) -> Result<Vec<LookupRow>, StoreError> {
        (**self).lookup_rows(query).await
    }

    async fn repair_lookup(
        &self,
        repairs: &[LookupRepair],
    ) -> Result<Vec<Result<(), Conflict>>, StoreError> {
        (**self).repair_lookup(repairs).await
    }
}
