//! Loads aggregates from their streams.

use std::{fmt, sync::Arc};

use backstory_event::{
    Aggregate, Appended, BoxError, EventQuery, EventStore, Metadata, StreamVersion,
};

use crate::{
    Loaded, Lookup, RepositoryError, RepositoryErrorKind, RepositoryOptions, Save, SaveHook,
    Snapshot, SnapshotStore,
    hooks::{After, Before},
    loaded::merged,
    lookup::Indexing,
    snapshotting::Snapshots,
    turns::Turns,
};

mod lifecycle;
mod list;
mod save;
mod update;

pub use list::ListPage;

/// Loads and saves the aggregates of one type. Cheap to clone.
///
/// Keep one and clone it: clones take turns at an aggregate that several of them
/// [update](Self::update) at once, instead of overtaking each other again and again.
///
/// ```
/// # use backstory_aggregate::{Aggregate, Repository, RepositoryOptions, UpdateError};
/// # use backstory_event::EventStore;
/// # async fn example<A: Aggregate>(
/// #     store: impl EventStore + Clone, id: A::Id, event: A::Event,
/// # ) -> Result<(), UpdateError<&'static str>> {
/// # let mut event = Some(event);
/// let repository = Repository::<A>::new(&store)
///     .with_options(RepositoryOptions::default().with_max_attempts(5));
/// let (version, receipt) = repository
///     .update(&id, |loaded| {
///         if !loaded.is_new() {
///             return Err("it exists"); // nothing is stored
///         }
/// #       let event = event.take().unwrap();
///         loaded.record(event); // applied at once
///         Ok(loaded.version())
///     })
///     .await?;
/// # Ok(()) }
/// ```
pub struct Repository<A: Aggregate> {
    store: Arc<dyn EventStore>,
    options: RepositoryOptions,
    metadata: Metadata,
    snapshots: Option<Arc<Snapshots<A>>>,
    hooks: Vec<Arc<dyn SaveHook<A>>>,
    lookups: Vec<Arc<dyn Indexing<A>>>,
    turns: Turns<A>,
}

impl<A: Aggregate> Clone for Repository<A> {
    fn clone(&self) -> Self {
        Self {
            store: self.store.clone(),
            options: self.options,
            metadata: self.metadata.clone(),
            snapshots: self.snapshots.clone(),
            hooks: self.hooks.clone(),
            lookups: self.lookups.clone(),
            turns: self.turns.clone(),
        }
    }
}

impl<A: Aggregate> fmt::Debug for Repository<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Repository")
            .field("category", &A::CATEGORY)
            .field("store", &self.store)
            .field("options", &self.options)
            .field("snapshots", &self.snapshots.is_some())
            .field("hooks", &self.hooks.len())
            .field("lookups", &self.lookups.len())
            .finish_non_exhaustive()
    }
}

impl<A: Aggregate> Repository<A> {
    /// A repository on a store, without snapshots, hooks and lookups.
    pub fn new<S: EventStore + Clone>(store: &S) -> Self {
        Self {
            store: Arc::new(store.clone()),
            options: RepositoryOptions::default(),
            metadata: Metadata::default(),
            snapshots: None,
            hooks: Vec::new(),
            lookups: Vec::new(),
            turns: Turns::default(),
        }
    }

    /// With these options.
    #[must_use]
    pub fn with_options(mut self, options: RepositoryOptions) -> Self {
        self.options = options;
        self
    }

    /// The options.
    pub fn options(&self) -> &RepositoryOptions {
        &self.options
    }

    /// With more metadata for everything that it stores, lifecycle events included; what an event
    /// says itself goes first. A clone per request can carry the request's actor.
    #[must_use]
    pub fn with_metadata(mut self, metadata: Metadata) -> Self {
        self.metadata = merged(metadata, &self.metadata);
        self
    }

    /// Keeps the state after a save when `every` events were stored since it was last kept, so
    /// that a load reads about that many events at most. 0 counts as 1.
    #[must_use]
    pub fn with_snapshots<S: SnapshotStore + Clone>(mut self, store: &S, every: u32) -> Self
    where
        A: Snapshot,
    {
        self.snapshots = Some(Arc::new(Snapshots::new(Arc::new(store.clone()), every)));
        self
    }

    /// With a hook around each save, behind the ones it has.
    #[must_use]
    pub fn with_hook(mut self, hook: impl SaveHook<A>) -> Self {
        self.hooks.push(Arc::new(hook));
        self
    }

    /// Each save writes what its events do to the lookup's values, hooks' events included. A unique
    /// value that another aggregate has fails the save with a
    /// [`Conflict::Claim`](backstory_event::Conflict::Claim), which no update tries again.
    #[must_use]
    pub fn with_lookup(mut self, lookup: impl Lookup<Aggregate = A>) -> Self {
        let lookup: Arc<dyn Indexing<A>> = Arc::new(lookup);
        // One of the same name would write the same values twice.
        self.lookups.retain(|other| other.name() != lookup.name());
        self.lookups.push(lookup);
        self
    }

    /// With a closure before each save: see [`SaveHook::before`].
    #[must_use]
    pub fn before_save<F>(self, hook: F) -> Self
    where
        F: Fn(&Loaded<A>, &mut Save<A>) -> Result<(), BoxError> + Send + Sync + 'static,
    {
        self.with_hook(Before(hook))
    }

    /// With a closure after each save: see [`SaveHook::after`].
    #[must_use]
    pub fn after_save<F>(self, hook: F) -> Self
    where
        F: Fn(&Loaded<A>, &Appended) -> Result<(), BoxError> + Send + Sync + 'static,
    {
        self.with_hook(After(hook))
    }

    /// The aggregate, or `None` when nothing of it is stored.
    ///
    /// # Errors
    /// As [`Self::load`].
    pub async fn find(&self, id: &A::Id) -> Result<Option<Loaded<A>>, RepositoryError> {
        let loaded = self.load(id).await?;
        Ok((!loaded.is_new()).then_some(loaded))
    }

    /// The aggregate; when nothing of it is stored, a new one at version 0.
    ///
    /// # Errors
    /// `Deleted`, `Erased`, `UnknownEvent` and `Decode`, or the store's error.
    pub async fn load(&self, id: &A::Id) -> Result<Loaded<A>, RepositoryError> {
        let loaded = self.read(id, None).await?;
        loaded.refuse_dead()?;
        Ok(loaded)
    }

    /// The aggregate, also when it is deleted: [`Loaded::is_deleted`] tells.
    ///
    /// # Errors
    /// As [`Self::load`], without `Deleted`.
    pub async fn load_deleted(&self, id: &A::Id) -> Result<Loaded<A>, RepositoryError> {
        let loaded = self.read(id, None).await?;
        loaded.refuse_erased()?;
        Ok(loaded)
    }

    /// The aggregate as it was at a version. To save it is a conflict unless that is the newest.
    ///
    /// # Errors
    /// `VersionNotReached` when it has fewer events; `Deleted` when it was deleted at that version;
    /// otherwise as [`Self::load`].
    pub async fn load_at(
        &self,
        id: &A::Id,
        version: StreamVersion,
    ) -> Result<Loaded<A>, RepositoryError> {
        if version == StreamVersion::EMPTY {
            return Ok(Loaded::empty(id.clone())?);
        }
        let loaded = self.read(id, Some(version)).await?;
        if loaded.version() < version {
            return Err(RepositoryErrorKind::VersionNotReached {
                stream: loaded.stream().clone(),
                wanted: version,
                actual: loaded.version(),
            }
            .into());
        }
        loaded.refuse_dead()?;
        Ok(loaded)
    }

    /// Takes in what was stored since. What was recorded and not saved is dropped.
    ///
    /// # Errors
    /// As [`Self::load`]; load it again then.
    pub async fn refresh(&self, loaded: &mut Loaded<A>) -> Result<(), RepositoryError> {
        // A state that holds unsaved events, or that the log no longer confirms, is read anew.
        let known = loaded.is_pure() && !loaded.is_new();
        if !known || !self.replay(loaded, None).await? {
            *loaded = self.read(&loaded.id().clone(), None).await?;
        }
        loaded.refuse_dead()
    }

    async fn read(
        &self,
        id: &A::Id,
        up_to: Option<StreamVersion>,
    ) -> Result<Loaded<A>, RepositoryError> {
        let mut loaded = Loaded::empty(id.clone())?;
        if self.begin_from_snapshot(&mut loaded, up_to).await {
            if self.replay(&mut loaded, up_to).await? {
                return Ok(loaded);
            }
            self.forget_snapshots(&loaded).await;
            loaded = Loaded::empty(id.clone())?;
        }
        self.replay(&mut loaded, up_to).await?;
        Ok(loaded)
    }

    /// Reads the events from the loaded version on, inclusive. False when the log does not hold
    /// the event that the loaded aggregate ends with: then it is worth nothing.
    async fn replay(
        &self,
        loaded: &mut Loaded<A>,
        up_to: Option<StreamVersion>,
    ) -> Result<bool, RepositoryError> {
        let mut unproved = !loaded.is_new();
        let mut query = EventQuery::stream(loaded.stream().clone());
        if unproved {
            query = query.from_version(loaded.version());
        }
        if let Some(version) = up_to {
            query = query.to_version(version);
        }
        let mut next = Some(query);
        while let Some(query) = next {
            let page = self.store.read(&query).await?;
            for event in &page.events {
                if unproved {
                    let same = event.version() == loaded.version()
                        && event.id() == loaded.last_event()
                        && !event.is_erased();
                    if !same {
                        return Ok(false);
                    }
                    unproved = false;
                    continue;
                }
                loaded.absorb(event)?;
            }
            loaded.seen(page.checkpoint);
            next = page.next;
        }
        Ok(!unproved)
    }

    async fn begin_from_snapshot(
        &self,
        loaded: &mut Loaded<A>,
        up_to: Option<StreamVersion>,
    ) -> bool {
        let Some(snapshots) = &self.snapshots else {
            return false;
        };
        let found = snapshots.store.latest_snapshot(loaded.stream(), up_to);
        match found.await {
            Ok(Some(snapshot)) => match snapshots.open(&snapshot) {
                Some(state) => {
                    loaded.begin_from(state, snapshot.version, snapshot.event_id);
                    true
                }
                None => false,
            },
            Ok(None) => false,
            Err(error) => {
                tracing::warn!(stream = %loaded.stream(), %error, "snapshots cannot be read");
                false
            }
        }
    }

    /// The log does not confirm a snapshot, so none of this stream is believed.
    async fn forget_snapshots(&self, loaded: &Loaded<A>) {
        let Some(snapshots) = &self.snapshots else {
            return;
        };
        let stream = loaded.stream();
        tracing::warn!(%stream, "the log does not hold the event of a snapshot: snapshots are deleted");
        if let Err(error) = snapshots.store.delete_snapshots(stream).await {
            tracing::warn!(%stream, %error, "snapshots cannot be deleted");
        }
    }
}
