//! One projection of many.

use std::time::Duration;

use super::{Awaited, ProjectionStatus, ProjectorError, RunningProjector};

/// One projection of a [`RunningProjector`].
#[derive(Debug, Clone, Copy)]
pub struct OneProjection<'a> {
    pub(super) projector: &'a RunningProjector,
    pub(super) name: &'a str,
}

impl OneProjection<'_> {
    /// As [`RunningProjector::caught_up`], for this projection, whether it wants the events or not.
    ///
    /// # Errors
    /// As [`RunningProjector::caught_up`], and when there is no such projection.
    pub async fn caught_up(&self, receipt: impl Into<Awaited>) -> Result<(), ProjectorError> {
        let deadline = self.projector.options.deadline;
        self.caught_up_within(receipt, deadline).await
    }

    /// As [`Self::caught_up`], with a deadline.
    ///
    /// # Errors
    /// As [`Self::caught_up`].
    pub async fn caught_up_within(
        &self,
        receipt: impl Into<Awaited>,
        deadline: Duration,
    ) -> Result<(), ProjectorError> {
        let parts = self.projector.parts(self.name)?;
        let awaited = receipt.into();
        self.projector
            .wait(parts.into_iter(), &awaited, deadline)
            .await
    }

    /// How it is doing.
    ///
    /// # Errors
    /// When there is no such projection.
    pub fn status(&self) -> Result<ProjectionStatus, ProjectorError> {
        let status = self.projector.status().into_iter();
        let mut status = status.filter(|status| status.name == self.name);
        status
            .next()
            .ok_or_else(|| self.projector.unknown(self.name))
    }
}
