//! Deletes, restores, erases and tags: what framework events do to a stream.

use std::{collections::BTreeSet, time::Duration};

use backstory_event::{
    Aggregate, Append, Appended, Checkpoint, Clock, Companion, EventStoreExt, ExpectedVersion,
    Lifecycle, NewEvent, StreamId, StreamInfo, StreamState, StreamVersion, SystemClock, Tag,
    TagChange,
};

use super::Repository;
use crate::{
    OnDelete, RepositoryError, RepositoryErrorKind,
    attempts::{send, within},
    lookup::{History, Indexing},
    options::Deadline,
};

/// What an operation does to a stream in some state.
enum Step {
    Append(NewEvent),
    /// Values go, of lookups that say so.
    Delete,
    /// They come back.
    Restore,
    /// It is already so.
    Nothing,
    Refuse(StreamState),
}

impl<A: Aggregate> Repository<A> {
    /// Deletes the aggregate softly: it refuses everything but restore and erase, and is not
    /// listed. Deleting a deleted one changes nothing.
    ///
    /// # Errors
    /// `NotFound`, `Erased`, or the store's error.
    pub async fn delete(&self, id: &A::Id) -> Result<Appended, RepositoryError> {
        self.step(id, |info| match info.state {
            StreamState::Live => Step::Delete,
            StreamState::Deleted => Step::Nothing,
            StreamState::Erased => Step::Refuse(info.state),
        })
        .await
    }

    /// Takes a deletion back. Restoring a live one changes nothing.
    ///
    /// # Errors
    /// `NotFound`, `Erased`, a conflict when a unique value was [released](crate::OnDelete) and is
    /// taken by now, or the store's error.
    pub async fn restore(&self, id: &A::Id) -> Result<Appended, RepositoryError> {
        self.step(id, |info| match info.state {
            StreamState::Deleted => Step::Restore,
            StreamState::Live => Step::Nothing,
            StreamState::Erased => Step::Refuse(info.state),
        })
        .await
    }

    /// Erases the aggregate for ever: payloads, metadata and tags of all its events, its
    /// snapshots, documents and values go in one transaction; the skeleton of the events stays.
    /// Works on deleted ones too. Erasing an erased one changes nothing.
    ///
    /// # Errors
    /// `NotFound`, or the store's error.
    pub async fn erase(&self, id: &A::Id) -> Result<Appended, RepositoryError> {
        self.step(id, |info| match info.state {
            StreamState::Live | StreamState::Deleted => Step::Append(Lifecycle::Erased.event()),
            StreamState::Erased => Step::Nothing,
        })
        .await
    }

    /// Lets the id of an erased aggregate be used again; it begins with an empty state. Reviving
    /// a live one changes nothing.
    ///
    /// # Errors
    /// `NotFound`; `Deleted` when it is deleted and not erased; or the store's error.
    pub async fn revive(&self, id: &A::Id) -> Result<Appended, RepositoryError> {
        self.step(id, |info| match info.state {
            StreamState::Erased => Step::Append(Lifecycle::Restored.event()),
            StreamState::Live => Step::Nothing,
            StreamState::Deleted => Step::Refuse(info.state),
        })
        .await
    }

    /// Labels the aggregate for [`Self::list`]. Tags that it has change nothing.
    ///
    /// # Errors
    /// `NotFound`, `Deleted`, `Erased`, or the store's error.
    pub async fn tag(
        &self,
        id: &A::Id,
        tags: impl IntoIterator<Item = Tag>,
    ) -> Result<Appended, RepositoryError> {
        let tags: Vec<Tag> = tags.into_iter().collect();
        self.step(id, |info| {
            let add: Vec<Tag> = tags
                .iter()
                .filter(|tag| !info.tags.contains(tag))
                .cloned()
                .collect();
            tag_step(
                info,
                TagChange {
                    add,
                    ..TagChange::default()
                },
            )
        })
        .await
    }

    /// Takes labels away. Tags that it does not have change nothing.
    ///
    /// # Errors
    /// As [`Self::tag`].
    pub async fn untag(
        &self,
        id: &A::Id,
        tags: impl IntoIterator<Item = Tag>,
    ) -> Result<Appended, RepositoryError> {
        let tags: Vec<Tag> = tags.into_iter().collect();
        self.step(id, |info| {
            let remove: Vec<Tag> = tags
                .iter()
                .filter(|tag| info.tags.contains(tag))
                .cloned()
                .collect();
            tag_step(
                info,
                TagChange {
                    remove,
                    ..TagChange::default()
                },
            )
        })
        .await
    }

    /// What is known of the aggregate without reading its events, in any state; `None` when
    /// nothing of it is stored.
    ///
    /// # Errors
    /// The store's error.
    pub async fn info(&self, id: &A::Id) -> Result<Option<StreamInfo>, RepositoryError> {
        Ok(self.store.stream_info(&A::stream(id)?).await?)
    }

    /// The lookups whose values a deletion takes.
    fn releasing(&self) -> impl Iterator<Item = &dyn Indexing<A>> {
        let lookups = self.lookups.iter().map(|lookup| &**lookup);
        lookups.filter(|lookup| lookup.on_delete() == OnDelete::Release)
    }

    /// The rows by which a deleted aggregate has its values again.
    async fn values_of(
        &self,
        stream: &StreamId,
        version: StreamVersion,
    ) -> Result<Vec<Companion>, RepositoryError> {
        let mut companions = Vec::new();
        for lookup in self.releasing() {
            let history = History::read(&*self.store, stream, Some(version), lookup).await?;
            companions.extend(lookup.set(history.values, stream));
        }
        Ok(companions)
    }

    /// Appends what fits the state of the stream, under the version at which it was in that state.
    async fn step(
        &self,
        id: &A::Id,
        decide: impl Fn(&StreamInfo) -> Step,
    ) -> Result<Appended, RepositoryError> {
        let stream = A::stream(id)?;
        let deadline = Deadline::after(self.options.deadline);
        let mut attempt = 1;
        loop {
            let info = within(deadline, Duration::ZERO, self.store.stream_info(&stream)).await;
            let Some(info) = info else {
                return Err(RepositoryErrorKind::TimedOut { stream }.into());
            };
            let Some(info) = info? else {
                return Err(RepositoryErrorKind::NotFound { stream }.into());
            };
            let mut companions = Vec::new();
            let event = match decide(&info) {
                Step::Append(event) => event,
                Step::Delete => {
                    let lookups = self.releasing();
                    companions = lookups
                        .flat_map(|lookup| lookup.set(BTreeSet::new(), &stream))
                        .collect();
                    Lifecycle::Deleted.event()
                }
                Step::Restore => {
                    let values = self.values_of(&stream, info.version);
                    let values = within(deadline, Duration::ZERO, values).await;
                    let Some(values) = values else {
                        return Err(RepositoryErrorKind::TimedOut { stream }.into());
                    };
                    companions = values?;
                    Lifecycle::Restored.event()
                }
                Step::Nothing => {
                    return Ok(Appended::nothing(Checkpoint::at(info.last_position)));
                }
                Step::Refuse(StreamState::Deleted) => {
                    return Err(RepositoryErrorKind::Deleted { stream }.into());
                }
                Step::Refuse(_) => return Err(RepositoryErrorKind::Erased { stream }.into()),
            };
            let expected = ExpectedVersion::Exact(info.version);
            let event = event.with_metadata(self.metadata.clone());
            let mut append = Append::to(stream.clone(), expected, [event]);
            append.companions = companions;
            let sent = send(&*self.store, &append, &self.options, deadline).await;
            match sent.map_err(RepositoryError::from) {
                Ok(receipt) => return Ok(receipt),
                // Another writer was first, perhaps with the same wish: look again.
                Err(error)
                    if (error.is_version_conflict() || error.is_deleted() || error.is_erased())
                        && attempt < self.options.max_attempts
                        && !deadline.is_over() => {}
                Err(error) => return Err(error),
            }
            let pause = SystemClock.sleep(self.options.pause(attempt));
            within(deadline, Duration::ZERO, pause).await;
            attempt += 1;
        }
    }
}

fn tag_step(info: &StreamInfo, change: TagChange) -> Step {
    if info.state != StreamState::Live {
        Step::Refuse(info.state)
    } else if change == TagChange::default() {
        Step::Nothing
    } else {
        Step::Append(change.event())
    }
}
