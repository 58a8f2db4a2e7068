//! Stores what was recorded.

use std::time::Duration;

use backstory_event::{Aggregate, Appended};

use super::Repository;
use crate::{
    Loaded, RepositoryError, RepositoryErrorKind, Save, SnapshotRecord,
    attempts::{send, within},
    options::Deadline,
    turns::Turn,
};

impl<A: Aggregate> Repository<A> {
    /// Stores the recorded events, if the aggregate is still at the version that was loaded.
    ///
    /// The receipt of a save without recorded events stores nothing and names the newest place
    /// that the load has seen. While the outcome is unknown the same events are sent again; when
    /// it stays unknown, or this future is dropped, saving the same `loaded` again sends them
    /// with the same ids, so that they are stored once.
    ///
    /// # Errors
    /// A conflict when another writer was first (load again and decide again), `Vetoed` by a
    /// hook, `Deleted`, `Erased`, or the store's error.
    pub async fn save(&self, loaded: &mut Loaded<A>) -> Result<Appended, RepositoryError> {
        let deadline = Deadline::after(self.options.deadline);
        self.save_until(loaded, deadline, &mut None).await
    }

    /// Ends the turn before hooks run: they may update the same aggregate.
    pub(super) async fn save_until(
        &self,
        loaded: &mut Loaded<A>,
        deadline: Deadline,
        turn: &mut Option<Turn<A>>,
    ) -> Result<Appended, RepositoryError> {
        let mut receipt = None;
        if loaded.in_doubt().is_some() {
            receipt = Some(self.send(loaded, deadline, turn).await?);
        }
        if loaded.has_draft() {
            let stream = loaded.stream().clone();
            let prepared = within(deadline, Duration::ZERO, self.prepare(loaded)).await;
            prepared.unwrap_or_else(|| Err(RepositoryErrorKind::TimedOut { stream }.into()))?;
            receipt = Some(self.send(loaded, deadline, turn).await?);
        }
        Ok(receipt.unwrap_or_else(|| Appended::nothing(loaded.checkpoint())))
    }

    async fn prepare(&self, loaded: &mut Loaded<A>) -> Result<(), RepositoryError> {
        let mut save = Save::new(self.metadata.clone());
        for hook in &self.hooks {
            if let Err(veto) = hook.before(loaded, &mut save).await {
                let stream = loaded.stream().clone();
                let reason = veto.to_string();
                let kind = RepositoryErrorKind::Vetoed { stream, reason };
                return Err(RepositoryError::new(kind).with_source(veto));
            }
        }
        Ok(loaded.prepare(save, &self.lookups)?)
    }

    /// Sends what was prepared, until its outcome is known.
    async fn send(
        &self,
        loaded: &mut Loaded<A>,
        deadline: Deadline,
        turn: &mut Option<Turn<A>>,
    ) -> Result<Appended, RepositoryError> {
        let Some(append) = loaded.in_doubt() else {
            return Ok(Appended::nothing(loaded.checkpoint()));
        };
        match send(&*self.store, append, &self.options, deadline).await {
            Ok(receipt) => {
                loaded.stored(receipt.checkpoint);
                if !self.hooks.is_empty() {
                    *turn = None;
                }
                self.after(loaded, &receipt).await;
                Ok(receipt)
            }
            Err(error) => {
                if !error.is_outcome_unknown() {
                    loaded.not_stored();
                }
                Err(error.into())
            }
        }
    }

    /// The events are stored: from here on nothing fails the save.
    async fn after(&self, loaded: &mut Loaded<A>, receipt: &Appended) {
        for hook in &self.hooks {
            if let Err(error) = hook.after(loaded, receipt).await {
                tracing::warn!(stream = %loaded.stream(), %error, "a hook failed after a save");
            }
        }
        let Some(snapshots) = &self.snapshots else {
            return;
        };
        if loaded.has_draft() || !snapshots.is_due(loaded.snapshot(), loaded.version()) {
            return;
        }
        let kept = match (snapshots.encode)(loaded.state()) {
            Ok(state) => {
                let record = SnapshotRecord {
                    stream: loaded.stream().clone(),
                    version: loaded.version(),
                    event_id: loaded.last_event(),
                    shape: snapshots.shape,
                    state,
                };
                snapshots.store.save_snapshot(record).await
            }
            Err(invalid) => Err(invalid.into()),
        };
        match kept {
            Ok(()) => loaded.kept(),
            Err(error) => {
                tracing::warn!(stream = %loaded.stream(), %error, "a snapshot was not kept");
            }
        }
    }
}
