//! A projection's task, as those see it who have the projector.

use backstory_event::Position;

use super::{
    ProjectionStatus, RebuildStatus,
    board::{Command, Mode, Remote, Snapshot},
    error::{ProjectorError, ProjectorErrorKind},
};
use crate::owner;

impl Remote {
    /// Waits until the read model contains a position.
    pub(super) async fn reach(&self, position: Position) -> Result<(), ProjectorError> {
        let _waiting = self.waiters.register(position);
        self.until(|snapshot| snapshot.reached >= position).await
    }

    pub(super) async fn until_finished(&self) -> Result<(), ProjectorError> {
        self.until(|snapshot| snapshot.mode == Mode::Finished).await
    }

    /// Waits for a state, unless it will not come by itself soon.
    async fn until(&self, there: impl Fn(&Snapshot) -> bool) -> Result<(), ProjectorError> {
        let mut snapshots = self.snapshot.clone();
        loop {
            {
                let snapshot = snapshots.borrow_and_update();
                if there(&snapshot) {
                    return Ok(());
                }
                if let Some(trouble) = snapshot.trouble(&self.name) {
                    return Err(trouble);
                }
            }
            if snapshots.changed().await.is_err() {
                return Err(self.ended());
            }
        }
    }

    /// The projection that it is a part of.
    pub(super) fn owner(&self) -> &str {
        owner(&self.name)
    }

    /// True when another process leads the projection.
    pub(super) fn stands_by(&self) -> bool {
        self.snapshot.borrow().standby
    }

    pub(super) async fn send(&self, command: Command) -> Result<(), ProjectorError> {
        let sent = self.commands.send(command).await;
        sent.map_err(|_| self.ended())
    }

    pub(super) fn ended(&self) -> ProjectorError {
        let snapshot = self.snapshot.borrow();
        let ended = Snapshot {
            mode: Mode::Ended,
            ..snapshot.clone()
        };
        ProjectorError::with_source(
            ProjectorErrorKind::Stopped {
                projection: self.name.clone(),
                after: ended.reached,
                reason: "the projector was shut down".to_owned(),
            },
            None,
        )
    }

    /// Waits until the task has ended.
    pub(super) async fn until_ended(&self) {
        let mut snapshots = self.snapshot.clone();
        while snapshots.changed().await.is_ok() {}
    }

    pub(crate) fn has_ended(&self) -> bool {
        self.snapshot.has_changed().is_err()
    }

    pub(super) fn status(&self, head: Position) -> ProjectionStatus {
        let snapshot = self.snapshot.borrow();
        ProjectionStatus {
            name: self.owner().to_owned(),
            checkpoint: snapshot.checkpoint,
            reached: snapshot.reached,
            head,
            lag: head.get().abs_diff(snapshot.reached.get()),
            buffered: snapshot.buffered,
            state: snapshot.state(),
            events_projected: snapshot.events,
            batches: snapshot.batches,
            dead_letters: snapshot.left_out.map(|count| count.letters),
            parked_keys: snapshot.left_out.map(|count| count.parked_keys),
            rebuild: self.rebuild(head),
        }
    }

    fn rebuild(&self, head: Position) -> Option<RebuildStatus> {
        let snapshot = self.beside.as_ref()?.borrow();
        (!snapshot.standby).then(|| RebuildStatus {
            reached: snapshot.reached,
            lag: head.get().abs_diff(snapshot.reached.get()),
            state: snapshot.state(),
            events_projected: snapshot.events,
        })
    }
}
