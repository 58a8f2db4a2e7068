//! The read model: lists, tasks and counters as documents, ready to be shown.
//!
//! The projection writes them together with its checkpoint; the functions below read them.

use std::{collections::BTreeSet, sync::Arc};

use backstory::{
    Aggregate, Checkpoint, DecodeEvent, Documents, Envelope, Projection, RecordedEvent, Store,
    StoreError, async_trait,
    projection::{self, Checkpoints, Collection, DocumentError, List as Documented},
};
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use uuid::Uuid;

use crate::todo::{List, ListEvent, Task, TaskEvent};

const LISTS: Collection = Collection::named("lists");
const TASKS: Collection = Collection::named("tasks").indexed("list");
const COUNTERS: Collection = Collection::named("counters");
/// The projection's name: its checkpoint's on disk.
pub const BOARD: &str = "board";
/// The key of the one document in [`COUNTERS`].
const ALL: &str = "all";
/// Documents per page when many are read.
const PAGE: usize = 1_000;

/// Where a task has got to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TaskState {
    /// To be done.
    Active,
    /// Done.
    Done,
    /// Removed.
    Removed,
}

/// How many tasks there are in each state.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counters {
    /// To be done.
    pub active: i64,
    /// Done.
    pub done: i64,
    /// Removed.
    pub removed: i64,
}

impl Counters {
    /// One task more here, and one less where it was before.
    fn moved(mut self, from: Option<TaskState>, to: TaskState) -> Self {
        if let Some(from) = from {
            *self.of(from) -= 1;
        }
        *self.of(to) += 1;
        self
    }

    fn of(&mut self, state: TaskState) -> &mut i64 {
        match state {
            TaskState::Active => &mut self.active,
            TaskState::Done => &mut self.done,
            TaskState::Removed => &mut self.removed,
        }
    }
}

/// A list as it is shown.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ListView {
    /// Its id.
    pub id: Uuid,
    /// Its name.
    pub name: String,
    /// The counters of its own tasks.
    #[serde(flatten)]
    pub counters: Counters,
}

/// A task as it is shown.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TaskView {
    /// Its id.
    pub id: Uuid,
    /// Its list.
    pub list: Uuid,
    /// What is to be done.
    pub title: String,
    /// Where it has got to.
    pub state: TaskState,
    /// When it was added.
    pub added_at: DateTime<Utc>,
}

/// Lists, tasks and the counters of all tasks: everything, or what changed.
#[derive(Debug, Default, Clone, PartialEq, Serialize)]
pub struct Board {
    /// Lists, oldest first.
    pub lists: Vec<ListView>,
    /// Tasks, oldest first.
    pub tasks: Vec<TaskView>,
    /// The counters of all tasks of all lists.
    pub counters: Counters,
}

// ---- writing ---------------------------------------------------------------------------------

/// The events of both aggregates, as one type to read.
#[derive(Debug, Clone, PartialEq, DecodeEvent)]
pub enum Feed {
    /// Of a list.
    List(ListEvent),
    /// Of a task.
    Task(TaskEvent),
}

/// Keeps [`Board`] up to date.
#[derive(Debug, Clone, Copy)]
pub struct BoardProjection;

#[async_trait]
impl Projection<Documents> for BoardProjection {
    type Event = Feed;
    const NAME: &'static str = BOARD;

    async fn project(&self, batch: &[Envelope<Feed>], docs: &mut Documents) -> projection::Result {
        // One question to the store for all tasks of the batch, instead of one for each.
        let tasks = batch
            .iter()
            .filter(|e| e.stream().category() == Task::CATEGORY);
        docs.prefetch(TASKS, tasks.map(|e| e.stream().key().to_owned()))
            .await?;
        for e in batch {
            match &e.event {
                Feed::List(ListEvent::Opened { name }) => {
                    let (id, counters) = (e.id::<List>()?, Counters::default());
                    let list = ListView {
                        id,
                        name: name.clone(),
                        counters,
                    };
                    docs.put(LISTS, &id, &list).await?;
                }
                Feed::Task(event) => {
                    task(e.id::<Task>()?, event, e.recorded_at(), docs).await?;
                }
            }
        }
        Ok(())
    }
}

async fn task(
    id: Uuid,
    event: &TaskEvent,
    recorded_at: DateTime<Utc>,
    docs: &mut Documents,
) -> projection::Result {
    let before: Option<TaskView> = docs.get(TASKS, &id).await?;
    let from = before.as_ref().map(|task| task.state);
    let to = match event {
        TaskEvent::Added { .. } => TaskState::Active,
        TaskEvent::Completed => TaskState::Done,
        TaskEvent::Removed => TaskState::Removed,
    };
    let task = match (event, before) {
        (TaskEvent::Added { list, title }, _) => {
            let (list, title) = (*list, title.clone());
            TaskView {
                id,
                list,
                title,
                state: to,
                added_at: recorded_at,
            }
        }
        (_, Some(task)) => TaskView { state: to, ..task },
        (_, None) => return Ok(()), // its beginning was erased
    };
    docs.put(TASKS, &id, &task).await?;
    docs.update(LISTS, &task.list, |list: Option<ListView>| {
        list.map(|list| ListView {
            counters: list.counters.moved(from, to),
            ..list
        })
    })
    .await?;
    docs.update(COUNTERS, ALL, |all: Option<Counters>| {
        Some(all.unwrap_or_default().moved(from, to))
    })
    .await?;
    Ok(())
}

// ---- reading ---------------------------------------------------------------------------------

/// Up to where the read model includes the log, whichever process brought it there.
///
/// # Errors
/// When the store is away.
pub async fn progress(store: &Store) -> Result<Checkpoint, StoreError> {
    Ok(store.load_progress(BOARD).await?.checkpoint)
}

/// Everything, or the tasks of one list only.
///
/// # Errors
/// When the store is away.
pub async fn board(store: &Store, list: Option<Uuid>) -> Result<Board, DocumentError> {
    let tasks = match list {
        Some(list) => Documented::of(TASKS).field("list", &list),
        None => Documented::of(TASKS),
    };
    Ok(Board {
        lists: all(store, Documented::of(LISTS)).await?,
        tasks: all(store, tasks).await?,
        counters: counters(store).await?,
    })
}

/// One list.
///
/// # Errors
/// When the store is away.
pub async fn list(store: &Store, id: Uuid) -> Result<Option<ListView>, DocumentError> {
    store.documents().get(LISTS, &id).await
}

/// What these events changed, as it is now.
///
/// # Errors
/// When the store is away.
pub async fn changed(store: &Store, events: &[RecordedEvent]) -> Result<Board, DocumentError> {
    let keys = |category: &str| -> BTreeSet<String> {
        let streams = events.iter().map(RecordedEvent::stream);
        streams
            .filter(|id| id.category() == category)
            .map(|id| id.key().to_owned())
            .collect()
    };
    let tasks: Vec<TaskView> = many(store, TASKS, keys(Task::CATEGORY)).await?;
    let mut lists = keys(List::CATEGORY);
    lists.extend(tasks.iter().map(|task| task.list.to_string()));
    let lists = many(store, LISTS, lists).await?;
    Ok(Board {
        lists,
        tasks,
        counters: counters(store).await?,
    })
}

async fn counters(store: &Store) -> Result<Counters, DocumentError> {
    Ok(store
        .documents()
        .get(COUNTERS, ALL)
        .await?
        .unwrap_or_default())
}

async fn all<T: DeserializeOwned>(
    store: &Store,
    list: Documented,
) -> Result<Vec<T>, DocumentError> {
    let mut documents = Vec::new();
    let mut list = list.limit(PAGE);
    loop {
        let page = store.documents().list(list.clone()).await?;
        documents.extend(page.items.into_iter().map(|(_, document)| document));
        match page.next {
            Some(next) => list = list.after(next),
            None => return Ok(documents),
        }
    }
}

/// Those of these documents that there are, in the order of their keys.
pub(crate) async fn many<T: DeserializeOwned>(
    store: &Store,
    collection: Collection,
    keys: BTreeSet<String>,
) -> Result<Vec<T>, DocumentError> {
    // A unit of work that is never stored: it reads many documents at once.
    let mut docs = Documents::new(Arc::new(store.clone()));
    docs.prefetch(collection, &keys).await?;
    let mut found = Vec::new();
    for key in &keys {
        found.extend(docs.get(collection, key).await?);
    }
    Ok(found)
}
