//! What can be asked of the projections of a running projector, wherever they are led.

use std::{pin::pin, sync::Arc};

use backstory_event::EventStoreExt as _;
use tokio::sync::oneshot;

use super::{
    RunningProjector,
    board::{Command, Remote},
    error::{ProjectorError, ProjectorErrorKind},
};
use crate::{Done, Operator, OperatorError, OrderKind, Start};

impl RunningProjector {
    /// Lets a projection run now, whatever its schedule says, in the process that leads it. Returns
    /// before it has run.
    ///
    /// # Errors
    /// When there is no such projection, it has ended, or the store is away.
    pub async fn trigger(&self, name: &str) -> Result<(), ProjectorError> {
        let parts = self.parts(name)?;
        let head = self.log.head().await?;
        for remote in parts {
            match remote.stands_by() {
                true => self
                    .ask(remote, &remote.name, &OrderKind::Trigger)
                    .await
                    .map(drop)?,
                false => remote.send(Command::Trigger(head.position)).await?,
            }
        }
        Ok(())
    }

    /// Empties a projection's read model and builds it again from the start of the log. Returns
    /// when it is empty; [`Self::catch_up`] waits for the rest. Also the way on after the log
    /// diverged.
    ///
    /// # Errors
    /// When there is no such projection, it cannot be reset, it has ended, or the store is away.
    pub async fn reset(&self, name: &str) -> Result<(), ProjectorError> {
        let [remote] = self.parts(name)?[..] else {
            return self.order(name, OrderKind::Reset).await.map(drop);
        };
        if remote.stands_by() {
            return self.order(name, OrderKind::Reset).await.map(drop);
        }
        let (answer, outcome) = oneshot::channel();
        remote.send(Command::Reset(answer)).await?;
        outcome.await.map_err(|_| remote.ended())?
    }

    /// Pauses a projection, after the batch that it may be at, in the process that leads it. It
    /// stays paused until it is resumed, also after a restart.
    ///
    /// # Errors
    /// When there is no such projection, it has ended, or the store is away.
    pub async fn pause(&self, name: &str) -> Result<(), ProjectorError> {
        self.order(name, OrderKind::Pause).await.map(drop)
    }

    /// Lets a projection go on, in the process that leads it: one that is paused, has stopped, or
    /// waits after a failure.
    ///
    /// # Errors
    /// When there is no such projection, it has ended, or the store is away.
    pub async fn resume(&self, name: &str) -> Result<(), ProjectorError> {
        self.order(name, OrderKind::Resume).await.map(drop)
    }

    /// As [`Operator::rewind`](crate::Operator::rewind).
    ///
    /// # Errors
    /// When there is no such projection, it has not come that far, it has ended, or the store is
    /// away.
    pub async fn rewind(&self, name: &str, to: Start) -> Result<(), ProjectorError> {
        self.order(name, OrderKind::Rewind(to)).await.map(drop)
    }

    /// As [`Operator::rebuild`](crate::Operator::rebuild).
    ///
    /// # Errors
    /// When there is no such projection, it cannot be rebuilt or is being so already, it has ended,
    /// or the store is away.
    pub async fn rebuild(&self, name: &str) -> Result<(), ProjectorError> {
        self.order(name, OrderKind::Rebuild).await.map(drop)
    }

    /// As [`Operator::abort_rebuild`](crate::Operator::abort_rebuild).
    ///
    /// # Errors
    /// When there is no such projection, it is not being rebuilt, it has ended, or the store is
    /// away.
    pub async fn abort_rebuild(&self, name: &str) -> Result<(), ProjectorError> {
        self.order(name, OrderKind::AbortRebuild).await.map(drop)
    }

    /// As [`Operator::roll_back`](crate::Operator::roll_back).
    ///
    /// # Errors
    /// When there is no such projection, no previous read model, it has ended, or the store is
    /// away.
    pub async fn roll_back(&self, name: &str) -> Result<(), ProjectorError> {
        self.order(name, OrderKind::RollBack).await.map(drop)
    }

    /// As [`Operator::drop_previous`](crate::Operator::drop_previous).
    ///
    /// # Errors
    /// When there is no such projection, no previous read model, it has ended, or the store is
    /// away.
    pub async fn drop_previous(&self, name: &str) -> Result<(), ProjectorError> {
        self.order(name, OrderKind::DropPrevious).await.map(drop)
    }

    /// Waits until a rebuild has ended, in whatever process it runs.
    ///
    /// # Errors
    /// When there is no such projection, its rebuild was aborted or does nothing any more after an
    /// error, or the store is away.
    pub async fn rebuilt(&self, name: &str) -> Result<(), ProjectorError> {
        self.parts(name)?;
        let operator = Operator::over(Arc::clone(&self.control), Some(Arc::clone(&self.pulse)))
            .with_patience(self.options.deadline);
        let rebuilt = operator.rebuilt(name, |_| {}).await;
        rebuilt.map_err(|error| refused(error, &OrderKind::Rebuild))
    }

    /// Tells whoever leads the projection.
    pub(super) async fn order(&self, name: &str, kind: OrderKind) -> Result<Done, ProjectorError> {
        match self.parts(name)?.first() {
            Some(remote) => self.ask(remote, name, &kind).await,
            None => Err(self.unknown(name)),
        }
    }

    async fn ask(
        &self,
        remote: &Remote,
        name: &str,
        kind: &OrderKind,
    ) -> Result<Done, ProjectorError> {
        if remote.has_ended() {
            return Err(remote.ended());
        }
        let operator = Operator::over(Arc::clone(&self.control), Some(Arc::clone(&self.pulse)))
            .with_patience(self.options.deadline);
        let asked = operator.ask(name, kind);
        let mut snapshots = remote.snapshot.clone();
        let mut ended = pin!(async { while snapshots.changed().await.is_ok() {} });
        tokio::select! {
            answer = asked => answer.map_err(|error| refused(error, kind)),
            () = &mut ended => Err(remote.ended()),
        }
    }
}

/// What an operator's error is to somebody who has the projector.
fn refused(error: OperatorError, kind: &OrderKind) -> ProjectorError {
    match error {
        OperatorError::Unknown { projection, known } => {
            ProjectorError::new(ProjectorErrorKind::UnknownProjection { projection, known })
        }
        OperatorError::Unanswered {
            projection,
            patience,
        } => ProjectorError::new(ProjectorErrorKind::Unanswered {
            projection,
            order: kind.as_str(),
            deadline: patience,
        }),
        OperatorError::Failed { projection, reason } if *kind == OrderKind::Reset => {
            ProjectorError::new(ProjectorErrorKind::NotReset { projection, reason })
        }
        OperatorError::Failed { projection, reason } => {
            ProjectorError::new(ProjectorErrorKind::Refused {
                projection,
                order: kind.as_str(),
                reason,
            })
        }
        OperatorError::Store(error) => error.into(),
    }
}
