//! Reading a lookup.

use std::{collections::BTreeSet, fmt, sync::Arc};

use backstory_event::{Aggregate, Invalid, StoreError, StreamId};

use super::{
    Lookup, LookupCursor, LookupFilter, LookupList, LookupPage, LookupQuery, LookupRow, LookupStore,
};

/// The id of a lookup's aggregates.
type Id<L> = <<L as Lookup>::Aggregate as Aggregate>::Id;

/// Reads a lookup: values to aggregates and back. Cheap to clone. Made by
/// [`LookupStoreExt::lookup`](super::LookupStoreExt::lookup).
///
/// What it reads contains every append that was answered before.
pub struct LookupReader<L: Lookup> {
    pub(super) store: Arc<dyn LookupStore>,
    pub(super) lookup: Arc<L>,
}

impl<L: Lookup> Clone for LookupReader<L> {
    fn clone(&self) -> Self {
        Self {
            store: self.store.clone(),
            lookup: self.lookup.clone(),
        }
    }
}

impl<L: Lookup> fmt::Debug for LookupReader<L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LookupReader")
            .field("lookup", &L::NAME)
            .field("store", &self.store)
            .finish_non_exhaustive()
    }
}

impl<L: Lookup> LookupReader<L> {
    pub(super) fn new(store: Arc<dyn LookupStore>, lookup: L) -> Self {
        Self {
            store,
            lookup: Arc::new(lookup),
        }
    }

    /// The aggregate that has this value; of a lookup that is not unique the first one by id.
    ///
    /// # Errors
    /// When the store is away, or a stored key is no id of this type.
    pub async fn find(&self, value: &str) -> Result<Option<Id<L>>, StoreError> {
        let page = self.find_all(value, LookupList::new().limit(1)).await?;
        Ok(page.items.into_iter().next().map(|(_, id)| id))
    }

    /// One page of the aggregates that have this value, in the byte order of their ids. The
    /// list's prefix does not count.
    ///
    /// # Errors
    /// As [`Self::find`].
    pub async fn find_all(
        &self,
        value: &str,
        list: LookupList,
    ) -> Result<LookupPage<Id<L>>, StoreError> {
        self.page(LookupFilter::Value(value.to_owned()), list).await
    }

    /// The value of an aggregate; of several the first one in byte order.
    ///
    /// # Errors
    /// When the store is away, or the id is refused.
    pub async fn value_of(&self, id: &Id<L>) -> Result<Option<String>, StoreError> {
        let rows = self.of(L::Aggregate::stream(id)?, None, 1).await?;
        Ok(rows.into_iter().next().map(|row| row.value))
    }

    /// All values of an aggregate, in byte order. They grow with what it has.
    ///
    /// # Errors
    /// As [`Self::value_of`].
    pub async fn values_of(&self, id: &Id<L>) -> Result<Vec<String>, StoreError> {
        let rows = self.rows_of(&L::Aggregate::stream(id)?).await?;
        let values: BTreeSet<_> = rows.into_iter().map(|row| row.value).collect();
        Ok(values.into_iter().collect())
    }

    /// One page of values and their aggregates, in byte order.
    ///
    /// # Errors
    /// As [`Self::find`].
    pub async fn list(&self, list: LookupList) -> Result<LookupPage<Id<L>>, StoreError> {
        self.page(LookupFilter::Prefix(list.prefix.clone()), list)
            .await
    }

    async fn page(
        &self,
        filter: LookupFilter,
        list: LookupList,
    ) -> Result<LookupPage<Id<L>>, StoreError> {
        let (LookupFilter::Value(text) | LookupFilter::Prefix(text)) = &filter else {
            return Ok(empty());
        };
        // No value holds one, and not every store can look for it.
        if text.chars().any(char::is_control) {
            return Ok(empty());
        }
        let query = LookupQuery {
            scope: L::NAME.to_owned(),
            filter,
            after: list.after.map(|cursor| (cursor.value, cursor.owner)),
            limit: list.limit + 1,
        };
        let mut rows = self.store.lookup_rows(&query).await?;
        let more = rows.len() > list.limit;
        rows.truncate(list.limit);
        let next = rows.last().filter(|_| more).map(|row| LookupCursor {
            value: row.value.clone(),
            owner: row.owner.clone(),
        });
        let items = rows
            .into_iter()
            .map(|row| Ok((row.value, id::<L>(&row.owner)?)));
        Ok(LookupPage {
            items: items.collect::<Result<_, Invalid>>()?,
            next,
        })
    }

    /// All rows of a stream.
    pub(super) async fn rows_of(&self, owner: &StreamId) -> Result<Vec<LookupRow>, StoreError> {
        let mut rows: Vec<LookupRow> = Vec::new();
        loop {
            let after = rows.last().map(|row| (row.value.clone(), owner.clone()));
            let page = self.of(owner.clone(), after, LookupList::MAX_LIMIT).await?;
            let more = page.len() == LookupList::MAX_LIMIT;
            rows.extend(page);
            if !more {
                return Ok(rows);
            }
        }
    }

    async fn of(
        &self,
        owner: StreamId,
        after: Option<(String, StreamId)>,
        limit: usize,
    ) -> Result<Vec<LookupRow>, StoreError> {
        let query = LookupQuery {
            scope: L::NAME.to_owned(),
            filter: LookupFilter::Owner(owner),
            after,
            limit,
        };
        self.store.lookup_rows(&query).await
    }
}

fn empty<Id>() -> LookupPage<Id> {
    LookupPage {
        items: Vec::new(),
        next: None,
    }
}

fn id<L: Lookup>(owner: &StreamId) -> Result<Id<L>, Invalid> {
    let category = L::Aggregate::CATEGORY;
    let refuse = || {
        let reason = format!(
            "it is no id of `{category}`: rebuild the lookup `{}`",
            L::NAME
        );
        Invalid::new("owner", &owner.to_string(), reason)
    };
    if owner.category() != category {
        return Err(refuse());
    }
    owner.key().parse().map_err(|_| refuse())
}
