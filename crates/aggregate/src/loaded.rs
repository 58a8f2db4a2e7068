//! An aggregate as it was read, and what was recorded on it since.

use std::{collections::BTreeMap, fmt, ops::Deref, sync::Arc};

use backstory_event::{
    Aggregate, Append, AppendCondition, Checkpoint, Companion, Decoded, Event, EventId,
    ExpectedVersion, Invalid, Lifecycle, Metadata, NewEvent, RecordedEvent, StoreErrorKind,
    StreamId, StreamState, StreamVersion, Tag, TagChange,
};

use crate::{RepositoryError, RepositoryErrorKind, lookup::Indexing};

/// An aggregate as it was read: its state, its version, and the events recorded on it since.
///
/// It reads like the state itself (`Deref`). Recorded events change the state at once and are
/// stored by [`crate::Repository::save`].
pub struct Loaded<A: Aggregate> {
    id: A::Id,
    stream: StreamId,
    state: A,
    version: StreamVersion,
    last_event: EventId,
    checkpoint: Checkpoint,
    stream_state: StreamState,
    snapshot: StreamVersion,
    draft: Draft<A>,
    in_doubt: Option<InDoubt<A>>,
}

/// A recorded event. Its id is made here, once, so that it can be sent any number of times.
pub(crate) struct Change<A: Aggregate> {
    id: EventId,
    what: What<A>,
    metadata: Metadata,
}

enum What<A: Aggregate> {
    Event(A::Event),
    Tags(TagChange),
}

impl<A: Aggregate> Change<A> {
    pub(crate) fn event(event: A::Event, metadata: Metadata) -> Self {
        Self {
            id: EventId::new(),
            what: What::Event(event),
            metadata,
        }
    }

    fn as_event(&self) -> Option<&A::Event> {
        match &self.what {
            What::Event(event) => Some(event),
            What::Tags(_) => None,
        }
    }

    fn encode(&self, common: &Metadata, tags: &[Tag]) -> Result<NewEvent, Invalid> {
        let mut new = match &self.what {
            What::Event(event) => NewEvent::of(event)?,
            What::Tags(change) => change.event(),
        };
        for tag in tags {
            if !new.tags.contains(tag) {
                new.tags.push(tag.clone());
            }
        }
        let metadata = merged(self.metadata.clone(), common);
        Ok(new.with_id(self.id).with_metadata(metadata))
    }
}

/// Metadata of an event, completed by what is common to all.
pub(crate) fn merged(mut own: Metadata, common: &Metadata) -> Metadata {
    own.correlation_id = own.correlation_id.or(common.correlation_id);
    own.causation_id = own.causation_id.or(common.causation_id);
    own.occurred_at = own.occurred_at.or(common.occurred_at);
    own.actor = own.actor.or_else(|| common.actor.clone());
    let mut extra: BTreeMap<_, _> = common.extra.clone();
    extra.append(&mut own.extra);
    own.extra = extra;
    own
}

/// What was recorded and is not yet on its way.
struct Draft<A: Aggregate> {
    changes: Vec<Change<A>>,
    companions: Vec<Companion>,
    conditions: Vec<AppendCondition>,
}

impl<A: Aggregate> Default for Draft<A> {
    fn default() -> Self {
        Self {
            changes: Vec::new(),
            companions: Vec::new(),
            conditions: Vec::new(),
        }
    }
}

/// What was sent while nobody knows yet whether it is stored.
pub(crate) struct InDoubt<A: Aggregate> {
    pub(crate) append: Append,
    draft: Draft<A>,
    added: Vec<Change<A>>,
}

impl<A: Aggregate> Loaded<A> {
    pub(crate) fn empty(id: A::Id) -> Result<Self, Invalid> {
        Ok(Self {
            stream: A::stream(&id)?,
            id,
            state: A::default(),
            version: StreamVersion::EMPTY,
            last_event: EventId::NIL,
            checkpoint: Checkpoint::START,
            stream_state: StreamState::Live,
            snapshot: StreamVersion::EMPTY,
            draft: Draft::default(),
            in_doubt: None,
        })
    }

    /// The id.
    pub fn id(&self) -> &A::Id {
        &self.id
    }

    /// The stream.
    pub fn stream(&self) -> &StreamId {
        &self.stream
    }

    /// The state, recorded events included.
    pub fn state(&self) -> &A {
        &self.state
    }

    /// The state, by value.
    pub fn into_state(self) -> A {
        self.state
    }

    /// How many events of it are stored, as far as this load or save knows: 0 when it is new.
    pub fn version(&self) -> StreamVersion {
        self.version
    }

    /// True when nothing of it is stored.
    pub fn is_new(&self) -> bool {
        self.version == StreamVersion::EMPTY
    }

    /// True when it was deleted and not restored.
    pub fn is_deleted(&self) -> bool {
        self.stream_state == StreamState::Deleted
    }

    /// The newest place in the log that the load or the last save has seen: what waits for it,
    /// waits for all that the state knows.
    pub fn checkpoint(&self) -> Checkpoint {
        self.checkpoint
    }

    /// The recorded events that are not stored yet, in order.
    pub fn changes(&self) -> impl Iterator<Item = &A::Event> {
        let sent = self.in_doubt.iter().flat_map(|sent| &sent.draft.changes);
        sent.chain(&self.draft.changes).filter_map(Change::as_event)
    }

    /// Records an event and applies it.
    pub fn record(&mut self, event: A::Event) {
        self.record_with(event, Metadata::default());
    }

    /// Records an event with metadata and applies it.
    pub fn record_with(&mut self, event: A::Event, metadata: Metadata) {
        self.state.apply(&event);
        self.draft.changes.push(Change::event(event, metadata));
    }

    /// Records that the aggregate gets these tags. They label its stream, see
    /// [`crate::Repository::list`]; tags of single events come from the event type.
    pub fn tag(&mut self, tags: impl IntoIterator<Item = Tag>) {
        self.record_tags(TagChange {
            add: tags.into_iter().collect(),
            remove: Vec::new(),
        });
    }

    /// Records that the aggregate loses these tags.
    pub fn untag(&mut self, tags: impl IntoIterator<Item = Tag>) {
        self.record_tags(TagChange {
            add: Vec::new(),
            remove: tags.into_iter().collect(),
        });
    }

    fn record_tags(&mut self, change: TagChange) {
        if change != TagChange::default() {
            self.draft.changes.push(Change {
                id: EventId::new(),
                what: What::Tags(change),
                metadata: Metadata::default(),
            });
        }
    }

    /// The next save takes a value that only one stream may hold, or fails with a conflict.
    /// It is taken together with the recorded events, so there must be some.
    pub fn claim(&mut self, scope: impl Into<String>, value: impl Into<String>) {
        self.draft.companions.push(Companion::Claim {
            scope: scope.into(),
            value: value.into(),
            owner: self.stream.clone(),
        });
    }

    /// The next save gives a unique value back. It goes together with the recorded events.
    pub fn release(&mut self, scope: impl Into<String>, value: impl Into<String>) {
        self.draft.companions.push(Companion::Release {
            scope: scope.into(),
            value: value.into(),
            owner: self.stream.clone(),
        });
    }

    /// The next save fails with a conflict when the condition is met: see
    /// [`backstory_event::Folded::condition`].
    pub fn fail_if(&mut self, condition: AppendCondition) {
        self.draft.conditions.push(condition);
    }

    pub(crate) fn last_event(&self) -> EventId {
        self.last_event
    }

    pub(crate) fn snapshot(&self) -> StreamVersion {
        self.snapshot
    }

    pub(crate) fn has_draft(&self) -> bool {
        !self.draft.changes.is_empty() || !self.draft.companions.is_empty()
    }

    /// True when it is nothing but what is stored.
    pub(crate) fn is_pure(&self) -> bool {
        self.in_doubt.is_none() && !self.has_draft() && self.draft.conditions.is_empty()
    }

    pub(crate) fn in_doubt(&self) -> Option<&Append> {
        self.in_doubt.as_ref().map(|sent| &sent.append)
    }

    pub(crate) fn refuse_dead(&self) -> Result<(), RepositoryError> {
        let stream = self.stream.clone();
        match self.stream_state {
            StreamState::Deleted => Err(RepositoryErrorKind::Deleted { stream }.into()),
            _ => self.refuse_erased(),
        }
    }

    pub(crate) fn refuse_erased(&self) -> Result<(), RepositoryError> {
        let stream = self.stream.clone();
        match self.stream_state {
            StreamState::Erased => Err(RepositoryErrorKind::Erased { stream }.into()),
            _ => Ok(()),
        }
    }

    /// Begins from a kept state; the event of its version still has to be seen.
    pub(crate) fn begin_from(&mut self, state: A, version: StreamVersion, event: EventId) {
        self.state = state;
        self.version = version;
        self.last_event = event;
        self.snapshot = version;
    }

    pub(crate) fn seen(&mut self, checkpoint: Checkpoint) {
        self.checkpoint = checkpoint;
    }

    pub(crate) fn kept(&mut self) {
        self.snapshot = self.version;
    }

    /// Takes in a stored event of its stream.
    pub(crate) fn absorb(&mut self, event: &RecordedEvent) -> Result<(), RepositoryError> {
        if event.stream() != &self.stream || event.version() != self.version.next() {
            let reason = format!(
                "version {} of stream {} was read where version {} of {} belongs",
                event.version(),
                event.stream(),
                self.version.next(),
                self.stream,
            );
            return Err(
                backstory_event::StoreError::new(StoreErrorKind::Corrupt { reason }).into(),
            );
        }
        if event.is_erased() {
            self.stream_state = StreamState::Erased;
        } else {
            match event.lifecycle() {
                None => self.absorb_fact(event)?,
                Some(Lifecycle::Tagged) => {}
                Some(Lifecycle::Deleted) => self.stream_state = StreamState::Deleted,
                Some(Lifecycle::Restored) => self.stream_state = StreamState::Live,
                Some(Lifecycle::Erased) => {
                    // Pages read before the erasure may have held what is gone now.
                    self.state = A::default();
                    self.stream_state = StreamState::Erased;
                }
            }
        }
        self.version = event.version();
        self.last_event = event.id();
        Ok(())
    }

    fn absorb_fact(&mut self, event: &RecordedEvent) -> Result<(), RepositoryError> {
        match fact::<A>(event)? {
            Decoded::One(fact) => self.state.apply(&fact),
            Decoded::Parts(parts) => parts.iter().for_each(|part| self.state.apply(part)),
            Decoded::Unknown => {}
        }
        Ok(())
    }

    /// Turns the draft into an append. It stays in doubt until [`Self::stored`] or
    /// [`Self::not_stored`].
    pub(crate) fn prepare(
        &mut self,
        save: crate::Save<A>,
        lookups: &[Arc<dyn Indexing<A>>],
    ) -> Result<(), Invalid> {
        let changes = self.draft.changes.iter().chain(&save.added);
        let events = changes
            .clone()
            .map(|change| change.encode(&save.metadata, &save.tags))
            .collect::<Result<Vec<_>, _>>()?;
        let expected = ExpectedVersion::Exact(self.version);
        let mut append = Append::to(self.stream.clone(), expected, events);
        append.companions.clone_from(&self.draft.companions);
        for lookup in lookups {
            let mut events = changes.clone().filter_map(Change::as_event);
            append
                .companions
                .extend(lookup.companions(&mut events, &self.stream));
        }
        append.conditions.clone_from(&self.draft.conditions);
        self.in_doubt = Some(InDoubt {
            append,
            draft: std::mem::take(&mut self.draft),
            added: save.added,
        });
        Ok(())
    }

    /// The append in doubt is stored.
    pub(crate) fn stored(&mut self, checkpoint: Checkpoint) {
        let Some(sent) = self.in_doubt.take() else {
            return;
        };
        for event in sent.append.events() {
            self.version = self.version.next();
            self.last_event = event.id;
        }
        for change in &sent.added {
            if let Some(event) = change.as_event() {
                self.state.apply(event);
            }
        }
        self.checkpoint = checkpoint;
    }

    /// The append in doubt is not stored and never will be: it is a draft again.
    pub(crate) fn not_stored(&mut self) {
        if let Some(sent) = self.in_doubt.take() {
            let newer = std::mem::replace(&mut self.draft, sent.draft);
            self.draft.changes.extend(newer.changes);
            self.draft.companions.extend(newer.companions);
            self.draft.conditions.extend(newer.conditions);
        }
    }
}

/// What a stored event of an aggregate's stream says; `Unknown` if it may be passed over.
pub(crate) fn fact<A: Aggregate>(
    event: &RecordedEvent,
) -> Result<Decoded<A::Event>, RepositoryError> {
    use backstory_event::DecodeEvent;
    let decoded = A::Event::decode_stored(event.name(), event.schema_version(), event.payload())
        .map_err(|reason| RepositoryErrorKind::Decode(event.decode_error(reason)))?;
    if matches!(decoded, Decoded::Unknown) && !A::Event::ignored().contains(&event.name()) {
        return Err(RepositoryErrorKind::UnknownEvent {
            stream: event.stream().clone(),
            name: event.name().to_owned(),
            position: event.position(),
        }
        .into());
    }
    Ok(decoded)
}

impl<A: Aggregate> Deref for Loaded<A> {
    type Target = A;

    fn deref(&self) -> &A {
        &self.state
    }
}

impl<A: Aggregate> fmt::Debug for Loaded<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Loaded")
            .field("stream", &self.stream)
            .field("version", &self.version)
            .field("state", &self.stream_state)
            .field(
                "changes",
                &self.changes().map(Event::name).collect::<Vec<_>>(),
            )
            .finish_non_exhaustive()
    }
}
