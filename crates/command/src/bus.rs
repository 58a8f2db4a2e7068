//! Runs commands.

use std::{
    any::{Any, TypeId},
    collections::HashMap,
    sync::{Arc, PoisonError, RwLock},
};

use backstory_aggregate::{Loaded, Lookup, Repository, RepositoryOptions, UpdateError};
use backstory_event::{Aggregate, Appended, Conflict, EventStore};
use tracing::Instrument;
use uuid::Uuid;

use crate::{Command, CommandContext, CommandError, CommandErrorKind, Handle, streak::Streaks};

/// Runs commands: loads the aggregate, lets it decide, stores the events; when another writer was
/// first, decides again on the fresh state. Cheap to clone.
///
/// Commands of a type that has found nothing but new aggregates for a while are decided without a
/// load, as those that say [`CREATES`](Command::CREATES) always are, until one is not new. What
/// comes out is the same.
///
/// ```
/// # use backstory_command::{Command, CommandBus, CommandError, Handle};
/// # use backstory_event::EventStore;
/// # async fn example<C: Command>(store: impl EventStore + Clone, add_todo: C) -> Result<(), CommandError>
/// # where C::Aggregate: Handle<C> {
/// let commands = CommandBus::new(&store);
/// let receipt = commands.dispatch(add_todo).await?;
/// # Ok(()) }
/// ```
///
/// Each dispatch runs in a `tracing` span `backstory.command.dispatch` with the fields `command`,
/// `aggregate`, `id`, `dispatch_id` and, at its end, `attempts`.
#[derive(Debug, Clone)]
pub struct CommandBus {
    store: Arc<dyn EventStore>,
    options: RepositoryOptions,
    // For aggregates that have one of their own.
    repositories: Repositories,
    // For the others: made once, so that their commands take turns.
    common: Arc<RwLock<Repositories>>,
    streaks: Streaks,
}

/// A `Repository<A>` under the `TypeId` of `A`.
type Repositories = HashMap<TypeId, Arc<dyn Any + Send + Sync>>;

/// Why a decision did not lead to events.
enum Refusal<R> {
    Rejected(R),
    Unexpected(Conflict),
}

impl CommandBus {
    /// A bus on a store.
    pub fn new<S: EventStore + Clone>(store: &S) -> Self {
        Self {
            store: Arc::new(store.clone()),
            options: RepositoryOptions::default(),
            repositories: HashMap::new(),
            common: Arc::default(),
            streaks: Streaks::default(),
        }
    }

    /// With these options: attempts, back-off, and a deadline for each dispatch.
    #[must_use]
    pub fn with_options(mut self, options: RepositoryOptions) -> Self {
        self.options = options;
        self.common = Arc::default();
        self
    }

    /// Uses this repository, with its snapshots, hooks, lookups and options, for commands to its type of
    /// aggregate. Others need none.
    #[must_use]
    pub fn with_repository<A: Aggregate>(mut self, repository: Repository<A>) -> Self {
        self.repositories
            .insert(TypeId::of::<A>(), Arc::new(repository));
        self
    }

    /// Writes a lookup with the events of commands to its type of aggregate. A unique value that
    /// another aggregate has is the rejection [`Taken`](crate::Taken). Repository and options come
    /// first: those that are set later do not count for this aggregate.
    #[must_use]
    pub fn with_lookup<L: Lookup>(self, lookup: L) -> Self {
        let own = find(&self.repositories, TypeId::of::<L::Aggregate>());
        let repository =
            own.unwrap_or_else(|| Repository::new(&self.store).with_options(self.options));
        self.with_repository::<L::Aggregate>(repository.with_lookup(lookup))
    }

    /// Runs a command. The receipt of a decision without events names the newest place in the log
    /// that the decision saw.
    ///
    /// Dropping the future does not undo what was sent.
    ///
    /// # Errors
    /// [`CommandErrorKind`] says whether the aggregate said no, another writer was first, the
    /// store is away, or nobody can tell.
    pub async fn dispatch<C>(&self, command: C) -> Result<Appended, CommandError>
    where
        C: Command,
        C::Aggregate: Handle<C>,
    {
        self.dispatch_with(command, CommandContext::default()).await
    }

    /// Runs a command with its circumstances.
    ///
    /// # Errors
    /// As [`Self::dispatch`].
    pub async fn dispatch_with<C>(
        &self,
        command: C,
        context: CommandContext,
    ) -> Result<Appended, CommandError>
    where
        C: Command,
        C::Aggregate: Handle<C>,
    {
        let dispatch = Uuid::now_v7();
        let span = tracing::info_span!(
            "backstory.command.dispatch",
            command = C::NAME,
            aggregate = C::Aggregate::CATEGORY,
            id = %command.aggregate_id(),
            dispatch_id = %dispatch,
            attempts = tracing::field::Empty,
        );
        let mut attempts = 0;
        let run = self.run(command, context, dispatch, &mut attempts);
        let outcome = run.instrument(span.clone()).await;
        span.record("attempts", attempts);
        outcome
    }

    async fn run<C>(
        &self,
        command: C,
        context: CommandContext,
        dispatch: Uuid,
        attempts: &mut u32,
    ) -> Result<Appended, CommandError>
    where
        C: Command,
        C::Aggregate: Handle<C>,
    {
        let expected = context.expected;
        let mut repository = self.repository::<C::Aggregate>();
        if let Some(deadline) = context.deadline {
            let options = repository.options().with_deadline(deadline);
            repository = repository.with_options(options);
        }
        let repository = repository.with_metadata(context.into_metadata(dispatch));
        let streak = self.streaks.of::<C>();
        let mut was_new = None;
        let decide = |loaded: &mut Loaded<C::Aggregate>| {
            *attempts += 1;
            was_new = Some(loaded.is_new());
            if !expected.accepts(loaded.version()) {
                return Err(Refusal::Unexpected(Conflict::Version {
                    stream: loaded.stream().clone(),
                    expected,
                    actual: loaded.version(),
                }));
            }
            let events = loaded.state().handle(&command).map_err(Refusal::Rejected)?;
            events.into_iter().for_each(|event| loaded.record(event));
            Ok(())
        };
        let id = command.aggregate_id();
        let outcome = match C::CREATES || streak.is_long() {
            true => repository.update_new(id, decide).await,
            false => repository.update(id, decide).await,
        };
        if let Some(is_new) = was_new {
            streak.saw(is_new);
        }
        match outcome {
            Ok(((), receipt)) => Ok(receipt),
            Err(UpdateError::Rejected(Refusal::Rejected(error))) => {
                Err(CommandError::rejected(error))
            }
            Err(UpdateError::Rejected(Refusal::Unexpected(conflict))) => {
                Err(CommandErrorKind::Conflict(conflict).into())
            }
            Err(UpdateError::Repository(error)) => Err(error.into()),
            Err(_) => Err(CommandErrorKind::Failed {
                reason: "the repository gave an unknown answer".to_owned(),
            }
            .into()),
        }
    }

    fn repository<A: Aggregate>(&self) -> Repository<A> {
        let id = TypeId::of::<A>();
        if let Some(own) = find(&self.repositories, id) {
            return own;
        }
        if let Some(common) = find(
            &self.common.read().unwrap_or_else(PoisonError::into_inner),
            id,
        ) {
            return common;
        }
        let mut common = self.common.write().unwrap_or_else(PoisonError::into_inner);
        find(&common, id).unwrap_or_else(|| {
            let made = Repository::new(&self.store).with_options(self.options);
            common.insert(id, Arc::new(made.clone()));
            made
        })
    }
}

fn find<A: Aggregate>(repositories: &Repositories, id: TypeId) -> Option<Repository<A>> {
    let repository = repositories.get(&id)?;
    repository.downcast_ref::<Repository<A>>().cloned()
}
