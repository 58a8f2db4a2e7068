//! A projector at work.

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use backstory_event::{Checkpoint, EventFilter, EventQuery, EventStore, EventStoreExt, Position};
use futures::future::{join_all, try_join_all};
use tokio::{
    sync::watch,
    task::AbortHandle,
    time::{Instant, timeout},
};

use super::{
    Awaited, OneProjection, ProjectionStatus, ProjectorOptions,
    beats::Pulse,
    board::Remote,
    error::{ProjectorError, ProjectorErrorKind},
    ring::Ring,
};

use crate::{Control, DeadLetters, Enlisted, LetterQuery};

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
    pub(super) fn head(&self) -> Position {
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

    pub(super) async fn wait<'a>(
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
