//! The task of the writer: what waits becomes a batch, and every request of a batch gets its answer.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use backstory_event::{Append, Lifecycle, StoreError};
use tokio::{
    sync::mpsc,
    task::yield_now,
    time::{Instant, sleep},
};

use super::{BatchWriter, Request, Stage, WriteFailure, WriterOptions};
use crate::meters::Meters;

/// Writes batches of what waits until the last handle is gone or closes the writer.
pub(super) async fn run(
    mut batches: impl BatchWriter,
    options: WriterOptions,
    mut requests: mpsc::Receiver<Request>,
    mut closing: mpsc::Receiver<()>,
    meters: Arc<Meters>,
) {
    let mut held: Option<Request> = None;
    let mut crowded = false;
    loop {
        crowded |= held.is_some() || !requests.is_empty();
        let first = match held.take() {
            Some(request) => request,
            None => tokio::select! {
                request = requests.recv() => match request {
                    Some(request) => request,
                    None => return,
                },
                // `None` is the last handle going: then `requests` ends too, once it is drained.
                Some(()) = closing.recv() => {
                    requests.close();
                    continue;
                }
            },
        };
        // Callers that were answered just now get to send their next append: one turn, no timer.
        // For a lone one it would be in vain, and move the task to another thread.
        if crowded {
            yield_now().await;
        }
        let mut batch = Batch::new(&options, first);
        while let Ok(request) = requests.try_recv() {
            if let Err(request) = batch.push(request) {
                held = Some(request);
                break;
            }
        }
        batch.count(&meters);
        crowded = batch.requests.len() > 1;
        let (mut requests, mut apart) = (batch.requests, Vec::new());
        if requests.iter().any(|one| batches.is_apart(&one.append)) {
            let is_apart = |one: &mut Request| batches.is_apart(&one.append);
            apart = requests.extract_if(.., is_apart).collect();
        }
        write(&mut batches, requests, &meters).await;
        if !apart.is_empty() {
            write(&mut batches, apart, &meters).await;
        }
    }
}

struct Batch<'a> {
    options: &'a WriterOptions,
    requests: Vec<Request>,
    events: usize,
    bytes: usize,
    erases: bool,
}

impl<'a> Batch<'a> {
    fn new(options: &'a WriterOptions, first: Request) -> Self {
        let events = first.append.events().count();
        let bytes = first.append.size();
        let erases = erases(&first.append);
        Self {
            options,
            requests: vec![first],
            events,
            bytes,
            erases,
        }
    }

    /// Takes a request, or gives it back when it does not fit.
    fn push(&mut self, request: Request) -> Result<(), Request> {
        let events = self.events + request.append.events().count();
        let bytes = self.bytes + request.append.size();
        if self.requests.len() >= self.options.batch_appends
            || events > self.options.batch_events
            || bytes > self.options.batch_bytes
            // What the batch erases is still looked at by its conditions: they wait for the next.
            || (self.erases && !request.append.conditions.is_empty())
        {
            return Err(request);
        }
        self.erases |= erases(&request.append);
        self.events = events;
        self.bytes = bytes;
        self.requests.push(request);
        Ok(())
    }

    fn count(&self, meters: &Meters) {
        meters.batch_appends.record(self.requests.len() as u64);
        meters.batch_events.record(self.events as u64);
        meters.batch_bytes.record(self.bytes as u64);
        let now = Instant::now();
        for request in &self.requests {
            meters.queue_wait.record_time(now - request.since);
        }
    }
}

fn erases(append: &Append) -> bool {
    let erased = Lifecycle::Erased.name();
    append.events().any(|event| event.name == erased)
}

const FIRST_PAUSE: Duration = Duration::from_millis(5);
const LONGEST_PAUSE: Duration = Duration::from_millis(500);

/// Writes requests until each has its answer or nobody waits for it any more.
async fn write(batches: &mut impl BatchWriter, requests: Vec<Request>, meters: &Meters) {
    let _writing = meters.writing();
    let mut todo = VecDeque::from([requests]);
    let mut pause = FIRST_PAUSE;
    // After a lost answer the same batch must be sent again: its outcome is open.
    let mut open = false;
    while let Some(mut requests) = todo.pop_front() {
        if !open {
            requests.retain(|request| {
                request.is_wanted() && request.stage.change(Stage::QUEUED, Stage::SENT)
            });
        }
        if requests.is_empty() || !requests.iter().any(Request::is_wanted) {
            open = false;
            continue;
        }
        let appends: Vec<_> = requests
            .iter()
            .map(|request| request.append.clone())
            .collect();
        let wanted = requests.iter().filter(|request| request.is_wanted());
        if let Some(earliest) = wanted.map(|request| request.deadline).min() {
            batches.deadline(earliest);
        }
        let begun = Instant::now();
        let result = batches.write(&appends).await;
        meters.batch_time.record_time(begun.elapsed());
        match result {
            Ok(outcomes) => {
                open = false;
                pause = FIRST_PAUSE;
                for (request, outcome) in requests.into_iter().zip(outcomes) {
                    request.answer(meters, outcome.map_err(StoreError::new));
                }
            }
            Err(WriteFailure::Refused(error)) => {
                open = false;
                let half = requests.len().div_ceil(2);
                divide(requests, half, &error, &mut todo, meters);
            }
            Err(WriteFailure::Isolate(error)) => {
                open = false;
                divide(requests, 1, &error, &mut todo, meters);
            }
            Err(WriteFailure::Retry(error)) => {
                tracing::debug!(%error, appends = requests.len(), "batch is tried again");
                if !open {
                    requests.iter().for_each(unsend);
                }
                meters.retries.add();
                requests = answer_expired(requests, &error, open, meters);
                todo.push_front(requests);
                sleep(pause).await;
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
            Err(WriteFailure::Lost(error)) => {
                tracing::warn!(%error, appends = requests.len(), "answer lost, batch is sent again");
                meters.resent.add();
                open = true;
                todo.push_front(requests);
                sleep(pause).await;
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
        }
    }
}

/// A batch that failed goes on in parts; a single append has failed.
fn divide(
    mut requests: Vec<Request>,
    part: usize,
    error: &StoreError,
    todo: &mut VecDeque<Vec<Request>>,
    meters: &Meters,
) {
    if requests.len() == 1 {
        requests
            .into_iter()
            .for_each(|request| request.answer(meters, Err(copy(error))));
        return;
    }
    meters.bisections.add();
    requests.iter().for_each(unsend);
    while !requests.is_empty() {
        let rest = requests.len().saturating_sub(part);
        todo.push_front(requests.split_off(rest));
    }
}

/// The request was sent and surely not stored: it can be withdrawn again.
fn unsend(request: &Request) {
    request.stage.change(Stage::SENT, Stage::QUEUED);
}

/// Tells callers whose time is nearly up why their append was not stored, instead of a bare deadline.
fn answer_expired(
    requests: Vec<Request>,
    error: &StoreError,
    open: bool,
    meters: &Meters,
) -> Vec<Request> {
    let soon = Instant::now() + LONGEST_PAUSE;
    let (expired, rest): (Vec<_>, Vec<_>) = requests
        .into_iter()
        .partition(|request| !open && request.deadline <= soon);
    expired
        .into_iter()
        .for_each(|request| request.answer(meters, Err(copy(error))));
    rest
}

/// The same error for another caller; its source stays with the first.
fn copy(error: &StoreError) -> StoreError {
    StoreError::new(error.kind().clone())
}
