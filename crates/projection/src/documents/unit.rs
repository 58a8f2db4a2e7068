//! The unit of work that a projection over documents writes with.

use std::{collections::BTreeMap, fmt::Display, sync::Arc};

use async_trait::async_trait;
use backstory_event::{Payload, StoreError, StreamId};
use serde::{Serialize, de::DeserializeOwned};

use super::{
    Collection, DocumentError, DocumentKey, DocumentList, DocumentPage, DocumentRow, DocumentStore,
    DocumentWrite, List, index,
    reader::{decode, place},
};
use crate::{
    CommitError, Host, LetterWrite, Progress, Slot, Step, Target, Turn, Unit,
    inline::{Enlisted, InlineProjection},
};

/// Keyed JSON documents: the context of a [`Projection`](crate::Projection) that needs no SQL.
///
/// It is a unit of work. What a batch reads is asked of the store once; what it writes is seen by
/// its own reads, and stored together with the projection's checkpoint when the batch is done:
/// all of it or nothing. A collection belongs to the projection that writes to it.
///
/// ```
/// # use async_trait::async_trait;
/// # use backstory_event::{Aggregate, Envelope, Event};
/// # use backstory_projection::{self as projection, Documents, Projection};
/// # #[derive(serde::Serialize, serde::Deserialize, Event)]
/// # #[event(prefix = "todo", crate = "backstory_event")]
/// # enum TodoEvent { Added { title: String }, Completed }
/// # #[derive(Default)] struct Todo;
/// # impl Aggregate for Todo {
/// #     const CATEGORY: &'static str = "todo"; type Id = u64; type Event = TodoEvent;
/// #     fn apply(&mut self, _: &TodoEvent) {}
/// # }
/// struct OpenTodos;
///
/// #[async_trait]
/// impl Projection<Documents> for OpenTodos {
///     type Event = TodoEvent;
///     const NAME: &'static str = "open_todos";
///
///     async fn project(
///         &self,
///         batch: &[Envelope<TodoEvent>],
///         docs: &mut Documents,
///     ) -> projection::Result {
///         for e in batch {
///             let id = e.id::<Todo>()?;
///             match &e.event {
///                 TodoEvent::Added { title } => docs.put("open_todos", &id, title).await?,
///                 TodoEvent::Completed => docs.delete("open_todos", &id).await?,
///             }
///         }
///         Ok(())
///     }
/// }
/// ```
#[derive(Debug)]
pub struct Documents {
    store: Arc<dyn DocumentStore>,
    // Which of the projection's read models it is.
    slot: Slot,
    // What the batch has read or written, by place. The order makes writes deterministic.
    entries: BTreeMap<DocumentKey, Entry>,
}

/// What is known of a document.
#[derive(Debug)]
enum Entry {
    /// As the store has it.
    Read(Option<Payload>),
    Put {
        body: Payload,
        indexed: Vec<(String, String)>,
        owner: Option<StreamId>,
    },
    Deleted,
}

impl Entry {
    fn body(&self) -> Option<&Payload> {
        match self {
            Self::Read(body) => body.as_ref(),
            Self::Put { body, .. } => Some(body),
            Self::Deleted => None,
        }
    }

    fn is_write(&self) -> bool {
        !matches!(self, Self::Read(_))
    }
}

impl Documents {
    /// A unit of work over a store.
    pub fn new(store: Arc<dyn DocumentStore>) -> Self {
        Self {
            store,
            slot: Slot::Live,
            entries: BTreeMap::new(),
        }
    }

    /// The place of a document in the store.
    fn place(
        &self,
        collection: Collection,
        key: &(impl Display + ?Sized),
    ) -> Result<DocumentKey, DocumentError> {
        let mut place = place(collection, key)?;
        place.collection += self.slot.suffix();
        Ok(place)
    }

    /// One document; `None` when there is none with this key.
    ///
    /// # Errors
    /// [`DocumentError`]: a refused name or key, a document that is not a `T`, a store that is away.
    pub async fn get<T: DeserializeOwned>(
        &mut self,
        collection: impl Into<Collection>,
        key: &(impl Display + Sync + ?Sized),
    ) -> Result<Option<T>, DocumentError> {
        let place = self.place(collection.into(), key)?;
        if !self.entries.contains_key(&place) {
            self.load(vec![place.clone()]).await?;
        }
        match self.entries.get(&place).and_then(Entry::body) {
            Some(body) => decode(&place, body).map(Some),
            None => Ok(None),
        }
    }

    /// Stores or replaces a document.
    ///
    /// # Errors
    /// When the name, the key, the document or one of its indexed fields is refused.
    pub async fn put(
        &mut self,
        collection: impl Into<Collection>,
        key: &(impl Display + Sync + ?Sized),
        document: &(impl Serialize + Sync + ?Sized),
    ) -> Result<(), DocumentError> {
        self.write(collection.into(), key, None, document)
    }

    /// Stores or replaces a document that goes when this stream is erased.
    ///
    /// # Errors
    /// As [`Self::put`].
    pub async fn put_owned(
        &mut self,
        collection: impl Into<Collection>,
        key: &(impl Display + Sync + ?Sized),
        owner: &StreamId,
        document: &(impl Serialize + Sync + ?Sized),
    ) -> Result<(), DocumentError> {
        self.write(collection.into(), key, Some(owner.clone()), document)
    }

    /// Removes a document, if it is there.
    ///
    /// # Errors
    /// When the name or the key is refused.
    pub async fn delete(
        &mut self,
        collection: impl Into<Collection>,
        key: &(impl Display + Sync + ?Sized),
    ) -> Result<(), DocumentError> {
        let place = self.place(collection.into(), key)?;
        self.entries.insert(place, Entry::Deleted);
        Ok(())
    }

    /// Replaces a document by what becomes of it: `None` is no document.
    ///
    /// # Errors
    /// As [`Self::get`] and [`Self::put`].
    pub async fn update<T: DeserializeOwned + Serialize>(
        &mut self,
        collection: impl Into<Collection>,
        key: &(impl Display + Sync + ?Sized),
        change: impl FnOnce(Option<T>) -> Option<T>,
    ) -> Result<(), DocumentError> {
        self.change(collection.into(), key, None, change).await
    }

    /// As [`Self::update`]; the document goes when this stream is erased.
    ///
    /// # Errors
    /// As [`Self::update`].
    pub async fn update_owned<T: DeserializeOwned + Serialize>(
        &mut self,
        collection: impl Into<Collection>,
        key: &(impl Display + Sync + ?Sized),
        owner: &StreamId,
        change: impl FnOnce(Option<T>) -> Option<T>,
    ) -> Result<(), DocumentError> {
        let owner = Some(owner.clone());
        self.change(collection.into(), key, owner, change).await
    }

    /// One page of documents, with what the batch has written so far.
    ///
    /// # Errors
    /// As [`Self::get`]; also a list that the collection has no index for, or a foreign cursor.
    pub async fn list<T: DeserializeOwned>(
        &self,
        list: List,
    ) -> Result<DocumentPage<T>, DocumentError> {
        let request = list.request()?;
        let mut stored = request.clone();
        stored.collection += self.slot.suffix();
        let rows = self.rows(&stored).await?;
        list.page(request, rows)
    }

    /// Reads many documents at once, so that later calls of [`Self::get`] and [`Self::update`]
    /// need not ask the store one by one.
    ///
    /// # Errors
    /// When a name or key is refused, or the store is away.
    pub async fn prefetch<K: Display + Send>(
        &mut self,
        collection: impl Into<Collection>,
        keys: impl IntoIterator<Item = K>,
    ) -> Result<(), DocumentError> {
        let collection = collection.into();
        let places: Result<Vec<_>, _> = keys
            .into_iter()
            .map(|key| self.place(collection, &key))
            .collect();
        let mut places = places?;
        places.sort();
        places.dedup();
        places.retain(|place| !self.entries.contains_key(place));
        if places.is_empty() {
            return Ok(());
        }
        Ok(self.load(places).await?)
    }

    /// What the batch has written: a write per document, ordered by collection and key.
    pub fn into_writes(self) -> Vec<DocumentWrite> {
        self.entries
            .into_iter()
            .filter_map(|(key, entry)| match entry {
                Entry::Read(_) => None,
                Entry::Deleted => Some(DocumentWrite::Delete { key }),
                Entry::Put {
                    body,
                    indexed,
                    owner,
                } => Some(DocumentWrite::Put {
                    key,
                    body,
                    indexed,
                    owner,
                }),
            })
            .collect()
    }

    async fn load(&mut self, places: Vec<DocumentKey>) -> Result<(), StoreError> {
        let found = self.store.get_documents(&places).await?;
        self.entries
            .extend(places.into_iter().zip(found.into_iter().map(Entry::Read)));
        Ok(())
    }

    async fn change<T: DeserializeOwned + Serialize>(
        &mut self,
        collection: Collection,
        key: &(impl Display + Sync + ?Sized),
        owner: Option<StreamId>,
        change: impl FnOnce(Option<T>) -> Option<T>,
    ) -> Result<(), DocumentError> {
        let before = self.get(collection, key).await?;
        match change(before) {
            Some(after) => self.write(collection, key, owner, &after),
            None => self.delete(collection, key).await,
        }
    }

    fn write(
        &mut self,
        collection: Collection,
        key: &(impl Display + ?Sized),
        owner: Option<StreamId>,
        document: &(impl Serialize + ?Sized),
    ) -> Result<(), DocumentError> {
        let place = self.place(collection, key)?;
        let body = Payload::encode(document)?;
        let indexed = index::fields(&body, collection.indexes())?;
        self.entries.insert(
            place,
            Entry::Put {
                body,
                indexed,
                owner,
            },
        );
        Ok(())
    }

    /// The store's rows under those that the batch has written.
    async fn rows(&self, request: &DocumentList) -> Result<Vec<DocumentRow>, StoreError> {
        let first = DocumentKey {
            collection: request.collection.clone(),
            key: String::new(),
        };
        let written: BTreeMap<&str, &Entry> = self
            .entries
            .range(first..)
            .take_while(|(place, _)| place.collection == request.collection)
            .filter(|(_, entry)| entry.is_write())
            .map(|(place, entry)| (place.key.as_str(), entry))
            .collect();

        let mut rows = Vec::new();
        let mut page = request.clone();
        loop {
            let stored = self.store.list_documents(&page).await?;
            let full = stored.len() >= page.limit;
            page.after = stored
                .last()
                .map(|row| (row.index_value.clone(), row.key.clone()));
            rows.extend(
                stored
                    .into_iter()
                    .filter(|row| !written.contains_key(row.key.as_str())),
            );
            if !full || rows.len() >= request.limit {
                break;
            }
        }
        rows.extend(
            written
                .into_iter()
                .filter_map(|(key, entry)| listed(request, key, entry)),
        );
        rows.sort_by(|one, two| (&one.index_value, &one.key).cmp(&(&two.index_value, &two.key)));
        rows.truncate(request.limit);
        Ok(rows)
    }
}

/// The row of a written document, if the list includes it.
fn listed(request: &DocumentList, key: &str, entry: &Entry) -> Option<DocumentRow> {
    let Entry::Put { body, indexed, .. } = entry else {
        return None;
    };
    let index_value = match &request.index {
        Some(index) => indexed
            .iter()
            .find(|(field, _)| field == index)
            .map(|(_, value)| value.as_str())?,
        None => "",
    };
    let behind = match &request.after {
        Some((value, last)) => (index_value, key) > (value.as_str(), last.as_str()),
        None => true,
    };
    let included = key.starts_with(&request.prefix)
        && request
            .equals
            .as_ref()
            .is_none_or(|equals| index_value == equals)
        && behind;
    included.then(|| DocumentRow {
        key: key.to_owned(),
        index_value: index_value.to_owned(),
        body: body.clone(),
    })
}

#[async_trait]
impl<S: DocumentStore + Clone> Host<Documents> for S {
    async fn begin(&self, from: Progress) -> Result<Box<dyn Unit<Documents>>, StoreError> {
        let mut documents = Documents::new(Arc::new(self.clone()));
        documents.slot = Slot::split(&from.projection).1;
        Ok(Box::new(DocumentsUnit { documents, from }))
    }

    async fn turn(&self, turn: &Turn) -> Result<Progress, CommitError> {
        self.turn_documents(turn).await
    }

    fn enlist(&self, projection: InlineProjection<Documents>) -> Result<Enlisted, StoreError> {
        self.enlist_documents(projection)
    }
}

struct DocumentsUnit {
    documents: Documents,
    from: Progress,
}

#[async_trait]
impl Unit<Documents> for DocumentsUnit {
    fn context(&mut self) -> &mut Documents {
        &mut self.documents
    }

    fn resets_itself(&self) -> bool {
        true
    }

    async fn commit(
        self: Box<Self>,
        to: Target,
        letters: Vec<LetterWrite>,
    ) -> Result<(), CommitError> {
        let step = Step::new(self.from, to).with_letters(letters);
        let store = Arc::clone(&self.documents.store);
        store
            .commit_documents(self.documents.into_writes(), &step)
            .await
    }
}
