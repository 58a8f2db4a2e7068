//! Documents and the progress of projections.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use async_trait::async_trait;
use backstory_event::{Payload, StoreError, StreamId};
use backstory_projection::{
    Beat, Checkpoints, CommitError, DeadLetter, DocumentKey, DocumentList, DocumentRow,
    DocumentStore, DocumentWrite, Documents, Enlisted, InlineProjection, Progress, Raise, Rename,
    Roster, Seat, Slot, Step, Target, Turn, TurnRefusal, owner,
};

use chrono::{DateTime, Utc};

use crate::{MemoryStore, State, letters::Letters};

/// All collections, all checkpoints and all dead letters.
#[derive(Debug, Default)]
pub(crate) struct Shelf {
    progress: BTreeMap<String, Progress>,
    pub(crate) roster: Roster,
    pub(crate) letters: Letters,
    collections: HashMap<String, Collection>,
}

#[derive(Debug, Default)]
struct Collection {
    projection: String,
    documents: BTreeMap<String, Document>,
    // Field, encoded value, key.
    index: BTreeSet<(String, String, String)>,
}

#[derive(Debug)]
struct Document {
    body: Payload,
    indexed: Vec<(String, String)>,
    owner: Option<StreamId>,
}

impl Collection {
    fn remove(&mut self, key: &str) {
        if let Some(document) = self.documents.remove(key) {
            for (field, value) in document.indexed {
                self.index.remove(&(field, value, key.to_owned()));
            }
        }
    }

    fn put(&mut self, key: String, document: Document) {
        self.remove(&key);
        for (field, value) in &document.indexed {
            self.index
                .insert((field.clone(), value.clone(), key.clone()));
        }
        self.documents.insert(key, document);
    }

    fn list(&self, list: &DocumentList) -> Vec<DocumentRow> {
        let behind = |value: &str, key: &str| {
            list.after.as_ref().is_none_or(|(after_value, after_key)| {
                (value, key) > (after_value.as_str(), after_key.as_str())
            })
        };
        let row = |key: &String, index_value: &str| {
            let body = self.documents.get(key)?.body.clone();
            Some(DocumentRow {
                key: key.clone(),
                index_value: index_value.to_owned(),
                body,
            })
        };
        match &list.index {
            None => self
                .documents
                .keys()
                .filter(|key| key.starts_with(&list.prefix) && behind("", key))
                .filter_map(|key| row(key, ""))
                .take(list.limit)
                .collect(),
            Some(field) => self
                .index
                .range((field.clone(), String::new(), String::new())..)
                .take_while(|(name, ..)| name == field)
                .filter(|(_, value, key)| {
                    key.starts_with(&list.prefix)
                        && behind(value, key)
                        && list.equals.as_ref().is_none_or(|wanted| wanted == value)
                })
                .filter_map(|(_, value, key)| row(key, value))
                .take(list.limit)
                .collect(),
        }
    }
}

impl Shelf {
    pub(crate) fn erase(&mut self, stream: &StreamId) {
        for collection in self.collections.values_mut() {
            let owned: Vec<_> = collection
                .documents
                .iter()
                .filter(|(_, document)| document.owner.as_ref() == Some(stream))
                .map(|(key, _)| key.clone())
                .collect();
            owned.iter().for_each(|key| collection.remove(key));
        }
        self.letters.erase(stream);
    }

    pub(crate) fn commit(
        &mut self,
        writes: Vec<DocumentWrite>,
        erased: &[StreamId],
        step: &Step,
        is_erased: impl Fn(&DeadLetter) -> bool,
    ) -> Result<(), CommitError> {
        let projection = &step.from.projection;
        let stored = self.progress(projection);
        if stored != step.from {
            return Err(CommitError::Fenced {
                projection: projection.clone(),
            });
        }
        let of_owner = owner(projection);
        if step.to == Target::Reset {
            self.collections
                .retain(|_, collection| collection.projection != of_owner);
        }
        self.letters.commit(step, is_erased);
        for write in writes {
            match write.without(erased) {
                DocumentWrite::Put {
                    key: DocumentKey { collection, key },
                    body,
                    indexed,
                    owner,
                } => {
                    let collection =
                        self.collections
                            .entry(collection)
                            .or_insert_with(|| Collection {
                                projection: of_owner.to_owned(),
                                ..Collection::default()
                            });
                    collection.put(
                        key,
                        Document {
                            body,
                            indexed,
                            owner,
                        },
                    );
                }
                DocumentWrite::Delete {
                    key: DocumentKey { collection, key },
                } => {
                    if let Some(collection) = self.collections.get_mut(&collection) {
                        collection.remove(&key);
                    }
                }
            }
        }
        for other in self.progress.values_mut() {
            if let Some(moved) = step.of_sibling(other) {
                *other = moved;
            }
        }
        self.progress.insert(projection.clone(), step.result());
        Ok(())
    }

    /// A beat of a process at this time.
    pub(crate) fn beat(&mut self, now: DateTime<Utc>, beat: &Beat) -> Vec<Seat> {
        let Self {
            roster, progress, ..
        } = self;
        roster.beat(now, beat, |name, raise| match raise {
            Raise::Yes => {
                let entry = progress.entry(name.to_owned());
                let progress = entry.or_insert_with(|| Progress::start(name));
                progress.epoch += 1;
                progress.clone()
            }
            Raise::No => {
                let known = progress.get(name).cloned();
                known.unwrap_or_else(|| Progress::start(name))
            }
        })
    }

    fn turn(&mut self, turn: &Turn) -> Result<Progress, CommitError> {
        let name = turn.projection();
        let rows: Vec<_> = self.progress.values().cloned().collect();
        let plan = turn.plan(&rows).map_err(|refusal| refusal.of(name))?;
        let taken = plan.exchange.and_then(|slot| self.taken(name, slot));
        if let Some(taken) = taken {
            return Err(TurnRefusal::Refused(taken).of(name));
        }
        if let Some(slot) = plan.clear {
            self.clear(&slot.name(name));
        }
        if let Some(slot) = plan.exchange {
            turn.renames(slot).iter().for_each(|one| self.rename(one));
        }
        for gone in plan.remove {
            self.progress.remove(&gone);
        }
        for progress in plan.put {
            self.progress.insert(progress.projection.clone(), progress);
        }
        Ok(plan.result)
    }

    /// Why the collections of a slot cannot have the names of live ones.
    fn taken(&self, projection: &str, slot: Slot) -> Option<String> {
        let mine = |of: &str| Slot::split(of).0 == projection;
        let slot_name = slot.name(projection);
        let of_slot = self
            .collections
            .iter()
            .filter(|(_, one)| one.projection == slot_name);
        let mut names = of_slot.map(|(name, _)| Slot::split(name).0);
        let foreign = |name: &&str| {
            let live = self.collections.get(*name);
            live.is_some_and(|live| !mine(&live.projection))
        };
        names.find(foreign).map(Turn::taken)
    }

    /// Drops a read model.
    fn clear(&mut self, projection: &str) {
        self.collections
            .retain(|_, one| one.projection != projection);
        self.letters.clear(projection);
    }

    /// The collections and letters of a projection belong to another one, and their names end
    /// otherwise.
    fn rename(&mut self, rename: &Rename) {
        let Rename { from, to, .. } = rename;
        let moved = self
            .collections
            .extract_if(|_, one| one.projection == *from);
        let moved: Vec<_> = moved.collect();
        for (name, mut collection) in moved {
            collection.projection.clone_from(to);
            self.collections
                .insert(rename.collection(&name), collection);
        }
        self.letters.rename(from, to);
    }

    pub(crate) fn progress(&self, projection: &str) -> Progress {
        self.progress
            .get(projection)
            .cloned()
            .unwrap_or_else(|| Progress::start(projection))
    }

    fn get(&self, key: &DocumentKey) -> Option<Payload> {
        let collection = self.collections.get(&key.collection)?;
        collection
            .documents
            .get(&key.key)
            .map(|document| document.body.clone())
    }

    fn list(&self, list: &DocumentList) -> Vec<DocumentRow> {
        let collection = self.collections.get(&list.collection);
        collection
            .map(|collection| collection.list(list))
            .unwrap_or_default()
    }

    /// The owner of a document.
    pub(crate) fn owner(&self, collection: &str, key: &str) -> Option<&StreamId> {
        let document = self.collections.get(collection)?.documents.get(key)?;
        document.owner.as_ref()
    }
}

/// Stores what a batch of a projection wrote, for a log that is as it shall be.
pub(crate) fn commit(
    state: &mut State,
    writes: Vec<DocumentWrite>,
    step: &Step,
) -> Result<(), CommitError> {
    let owners = writes.iter().filter_map(DocumentWrite::owner);
    let erased: Vec<_> = owners
        .filter(|owner| state.log.is_erased(owner))
        .cloned()
        .collect();
    let State { log, documents } = state;
    let is_erased = |letter: &DeadLetter| log.is_erased_event(letter.position);
    documents.commit(writes, &erased, step, is_erased)
}

#[async_trait]
impl Checkpoints for MemoryStore {
    async fn load_progress(&self, projection: &str) -> Result<Progress, StoreError> {
        Ok(self.with(|state| state.documents.progress(projection)))
    }

    async fn list_progress(&self) -> Result<Vec<Progress>, StoreError> {
        Ok(self.with(|state| state.documents.progress.values().cloned().collect()))
    }
}

#[async_trait]
impl DocumentStore for MemoryStore {
    async fn get_documents(
        &self,
        keys: &[DocumentKey],
    ) -> Result<Vec<Option<Payload>>, StoreError> {
        Ok(self.with(|state| keys.iter().map(|key| state.documents.get(key)).collect()))
    }

    async fn list_documents(&self, list: &DocumentList) -> Result<Vec<DocumentRow>, StoreError> {
        Ok(self.with(|state| state.documents.list(list)))
    }

    async fn commit_documents(
        &self,
        writes: Vec<DocumentWrite>,
        step: &Step,
    ) -> Result<(), CommitError> {
        self.with(|state| commit(state, writes, step))
    }

    fn enlist_documents(
        &self,
        projection: InlineProjection<Documents>,
    ) -> Result<Enlisted, StoreError> {
        Ok(self.0.inlines.enlist(projection))
    }

    async fn turn_documents(&self, turn: &Turn) -> Result<Progress, CommitError> {
        self.with(|state| state.documents.turn(turn))
    }
}
