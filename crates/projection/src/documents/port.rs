//! What a store does for documents.

use std::{fmt::Debug, sync::Arc};

use async_trait::async_trait;
use backstory_event::{Payload, StoreError, StreamId};

use crate::{
    CommitError, Documents, Progress, Step, Turn,
    inline::{Enlisted, InlineProjection, unsupported},
};

/// A document's place.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DocumentKey {
    /// The collection's logical name.
    pub collection: String,
    /// The key within it.
    pub key: String,
}

/// A change of one document. A key occurs at most once in a commit.
#[derive(Debug, Clone, PartialEq)]
pub enum DocumentWrite {
    /// Stores or replaces a document.
    Put {
        /// Where.
        key: DocumentKey,
        /// The document.
        body: Payload,
        /// The indexed fields and their values, encoded so that their byte order is their order.
        indexed: Vec<(String, String)>,
        /// The stream whose erasure takes the document along.
        owner: Option<StreamId>,
    },
    /// Removes a document, if it is there.
    Delete {
        /// Where.
        key: DocumentKey,
    },
}

impl DocumentWrite {
    /// The stream whose erasure takes the document along.
    pub fn owner(&self) -> Option<&StreamId> {
        match self {
            Self::Put { owner, .. } => owner.as_ref(),
            Self::Delete { .. } => None,
        }
    }

    /// The write when these streams are erased: what a batch has read before an erasure must not
    /// come back after it.
    #[must_use]
    pub fn without(self, erased: &[StreamId]) -> Self {
        match self {
            Self::Put {
                key,
                owner: Some(owner),
                ..
            } if erased.contains(&owner) => Self::Delete { key },
            write => write,
        }
    }
}

/// Which documents to list: by key, or by one indexed field and then by key, in byte order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DocumentList {
    /// The collection's logical name.
    pub collection: String,
    /// Only keys that begin so; empty: all.
    pub prefix: String,
    /// In the order of this indexed field instead of the key; documents without it are left out.
    pub index: Option<String>,
    /// Only with exactly this encoded value of the field.
    pub equals: Option<String>,
    /// Only behind this encoded value (empty without `index`) and key.
    pub after: Option<(String, String)>,
    /// At most so many, at least 1.
    pub limit: usize,
}

/// A document in a list.
#[derive(Debug, Clone, PartialEq)]
pub struct DocumentRow {
    /// Its key.
    pub key: String,
    /// The encoded value of the field that orders the list; empty without one.
    pub index_value: String,
    /// The document.
    pub body: Payload,
}

/// Keeps documents in collections. A collection belongs to the projection that first wrote to it.
#[async_trait]
pub trait DocumentStore: Debug + Send + Sync + 'static {
    /// The documents with these keys, in the same order; `None` where there is none.
    ///
    /// # Errors
    /// When the store is away.
    async fn get_documents(&self, keys: &[DocumentKey])
    -> Result<Vec<Option<Payload>>, StoreError>;

    /// One page of documents.
    ///
    /// # Errors
    /// When the store is away.
    async fn list_documents(&self, list: &DocumentList) -> Result<Vec<DocumentRow>, StoreError>;

    /// Writes documents, moves the projection's checkpoint and changes its letters, in one
    /// transaction. With [`Target::Reset`](crate::Target::Reset) all collections of the projection
    /// are emptied first, and its letters removed. A document whose owner is erased by now is
    /// removed instead of put; a letter of an event that is erased by now is not put. Collections and
    /// letters belong to the [owner](crate::owner) of the progress; a reset or rewind of one part
    /// changes the [others](Step::of_sibling) too.
    ///
    /// # Errors
    /// `Fenced` when the projection is not at `step.from` any more; nothing is written then.
    async fn commit_documents(
        &self,
        writes: Vec<DocumentWrite>,
        step: &Step,
    ) -> Result<(), CommitError>;

    /// Changes which collections of a projection are the live ones, with its progress and its
    /// letters, in one transaction, and says the progress of the live ones afterwards. The name of a
    /// collection that is not live ends with [`Slot::suffix`](crate::Slot::suffix), and so does the
    /// name of its projection.
    ///
    /// # Errors
    /// What [`Turn::plan`] says; `Refused` also when a collection would take the name of one that belongs to
    /// another projection.
    async fn turn_documents(&self, turn: &Turn) -> Result<Progress, CommitError>;

    /// Runs a projection inside the appends of this store's handles, until the answer is dropped.
    ///
    /// # Errors
    /// `Config` when the store cannot, as by default.
    fn enlist_documents(
        &self,
        projection: InlineProjection<Documents>,
    ) -> Result<Enlisted, StoreError> {
        Err(unsupported(projection.terms().name()).into())
    }
}

#[async_trait]
impl<T: DocumentStore + ?Sized> DocumentStore for Arc<T> {
    async fn get_documents(
        &self,
        keys: &[DocumentKey],
    ) -> Result<Vec<Option<Payload>>, StoreError> {
        (**self).get_documents(keys).await
    }

    async fn list_documents(&self, list: &DocumentList) -> Result<Vec<DocumentRow>, StoreError> {
        (**self).list_documents(list).await
    }

    async fn commit_documents(
        &self,
        writes: Vec<DocumentWrite>,
        step: &Step,
    ) -> Result<(), CommitError> {
        (**self).commit_documents(writes, step).await
    }

    async fn turn_documents(&self, turn: &Turn) -> Result<Progress, CommitError> {
        (**self).turn_documents(turn).await
    }

    fn enlist_documents(
        &self,
        projection: InlineProjection<Documents>,
    ) -> Result<Enlisted, StoreError> {
        (**self).enlist_documents(projection)
    }
}
