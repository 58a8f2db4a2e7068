//! Building a new read model beside the live one. Each projection has a second task for it, which
//! stands by until the store has a progress for the new read model; it works where the live one is
//! led, with the same code, an engine of its own and a progress of its own. When it has caught up,
//! the live task lets the two change places, between two batches.

use std::{sync::Arc, time::Duration};

use backstory_event::Position;
use tokio::sync::{mpsc, oneshot, watch};

use super::{
    board::{Command, Snapshot},
    error::Elsewhere,
    orders::Change,
    task::Task,
};
use crate::{OrderKind, Progress, TurnKind, engine::Time};

/// The new read model has caught up when it is so near to the end of the log.
const NEAR: i64 = 1_000;
/// How often it looks whether it has passed the live one.
const PAUSE: Duration = Duration::from_millis(20);
/// How long it waits when the two could not change places.
const LONG_PAUSE: Duration = Duration::from_millis(500);

/// The other task of the same projection.
pub(crate) enum Other {
    /// This one is the live one, or its first part.
    Beside(mpsc::Sender<Command>),
    /// This one is another part.
    Part,
    /// This one builds the new read model.
    Live(Live),
}

/// The live one.
pub(crate) struct Live {
    pub(crate) snapshot: watch::Receiver<Snapshot>,
    pub(crate) commands: mpsc::Sender<Command>,
    /// It is not asked again before.
    pub(crate) not_before: Time,
}

impl Task {
    /// True when it builds a read model that is not wanted any more.
    pub(super) fn is_gone(&self, progress: &Progress) -> bool {
        matches!(self.other, Other::Live(_)) && progress.epoch == 0
    }

    pub(super) fn give_up(&mut self, progress: Progress) {
        let stored = progress.checkpoint.position;
        self.rewind(progress, None);
        self.engine.stands_by(self.time.now(), stored);
        self.error = None;
    }

    /// If this is a new read model that has caught up: lets it take the place of the live one. True
    /// when it has.
    pub(super) async fn offer(&mut self) -> bool {
        let Other::Live(live) = &mut self.other else {
            return false;
        };
        let now = self.time.now();
        let stored = self.progress.checkpoint.position;
        let near = self.source.head().get() - stored.get() <= NEAR;
        let passed = stored >= live.snapshot.borrow().checkpoint.position;
        let idle = self.engine.is_standby() || self.engine.is_closing();
        if idle || !near || !passed || stored == Position::START || now < live.not_before {
            return false;
        }
        let (answer, swapped) = oneshot::channel();
        // Whoever does not answer is ending.
        let swapped = match live.commands.send(Command::Swap(answer)).await {
            Ok(()) => swapped.await.ok(),
            Err(_) => None,
        };
        live.not_before = now + LONG_PAUSE;
        match swapped {
            Some(Ok(())) => {
                self.give_up(Progress::start(self.worker.name()));
                return true;
            }
            Some(Err(reason)) => {
                let reason = format!("it has caught up and cannot take over: {reason}");
                self.failed(Arc::new(Elsewhere(reason)));
            }
            None => {}
        }
        false
    }

    /// Until when a task waits at most: one that has caught up looks again after the live one.
    pub(super) fn until_offer(&mut self, until: Option<Time>) -> Option<Time> {
        let Other::Live(live) = &self.other else {
            return until;
        };
        let near = self.source.head().get() - self.progress.checkpoint.position.get() <= NEAR;
        if !near || self.engine.is_standby() {
            return until;
        }
        let look = live.not_before.max(self.time.now() + PAUSE);
        Some(until.map_or(look, |until| until.min(look)))
    }

    /// Changes which read model is the live one. Answers with the progress that it has then, or why
    /// it could not be.
    pub(super) async fn turn(&mut self, kind: TurnKind) -> Result<Progress, String> {
        let head = self.source.head();
        let (before, turned) = self.change(Change::Turn(kind)).await?;
        match kind {
            // The read model is another one.
            TurnKind::Swap | TurnKind::RollBack => {
                self.moved(turned.clone(), None);
                let stored = turned.checkpoint.position;
                self.engine.moved(self.time.now(), stored, head);
                // When the store is away it is asked again with the next batch.
                let _ = self.know_letters().await;
            }
            // What is buffered still follows the checkpoint, unless somebody else has moved that.
            _ if self.progress == before => self.progress = turned.clone(),
            _ => self.engine.fenced(self.time.now()),
        }
        self.pulse.now.notify_one();
        Ok(turned)
    }

    /// A rebuild that has stopped or waits after a failure goes on too.
    pub(super) fn resume_beside(&mut self) {
        if let Other::Beside(commands) = &self.other {
            let (answer, _) = oneshot::channel();
            // With a full queue it has been told a lot already.
            let _ = commands.try_send(Command::Order(OrderKind::Resume, answer));
        }
    }
}
