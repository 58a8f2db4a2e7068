//! Reading documents outside projections.

use std::{fmt::Display, sync::Arc};

use serde::de::DeserializeOwned;

use super::{
    Collection, DocumentError, DocumentErrorKind, DocumentKey, DocumentPage, DocumentStore, List,
    collection::key_text,
};

/// Reads documents: what the application shows. Cheap to clone.
#[derive(Debug, Clone)]
pub struct DocumentReader(Arc<dyn DocumentStore>);

impl DocumentReader {
    /// A reader of a store.
    pub fn new(store: Arc<dyn DocumentStore>) -> Self {
        Self(store)
    }

    /// One document; `None` when there is none with this key.
    ///
    /// # Errors
    /// [`DocumentError`]: a refused name or key, a document that is not a `T`, a store that is away.
    pub async fn get<T: DeserializeOwned>(
        &self,
        collection: impl Into<Collection>,
        key: &(impl Display + Sync + ?Sized),
    ) -> Result<Option<T>, DocumentError> {
        let place = place(collection.into(), key)?;
        let found = self.0.get_documents(std::slice::from_ref(&place)).await?;
        match found.into_iter().next().flatten() {
            Some(body) => decode(&place, &body).map(Some),
            None => Ok(None),
        }
    }

    /// One page of documents.
    ///
    /// # Errors
    /// As [`Self::get`]; also a list that the collection has no index for, or a foreign cursor.
    pub async fn list<T: DeserializeOwned>(
        &self,
        list: List,
    ) -> Result<DocumentPage<T>, DocumentError> {
        let request = list.request()?;
        let rows = self.0.list_documents(&request).await?;
        list.page(request, rows)
    }
}

impl<S: DocumentStore + Clone> From<&S> for DocumentReader {
    fn from(store: &S) -> Self {
        Self::new(Arc::new(store.clone()))
    }
}

pub(super) fn place<K: Display + ?Sized>(
    collection: Collection,
    key: &K,
) -> Result<DocumentKey, DocumentError> {
    collection.check()?;
    Ok(DocumentKey {
        collection: collection.name().to_owned(),
        key: key_text(key)?,
    })
}

pub(super) fn decode<T: DeserializeOwned>(
    place: &DocumentKey,
    body: &backstory_event::Payload,
) -> Result<T, DocumentError> {
    body.decode().map_err(|source| {
        let DocumentKey { collection, key } = place.clone();
        let kind = DocumentErrorKind::Decode {
            collection,
            key,
            source,
        };
        kind.into()
    })
}
