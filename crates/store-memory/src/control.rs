//! Who leads which projection, how it is doing, and what is wanted of it.

use async_trait::async_trait;
use backstory_event::StoreError;
use backstory_projection::{Beat, Control, OrderKind, OrderOutcome, ProjectionRow, Seat};
use uuid::Uuid;

use crate::MemoryStore;

#[async_trait]
impl Control for MemoryStore {
    async fn beat(&self, beat: &Beat) -> Result<Vec<Seat>, StoreError> {
        let now = self.0.options.clock.now();
        Ok(self.with(|state| state.documents.beat(now, beat)))
    }

    async fn leave(&self, owner: Uuid) -> Result<(), StoreError> {
        self.with(|state| state.documents.roster.leave(owner));
        Ok(())
    }

    async fn list_projections(&self) -> Result<Vec<ProjectionRow>, StoreError> {
        let now = self.0.options.clock.now();
        Ok(self.with(|state| {
            let documents = &state.documents;
            documents.roster.rows(now, |name| documents.progress(name))
        }))
    }

    async fn order(&self, projection: &str, kind: &OrderKind) -> Result<Option<i64>, StoreError> {
        Ok(self.with(|state| state.documents.roster.order(projection, kind)))
    }

    async fn order_outcome(&self, id: i64) -> Result<OrderOutcome, StoreError> {
        Ok(self.with(|state| state.documents.roster.outcome(id)))
    }

    async fn withdraw_order(&self, id: i64) -> Result<OrderOutcome, StoreError> {
        Ok(self.with(|state| state.documents.roster.withdraw(id)))
    }
}
