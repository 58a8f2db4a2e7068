//! A caller learns the outcome of its append, whatever happens to the database.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use backstory_event::{
    Append, Appended, Checkpoint, Conflict, EventId, ExpectedVersion, Position, StoreError,
    StoreErrorKind, StreamVersion,
};
use backstory_store_kit::{BatchWriter, WriteFailure, Writer, WriterOptions};
use tokio::{
    sync::{Semaphore, mpsc},
    task::JoinHandle,
};

use crate::{append, stream};

/// What the database does with a batch.
pub(crate) enum Act {
    Store,
    Refuse,
    RefuseBatches,
    Retry,
    /// Refuses each batch with this event, from now on.
    RefuseWith(EventId),
    /// What runs with the appends fails on this event, from now on.
    Isolate(EventId),
    /// This is the outcome of each append.
    Answer(StoreErrorKind),
    /// The answer is lost, though the batch was stored.
    StoreAndLose,
}

pub(crate) type Outcomes = Vec<Result<Appended, StoreErrorKind>>;

/// A database whose behaviour a test decides, batch by batch; afterwards it stores.
struct Script {
    acts: VecDeque<Act>,
    gate: Arc<Semaphore>,
    seen: mpsc::UnboundedSender<Vec<EventId>>,
    stored: Arc<Mutex<Vec<EventId>>>,
}

pub(crate) struct Database {
    pub(crate) writer: Writer,
    pub(crate) gate: Arc<Semaphore>,
    pub(crate) seen: mpsc::UnboundedReceiver<Vec<EventId>>,
    pub(crate) stored: Arc<Mutex<Vec<EventId>>>,
}

pub(crate) fn database(acts: impl IntoIterator<Item = Act>) -> Database {
    with_options(acts, WriterOptions::default())
}

pub(crate) fn with_options(
    acts: impl IntoIterator<Item = Act>,
    options: WriterOptions,
) -> Database {
    let (sender, seen) = mpsc::unbounded_channel();
    let gate = Arc::new(Semaphore::new(Semaphore::MAX_PERMITS));
    let stored = Arc::default();
    let script = Script {
        acts: acts.into_iter().collect(),
        gate: Arc::clone(&gate),
        seen: sender,
        stored: Arc::clone(&stored),
    };
    Database {
        writer: Writer::spawn(script, options),
        gate,
        seen,
        stored,
    }
}

fn unavailable() -> StoreError {
    StoreError::new(StoreErrorKind::Unavailable {
        reason: "down".into(),
    })
}

#[async_trait]
impl BatchWriter for Script {
    fn is_apart(&self, append: &Append) -> bool {
        append.events().any(|event| event.name == "todo.apart")
    }

    async fn write(&mut self, batch: &[Arc<Append>]) -> Result<Outcomes, WriteFailure> {
        self.seen
            .send(batch.iter().flat_map(|append| append.event_ids()).collect())
            .unwrap();
        self.gate.acquire().await.unwrap().forget();
        let act = self.acts.pop_front().unwrap_or(Act::Store);
        let mut stored = self.stored.lock().unwrap();
        let mut store = || {
            batch
                .iter()
                .map(|append| {
                    let id = append.event_ids()[0];
                    let place = stored.iter().position(|known| *known == id);
                    let place = place.unwrap_or_else(|| {
                        stored.push(id);
                        stored.len() - 1
                    });
                    let position = Position::new(i64::try_from(place).unwrap() + 1);
                    Ok(Appended::nothing(Checkpoint {
                        position,
                        event_id: id,
                    }))
                })
                .collect()
        };
        match act {
            Act::Store => Ok(store()),
            Act::Refuse => Err(WriteFailure::Refused(unavailable())),
            Act::RefuseBatches if batch.len() == 1 => Ok(store()),
            Act::RefuseBatches => {
                self.acts.push_front(Act::RefuseBatches);
                Err(WriteFailure::Refused(unavailable()))
            }
            Act::RefuseWith(guilty) => {
                let is_guilty = batch.iter().any(|one| one.event_ids().contains(&guilty));
                self.acts.push_front(Act::RefuseWith(guilty));
                match is_guilty {
                    true => Err(WriteFailure::Refused(unavailable())),
                    false => Ok(store()),
                }
            }
            Act::Isolate(guilty) => {
                let is_guilty = batch.iter().any(|one| one.event_ids().contains(&guilty));
                self.acts.push_front(Act::Isolate(guilty));
                match is_guilty {
                    true => Err(WriteFailure::Isolate(unavailable())),
                    false => Ok(store()),
                }
            }
            Act::Answer(kind) => Ok(batch.iter().map(|_| Err(kind.clone())).collect()),
            Act::Retry => Err(WriteFailure::Retry(unavailable())),
            Act::StoreAndLose => {
                let _: Outcomes = store();
                Err(WriteFailure::Lost(unavailable()))
            }
        }
    }
}

impl Database {
    /// Lets no batch pass, and sends one append that is now stuck in the database.
    pub(crate) async fn block(
        &mut self,
    ) -> (Vec<EventId>, JoinHandle<Result<Appended, StoreError>>) {
        self.gate.forget_permits(Semaphore::MAX_PERMITS);
        let task = self.send(append(1));
        (self.seen.recv().await.unwrap(), task)
    }

    pub(crate) fn send(&self, append: Append) -> JoinHandle<Result<Appended, StoreError>> {
        let writer = self.writer.clone();
        tokio::spawn(async move { writer.append(append).await })
    }

    pub(crate) async fn until_queued(&self, appends: usize) {
        let wait = async {
            while self.writer.queued() < appends {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(10), wait)
            .await
            .unwrap();
    }
}

#[tokio::test]
async fn waiting_appends_become_one_batch_in_arrival_order() {
    let mut database = database([]);
    let (_, first) = database.block().await;
    let mut ids = Vec::new();
    let mut tasks = Vec::new();
    for number in 1..=20 {
        let append = append(1);
        ids.extend(append.event_ids());
        tasks.push(database.send(append));
        database.until_queued(number).await;
    }
    database.gate.add_permits(2);
    first.await.unwrap().unwrap();
    for (number, task) in tasks.into_iter().enumerate() {
        let receipt = task.await.unwrap().unwrap();
        assert_eq!(receipt.position().get(), i64::try_from(number).unwrap() + 2);
    }
    assert_eq!(database.seen.recv().await.unwrap(), ids);
}

#[tokio::test]
async fn a_lost_answer_is_asked_for_again_with_the_same_ids() {
    let mut database = database([Act::StoreAndLose, Act::StoreAndLose]);
    let append = append(1);
    let ids = append.event_ids();
    let receipt = database.writer.append(append).await.unwrap();
    assert_eq!(receipt.position().get(), 1);
    for _ in 0..3 {
        assert_eq!(database.seen.recv().await.unwrap(), ids);
    }
    assert_eq!(*database.stored.lock().unwrap(), ids);
}

#[tokio::test]
async fn only_the_guilty_append_of_a_refused_batch_fails() {
    let mut database = database([Act::Store, Act::RefuseBatches]);
    let (_, first) = database.block().await;
    let tasks: Vec<_> = (1..=8).map(|key| database.send(append(key))).collect();
    database.until_queued(8).await;
    database.gate.add_permits(100);
    for task in tasks.into_iter().chain([first]) {
        task.await.unwrap().unwrap();
    }
    assert_eq!(database.stored.lock().unwrap().len(), 9);
}

#[tokio::test]
async fn an_append_that_is_isolated_is_tried_once_by_itself() {
    let guilty = append(4);
    let id = guilty.event_ids()[0];
    let mut database = database([Act::Store, Act::Isolate(id)]);
    let (_, first) = database.block().await;
    let mut tasks: Vec<_> = (1..=3).map(|key| database.send(append(key))).collect();
    database.until_queued(3).await;
    let failed = database.send(guilty);
    database.until_queued(4).await;
    tasks.extend((5..=8).map(|key| database.send(append(key))));
    database.until_queued(8).await;
    database.gate.add_permits(100);
    for task in tasks.into_iter().chain([first]) {
        task.await.unwrap().unwrap();
    }
    failed.await.unwrap().unwrap_err();
    let mut batches = Vec::new();
    while let Ok(batch) = database.seen.try_recv() {
        batches.push(batch.len());
    }
    assert_eq!(batches, [8, 1, 1, 1, 1, 1, 1, 1, 1]);
}

#[tokio::test]
async fn appends_apart_share_no_batch_with_others() {
    let mut database = database([]);
    let (_, first) = database.block().await;
    let (mut tasks, mut plain, mut apart) = (Vec::new(), Vec::new(), Vec::new());
    for number in 1..=6 {
        let (append, ids) = match number % 3 {
            0 => {
                let event = crate::event("todo.apart");
                let append = Append::to(stream(9), ExpectedVersion::Any, [event]);
                (append, &mut apart)
            }
            _ => (append(1), &mut plain),
        };
        ids.extend(append.event_ids());
        tasks.push(database.send(append));
        database.until_queued(number).await;
    }
    database.gate.add_permits(3);
    for task in tasks.into_iter().chain([first]) {
        task.await.unwrap().unwrap();
    }
    assert_eq!(database.seen.recv().await.unwrap(), plain);
    assert_eq!(database.seen.recv().await.unwrap(), apart);
}

#[tokio::test]
async fn what_the_database_refuses_is_told_to_its_caller() {
    let database = database([Act::Refuse]);
    let error = database.writer.append(append(1)).await.unwrap_err();
    assert!(
        matches!(error.kind(), StoreErrorKind::Unavailable { .. }),
        "{error:?}"
    );
    database.writer.append(append(2)).await.unwrap();
}

#[tokio::test]
async fn a_busy_database_is_asked_again() {
    let database = database([Act::Retry, Act::Retry, Act::Retry]);
    database.writer.append(append(1)).await.unwrap();
    assert_eq!(database.stored.lock().unwrap().len(), 1);
}

#[tokio::test]
async fn a_deadline_in_the_queue_withdraws_the_append() {
    let mut database = database([]);
    let (sent, first) = database.block().await;
    let late = append(2).with_deadline(Duration::from_millis(20));
    let error = database.writer.append(late).await.unwrap_err();
    assert!(
        matches!(error.kind(), StoreErrorKind::NotStored { .. }),
        "{error:?}"
    );
    database.gate.add_permits(100);
    first.await.unwrap().unwrap();
    database.writer.close().await;
    assert_eq!(*database.stored.lock().unwrap(), sent);
}

#[tokio::test]
async fn a_deadline_in_flight_leaves_the_outcome_unknown() {
    let database = database([]);
    database.gate.forget_permits(Semaphore::MAX_PERMITS);
    let slow = append(1).with_deadline(Duration::from_millis(20));
    let ids = slow.event_ids();
    let error = database.writer.append(slow).await.unwrap_err();
    assert_eq!(
        error.kind(),
        &StoreErrorKind::OutcomeUnknown { event_ids: ids }
    );
}

#[tokio::test]
async fn a_dropped_caller_withdraws_what_still_waits() {
    let mut database = database([]);
    let (sent, first) = database.block().await;
    let dropped = database.send(append(2));
    database.until_queued(1).await;
    dropped.abort();
    assert!(dropped.await.unwrap_err().is_cancelled());
    database.gate.add_permits(100);
    first.await.unwrap().unwrap();
    database.writer.close().await;
    assert_eq!(*database.stored.lock().unwrap(), sent);
}

#[tokio::test]
async fn closing_writes_what_waits_and_then_answers_closed() {
    let mut database = database([]);
    let (_, first) = database.block().await;
    let tasks: Vec<_> = (1..=4).map(|key| database.send(append(key))).collect();
    database.until_queued(4).await;
    let writer = database.writer.clone();
    let closing = tokio::spawn(async move { writer.close().await });
    database.gate.add_permits(100);
    closing.await.unwrap();
    for task in tasks.into_iter().chain([first]) {
        task.await.unwrap().unwrap();
    }
    let error = database.writer.append(append(6)).await.unwrap_err();
    assert!(error.is_closed(), "{error:?}");
}

#[test]
fn a_writer_whose_runtime_ended_answers_closed() {
    let runtime = || {
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap()
    };
    let first = runtime();
    let database = first.block_on(async { database([]) });
    drop(first);
    let error = runtime()
        .block_on(database.writer.append(append(1)))
        .unwrap_err();
    assert!(error.is_closed(), "{error:?}");
}

#[tokio::test]
async fn a_full_queue_makes_callers_wait_and_loses_nothing() {
    let mut options = WriterOptions::default();
    options.queue = 2;
    options.batch_appends = 3;
    let database = with_options([], options);
    let tasks: Vec<_> = (1..=100).map(|key| database.send(append(key))).collect();
    for task in tasks {
        task.await.unwrap().unwrap();
    }
    assert_eq!(database.stored.lock().unwrap().len(), 100);
}

#[tokio::test]
async fn an_invalid_append_never_reaches_the_database() {
    let mut database = database([]);
    let error = database.writer.append(Append::new()).await.unwrap_err();
    assert!(error.is_invalid(), "{error:?}");
    database.seen.try_recv().unwrap_err();
    // A conflict is an outcome like any other: it comes from the rules, not from the writer.
    let conflict = Conflict::Version {
        stream: stream(1),
        expected: ExpectedVersion::NoStream,
        actual: StreamVersion::new(1),
    };
    assert!(StoreError::from(conflict).is_conflict());
}
