//! Lists aggregates without reading them.

use backstory_event::{Aggregate, Invalid, StreamCursor, StreamInfo, StreamQuery};

use super::Repository;
use crate::RepositoryError;

/// One page of aggregates' ids, in the byte order of their keys.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct ListPage<Id> {
    /// Ids, and what is known of each without reading it. They can be none though others follow.
    pub items: Vec<(Id, StreamInfo)>,
    /// Where the next page begins; `None` after the last. Its text form is opaque.
    pub next: Option<StreamCursor>,
}

impl<A: Aggregate> Repository<A> {
    /// One page of the aggregates of this type, by key, tags and state; without a state only live
    /// ones. The category of the query is set here. Pages go on behind the last key, so an
    /// aggregate that exists all the time is listed once, also while others write.
    ///
    /// ```
    /// # use backstory_aggregate::{Aggregate, Repository, RepositoryError};
    /// # use backstory_event::{StreamQuery, Tag};
    /// # async fn example<A: Aggregate>(repository: Repository<A>) -> Result<(), RepositoryError> {
    /// let urgent = StreamQuery::new().tag(Tag::new("urgent")?).limit(20);
    /// let page = repository.list(urgent.clone()).await?;
    /// if let Some(cursor) = page.next {
    ///     let second = repository.list(urgent.after(cursor)).await?;
    /// }
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// `Invalid` when a stored key is no id of this type, or the store's error.
    pub async fn list(&self, query: StreamQuery) -> Result<ListPage<A::Id>, RepositoryError> {
        let page = self.store.streams(&query.category(A::CATEGORY)).await?;
        let items = page.streams.into_iter().map(|info| {
            let key = info.stream.key();
            match key.parse::<A::Id>() {
                Ok(id) => Ok((id, info)),
                Err(_) => Err(Invalid::new(
                    "stream key",
                    key,
                    format!("it is no id of `{}`", A::CATEGORY),
                )),
            }
        });
        Ok(ListPage {
            items: items.collect::<Result<_, _>>()?,
            next: page.next,
        })
    }
}
