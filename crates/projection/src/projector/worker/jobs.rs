//! A job and its host.

use std::{error::Error, sync::Arc};

use async_trait::async_trait;
use backstory_event::{BoxError, Checkpoint, DecodeError, EventFilter, EventStore, RecordedEvent};

use super::{
    super::{blame::is_of_the_store, error::chain},
    Batch, BatchError, Done, Nature, Worker, caught, commit,
    sorting::{self, sort_out},
};
use crate::{
    CommitError, Host, Job, JobError, LetterWrite, OnFailure, Progress, Projection as _, Slot,
    Step, Target, TurnKind,
    job::{Code, Ended, Given, Raw, Running, Sorted},
};

pub(crate) struct JobWorker<S, Cx> {
    store: S,
    log: Arc<dyn EventStore>,
    job: Arc<Sorted<Cx>>,
    name: String,
    /// It is given all events of its filter.
    gets_all: bool,
}

impl<S, Cx> JobWorker<S, Cx> {
    pub(crate) fn new(store: S, log: Arc<dyn EventStore>, job: Job<Cx>, gets_all: bool) -> Self {
        Self {
            store,
            log,
            gets_all,
            name: job.name.to_owned(),
            job: Arc::new(Sorted(job)),
        }
    }
}

/// A job with a context that does not empty itself.
#[derive(Debug, thiserror::Error)]
#[error("job `{0}` cannot be reset: say how with `Job::on_reset`")]
struct NoReset(&'static str);

#[async_trait]
impl<S, Cx> Worker for JobWorker<S, Cx>
where
    Cx: Send + 'static,
    S: Host<Cx> + Clone,
{
    fn name(&self) -> &str {
        &self.name
    }

    fn beside(&self) -> Arc<dyn Worker> {
        Arc::new(Self {
            store: self.store.clone(),
            log: Arc::clone(&self.log),
            job: Arc::clone(&self.job),
            name: Slot::Next.name(&self.name),
            gets_all: self.gets_all,
        })
    }

    fn filter(&self) -> EventFilter {
        self.job.filter()
    }

    fn policy(&self) -> OnFailure {
        self.job.on_failure()
    }

    fn nature(&self) -> Nature {
        Nature::Job
    }

    fn key(&self, event: &RecordedEvent) -> String {
        let key = sorting::key(&*self.job, event);
        key.unwrap_or_else(|_| event.stream().to_string())
    }

    async fn run(&self, batch: Batch<'_>) -> Result<Done, BatchError> {
        let sorted = sort_out(&*self.job, &batch)?;
        let step = sorted.step(&batch);
        let events = sorted.envelopes.iter();
        let are_all = self.gets_all && sorted.letters.is_empty();
        let given = Given {
            events: events.map(|one| one.recorded().clone()).collect(),
            all_after: are_all.then_some(batch.from.checkpoint),
            ..self.given(&step)
        };
        let progress = self.store_step(step, given, sorted.taken).await?;
        Ok(sorted.done(progress))
    }

    async fn amend(
        &self,
        from: &Progress,
        events: &[RecordedEvent],
        letters: Vec<LetterWrite>,
    ) -> Result<Progress, BatchError> {
        let mut envelopes = Vec::with_capacity(events.len());
        for event in events {
            sorting::decode::<Raw>(event, &mut envelopes)?;
        }
        let step = Step::new(from.clone(), Target::Amend).with_letters(letters);
        let given = Given {
            events: envelopes.iter().map(|one| one.recorded().clone()).collect(),
            ..self.given(&step)
        };
        self.store_step(step, given, events.len()).await
    }

    async fn reset(&self, from: &Progress) -> Result<Progress, BatchError> {
        let step = Step::new(from.clone(), Target::Reset);
        let unit = self.store.begin(from.clone()).await?;
        let Some(code) = &self.job.0.on_reset else {
            if !unit.resets_itself() {
                return Err(BoxError::from(NoReset(self.job.0.name)).into());
            }
            return commit(unit, step).await;
        };
        let running = Running::new(self.given(&step), unit);
        let emptied = caught(running.run(code)).await;
        let ended = running.end();
        emptied?;
        finish(ended.map_err(BoxError::from)?, step).await
    }

    async fn rewind(&self, from: &Progress, to: Checkpoint) -> Result<Progress, BatchError> {
        let unit = self.store.begin(from.clone()).await?;
        commit(unit, Step::new(from.clone(), Target::Rewind(to))).await
    }

    async fn turn(&self, from: &Progress, _: TurnKind) -> Result<Progress, BatchError> {
        Err(CommitError::Refused {
            projection: from.projection.clone(),
            reason: "it is a job, which is not rebuilt beside itself: reset it".to_owned(),
        }
        .into())
    }

    async fn mark(&self, mark: &Progress, at: Checkpoint) -> Result<(), BatchError> {
        super::mark(&self.store, mark, at).await
    }
}

impl<S, Cx> JobWorker<S, Cx>
where
    Cx: Send + 'static,
    S: Host<Cx>,
{
    fn given(&self, step: &Step) -> Given {
        Given {
            name: self.job.0.name,
            filter: self.job.filter(),
            events: Vec::new(),
            all_after: None,
            to: step.result().checkpoint,
            log: Arc::clone(&self.log),
        }
    }

    /// Runs the job and commits. `events` is how many stored events are to blame for a failure.
    async fn store_step(
        &self,
        step: Step,
        given: Given,
        events: usize,
    ) -> Result<Progress, BatchError> {
        let unit = self.store.begin(step.from.clone()).await?;
        if given.events.is_empty() {
            return commit(unit, step).await;
        }
        let running = Running::new(given, unit);
        let code: &Code<Cx> = &self.job.0.code;
        let ran = caught(running.run(code)).await;
        let ended = running.end();
        if let Err(error) = ran {
            let outage = ended.is_ok_and(|ended| ended.unit.is_outage(&*error));
            return Err(match outage {
                true => error.into(),
                false => blame(error, events),
            });
        }
        let ended = ended.map_err(|error| blame(error.into(), events))?;
        match finish(ended, step).await {
            // What the job wrote may be refused as late as here.
            Err(BatchError::Failed(error)) if !is_of_the_store(&*error) => {
                Err(BatchError::Guilty {
                    error,
                    events,
                    for_good: false,
                })
            }
            finished => finished,
        }
    }
}

/// Commits, and does what was put off until then.
async fn finish<Cx: Send>(ended: Ended<Cx>, step: Step) -> Result<Progress, BatchError> {
    let Ended {
        unit,
        mut afterwards,
    } = ended;
    let progress = commit(unit, step).await?;
    while let Some((key, work)) = afterwards.next() {
        if let Err(error) = caught(work).await {
            let error = chain(&*error);
            let job = afterwards.name();
            tracing::warn!(job, key, error, "what a job put off failed");
        }
    }
    Ok(progress)
}

/// Who is to blame for an error: so many events, or none.
fn blame(error: BoxError, events: usize) -> BatchError {
    if is_of_the_store(&*error) || lacks_history(&*error) {
        return error.into();
    }
    let undecodable =
        error.is::<DecodeError>() || matches!(error.downcast_ref(), Some(JobError::Decode(_)));
    BatchError::Guilty {
        for_good: undecodable && events == 1,
        error: error.into(),
        events,
    }
}

/// An event of the past that does not decode is not the fault of those that came now.
fn lacks_history(error: &(dyn Error + 'static)) -> bool {
    let mut next = Some(error);
    while let Some(error) = next {
        if matches!(error.downcast_ref(), Some(JobError::History { .. })) {
            return true;
        }
        next = error.source();
    }
    false
}
