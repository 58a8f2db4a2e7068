//! One statement for the reads of many callers.

use std::{
    collections::VecDeque,
    fmt::{self, Debug},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use async_trait::async_trait;
use tokio::{runtime::Handle, sync::oneshot, task::yield_now};

/// Answers requests that change nothing: one by one, or many at once.
#[async_trait]
pub trait BatchReader: Send + Sync + 'static {
    /// What is asked.
    type Request: Send + Sync + 'static;
    /// What is answered.
    type Answer: Send + 'static;
    /// Why there is no answer.
    type Error: Send + 'static;

    /// Answers one request.
    async fn one(&self, request: &Self::Request) -> Result<Self::Answer, Self::Error>;

    /// Answers many requests: one answer each, in order. `None` when that failed, whatever the
    /// reason: then each is asked [one by one](Self::one), so that nobody suffers from another.
    async fn many(&self, requests: &[Arc<Self::Request>]) -> Option<Vec<Self::Answer>>;
}

/// Coalesces the requests that are pending at the same time.
///
/// Who comes first asks at once and alone. Who comes while others are at it, or when several were
/// answered together last, is answered by one of a few tasks, together with all that came meanwhile;
/// nobody waits for company longer than it takes those that are awake to ask. An answer was
/// always asked for after its request was made. Dropping a caller's future has no effect on
/// others. The tasks end when nobody waits any more.
pub struct Coalescer<R: BatchReader>(Arc<Shared<R>>);

struct Shared<R: BatchReader> {
    reader: R,
    options: CoalescerOptions,
    runtime: Handle,
    state: Mutex<State<R>>,
}

/// The bounds of a [`Coalescer`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct CoalescerOptions {
    /// Requests that are answered together at most: 128.
    pub batch: usize,
    /// Tasks that answer at the same time at most, beside the one who came first: 1.
    pub tasks: usize,
}

impl Default for CoalescerOptions {
    fn default() -> Self {
        Self {
            batch: 128,
            tasks: 1,
        }
    }
}

struct State<R: BatchReader> {
    waiting: VecDeque<Waiting<R>>,
    tasks: usize,
    /// Somebody asks alone. It is not waited for: a future that is not polled does not end.
    alone: bool,
    /// Several were answered together last: who comes first is not the only one.
    crowded: bool,
}

struct Waiting<R: BatchReader> {
    request: Arc<R::Request>,
    reply: oneshot::Sender<R::Answer>,
}

/// What a caller does with its request.
enum Turn<A> {
    Alone,
    Wait(oneshot::Receiver<A>),
    /// A task is missing, too.
    Start(oneshot::Receiver<A>),
}

impl<R: BatchReader> Coalescer<R> {
    /// A coalescer whose tasks run in the current tokio runtime.
    pub fn new(reader: R, options: CoalescerOptions) -> Self {
        Self(Arc::new(Shared {
            reader,
            options,
            runtime: Handle::current(),
            state: Mutex::new(State {
                waiting: VecDeque::new(),
                tasks: 0,
                alone: false,
                crowded: false,
            }),
        }))
    }

    /// Who answers, for requests that are not to be coalesced.
    pub fn reader(&self) -> &R {
        &self.0.reader
    }

    /// Answers a request, perhaps together with others.
    ///
    /// # Errors
    /// As [`BatchReader::one`].
    pub async fn ask(&self, request: R::Request) -> Result<R::Answer, R::Error> {
        let request = Arc::new(request);
        let answer = match self.0.turn(&request) {
            Turn::Alone => {
                let _alone = Alone(&self.0);
                return self.0.reader.one(&request).await;
            }
            Turn::Wait(answer) => answer,
            Turn::Start(answer) => {
                let task = Task {
                    shared: self.0.clone(),
                    ended: false,
                };
                self.0.runtime.spawn(task.run());
                answer
            }
        };
        match answer.await {
            Ok(answer) => Ok(answer),
            // It failed for all of them, or the task went with its runtime.
            Err(_) => self.0.reader.one(&request).await,
        }
    }
}

impl<R: BatchReader> Debug for Coalescer<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.0.state();
        f.debug_struct("Coalescer")
            .field("waiting", &state.waiting.len())
            .field("tasks", &state.tasks)
            .finish_non_exhaustive()
    }
}

impl<R: BatchReader> Shared<R> {
    fn state(&self) -> MutexGuard<'_, State<R>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn turn(&self, request: &Arc<R::Request>) -> Turn<R::Answer> {
        let mut state = self.state();
        if state.tasks == 0 && !state.alone && !state.crowded {
            state.alone = true;
            return Turn::Alone;
        }
        let (reply, answer) = oneshot::channel();
        let request = request.clone();
        state.waiting.push_back(Waiting { request, reply });
        if state.tasks < self.options.tasks.max(1) {
            state.tasks += 1;
            Turn::Start(answer)
        } else {
            Turn::Wait(answer)
        }
    }

    /// Lets callers that were answered just now ask again: a turn, and more as long as some do.
    async fn gather(&self) {
        let (mut before, mut waiting) = (0, 1);
        while before < waiting && waiting < self.options.batch {
            before = waiting;
            yield_now().await;
            waiting = self.state().waiting.len();
        }
    }

    /// Who waits and is still there, at most as many as go together. When nobody is, the task has
    /// ended: whoever comes next starts another one.
    fn take(&self) -> Option<Vec<Waiting<R>>> {
        let mut state = self.state();
        let mut batch = Vec::new();
        while batch.len() < self.options.batch.max(1) {
            match state.waiting.pop_front() {
                Some(waiting) if waiting.reply.is_closed() => {}
                Some(waiting) => batch.push(waiting),
                None => break,
            }
        }
        if batch.is_empty() {
            state.tasks -= 1;
            return None;
        }
        state.crowded = batch.len() > 1;
        Some(batch)
    }

    /// A task went without an end. Those for whom no task is left ask one by one.
    fn lost_task(&self) {
        let mut state = self.state();
        state.tasks -= 1;
        let orphans = match state.tasks {
            0 => std::mem::take(&mut state.waiting),
            _ => VecDeque::new(),
        };
        drop(state);
        drop(orphans);
    }
}

/// Somebody asks alone until this is dropped.
struct Alone<'a, R: BatchReader>(&'a Shared<R>);

impl<R: BatchReader> Drop for Alone<'_, R> {
    fn drop(&mut self) {
        self.0.state().alone = false;
    }
}

/// A task that answers until nobody waits.
struct Task<R: BatchReader> {
    shared: Arc<Shared<R>>,
    ended: bool,
}

impl<R: BatchReader> Task<R> {
    async fn run(mut self) {
        loop {
            self.shared.gather().await;
            let Some(mut batch) = self.shared.take() else {
                break;
            };
            let requests: Vec<_> = batch.iter().map(|asked| asked.request.clone()).collect();
            let answers = tokio::select! {
                answers = self.shared.reader.many(&requests) => answers,
                () = abandoned(&mut batch) => None,
            };
            // Without an answer the callers ask one by one.
            let answers = answers.filter(|answers| answers.len() == batch.len());
            for (asked, answer) in batch.into_iter().zip(answers.into_iter().flatten()) {
                // Who has gone away does not want to know.
                let _ = asked.reply.send(answer);
            }
        }
        self.ended = true;
    }
}

impl<R: BatchReader> Drop for Task<R> {
    fn drop(&mut self) {
        if !self.ended {
            self.shared.lost_task();
        }
    }
}

/// Waits until nobody wants the answers of a batch any more.
async fn abandoned<R: BatchReader>(batch: &mut [Waiting<R>]) {
    for asked in batch {
        asked.reply.closed().await;
    }
}
