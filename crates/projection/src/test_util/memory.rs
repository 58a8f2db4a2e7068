//! Documents in memory, for tests of projections.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use async_trait::async_trait;
use backstory_event::{Payload, Position, StoreError, StreamId};

use crate::{
    Checkpoints, CommitError, DeadLetter, DeadLetters, DocumentKey, DocumentList, DocumentRow,
    DocumentStore, DocumentWrite, LetterCount, LetterQuery, LetterWrite, Progress, Rename, Step,
    Target, Turn, owner,
};

/// Documents, checkpoints and letters in memory, without a log. Clones share them.
#[derive(Debug, Default, Clone)]
pub struct MemoryDocuments(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    documents: BTreeMap<DocumentKey, Document>,
    progress: BTreeMap<String, Progress>,
    letters: BTreeMap<(String, Position), DeadLetter>,
    // Which projection a collection belongs to.
    collections: BTreeMap<String, String>,
}

#[derive(Debug)]
struct Document {
    body: Payload,
    indexed: Vec<(String, String)>,
    owner: Option<StreamId>,
}

impl MemoryDocuments {
    /// All that is stored, as text.
    pub(crate) fn dump(&self) -> String {
        let mut text = String::new();
        for (place, document) in &self.state().documents {
            let value = document.body.to_value().unwrap_or_default();
            // Writing to a String cannot fail.
            let _ = writeln!(text, "{}/{}: {value:#}", place.collection, place.key);
            for (field, value) in &document.indexed {
                let _ = writeln!(text, "  {field} = {value}");
            }
            if let Some(owner) = &document.owner {
                let _ = writeln!(text, "  owner {owner}");
            }
        }
        text
    }

    /// The progress of a projection, with another leader.
    #[cfg(test)]
    pub(crate) fn raise(&self, projection: &str) -> Progress {
        let mut state = self.state();
        let progress = state.progress.entry(projection.to_owned());
        let progress = progress.or_insert_with(|| Progress::start(projection));
        progress.epoch += 1;
        progress.clone()
    }

    #[cfg(test)]
    pub(crate) fn load_progress_now(&self, projection: &str) -> Progress {
        let known = self.state().progress.get(projection).cloned();
        known.unwrap_or_else(|| Progress::start(projection))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl Checkpoints for MemoryDocuments {
    async fn load_progress(&self, projection: &str) -> Result<Progress, StoreError> {
        let known = self.state().progress.get(projection).cloned();
        Ok(known.unwrap_or_else(|| Progress::start(projection)))
    }

    async fn list_progress(&self) -> Result<Vec<Progress>, StoreError> {
        Ok(self.state().progress.values().cloned().collect())
    }
}

#[async_trait]
impl DeadLetters for MemoryDocuments {
    async fn list_letters(&self, query: &LetterQuery) -> Result<Vec<DeadLetter>, StoreError> {
        let state = self.state();
        let first = (query.projection.clone(), query.after.next());
        let letters = state.letters.range(first..);
        Ok(letters
            .take_while(|((projection, _), _)| *projection == query.projection)
            .map(|(_, letter)| letter)
            .filter(|letter| query.key.as_ref().is_none_or(|key| *key == letter.key))
            .take(query.limit)
            .cloned()
            .collect())
    }

    async fn count_letters(&self, projection: &str) -> Result<LetterCount, StoreError> {
        let state = self.state();
        let letters = || {
            let letters = state.letters.values();
            letters.filter(|letter| letter.projection == projection)
        };
        let keys = letters().filter(|letter| letter.parked);
        let keys: BTreeSet<_> = keys.map(|letter| &letter.key).collect();
        Ok(LetterCount {
            letters: letters().count() as u64,
            parked_keys: keys.len() as u64,
        })
    }

    async fn parked_keys(
        &self,
        projection: &str,
        keys: &[String],
    ) -> Result<Vec<String>, StoreError> {
        let state = self.state();
        let parked = |key: &&String| {
            state.letters.values().any(|letter| {
                letter.parked && letter.projection == projection && letter.key == **key
            })
        };
        Ok(keys.iter().filter(parked).cloned().collect())
    }
}

#[async_trait]
impl DocumentStore for MemoryDocuments {
    async fn get_documents(
        &self,
        keys: &[DocumentKey],
    ) -> Result<Vec<Option<Payload>>, StoreError> {
        let state = self.state();
        let body = |key| state.documents.get(key).map(|found| found.body.clone());
        Ok(keys.iter().map(body).collect())
    }

    async fn list_documents(&self, list: &DocumentList) -> Result<Vec<DocumentRow>, StoreError> {
        let state = self.state();
        let mut rows: Vec<_> = state
            .documents
            .iter()
            .filter(|(place, _)| place.collection == list.collection)
            .filter(|(place, _)| place.key.starts_with(&list.prefix))
            .filter_map(|(place, document)| {
                let index_value = match &list.index {
                    None => String::new(),
                    Some(index) => {
                        let field = document.indexed.iter().find(|(field, _)| field == index);
                        field?.1.clone()
                    }
                };
                Some(DocumentRow {
                    key: place.key.clone(),
                    index_value,
                    body: document.body.clone(),
                })
            })
            .filter(|row| {
                list.equals
                    .as_ref()
                    .is_none_or(|value| *value == row.index_value)
            })
            .filter(|row| {
                let place = (&row.index_value, &row.key);
                let after = list.after.as_ref();
                after.is_none_or(|(value, key)| place > (value, key))
            })
            .collect();
        rows.sort_by(|one, two| (&one.index_value, &one.key).cmp(&(&two.index_value, &two.key)));
        rows.truncate(list.limit);
        Ok(rows)
    }

    async fn commit_documents(
        &self,
        writes: Vec<DocumentWrite>,
        step: &Step,
    ) -> Result<(), CommitError> {
        let mut state = self.state();
        let projection = &step.from.projection;
        let stored = state.progress.get(projection).cloned();
        if stored.unwrap_or_else(|| Progress::start(projection)) != step.from {
            let projection = projection.clone();
            return Err(CommitError::Fenced { projection });
        }
        let State {
            documents,
            collections,
            letters,
            progress,
        } = &mut *state;
        let of_owner = owner(projection);
        if step.to == Target::Reset {
            let is_own = |name: &str| collections.get(name).is_some_and(|of| of == of_owner);
            documents.retain(|place, _| !is_own(&place.collection));
        }
        if let Some(end) = step.drops_letters_behind() {
            letters.retain(|(of, at), _| of != of_owner || *at <= end);
        }
        for write in step.letters.iter().cloned() {
            match write {
                LetterWrite::Put(letter) => {
                    letters.insert((of_owner.to_owned(), letter.position), letter);
                }
                LetterWrite::Remove(position) => {
                    letters.remove(&(of_owner.to_owned(), position));
                }
            }
        }
        for write in writes {
            match write {
                DocumentWrite::Delete { key } => drop(documents.remove(&key)),
                DocumentWrite::Put {
                    key,
                    body,
                    indexed,
                    owner,
                } => {
                    let collection = key.collection.clone();
                    collections
                        .entry(collection)
                        .or_insert_with(|| of_owner.to_owned());
                    let document = Document {
                        body,
                        indexed,
                        owner,
                    };
                    documents.insert(key, document);
                }
            }
        }
        for other in progress.values_mut() {
            if let Some(moved) = step.of_sibling(other) {
                *other = moved;
            }
        }
        progress.insert(projection.clone(), step.result());
        Ok(())
    }

    async fn turn_documents(&self, turn: &Turn) -> Result<Progress, CommitError> {
        let mut state = self.state();
        let name = turn.projection();
        let rows: Vec<_> = state.progress.values().cloned().collect();
        let plan = turn.plan(&rows).map_err(|refusal| refusal.of(name))?;
        if let Some(slot) = plan.clear {
            state.clear(&slot.name(name));
        }
        if let Some(slot) = plan.exchange {
            turn.renames(slot).iter().for_each(|one| state.rename(one));
        }
        for gone in plan.remove {
            state.progress.remove(&gone);
        }
        for progress in plan.put {
            state.progress.insert(progress.projection.clone(), progress);
        }
        Ok(plan.result)
    }
}

impl State {
    /// Drops a read model.
    fn clear(&mut self, projection: &str) {
        let Self {
            documents,
            collections,
            letters,
            ..
        } = self;
        documents.retain(|place, _| {
            collections.get(&place.collection).map(String::as_str) != Some(projection)
        });
        collections.retain(|_, of| of != projection);
        letters.retain(|(of, _), _| of != projection);
    }

    /// Gives the collections and letters of a projection other names, which end otherwise.
    fn rename(&mut self, rename: &Rename) {
        let Rename { from, to, .. } = rename;
        let names = self.collections.iter().filter(|(_, of)| *of == from);
        let names: Vec<_> = names.map(|(name, _)| name.clone()).collect();
        for name in names {
            let new = rename.collection(&name);
            self.collections.remove(&name);
            self.collections.insert(new.clone(), to.to_owned());
            let moved = |place: &DocumentKey, _: &mut Document| place.collection == name;
            let documents: Vec<_> = self.documents.extract_if(.., moved).collect();
            self.documents
                .extend(documents.into_iter().map(|(place, document)| {
                    let collection = new.clone();
                    (
                        DocumentKey {
                            collection,
                            ..place
                        },
                        document,
                    )
                }));
        }
        let moved = |(of, _): &(String, Position), _: &mut DeadLetter| of == from;
        let letters: Vec<_> = self.letters.extract_if(.., moved).collect();
        self.letters
            .extend(letters.into_iter().map(|((_, position), mut letter)| {
                letter.projection = to.to_owned();
                ((to.to_owned(), position), letter)
            }));
    }
}
