//! The application: what the page, the API and the command line can do.

use std::time::Duration;

use backstory::{
    Appended, CommandBus, CommandError, Conflict, EventStoreExt, Handle, Projector, Repository,
    RepositoryError, Schedule, Store, StoreError,
    aggregate::UpdateError,
    projection::{DocumentError, ProjectorError, ProjectorOptions, RunningProjector},
};
use uuid::Uuid;

use crate::{
    read_model::{BOARD, BoardProjection},
    search::SearchProjection,
    todo::{AddTask, CompleteTask, List, ListError, OpenList, RemoveTask},
};

/// How long a reader waits for the read model to include a change.
const PATIENCE: Duration = Duration::from_secs(5);

/// Within which the names of lists are unique.
const NAMES: &str = "list.name";

/// Why something was not done.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TodoError {
    /// There is no list with this id.
    #[error("there is no list {0}")]
    UnknownList(Uuid),
    /// Another list has the name.
    #[error("there is a list called {name:?} already")]
    NameTaken {
        /// The name.
        name: String,
        /// The list that has it.
        list: Uuid,
    },
    /// The list said no, or could not be stored.
    #[error(transparent)]
    OpenList(#[from] UpdateError<ListError>),
    /// The command did not succeed.
    #[error(transparent)]
    Command(#[from] CommandError),
    /// The log could not be read.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The read model could not be read.
    #[error(transparent)]
    Documents(#[from] DocumentError),
    /// The read model does not get on.
    #[error(transparent)]
    Projector(#[from] ProjectorError),
}

impl From<RepositoryError> for TodoError {
    fn from(error: RepositoryError) -> Self {
        CommandError::from(error).into()
    }
}

/// Lists and tasks on a store. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Todos {
    store: Store,
    commands: CommandBus,
    lists: Repository<List>,
}

impl Todos {
    /// The application on a store.
    pub fn new(store: &Store) -> Self {
        Self {
            store: store.clone(),
            commands: CommandBus::new(store),
            lists: Repository::new(store),
        }
    }

    /// The store.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// Opens a list. Its name is claimed in the same append, so that of two lists with one name
    /// only the first is stored, whichever processes they come from.
    ///
    /// # Errors
    /// [`TodoError::NameTaken`] names the list that has it; [`TodoError::OpenList`] otherwise.
    pub async fn open_list(&self, name: &str) -> Result<(Uuid, Appended), TodoError> {
        let command = OpenList {
            id: Uuid::now_v7(),
            name: name.to_owned(),
        };
        let opened = self.lists.update(&command.id, |list| {
            for event in list.handle(&command)? {
                list.record(event);
            }
            list.claim(NAMES, name.trim().to_lowercase());
            Ok(())
        });
        match opened.await {
            Ok(((), receipt)) => Ok((command.id, receipt)),
            Err(error) => Err(match error.repository().and_then(holder) {
                Some(list) => TodoError::NameTaken {
                    name: name.trim().to_owned(),
                    list,
                },
                None => error.into(),
            }),
        }
    }

    /// The list of this name, opened if there is none.
    ///
    /// # Errors
    /// [`TodoError::OpenList`].
    pub async fn list_called(&self, name: &str) -> Result<Uuid, TodoError> {
        match self.open_list(name).await {
            Ok((list, _)) | Err(TodoError::NameTaken { list, .. }) => Ok(list),
            Err(error) => Err(error),
        }
    }

    /// Adds a task to a list.
    ///
    /// # Errors
    /// [`TodoError::UnknownList`], a rejection, or the store's.
    pub async fn add_task(&self, list: Uuid, title: &str) -> Result<(Uuid, Appended), TodoError> {
        if self.lists.find(&list).await?.is_none() {
            return Err(TodoError::UnknownList(list));
        }
        let (id, title) = (Uuid::now_v7(), title.to_owned());
        let receipt = self.commands.dispatch(AddTask { id, list, title }).await?;
        Ok((id, receipt))
    }

    /// Says that a task is done.
    ///
    /// # Errors
    /// A rejection, or the store's.
    pub async fn complete_task(&self, id: Uuid) -> Result<Appended, TodoError> {
        Ok(self.commands.dispatch(CompleteTask { id }).await?)
    }

    /// Removes a task.
    ///
    /// # Errors
    /// A rejection, or the store's.
    pub async fn remove_task(&self, id: Uuid) -> Result<Appended, TodoError> {
        Ok(self.commands.dispatch(RemoveTask { id }).await?)
    }

    /// Keeps the read models up to date from now on. Several processes may do it at once: each
    /// event gets into each read model once.
    ///
    /// # Errors
    /// When the store is away.
    pub async fn start_projector(&self) -> Result<RunningProjector, ProjectorError> {
        Projector::new(&self.store)
            .with(BoardProjection, Schedule::continuous())
            .with(SearchProjection, Schedule::continuous())
            .with_options(ProjectorOptions::default().with_deadline(PATIENCE))
            .start()
            .await
    }

    /// Brings the board up to date with everything that is stored now.
    ///
    /// # Errors
    /// When the store is away or the projection fails.
    pub async fn catch_up(&self) -> Result<(), ProjectorError> {
        let projector = self.start_projector().await?;
        let head = self.store.head().await?;
        let board = projector.projection(BOARD);
        board.caught_up_within(head, Duration::MAX).await?; // however much there is
        projector.shutdown().await?;
        Ok(())
    }
}

/// The list that holds the name that was claimed.
fn holder(error: &RepositoryError) -> Option<Uuid> {
    match error.conflict()? {
        Conflict::Claim { owner, .. } => owner.key().parse().ok(),
        _ => None,
    }
}
