//! The group-commit writer: one task that coalesces the appends of all callers into batches.

use std::{
    fmt::{self, Debug},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU8, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use backstory_event::{Append, Appended, Limits, StoreError, StoreErrorKind};
use tokio::{
    sync::{mpsc, oneshot},
    task::JoinHandle,
    time::{Instant, timeout_at},
};

use crate::{
    histogram::Histogram,
    meters::{Meters, WriterStats},
};

mod task;

/// Why a batch has no outcomes.
#[derive(Debug)]
#[non_exhaustive]
pub enum WriteFailure {
    /// The database refused the batch; nothing was stored. One append may be the cause: a larger
    /// batch is split, a single append gets the error.
    Refused(StoreError),
    /// What runs with the appends failed on one of them; nothing was stored. A larger batch is
    /// written append by append, a single append gets the error.
    Isolate(StoreError),
    /// Nothing was stored and the same batch may pass later: busy, deadlock, restart.
    Retry(StoreError),
    /// Nobody knows whether the batch was stored. It is sent again with the same ids.
    Lost(StoreError),
}

/// Writes batches. One per store handle, owned by its [`Writer`].
#[async_trait]
pub trait BatchWriter: Send + 'static {
    /// Called before each write: when the first caller of the batch stops waiting. A store that
    /// answers shortly before can still say why nothing was stored.
    fn deadline(&mut self, earliest: Instant) {
        let _ = earliest;
    }

    /// True for an append that is not to share a transaction with those for which this is false:
    /// projections run inside it. Such appends may change places with others that wait at the
    /// same time.
    fn is_apart(&self, append: &Append) -> bool {
        let _ = append;
        false
    }

    /// Where the store records how long it waits for the lock of the log, if it knows that. Asked
    /// once, for [`WriterStats::lock_wait_micros`].
    fn lock_wait(&self) -> Option<Arc<Histogram>> {
        None
    }

    /// Writes a batch in one transaction: one outcome per append, in order.
    ///
    /// # Errors
    /// [`WriteFailure`] when there are no outcomes.
    async fn write(
        &mut self,
        batch: &[Arc<Append>],
    ) -> Result<Vec<Result<Appended, StoreErrorKind>>, WriteFailure>;
}

/// The bounds of a writer.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct WriterOptions {
    /// Appends that may wait: 1,024. Further callers wait for room.
    pub queue: usize,
    /// Appends of one batch: 500.
    pub batch_appends: usize,
    /// Events of one batch, unless one append alone has more: 2,000.
    pub batch_events: usize,
    /// Bytes of one batch, unless one append alone has more: 4 MiB.
    pub batch_bytes: usize,
    /// How long an append without a deadline of its own may take: 10 seconds.
    pub deadline: Duration,
    /// What one append may hold.
    pub limits: Limits,
}

impl Default for WriterOptions {
    fn default() -> Self {
        Self {
            queue: 1_024,
            batch_appends: 500,
            batch_events: 2_000,
            batch_bytes: 4 << 20,
            deadline: Duration::from_secs(10),
            limits: Limits::default(),
        }
    }
}

/// Where a request is: it can be withdrawn only while nobody has sent it to the database.
#[derive(Debug)]
struct Stage(AtomicU8);

impl Stage {
    const QUEUED: u8 = 0;
    const SENT: u8 = 1;
    const WITHDRAWN: u8 = 2;

    fn change(&self, from: u8, to: u8) -> bool {
        self.0
            .compare_exchange(from, to, Ordering::AcqRel, Ordering::Acquire)
            .is_ok()
    }
}

struct Request {
    append: Arc<Append>,
    since: Instant,
    deadline: Instant,
    stage: Arc<Stage>,
    reply: oneshot::Sender<Result<Appended, StoreError>>,
}

impl Request {
    /// True when somebody still waits for the answer.
    fn is_wanted(&self) -> bool {
        !self.reply.is_closed() && self.deadline > Instant::now()
    }

    fn answer(self, meters: &Meters, outcome: Result<Appended, StoreError>) {
        meters.answer(outcome.as_ref().map_err(StoreError::kind));
        // A caller that has gone away does not want to know.
        let _ = self.reply.send(outcome);
    }
}

/// A caller that waits. When it gives up or goes away, what was not sent is withdrawn.
struct Caller<'a> {
    stage: &'a Stage,
    meters: &'a Meters,
    answered: bool,
}

impl Caller<'_> {
    /// False when it is too late.
    fn withdraw(&self) -> bool {
        let withdrawn = self.stage.change(Stage::QUEUED, Stage::WITHDRAWN);
        if withdrawn {
            self.meters.withdrawn.add();
        }
        withdrawn
    }
}

impl Drop for Caller<'_> {
    fn drop(&mut self) {
        if !self.answered {
            self.withdraw();
        }
    }
}

/// A handle on the writer task. Clones share it; the task ends when the last one is dropped or
/// [`Writer::close`] was called, after writing what was queued.
#[derive(Clone)]
pub struct Writer {
    requests: mpsc::Sender<Request>,
    options: WriterOptions,
    task: Arc<Mutex<Option<JoinHandle<()>>>>,
    close: mpsc::Sender<()>,
    meters: Arc<Meters>,
}

impl Writer {
    /// Starts the task in the current tokio runtime.
    pub fn spawn(batches: impl BatchWriter, options: WriterOptions) -> Self {
        let (requests, receiver) = mpsc::channel(options.queue.max(1));
        let (close, closing) = mpsc::channel(1);
        let meters = Arc::new(Meters::new(batches.lock_wait()));
        let task = tokio::spawn(task::run(
            batches,
            options,
            receiver,
            closing,
            meters.clone(),
        ));
        Self {
            requests,
            options,
            task: Arc::new(Mutex::new(Some(task))),
            close,
            meters,
        }
    }

    /// True when the task has ended: closed, or its runtime is gone.
    pub fn is_closed(&self) -> bool {
        self.requests.is_closed()
    }

    /// How many appends wait.
    pub fn queued(&self) -> usize {
        self.requests.max_capacity() - self.requests.capacity()
    }

    /// What the writer counted since its start. Costs next to nothing and asks nobody.
    pub fn stats(&self) -> WriterStats {
        self.meters
            .read(self.queued(), self.requests.max_capacity())
    }

    /// Stores an append. Dropping the future withdraws it if it has not been sent yet.
    ///
    /// # Errors
    /// What the database answered; `NotStored` when the deadline passed in the queue,
    /// `OutcomeUnknown` when it passed while the database worked on it, `Closed`.
    pub async fn append(&self, append: Append) -> Result<Appended, StoreError> {
        let meters = &*self.meters;
        if let Err(invalid) = append.validate(&self.options.limits) {
            let error = StoreError::from(invalid);
            meters.answer(Err(error.kind()));
            return Err(error);
        }
        let since = Instant::now();
        let deadline = since + append.deadline.unwrap_or(self.options.deadline);
        let append = Arc::new(append);
        let stage = Arc::new(Stage(AtomicU8::new(Stage::QUEUED)));
        let (reply, answer) = oneshot::channel();
        let request = Request {
            append: append.clone(),
            since,
            deadline,
            stage: stage.clone(),
            reply,
        };
        let mut caller = Caller {
            stage: &stage,
            meters,
            answered: false,
        };
        match timeout_at(deadline, self.requests.send(request)).await {
            Err(_) => return Err(not_stored("the queue was full until the deadline")),
            Ok(Err(_)) => return Err(StoreError::new(StoreErrorKind::Closed)),
            Ok(Ok(())) => {}
        }
        match timeout_at(deadline, answer).await {
            Ok(Ok(outcome)) => {
                caller.answered = true;
                outcome
            }
            // The task also drops what nobody waits for any more.
            Ok(Err(_)) if Instant::now() < deadline && caller.withdraw() => {
                Err(StoreError::new(StoreErrorKind::Closed))
            }
            _ if caller.withdraw() => Err(not_stored("the deadline passed before it was sent")),
            _ => {
                meters.unknown.add();
                Err(StoreError::new(StoreErrorKind::OutcomeUnknown {
                    event_ids: append.event_ids(),
                }))
            }
        }
    }

    /// Accepts no more appends, writes those that wait, and ends the task.
    pub async fn close(&self) {
        // Full means that somebody else is closing already.
        let _ = self.close.try_send(());
        let task = self
            .task
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        match task {
            Some(task) => drop(task.await),
            None => self.requests.closed().await,
        }
    }
}

impl Debug for Writer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Writer")
            .field("queued", &self.queued())
            .field("closed", &self.is_closed())
            .finish()
    }
}

fn not_stored(reason: &str) -> StoreError {
    StoreError::new(StoreErrorKind::NotStored {
        reason: reason.to_owned(),
    })
}
