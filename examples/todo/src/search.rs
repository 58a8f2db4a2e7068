//! Search: tasks by the beginnings of their words. A read model of its own beside the board, with a
//! checkpoint of its own, so that one is paused or rebuilt without the other.

use std::collections::BTreeSet;

use backstory::{
    Documents, Envelope, Projection, Store, async_trait,
    projection::{self, Collection, DocumentError, List},
};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::{
    read_model::many,
    todo::{Task, TaskEvent},
};

/// The projection's name.
pub const SEARCH: &str = "search";

/// What is shown of a task, by its id.
const HITS: Collection = Collection::named("search.hits");
/// Ids of tasks by `word id`, in byte order: words that begin alike stand together.
const WORDS: Collection = Collection::named("search.words");
/// The part of a word that is kept, in characters: keys have 255 bytes at most.
const WORD: usize = 40;
/// Words that are looked for at once.
const WANTED: usize = 10;
/// Tasks that are found at most.
const LIMIT: usize = 20;
/// Words that are looked through for them: so many pages of so many.
const PAGES: usize = 10;
const PAGE: usize = 500;

/// A task that was found.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Hit {
    /// Its id.
    pub id: Uuid,
    /// Its list.
    pub list: Uuid,
    /// What is to be done.
    pub title: String,
    /// Whether it is done.
    pub done: bool,
}

/// What was found.
#[derive(Debug, Default, Clone, PartialEq, Serialize)]
pub struct Found {
    /// The tasks.
    pub tasks: Vec<Hit>,
    /// There may be more: more letters find less.
    pub more: bool,
}

/// Keeps what [`search`] looks through.
#[derive(Debug, Clone, Copy)]
pub struct SearchProjection;

#[async_trait]
impl Projection<Documents> for SearchProjection {
    type Event = TaskEvent;
    const NAME: &'static str = SEARCH;

    async fn project(
        &self,
        batch: &[Envelope<TaskEvent>],
        docs: &mut Documents,
    ) -> projection::Result {
        docs.prefetch(HITS, batch.iter().map(|e| e.stream().key().to_owned()))
            .await?;
        for e in batch {
            let id = e.id::<Task>()?;
            match &e.event {
                TaskEvent::Added { list, title } => {
                    let hit = Hit {
                        id,
                        list: *list,
                        title: title.clone(),
                        done: false,
                    };
                    docs.put(HITS, &id, &hit).await?;
                    for word in words(title) {
                        docs.put(WORDS, &format!("{word} {id}"), &id).await?;
                    }
                }
                TaskEvent::Completed => {
                    let done = |hit: Option<Hit>| hit.map(|hit| Hit { done: true, ..hit });
                    docs.update(HITS, &id, done).await?;
                }
                TaskEvent::Removed => {
                    let hit: Option<Hit> = docs.get(HITS, &id).await?;
                    for word in hit.iter().flat_map(|hit| words(&hit.title)) {
                        docs.delete(WORDS, &format!("{word} {id}")).await?;
                    }
                    docs.delete(HITS, &id).await?;
                }
            }
        }
        Ok(())
    }
}

/// Tasks with words that begin as each of those that were typed.
///
/// # Errors
/// When the store is away.
pub async fn search(store: &Store, typed: &str) -> Result<Found, DocumentError> {
    let mut found = Found::default();
    let wanted: Vec<String> = words(typed).take(WANTED).collect();
    // The longest one is likely to be the rarest.
    let Some(rarest) = wanted.iter().max_by_key(|word| word.len()) else {
        return Ok(found);
    };
    let mut seen = BTreeSet::new();
    let mut list = List::of(WORDS).prefix(rarest).limit(PAGE);
    for _ in 0..PAGES {
        let page = store.documents().list::<Uuid>(list.clone()).await?;
        let ids = page.items.iter().map(|(_, id)| id.to_string());
        let new: BTreeSet<_> = ids.filter(|id| seen.insert(id.clone())).collect();
        let hits: Vec<Hit> = many(store, HITS, new).await?;
        // Ids begin with a time: the newest come first.
        let hits = hits.into_iter().rev().filter(|hit| has(hit, &wanted));
        found.tasks.extend(hits);
        found.more = page.next.is_some();
        match page.next {
            Some(next) if found.tasks.len() <= LIMIT => list = list.after(next),
            _ => break,
        }
    }
    found.more |= found.tasks.len() > LIMIT;
    found.tasks.truncate(LIMIT);
    Ok(found)
}

fn has(hit: &Hit, wanted: &[String]) -> bool {
    let words: Vec<_> = words(&hit.title).collect();
    let begins = |wanted: &String| words.iter().any(|word| word.starts_with(wanted));
    wanted.iter().all(begins)
}

/// What stands between characters that are neither letters nor digits, in lower case.
fn words(text: &str) -> impl Iterator<Item = String> {
    text.split(|c: char| !c.is_alphanumeric())
        .filter(|word| !word.is_empty())
        .map(|word| word.to_lowercase().chars().take(WORD).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_letters_and_digits_in_lower_case() {
        let found = |text| words(text).collect::<Vec<_>>();
        assert_eq!(
            found("Buy  Milk, 2%: ÄPFEL!"),
            ["buy", "milk", "2", "äpfel"]
        );
        assert_eq!(found(" ,– "), [""; 0]);
        assert_eq!(found(&"𝔘".repeat(200))[0].len(), 4 * WORD);
    }
}
