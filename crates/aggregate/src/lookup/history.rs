//! The values that the events of a stream say it has.

use std::collections::BTreeSet;

use backstory_event::{
    Aggregate, Decoded, EventQuery, EventStore, Lifecycle, StreamId, StreamVersion,
};

use super::{
    OnDelete,
    change::{Indexing, Values},
};
use crate::{RepositoryError, loaded::fact};

/// What a stream says up to a version.
pub(crate) struct History {
    pub(crate) version: StreamVersion,
    /// Also when it is deleted.
    pub(crate) values: BTreeSet<String>,
    is_deleted: bool,
}

impl History {
    /// Reads the stream, up to a version if one is given.
    pub(crate) async fn read<A: Aggregate>(
        store: &(impl EventStore + ?Sized),
        stream: &StreamId,
        up_to: Option<StreamVersion>,
        lookup: &dyn Indexing<A>,
    ) -> Result<Self, RepositoryError> {
        let mut values = Values::default();
        let mut version = StreamVersion::EMPTY;
        let mut is_deleted = false;
        let mut query = EventQuery::stream(stream.clone());
        if let Some(version) = up_to {
            query = query.to_version(version);
        }
        let mut next = Some(query);
        while let Some(query) = next {
            let page = store.read(&query).await?;
            for event in &page.events {
                version = event.version();
                match event.lifecycle() {
                    // Pages read before the erasure may have held what is gone now.
                    Some(Lifecycle::Erased) => values = Values::default(),
                    Some(Lifecycle::Deleted) => is_deleted = true,
                    Some(Lifecycle::Restored) => is_deleted = false,
                    Some(Lifecycle::Tagged) => {}
                    None if event.is_erased() => {}
                    None => match fact::<A>(event)? {
                        Decoded::One(event) => values.follow(lookup.change_by(&event)),
                        Decoded::Parts(parts) => parts
                            .iter()
                            .for_each(|event| values.follow(lookup.change_by(event))),
                        Decoded::Unknown => {}
                    },
                }
            }
            next = page.next;
        }
        Ok(Self {
            version,
            values: values.all(),
            is_deleted,
        })
    }

    /// The values that it has in its state.
    pub(crate) fn in_force(self, on_delete: OnDelete) -> BTreeSet<String> {
        match on_delete {
            OnDelete::Release if self.is_deleted => BTreeSet::new(),
            _ => self.values,
        }
    }
}
