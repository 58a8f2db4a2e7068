//! What runs around each save.

use async_trait::async_trait;
use backstory_event::{Aggregate, Appended, BoxError, Metadata, Tag};

use crate::{Loaded, loaded::Change};

/// Runs before and after each save of a repository. Both do nothing by default.
///
/// Saves without recorded events, and the lifecycle operations (delete, restore, tag …), run no
/// hooks. For a closure see [`crate::Repository::before_save`] and
/// [`crate::Repository::after_save`].
#[async_trait]
pub trait SaveHook<A: Aggregate>: Send + Sync + 'static {
    /// Sees what is to be saved, in `loaded.changes()`, and may add to it. It runs again for each
    /// attempt of an update, and not when the same events are sent again.
    ///
    /// # Errors
    /// Any error refuses the save; nothing is stored.
    async fn before(&self, loaded: &Loaded<A>, save: &mut Save<A>) -> Result<(), BoxError> {
        let _ = (loaded, save);
        Ok(())
    }

    /// Sees the saved aggregate and its receipt.
    ///
    /// # Errors
    /// An error is logged and changes nothing: the events are stored.
    async fn after(&self, loaded: &Loaded<A>, receipt: &Appended) -> Result<(), BoxError> {
        let _ = (loaded, receipt);
        Ok(())
    }
}

/// What hooks add to a save.
pub struct Save<A: Aggregate> {
    pub(crate) added: Vec<Change<A>>,
    pub(crate) metadata: Metadata,
    pub(crate) tags: Vec<Tag>,
}

impl<A: Aggregate> Save<A> {
    pub(crate) fn new(metadata: Metadata) -> Self {
        Self {
            added: Vec::new(),
            metadata,
            tags: Vec::new(),
        }
    }

    /// Adds an event behind the recorded ones. It is applied when it is stored.
    pub fn record(&mut self, event: A::Event) {
        self.added.push(Change::event(event, Metadata::default()));
    }

    /// The metadata that all events of the save get; what an event says itself goes first.
    pub fn metadata(&mut self) -> &mut Metadata {
        &mut self.metadata
    }

    /// Adds a tag to all events of the save.
    pub fn tag(&mut self, tag: Tag) {
        self.tags.push(tag);
    }
}

pub(crate) struct Before<F>(pub(crate) F);

#[async_trait]
impl<A, F> SaveHook<A> for Before<F>
where
    A: Aggregate,
    F: Fn(&Loaded<A>, &mut Save<A>) -> Result<(), BoxError> + Send + Sync + 'static,
{
    async fn before(&self, loaded: &Loaded<A>, save: &mut Save<A>) -> Result<(), BoxError> {
        (self.0)(loaded, save)
    }
}

pub(crate) struct After<F>(pub(crate) F);

#[async_trait]
impl<A, F> SaveHook<A> for After<F>
where
    A: Aggregate,
    F: Fn(&Loaded<A>, &Appended) -> Result<(), BoxError> + Send + Sync + 'static,
{
    async fn after(&self, loaded: &Loaded<A>, receipt: &Appended) -> Result<(), BoxError> {
        (self.0)(loaded, receipt)
    }
}
