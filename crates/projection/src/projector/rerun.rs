//! Jobs run again on what they have passed.

use std::collections::HashSet;

use backstory_event::{Checkpoint, Direction, EventQuery, Position, RecordedEvent};
use tokio::sync::oneshot;

use super::{
    RunningProjector,
    board::Command,
    error::{ProjectorError, ProjectorErrorKind, chain},
    orders::{ATTEMPTS, BUSY},
    task::Task,
    worker::{BatchError, Nature},
};
use crate::LetterQuery;

/// Letters per page.
const PAGE: usize = 1_000;

/// What [`RunningProjector::rerun`] did.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct RerunReport {
    /// The job ran again on so many events.
    pub events: u64,
    /// So many were not touched: they are among its dead letters, or their key is parked.
    pub left_out: u64,
    /// In so many runs.
    pub runs: u64,
    /// Up to here the log was looked at.
    pub up_to: Checkpoint,
    /// False when it ended early, because the projector is shutting down: go on behind
    /// [`Self::up_to`].
    pub complete: bool,
}

impl RunningProjector {
    /// Runs a job again on those events that it has passed and that a query means, between two of
    /// its runs: its checkpoint stays. Direction and limit of the query do not count. Events that
    /// are its dead letters, and parked keys, wait for [`Self::replay`].
    ///
    /// What it writes with its context is stored with each run, of a page of events, or not at all;
    /// a process that dies leaves the rest to whoever asks again. Any process can do it, also one
    /// that stands by. To run on everything from the beginning, [`reset`](Self::reset) it.
    ///
    /// # Errors
    /// When there is no such job, it is a projection, it has ended, or the store is away;
    /// [`ProjectorErrorKind::NotRerun`] when the job fails, which says how far it got.
    pub async fn rerun(
        &self,
        name: &str,
        query: EventQuery,
    ) -> Result<RerunReport, ProjectorError> {
        // A job has one part; others refuse.
        let parts = self.parts(name)?;
        let remote = parts.first().ok_or_else(|| self.unknown(name))?;
        let (answer, outcome) = oneshot::channel();
        remote.send(Command::Rerun(query, answer)).await?;
        outcome.await.map_err(|_| remote.ended())?
    }
}

impl Task {
    pub(super) async fn rerun(
        &mut self,
        mut query: EventQuery,
    ) -> Result<RerunReport, ProjectorError> {
        let mut report = RerunReport {
            up_to: query.after,
            ..RerunReport::default()
        };
        match self.worker.nature() {
            Nature::Job => {}
            Nature::ReadModel => {
                let reason = "it is no job, and would take the events twice: reset it";
                return Err(self.not_rerun(&report, reason.to_owned()));
            }
            Nature::Reactor => {
                let reason = "it is a reactor, which is never replayed";
                return Err(self.not_rerun(&report, reason.to_owned()));
            }
        }
        if self.engine.is_standby() {
            self.load_anew().await?;
        }
        let passed = self.progress.checkpoint.position;
        query.up_to = Some(query.up_to.map_or(passed, |bound| bound.min(passed)));
        query.direction = Direction::Forward;
        // It counts all pages together.
        query.limit = None;
        let filter = self.worker.filter();
        let mut next = (query.after.position < passed).then_some(query);
        while let Some(query) = next {
            if self.closing.borrow().is_some() {
                return Ok(report);
            }
            let mut page = self.log.read(&query).await?;
            page.events
                .retain(|event| !event.is_erased() && filter.matches(event));
            self.rerun_page(page.events, &mut report).await?;
            report.up_to = page.checkpoint;
            next = page.next;
        }
        report.complete = true;
        Ok(report)
    }

    async fn rerun_page(
        &mut self,
        events: Vec<RecordedEvent>,
        report: &mut RerunReport,
    ) -> Result<(), ProjectorError> {
        for _ in 0..ATTEMPTS {
            let mut again = events.clone();
            self.without_left_out(&mut again).await?;
            if !again.is_empty() {
                match self.worker.amend(&self.progress, &again, Vec::new()).await {
                    // The checkpoint stays: what is buffered still follows it.
                    Ok(progress) => self.progress = progress,
                    Err(BatchError::Fenced) => {
                        self.load_anew().await?;
                        continue;
                    }
                    Err(BatchError::Guilty { error, .. } | BatchError::Failed(error)) => {
                        return Err(self.not_rerun(report, chain(&*error)));
                    }
                }
                report.runs += 1;
            }
            report.events += again.len() as u64;
            report.left_out += (events.len() - again.len()) as u64;
            return Ok(());
        }
        Err(self.not_rerun(report, BUSY.to_owned()))
    }

    /// Without what is among the letters, or of a key that is parked.
    async fn without_left_out(
        &mut self,
        events: &mut Vec<RecordedEvent>,
    ) -> Result<(), ProjectorError> {
        let (Some(first), Some(last)) = (events.first(), events.last()) else {
            return Ok(());
        };
        let left_out = self.know_letters().await?;
        if left_out.letters == 0 {
            return Ok(());
        }
        let last = last.position();
        let name = self.worker.name();
        let before = Position::new(first.position().get() - 1);
        let mut query = LetterQuery::of(name).after(before).limit(PAGE);
        let mut letters = HashSet::new();
        loop {
            let page = self.letters.list_letters(&query).await?;
            letters.extend(page.iter().map(|letter| letter.position));
            match page.last() {
                Some(end) if end.position < last => query = query.after(end.position),
                _ => break,
            }
        }
        let parked = self.parked(self.keys(events)).await?;
        events.retain(|event| {
            !letters.contains(&event.position()) && !parked.contains(&self.worker.key(event))
        });
        Ok(())
    }

    fn not_rerun(&self, report: &RerunReport, reason: String) -> ProjectorError {
        ProjectorError::new(ProjectorErrorKind::NotRerun {
            projection: self.worker.name().to_owned(),
            up_to: report.up_to.position,
            reason,
        })
    }
}
