//! The task of one projection: does what its engine says.

use std::sync::Arc;

use backstory_event::{
    Checkpoint, EventStore, EventStoreExt, Position, RecordedEvent, StoreErrorKind,
};
use chrono::{DateTime, Utc};
use tokio::sync::{mpsc, watch};
use tracing::Instrument as _;

use super::{
    beats::{Place, Pulse},
    blame,
    board::{Command, Mode, Snapshot, Waiters},
    error::{Elsewhere, SharedError, chain},
    inlined::{self, News},
    rebuild::Other,
    source::Source,
    start,
    time::Timeline,
    worker::{Batch, BatchError, Failure, Worker},
};
use crate::{
    Checkpoints, DeadLetters, LetterCount, Progress, Start, TurnKind,
    engine::{Action, Engine},
};

/// The most bytes of payload that a projection buffers, whatever its batch size.
const MAX_BYTES: usize = 16 << 20;

pub(crate) struct Task {
    pub(crate) worker: Arc<dyn Worker>,
    pub(crate) checkpoints: Arc<dyn Checkpoints>,
    pub(crate) letters: Arc<dyn DeadLetters>,
    /// How many letters there are at [`Self::progress`], if that is known.
    pub(crate) left_out: Option<LetterCount>,
    pub(crate) log: Arc<dyn EventStore>,
    pub(crate) source: Source,
    pub(crate) engine: Engine,
    pub(crate) time: Timeline,
    pub(crate) progress: Progress,
    pub(crate) buffer: Vec<RecordedEvent>,
    pub(crate) bytes: usize,
    /// What it has stored.
    pub(crate) events: u64,
    pub(crate) batches: u64,
    pub(crate) error: Option<SharedError>,
    /// Why the projection's code failed last.
    pub(crate) blamed: Option<SharedError>,
    pub(crate) snapshot: watch::Sender<Snapshot>,
    pub(crate) waiters: Arc<Waiters>,
    pub(crate) commands: mpsc::Receiver<Command>,
    pub(crate) place: watch::Receiver<Place>,
    /// The place that was taken last.
    pub(crate) term: i64,
    pub(crate) at: Option<DateTime<Utc>>,
    pub(crate) start: Start,
    /// Where [`Start::Now`] is, until it is stored.
    pub(crate) now: Option<Checkpoint>,
    pub(crate) pulse: Arc<Pulse>,
    /// The end of the log when the projector is to shut down.
    pub(crate) closing: watch::Receiver<Option<Position>>,
    pub(crate) other: Other,
    /// Where appends have taken it, when it is inline.
    pub(crate) inline: Option<News>,
}

impl Task {
    /// Runs until the projector is shut down. Dropped at any moment, it loses nothing: what
    /// counts is in the store.
    pub(crate) async fn run(mut self) {
        loop {
            self.engine.awaited(self.waiters.highest());
            let action = self.engine.next(self.time.now());
            self.publish(false);
            if self.offer().await {
                continue;
            }
            match action {
                Action::Run => self.run_batch(None).await,
                Action::LeaveOut => self.leave_out().await,
                Action::FindHead => match self.log.head().await {
                    Ok(head) => self.engine.head_found(head.position),
                    Err(error) => self.failed(Arc::new(error)),
                },
                Action::Reload => self.reload().await,
                Action::Wait(until) => {
                    let until = self.until_offer(until);
                    self.wait(until).await;
                }
                Action::Stop => break,
            }
        }
        self.publish(true);
    }

    async fn wait(&mut self, until: Option<crate::engine::Time>) {
        let room = self.engine.room();
        tokio::select! {
            biased;
            head = closed(&mut self.closing), if !self.engine.is_closing() => {
                self.engine.close(head);
            }
            Ok(()) = self.place.changed() => {
                self.take_place();
                if !self.engine.is_standby() {
                    // When the store is away it is asked again with the next batch.
                    let _ = self.know_letters().await;
                }
            }
            Some(command) = self.commands.recv() => self.obey(command).await,
            () = self.waiters.changed() => {}
            () = inlined::changed(&mut self.inline) => self.follow_appends(),
            () = self.time.sleep_until(until.unwrap_or_default()), if until.is_some() => {}
            filled = self.source.fill(room), if room > 0 => match filled {
                Ok(events) => self.take_in(events),
                Err(error) => self.failed(Arc::new(error)),
            }
        }
    }

    fn take_in(&mut self, mut events: Vec<RecordedEvent>) {
        let part = self.worker.part();
        if let (Some(last), true) = (events.last(), part.count > 1) {
            self.at = Some(last.recorded_at());
            events.retain(|event| part.owns(&self.worker.key(event)));
        }
        self.bytes += bytes(&events);
        self.engine.filled(
            self.time.now(),
            self.source.scanned().position,
            events.first().map(RecordedEvent::position),
            events.len(),
            self.bytes >= MAX_BYTES,
        );
        if let Some(last) = events.last() {
            self.at = Some(last.recorded_at());
        }
        self.buffer.extend(events);
        self.error = None;
    }

    /// Projects what the engine wants of the buffer; with a failure, leaves its first event out.
    pub(super) async fn run_batch(&mut self, failure: Option<Failure>) {
        let portion = match &failure {
            None => self.engine.portion(),
            Some(_) => 1,
        };
        let parked = match self.parked_among(portion).await {
            Ok(parked) => parked,
            Err(error) => return self.failed(Arc::new(error)),
        };
        let events = &self.buffer[..portion];
        let to = match events.last() {
            Some(last) if portion < self.buffer.len() => last.checkpoint(),
            _ => self.source.scanned(),
        };
        let from = &self.progress;
        let span = tracing::debug_span!(
            "backstory.projection.batch",
            projection = self.worker.name(),
            from = from.checkpoint.position.get(),
            to = to.position.get(),
            events = events.len(),
        );
        let batch = Batch {
            from,
            events,
            to,
            parked,
            failure,
            now: self.time.clock(),
        };
        let batch = self.worker.run(batch).instrument(span);
        match batch.await {
            Ok(done) => {
                self.buffer.drain(..done.taken);
                self.bytes = bytes(&self.buffer);
                self.progress = done.progress;
                self.error = None;
                self.count_letters(&done.letters, done.parked);
                self.events += done.projected as u64;
                self.batches += u64::from(done.taken > 0);
                let left = self.buffer.first().map(RecordedEvent::position);
                self.engine.committed(
                    self.time.now(),
                    self.progress.checkpoint.position,
                    left.map(|first| (self.buffer.len(), first)),
                );
            }
            Err(BatchError::Fenced) => {
                tracing::debug!(
                    projection = self.worker.name(),
                    "another process moved the projection"
                );
                self.engine.fenced(self.time.now());
            }
            Err(BatchError::Guilty {
                error,
                events,
                for_good,
            }) => self.batch_failed(error, events, for_good),
            Err(BatchError::Failed(error)) => self.failed(error),
        }
    }

    async fn reload(&mut self) {
        self.engine.saw(self.source.head());
        match self.begin().await {
            Ok(None) => self.now = None,
            // The rebuild has ended: somebody else has swapped or aborted it.
            Ok(Some(gone)) => return self.give_up(gone),
            Err(BatchError::Fenced) => return self.engine.fenced(self.time.now()),
            Err(BatchError::Failed(error) | BatchError::Guilty { error, .. }) => {
                return self.failed(error);
            }
        }
        match self.load().await {
            Ok((progress, _)) if self.is_gone(&progress) => self.give_up(progress),
            Ok((progress, left_out)) => self.rewind(progress, Some(left_out)),
            Err(error) => self.failed(Arc::new(error)),
        }
    }

    /// Moves a progress that is at the start of the log to where the projection begins. If there is
    /// none to be moved, that is the answer.
    pub(super) async fn begin(&mut self) -> Result<Option<Progress>, BatchError> {
        if self.start == Start::Beginning {
            return Ok(None);
        }
        let progress = self.checkpoints.load_progress(self.worker.name()).await?;
        if self.is_gone(&progress) {
            return Ok(Some(progress));
        }
        if progress.checkpoint.position > Position::START {
            return Ok(None);
        }
        let now = self.marked_now().await?;
        let to = start::find(&*self.log, self.start, now).await?;
        if to.position > Position::START {
            let nothing = Batch {
                from: &progress,
                events: &[],
                to,
                parked: Default::default(),
                failure: None,
                now: self.time.clock(),
            };
            self.worker.run(nothing).await?;
        }
        Ok(None)
    }

    /// Before anything else is done, the start is stored: whatever happens then, nothing behind it
    /// is passed over.
    pub(crate) fn find_start(&mut self) {
        let is_at_start = self.progress.checkpoint.position == Position::START;
        if self.start != Start::Beginning && is_at_start && !self.engine.is_standby() {
            self.engine.lost();
        }
    }

    pub(super) fn rewind(&mut self, progress: Progress, left_out: Option<LetterCount>) {
        self.left_out = left_out;
        self.source.rewind(progress.checkpoint);
        self.buffer.clear();
        self.bytes = 0;
        let now = self.time.now();
        self.engine.reloaded(now, progress.checkpoint.position);
        self.progress = progress;
    }

    /// Another process may lead the projection now, or this one again.
    pub(crate) fn take_place(&mut self) {
        let place = self.place.borrow_and_update().clone();
        let moved = place.term != self.term || place.progress.epoch > self.progress.epoch;
        if place.leads && (self.engine.is_standby() || moved) {
            let stored = place.progress.checkpoint.position;
            let head = self.source.head();
            self.rewind(place.progress, None);
            self.engine.leads(self.time.now(), stored, head);
            self.find_start();
            self.error = None;
        } else if !place.leads {
            let stored = place.progress.checkpoint.position;
            self.rewind(place.progress, None);
            self.engine.stands_by(self.time.now(), stored);
            self.error = place
                .trouble
                .map(|reason| Arc::new(Elsewhere(reason)) as SharedError);
        }
        self.term = place.term;
        if place.paused {
            self.engine.paused();
        } else if self.engine.is_paused() {
            self.engine.resumed();
        }
    }

    /// It failed, and no event is to blame.
    pub(super) fn failed(&mut self, error: SharedError) {
        let hopeless = blame::store_error(&*error).is_some_and(|error| {
            let kind = error.kind();
            matches!(
                kind,
                StoreErrorKind::Diverged { .. } | StoreErrorKind::Closed
            )
        });
        self.source.doubt();
        if hopeless {
            self.engine.stopped();
        } else {
            self.engine.failed(self.time.now());
        }
        self.warn(error);
    }

    /// Says why it does not get on.
    pub(super) fn warn(&mut self, error: SharedError) {
        tracing::warn!(
            projection = self.worker.name(),
            after = self.engine.reached().get(),
            attempts = self.engine.failures().max(self.engine.attempts()),
            stopped = self.engine.is_stopped(),
            error = chain(&*error),
            "a projection failed"
        );
        self.error = Some(error);
    }

    async fn obey(&mut self, command: Command) {
        // Whoever asked may be gone; the answer is lost then.
        match command {
            Command::Trigger(head) => self.engine.triggered(head),
            Command::Order(kind, answer) => {
                let outcome = self.execute(kind).await;
                self.publish(false);
                let _ = answer.send(outcome);
                self.pulse.now.notify_one();
            }
            Command::Reset(answer) => {
                let outcome = self.reset().await;
                self.publish(false);
                let _ = answer.send(outcome);
            }
            Command::Replay(letters, answer) => {
                let outcome = self.replay(letters).await;
                self.publish(false);
                let _ = answer.send(outcome);
            }
            Command::Swap(answer) => {
                let swapped = self.turn(TurnKind::Swap).await;
                self.publish(false);
                let _ = answer.send(swapped.map(drop));
            }
            Command::Discard(letters, answer) => {
                let outcome = self.discard(letters).await;
                self.publish(false);
                let _ = answer.send(outcome);
            }
            Command::Rerun(query, answer) => {
                let outcome = self.rerun(query).await;
                self.publish(false);
                let _ = answer.send(outcome);
            }
        }
    }

    pub(crate) fn publish(&self, ended: bool) {
        let engine = &self.engine;
        let mode = match () {
            () if engine.is_stopped() => Mode::Stopped,
            () if ended => Mode::Ended,
            () if engine.is_paused() => Mode::Paused,
            () if engine.is_finished() => Mode::Finished,
            () if engine.is_standby() && self.error.is_some() => Mode::Failing,
            () if engine.is_standby() => Mode::Standby,
            () if engine.failures() > 0 => Mode::Failing,
            () => Mode::Running,
        };
        self.snapshot.send_if_modified(|snapshot| {
            let before = snapshot.clone();
            snapshot.checkpoint = self.progress.checkpoint;
            snapshot.reached = engine.reached();
            snapshot.scanned = self.source.scanned().position;
            snapshot.buffered = self.buffer.len();
            (snapshot.events, snapshot.batches) = (self.events, self.batches);
            snapshot.left_out = self.left_out;
            snapshot.attempts = engine.failures();
            snapshot.mode = mode;
            snapshot.standby = engine.is_standby();
            snapshot.error = self.error.clone();
            snapshot.at = self.at;
            !snapshot.same(&before)
        });
    }
}

/// The bytes of the events' payloads.
pub(super) fn bytes(events: &[RecordedEvent]) -> usize {
    let sizes = events.iter().map(|event| event.payload().as_str().len());
    sizes.sum()
}

/// Waits until the projector is to shut down.
async fn closed(closing: &mut watch::Receiver<Option<Position>>) -> Position {
    loop {
        if let Some(head) = *closing.borrow_and_update() {
            return head;
        }
        if closing.changed().await.is_err() {
            // The projector is gone, and so is this task soon.
            return futures::future::pending().await;
        }
    }
}
