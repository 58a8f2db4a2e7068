//! What a saboteur does to snapshots, lookups, checkpoints and documents.

use async_trait::async_trait;
use backstory_aggregate::{
    LookupFilter, LookupQuery, LookupRepair, LookupRow, LookupStore, SnapshotRecord, SnapshotStore,
};
use backstory_event::{
    Conflict, EventStoreExt, Payload, Position, StoreError, StreamId, StreamVersion,
};
use backstory_projection::{
    Beat, Checkpoints, CommitError, Control, DeadLetter, DeadLetters, DocumentKey, DocumentList,
    DocumentRow, DocumentStore, DocumentWrite, Documents, Enlisted, InlineProjection, Inlines,
    LetterCount, LetterQuery, LetterWrite, OrderKind, OrderOutcome, Progress, ProjectionRow, Seat,
    Step, Target, Turn, TurnKind,
};
use uuid::Uuid;

use super::{Sabotage, Saboteur};
use crate::CompleteStore;

#[async_trait]
impl<S: CompleteStore> SnapshotStore for Saboteur<S> {
    async fn save_snapshot(&self, snapshot: SnapshotRecord) -> Result<(), StoreError> {
        if self.sabotage == Some(Sabotage::KeepsSnapshots) {
            let mut notes = self.notes.lock().unwrap();
            notes
                .snapshots
                .insert(snapshot.stream.clone(), snapshot.clone());
        }
        self.inner.save_snapshot(snapshot).await
    }

    async fn latest_snapshot(
        &self,
        stream: &StreamId,
        up_to: Option<StreamVersion>,
    ) -> Result<Option<SnapshotRecord>, StoreError> {
        let found = self.inner.latest_snapshot(stream, up_to).await?;
        Ok(found.or_else(|| self.notes.lock().unwrap().snapshots.get(stream).cloned()))
    }

    async fn delete_snapshots(&self, stream: &StreamId) -> Result<(), StoreError> {
        self.inner.delete_snapshots(stream).await
    }
}

#[async_trait]
impl<S: CompleteStore> LookupStore for Saboteur<S> {
    async fn lookup_rows(&self, query: &LookupQuery) -> Result<Vec<LookupRow>, StoreError> {
        let mut query = query.clone();
        if self.sabotage == Some(Sabotage::FindsByBeginnings)
            && let LookupFilter::Value(value) = query.filter
        {
            query.filter = LookupFilter::Prefix(value);
        }
        self.inner.lookup_rows(&query).await
    }

    async fn repair_lookup(
        &self,
        repairs: &[LookupRepair],
    ) -> Result<Vec<Result<(), Conflict>>, StoreError> {
        let mut repairs = repairs.to_vec();
        if self.sabotage == Some(Sabotage::RepairsBlindly) {
            for repair in &mut repairs {
                let info = self.inner.stream_info(&repair.owner).await?;
                repair.version = info.map_or(StreamVersion::EMPTY, |info| info.version);
            }
        }
        self.inner.repair_lookup(&repairs).await
    }
}

#[async_trait]
impl<S: CompleteStore> Checkpoints for Saboteur<S> {
    async fn load_progress(&self, projection: &str) -> Result<Progress, StoreError> {
        self.inner.load_progress(projection).await
    }

    async fn list_progress(&self) -> Result<Vec<Progress>, StoreError> {
        self.inner.list_progress().await
    }
}

#[async_trait]
impl<S: CompleteStore> Control for Saboteur<S> {
    async fn beat(&self, beat: &Beat) -> Result<Vec<Seat>, StoreError> {
        self.inner.beat(beat).await
    }

    async fn leave(&self, owner: Uuid) -> Result<(), StoreError> {
        self.inner.leave(owner).await
    }

    async fn list_projections(&self) -> Result<Vec<ProjectionRow>, StoreError> {
        self.inner.list_projections().await
    }

    async fn order(&self, projection: &str, kind: &OrderKind) -> Result<Option<i64>, StoreError> {
        self.inner.order(projection, kind).await
    }

    async fn order_outcome(&self, id: i64) -> Result<OrderOutcome, StoreError> {
        self.inner.order_outcome(id).await
    }

    async fn withdraw_order(&self, id: i64) -> Result<OrderOutcome, StoreError> {
        self.inner.withdraw_order(id).await
    }
}

#[async_trait]
impl<S: CompleteStore> DeadLetters for Saboteur<S> {
    async fn list_letters(&self, query: &LetterQuery) -> Result<Vec<DeadLetter>, StoreError> {
        let mut query = query.clone();
        if self.sabotage == Some(Sabotage::RepeatsLetters) {
            query.after = Position::new(query.after.get() - 1);
        }
        self.inner.list_letters(&query).await
    }

    async fn count_letters(&self, projection: &str) -> Result<LetterCount, StoreError> {
        self.inner.count_letters(projection).await
    }

    async fn parked_keys(
        &self,
        projection: &str,
        keys: &[String],
    ) -> Result<Vec<String>, StoreError> {
        if self.sabotage == Some(Sabotage::UnparksKeys) {
            return Ok(Vec::new());
        }
        self.inner.parked_keys(projection, keys).await
    }
}

#[async_trait]
impl<S: CompleteStore> DocumentStore for Saboteur<S> {
    async fn get_documents(
        &self,
        keys: &[DocumentKey],
    ) -> Result<Vec<Option<Payload>>, StoreError> {
        self.inner.get_documents(keys).await
    }

    async fn list_documents(&self, list: &DocumentList) -> Result<Vec<DocumentRow>, StoreError> {
        self.inner.list_documents(list).await
    }

    async fn commit_documents(
        &self,
        mut writes: Vec<DocumentWrite>,
        step: &Step,
    ) -> Result<(), CommitError> {
        let mut step = step.clone();
        match self.sabotage {
            Some(Sabotage::IgnoresFences) => step.from = self.current(&step).await?,
            Some(Sabotage::LosesLetters) => step.letters.clear(),
            Some(Sabotage::KeepsLetters) => {
                let is_put = |write: &LetterWrite| matches!(write, LetterWrite::Put(_));
                step.letters.retain(is_put);
            }
            Some(Sabotage::ForgetsCheckpoints) => {
                step.to = Target::Advance(step.from.checkpoint);
            }
            Some(Sabotage::KeepsDocuments) => {
                for write in &mut writes {
                    if let DocumentWrite::Put { owner, .. } = write {
                        *owner = None;
                    }
                }
            }
            _ => {}
        }
        let outcome = self.inner.commit_documents(writes.clone(), &step).await;
        if self.sabotage == Some(Sabotage::WritesWhatIsFenced) && outcome.is_err() {
            let from = self.current(&step).await?;
            let to = Target::Advance(from.checkpoint);
            self.inner
                .commit_documents(writes, &Step::new(from, to))
                .await?;
        }
        outcome
    }

    async fn turn_documents(&self, turn: &Turn) -> Result<Progress, CommitError> {
        if self.sabotage == Some(Sabotage::SwapsNothing) && turn.kind == TurnKind::Swap {
            let mut result = turn.from.clone();
            result.epoch += 1;
            return Ok(result);
        }
        self.inner.turn_documents(turn).await
    }

    fn enlist_documents(
        &self,
        projection: InlineProjection<Documents>,
    ) -> Result<Enlisted, StoreError> {
        match self.sabotage {
            Some(Sabotage::RunsNothingInline) => Ok(Inlines::default().enlist(projection)),
            _ => self.inner.enlist_documents(projection),
        }
    }
}

impl<S: CompleteStore> Saboteur<S> {
    async fn current(&self, step: &Step) -> Result<Progress, StoreError> {
        self.inner.load_progress(&step.from.projection).await
    }
}
