//! A projector at work.

use std::{
    fmt,
    pin::pin,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use backstory_event::{Checkpoint, EventFilter, EventQuery, EventStore, EventStoreExt, Position};
use futures::future::{join_all, try_join_all};
use tokio::{
    sync::{oneshot, watch},
    task::AbortHandle,
    time::{Instant, timeout},
};

use super::{
    Awaited, ProjectionStatus, ProjectorOptions, RebuildStatus,
    beats::Pulse,
    board::{Command, Mode, Remote, Snapshot},
    error::{ProjectorError, ProjectorErrorKind},
    ring::Ring,
};

use crate::{
    Control, DeadLetters, Done, Enlisted, LetterQuery, Operator, OperatorError, OrderKind, Start,
    owner,
};

/// What a shutdown left behind: see [`RunningProjector::shutdown`].
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ShutdownReport {
    /// The last status of each projection. What it lags behind is projected after the next start.
    pub projections: Vec<ProjectionStatus>,
}

/// A projector at work. Dropping it ends its tasks at once, which loses nothing: what was not
/// stored is projected after the next start. [`Self::shutdown`] ends them in order.
pub struct RunningProjector {
    pub(crate) log: Arc<dyn EventStore>,
    pub(crate) letters: Arc<dyn DeadLetters>,
    pub(crate) ring: Arc<Ring>,
    pub(crate) remotes: Vec<Remote>,
    pub(crate) closing: watch::Sender<Option<Position>>,
    /// Ends the beats, which give the leases back.
    pub(crate) leaving: watch::Sender<bool>,
    pub(crate) control: Arc<dyn Control>,
    pub(crate) pulse: Arc<Pulse>,
    pub(crate) tasks: Vec<AbortHandle>,
    /// What appends run: until the end.
    pub(crate) enlisted: Mutex<Vec<Enlisted>>,
    pub(crate) options: ProjectorOptions,
}

impl RunningProjector {
    /// Waits until the read models contain a receipt's events: reading one's own writes.
    ///
    /// A receipt concerns the projections that want one of its events; a [`Checkpoint`], and a
    /// receipt of a decision without events, concern all. Projections that run
    /// [once](crate::Schedule::once) follow nothing, jobs and reactors are no read models: they are
    /// only waited for [by name](Self::projection). Waiting ends the debounce.
    ///
    /// # Errors
    /// At once when such a projection is failing, paused or stopped and is not there yet; when it
    /// left one of the receipt's events out, skipped or parked; when the log holds another event
    /// there than the receipt says; when the default deadline passes
    /// ([`ProjectorOptions::with_deadline`]).
    pub async fn caught_up(&self, receipt: impl Into<Awaited>) -> Result<(), ProjectorError> {
        self.caught_up_within(receipt, self.options.deadline).await
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
        let awaited = receipt.into();
        let concerned = self
            .remotes
            .iter()
            .filter(|remote| remote.follows && awaited.concerns(&remote.filter));
        self.wait(concerned, &awaited, deadline).await
    }

    /// Waits until all projections that follow the log have passed what is in it now, whether they
    /// left some of it out or not.
    ///
    /// # Errors
    /// As [`Self::caught_up`], and when the store is away.
    pub async fn catch_up(&self) -> Result<(), ProjectorError> {
        let head = self.log.head().await?;
        self.caught_up(Awaited::passed(head)).await
    }

    /// Waits until all projections that run [once](crate::Schedule::once) have finished.
    ///
    /// # Errors
    /// At once when one of them is failing, paused or stopped.
    pub async fn finished(&self) -> Result<(), ProjectorError> {
        let once = self.remotes.iter().filter(|remote| remote.once);
        try_join_all(once.map(Remote::until_finished))
            .await
            .map(drop)
    }

    /// One projection. Its name is checked when something is asked of it.
    pub fn projection<'a>(&'a self, name: &'a str) -> OneProjection<'a> {
        OneProjection {
            projector: self,
            name,
        }
    }

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

    /// How each projection is doing, in the order in which they were added.
    pub fn status(&self) -> Vec<ProjectionStatus> {
        let head = self.head();
        let mut all: Vec<ProjectionStatus> = Vec::new();
        for remote in &self.remotes {
            let status = remote.status(head);
            match all.last_mut() {
                Some(last) if last.name == status.name => last.add(status),
                _ => all.push(status),
            }
        }
        all
    }

    /// Ends all projections in order: what runs is finished, what is buffered or near in the log
    /// is projected without waiting for a debounce, checkpoints are stored; then says what was
    /// left. Projections that are paused or failing leave what they have not projected.
    ///
    /// # Errors
    /// [`ProjectorErrorKind::Unfinished`] when the grace ended first
    /// ([`ProjectorOptions::with_grace`]); the tasks are ended all the same.
    pub async fn shutdown(&self) -> Result<ShutdownReport, ProjectorError> {
        let finished = timeout(self.options.grace, async {
            let known = self.head();
            let head = match timeout(self.options.grace / 4, self.log.head()).await {
                Ok(Ok(head)) => head.position,
                _ => known,
            };
            self.closing.send_replace(Some(head));
            join_all(self.remotes.iter().map(Remote::until_ended)).await;
            self.leaving.send_replace(true);
            self.leaving.closed().await;
        });
        let in_time = finished.await.is_ok();
        let mut enlisted = self.enlisted.lock().unwrap_or_else(PoisonError::into_inner);
        enlisted.clear();
        drop(enlisted);
        let late: Vec<_> = self
            .remotes
            .iter()
            .filter(|remote| !remote.has_ended())
            .map(|remote| remote.name.clone())
            .collect();
        self.tasks.iter().for_each(AbortHandle::abort);
        if !in_time && !late.is_empty() {
            let kind = ProjectorErrorKind::Unfinished { projections: late };
            return Err(ProjectorError::new(kind));
        }
        Ok(ShutdownReport {
            projections: self.status(),
        })
    }

    /// Where the log ends, as far as the shared reader or a projection has seen.
    fn head(&self) -> Position {
        let known = self.ring.head();
        self.remotes
            .iter()
            .map(|remote| remote.snapshot.borrow().scanned)
            .fold(known, Position::max)
    }

    /// The parts of a projection: at least one.
    pub(super) fn parts(&self, name: &str) -> Result<Vec<&Remote>, ProjectorError> {
        let parts = self.remotes.iter().filter(|remote| remote.owner() == name);
        let parts: Vec<_> = parts.collect();
        match parts.is_empty() {
            true => Err(self.unknown(name)),
            false => Ok(parts),
        }
    }

    pub(super) fn unknown(&self, name: &str) -> ProjectorError {
        let mut known: Vec<_> = self
            .remotes
            .iter()
            .map(|one| one.owner().to_owned())
            .collect();
        known.dedup();
        ProjectorError::new(ProjectorErrorKind::UnknownProjection {
            projection: name.to_owned(),
            known,
        })
    }

    async fn wait<'a>(
        &'a self,
        concerned: impl Iterator<Item = &'a Remote>,
        awaited: &Awaited,
        deadline: Duration,
    ) -> Result<(), ProjectorError> {
        let began = Instant::now();
        let concerned: Vec<_> = concerned.collect();
        let position = awaited.checkpoint.position;
        let reached = concerned.iter().map(|remote| async move {
            remote.reach(position).await?;
            self.check_letters(remote, awaited).await
        });
        match timeout(deadline, try_join_all(reached)).await {
            Ok(reached) => drop(reached?),
            Err(_) => return Err(timed_out(&concerned, position, deadline)),
        }
        let rest = deadline.saturating_sub(began.elapsed());
        self.prove(awaited.checkpoint, rest).await
    }

    /// The events that were waited for are in the read model, and not left out.
    async fn check_letters(
        &self,
        remote: &Remote,
        awaited: &Awaited,
    ) -> Result<(), ProjectorError> {
        let known = remote.snapshot.borrow().left_out;
        if known.is_some_and(|count| count.letters == 0) {
            return Ok(());
        }
        let query = LetterQuery::of(remote.owner())
            .after(Position::new(awaited.first.get() - 1))
            .limit(1);
        let letter = self.letters.list_letters(&query).await?.into_iter().next();
        match letter.filter(|letter| letter.position <= awaited.checkpoint.position) {
            Some(letter) => Err(ProjectorError::new(ProjectorErrorKind::left_out(letter))),
            None => Ok(()),
        }
    }

    /// The log still holds the event that was waited for.
    async fn prove(&self, awaited: Checkpoint, deadline: Duration) -> Result<(), ProjectorError> {
        let known = self.ring.id_at(awaited.position);
        if awaited.event_id.is_nil() || known == Some(awaited.event_id) {
            return Ok(());
        }
        let query = EventQuery::new(EventFilter::all()).after(awaited).limit(1);
        match timeout(deadline, self.log.read(&query)).await {
            Ok(Err(error)) if error.is_diverged() => Err(error.into()),
            // A store that is away now proves nothing, and the wait is over.
            _ => Ok(()),
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

fn timed_out(concerned: &[&Remote], awaited: Position, deadline: Duration) -> ProjectorError {
    let behind = concerned
        .iter()
        .map(|remote| (remote.name.as_str(), remote.snapshot.borrow().reached))
        .min_by_key(|(_, reached)| *reached);
    let (name, after) = behind.unwrap_or_default();
    ProjectorError::new(ProjectorErrorKind::TimedOut {
        projection: name.to_owned(),
        awaited,
        after,
        deadline,
    })
}

impl Remote {
    /// Waits until the read model contains a position.
    async fn reach(&self, position: Position) -> Result<(), ProjectorError> {
        let _waiting = self.waiters.register(position);
        self.until(|snapshot| snapshot.reached >= position).await
    }

    async fn until_finished(&self) -> Result<(), ProjectorError> {
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
    fn owner(&self) -> &str {
        owner(&self.name)
    }

    /// True when another process leads the projection.
    fn stands_by(&self) -> bool {
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
    async fn until_ended(&self) {
        let mut snapshots = self.snapshot.clone();
        while snapshots.changed().await.is_ok() {}
    }

    pub(crate) fn has_ended(&self) -> bool {
        self.snapshot.has_changed().is_err()
    }

    fn status(&self, head: Position) -> ProjectionStatus {
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

impl Drop for RunningProjector {
    fn drop(&mut self) {
        self.tasks.iter().for_each(AbortHandle::abort);
    }
}

impl fmt::Debug for RunningProjector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RunningProjector")
            .field("projections", &self.status())
            .finish_non_exhaustive()
    }
}

/// One projection of a [`RunningProjector`].
#[derive(Debug, Clone, Copy)]
pub struct OneProjection<'a> {
    projector: &'a RunningProjector,
    name: &'a str,
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
