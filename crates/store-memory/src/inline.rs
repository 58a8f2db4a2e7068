//! Appends with the projections that run inside them. What they make of the append is found without
//! a lock, and stored with it if nothing it rests on has changed meanwhile.

use std::collections::HashSet;

use async_trait::async_trait;
use backstory_event::{
    Append, Appended, Payload, RecordedEvent, StoreError, StoreErrorKind, StreamId,
};
use backstory_projection::{
    CommitError, DocumentKey, DocumentList, DocumentRow, DocumentStore, DocumentWrite, Documents,
    InlinePlace, InlinePlan, InlineProjection, InlineTerms, LetterWrite, Progress, Step, Target,
    Turn,
};
use backstory_store_kit::Decision;

use crate::{MemoryStore, State, documents::commit};

/// How often an append is tried whose projections are moved by others.
const ATTEMPTS: usize = 1_000;

/// What a projection is to do about an append.
struct Run {
    inline: InlineProjection<Documents>,
    place: InlinePlace,
    events: Vec<RecordedEvent>,
    parked: HashSet<String>,
}

/// What it made of it.
struct Done {
    inline: InlineProjection<Documents>,
    events: usize,
    step: Step,
    writes: Vec<DocumentWrite>,
}

fn events(decision: &Decision) -> Vec<RecordedEvent> {
    let rows = decision.events.iter();
    rows.map(|row| RecordedEvent::new(row.recorded.clone()))
        .collect()
}

impl MemoryStore {
    /// Stores an append with what inline projections make of it.
    pub(crate) async fn append_inline(&self, append: &Append) -> Result<Appended, StoreError> {
        let _turn = self.0.turn.lock().await;
        let wanting = self.0.inlines.wanting(std::iter::once(append));
        if wanting.is_empty() {
            return self.store(append);
        }
        for _ in 0..ATTEMPTS {
            if let Some(outcome) = self.attempt(append, &wanting).await? {
                return outcome;
            }
            tokio::task::yield_now().await;
        }
        let reason = "others kept moving its inline projections".to_owned();
        Err(StoreErrorKind::NotStored { reason }.into())
    }

    /// `None` when somebody was faster.
    async fn attempt(
        &self,
        append: &Append,
        wanting: &[InlineProjection<Documents>],
    ) -> Result<Option<Result<Appended, StoreError>>, StoreError> {
        let now = self.0.options.clock.now();
        let (draft, erased, runs) = self.with(|state| {
            let decision = state.log.decide(append, now);
            let events = events(&decision);
            let mut runs = Vec::new();
            for inline in wanting {
                runs.extend(state.run(inline, &events, &decision.erased)?);
            }
            Ok::<_, StoreError>((events, decision.erased, runs))
        })?;
        let mut all = Vec::with_capacity(runs.len());
        for run in runs {
            let inside = Inside {
                store: self.clone(),
                erased: erased.clone(),
            };
            let mut documents = Documents::new(std::sync::Arc::new(inside));
            let projected = run.inline.project(&run.events, &run.parked, &mut documents);
            let terms = run.inline.terms();
            let letters: Vec<LetterWrite> = projected.await.map_err(|error| error.kind(terms))?;
            let to = draft.last().map(RecordedEvent::checkpoint);
            let to = Target::Advance(to.unwrap_or(run.place.progress.checkpoint));
            all.push(Done {
                events: run.events.len(),
                inline: run.inline,
                step: Step::new(run.place.progress, to).with_letters(letters),
                writes: documents.into_writes(),
            });
        }
        Ok(self.with(|state| {
            let decision = state.log.decide(append, now);
            let is_same = |done: &Done| {
                let from = &done.step.from;
                state.documents.progress(&from.projection) == *from
            };
            if events(&decision) != draft || !all.iter().all(is_same) {
                return None;
            }
            let outcome = self.apply(state, decision);
            for Done {
                inline,
                events,
                step,
                writes,
            } in all
            {
                // Nobody can have moved it.
                if commit(state, writes, &step).is_ok() {
                    inline.moved(step.result(), events, step.letters.len());
                }
            }
            Some(outcome)
        }))
    }
}

impl State {
    /// What a projection is to do about these new events; these streams are erased by then.
    fn run(
        &self,
        inline: &InlineProjection<Documents>,
        events: &[RecordedEvent],
        erased: &[StreamId],
    ) -> Result<Option<Run>, StoreError> {
        let terms: &InlineTerms = inline.terms();
        let wanted = terms.wanted(events);
        let Some(first) = events.first().filter(|_| !wanted.is_empty()) else {
            return Ok(None);
        };
        let name = terms.name();
        let parked = self.documents.letters.parked(name);
        let place = InlinePlace {
            progress: self.documents.progress(name),
            paused: self.documents.roster.is_paused(name),
            parks: !parked.is_empty(),
        };
        let base = backstory_event::Position::new(first.position().get() - 1);
        let mut all = match terms.plan(&place, base)? {
            InlinePlan::Skip => return Ok(None),
            InlinePlan::Project => Vec::new(),
            InlinePlan::CatchUp(query) => {
                let page = self.log.read(&query, query.limit.unwrap_or_default())?;
                match terms.missing(&place, page, base)? {
                    Some(missing) => missing,
                    None => return Ok(None),
                }
            }
        };
        all.retain(|event| !erased.contains(event.stream()));
        all.extend(wanted);
        let keys = match place.parks {
            true => inline.keys(&all),
            false => Vec::new(),
        };
        let keys = keys.into_iter().filter(|key| parked.contains(key.as_str()));
        Ok(Some(Run {
            inline: inline.clone(),
            parked: keys.collect(),
            events: all,
            place,
        }))
    }
}

/// Documents as they are once these streams are erased.
#[derive(Debug)]
struct Inside {
    store: MemoryStore,
    erased: Vec<StreamId>,
}

impl Inside {
    fn is_erased(&self, collection: &str, key: &str) -> bool {
        !self.erased.is_empty()
            && self.store.with(|state| {
                let owner = state.documents.owner(collection, key);
                owner.is_some_and(|owner| self.erased.contains(owner))
            })
    }
}

#[async_trait]
impl DocumentStore for Inside {
    async fn get_documents(
        &self,
        keys: &[DocumentKey],
    ) -> Result<Vec<Option<Payload>>, StoreError> {
        let found = self.store.get_documents(keys).await?;
        let living =
            |(found, key): (_, &DocumentKey)| match self.is_erased(&key.collection, &key.key) {
                true => None,
                false => found,
            };
        Ok(found.into_iter().zip(keys).map(living).collect())
    }

    async fn list_documents(&self, list: &DocumentList) -> Result<Vec<DocumentRow>, StoreError> {
        let (mut list, mut rows) = (list.clone(), Vec::new());
        loop {
            let page = self.store.list_documents(&list).await?;
            let last = page.last().filter(|_| page.len() >= list.limit);
            let next = last.map(|row| (row.index_value.clone(), row.key.clone()));
            let living = |row: &DocumentRow| !self.is_erased(&list.collection, &row.key);
            rows.extend(page.into_iter().filter(living));
            match next {
                // A page that is not full would look like the last one.
                Some(next) if rows.len() < list.limit => list.after = Some(next),
                _ => break,
            }
        }
        rows.truncate(list.limit);
        Ok(rows)
    }

    async fn commit_documents(&self, _: Vec<DocumentWrite>, _: &Step) -> Result<(), CommitError> {
        // Its append commits.
        Err(StoreError::new(StoreErrorKind::Closed).into())
    }

    async fn turn_documents(&self, _: &Turn) -> Result<Progress, CommitError> {
        Err(StoreError::new(StoreErrorKind::Closed).into())
    }
}
