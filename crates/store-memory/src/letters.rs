//! The dead letters of projections.

use std::collections::{BTreeMap, BTreeSet};

use async_trait::async_trait;
use backstory_event::{Position, StoreError, StreamId};
use backstory_projection::{
    DeadLetter, DeadLetters, LetterCount, LetterQuery, LetterWrite, Step, owner,
};

use crate::MemoryStore;

/// The letters of each projection, by position.
#[derive(Debug, Default)]
pub(crate) struct Letters(BTreeMap<String, BTreeMap<Position, DeadLetter>>);

impl Letters {
    fn of(&self, projection: &str) -> impl Iterator<Item = &DeadLetter> {
        let letters = self.0.get(projection);
        letters.into_iter().flat_map(BTreeMap::values)
    }

    pub(crate) fn parked(&self, projection: &str) -> BTreeSet<&str> {
        let parked = self.of(projection).filter(|letter| letter.parked);
        parked.map(|letter| letter.key.as_str()).collect()
    }

    pub(crate) fn clear(&mut self, projection: &str) {
        self.0.remove(projection);
    }

    /// They belong to another projection from now on.
    pub(crate) fn rename(&mut self, projection: &str, to: &str) {
        if let Some(mut letters) = self.0.remove(projection) {
            for letter in letters.values_mut() {
                to.clone_into(&mut letter.projection);
            }
            self.0.insert(to.to_owned(), letters);
        }
    }

    pub(crate) fn erase(&mut self, stream: &StreamId) {
        for letters in self.0.values_mut() {
            letters.retain(|_, letter| letter.stream != *stream);
        }
    }

    pub(crate) fn commit(&mut self, step: &Step, is_erased: impl Fn(&DeadLetter) -> bool) {
        let of_owner = owner(&step.from.projection);
        if let Some(end) = step.drops_letters_behind()
            && let Some(letters) = self.0.get_mut(of_owner)
        {
            letters.retain(|position, _| *position <= end);
        }
        if step.letters.is_empty() {
            return;
        }
        let letters = self.0.entry(of_owner.to_owned()).or_default();
        for write in &step.letters {
            match write {
                LetterWrite::Put(letter) if is_erased(letter) => {}
                LetterWrite::Put(letter) => {
                    letters.insert(letter.position, letter.clone());
                }
                LetterWrite::Remove(position) => {
                    letters.remove(position);
                }
            }
        }
    }
}

#[async_trait]
impl DeadLetters for MemoryStore {
    async fn list_letters(&self, query: &LetterQuery) -> Result<Vec<DeadLetter>, StoreError> {
        Ok(self.with(|state| {
            let letters = state.documents.letters.0.get(&query.projection);
            let behind = letters
                .into_iter()
                .flat_map(|letters| letters.range(query.after.next()..));
            behind
                .map(|(_, letter)| letter)
                .filter(|letter| query.key.as_ref().is_none_or(|key| *key == letter.key))
                .take(query.limit.max(1))
                .cloned()
                .collect()
        }))
    }

    async fn count_letters(&self, projection: &str) -> Result<LetterCount, StoreError> {
        Ok(self.with(|state| {
            let letters = &state.documents.letters;
            LetterCount {
                letters: letters.of(projection).count() as u64,
                parked_keys: letters.parked(projection).len() as u64,
            }
        }))
    }

    async fn parked_keys(
        &self,
        projection: &str,
        keys: &[String],
    ) -> Result<Vec<String>, StoreError> {
        Ok(self.with(|state| {
            let parked = state.documents.letters.parked(projection);
            let keys = keys.iter().filter(|key| parked.contains(key.as_str()));
            keys.cloned().collect()
        }))
    }
}
