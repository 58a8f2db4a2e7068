//! Reads that are pending together are answered together, and nobody suffers from another.

use std::{
    sync::{
        Arc, Mutex, Weak,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use backstory_store_kit::{BatchReader, Coalescer, CoalescerOptions};
use tokio::{
    sync::{Semaphore, mpsc},
    task::{JoinHandle, JoinSet},
};

/// What the database does with the statements of the tasks, from now on.
#[derive(Debug, Default, Clone, Copy, PartialEq)]
enum Act {
    #[default]
    Answer,
    Fail,
    Panic,
    /// Answers one less than was asked.
    Miss,
}

#[derive(Default)]
struct Seen {
    act: Mutex<Act>,
    alone: AtomicUsize,
    running: AtomicUsize,
    most_running: AtomicUsize,
}

/// Answers the double. Each statement waits for the gate.
struct Doubler {
    seen: Arc<Seen>,
    gate: Arc<Semaphore>,
    batches: mpsc::UnboundedSender<Vec<u32>>,
}

struct Running<'a>(&'a Seen);

impl<'a> Running<'a> {
    fn on(seen: &'a Seen) -> Self {
        let running = seen.running.fetch_add(1, Ordering::SeqCst) + 1;
        seen.most_running.fetch_max(running, Ordering::SeqCst);
        Self(seen)
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.running.fetch_sub(1, Ordering::SeqCst);
    }
}

#[async_trait]
impl BatchReader for Doubler {
    type Request = u32;
    type Answer = u32;
    type Error = String;

    async fn one(&self, request: &u32) -> Result<u32, String> {
        self.seen.alone.fetch_add(1, Ordering::SeqCst);
        self.batches.send(vec![*request]).unwrap();
        self.gate.acquire().await.unwrap().forget();
        match request {
            13 => Err("bad luck".to_owned()),
            request => Ok(request * 2),
        }
    }

    async fn many(&self, requests: &[Arc<u32>]) -> Option<Vec<u32>> {
        let _running = Running::on(&self.seen);
        let batch: Vec<u32> = requests.iter().map(|request| **request).collect();
        self.batches.send(batch.clone()).unwrap();
        self.gate.acquire().await.unwrap().forget();
        let mut answers: Vec<u32> = batch.iter().map(|request| request * 2).collect();
        let act = *self.seen.act.lock().unwrap();
        match act {
            Act::Answer => {}
            Act::Fail => return None,
            Act::Panic => panic!("the statement of a task panics"),
            Act::Miss => drop(answers.pop()),
        }
        (!batch.contains(&13)).then_some(answers)
    }
}

struct Database {
    coalescer: Arc<Coalescer<Doubler>>,
    seen: Arc<Seen>,
    gate: Arc<Semaphore>,
    batches: mpsc::UnboundedReceiver<Vec<u32>>,
}

fn database() -> Database {
    let mut options = CoalescerOptions::default();
    options.tasks = 2;
    with_options(options)
}

fn with_options(options: CoalescerOptions) -> Database {
    let (sender, batches) = mpsc::unbounded_channel();
    let gate = Arc::new(Semaphore::new(0));
    let seen = Arc::<Seen>::default();
    let reader = Doubler {
        seen: seen.clone(),
        gate: gate.clone(),
        batches: sender,
    };
    Database {
        coalescer: Arc::new(Coalescer::new(reader, options)),
        seen,
        gate,
        batches,
    }
}

impl Database {
    fn ask(&self, request: u32) -> JoinHandle<Result<u32, String>> {
        let coalescer = self.coalescer.clone();
        tokio::spawn(async move { coalescer.ask(request).await })
    }

    /// The requests of the next statement.
    async fn statement(&mut self) -> Vec<u32> {
        within(self.batches.recv()).await.unwrap()
    }

    /// Makes one caller alone and both tasks busy, so that whoever comes has to wait.
    async fn keep_busy(&mut self) -> Vec<JoinHandle<Result<u32, String>>> {
        let mut callers = Vec::new();
        for request in 1..=3 {
            callers.push(self.ask(request));
            assert_eq!(self.statement().await, [request]);
        }
        callers
    }

    /// Asks, and returns when all of them wait.
    async fn wait_with(&self, requests: &[u32]) -> Vec<JoinHandle<Result<u32, String>>> {
        let mut callers = Vec::new();
        for (index, request) in requests.iter().enumerate() {
            callers.push(self.ask(*request));
            self.until_waiting(index + 1).await;
        }
        callers
    }

    async fn until_waiting(&self, count: usize) {
        let wanted = format!("waiting: {count},");
        within(async {
            while !format!("{:?}", self.coalescer).contains(&wanted) {
                tokio::task::yield_now().await;
            }
        })
        .await;
    }

    async fn until_idle(&self) {
        within(async {
            while !format!("{:?}", self.coalescer).contains("tasks: 0") {
                tokio::task::yield_now().await;
            }
        })
        .await;
    }
}

async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(20), future)
        .await
        .expect("nothing came")
}

async fn answers(callers: Vec<JoinHandle<Result<u32, String>>>) -> Vec<Result<u32, String>> {
    let mut answers = Vec::new();
    for caller in callers {
        answers.push(within(caller).await.unwrap());
    }
    answers
}

#[tokio::test]
async fn after_a_crowd_all_ask_together_until_one_is_alone_again() {
    let mut database = with_options(CoalescerOptions::default());
    let waves: [(&[u32], &[&[u32]]); 4] = [
        (&[1, 2, 3], &[&[1], &[2, 3]]),
        (&[4, 5, 6], &[&[4, 5, 6]]),
        (&[7], &[&[7]]),
        (&[8, 9], &[&[8], &[9]]),
    ];
    for (wave, statements) in waves {
        let callers = wave.iter().map(|request| database.ask(*request)).collect();
        for statement in statements {
            assert_eq!(database.statement().await, *statement);
        }
        database.gate.add_permits(statements.len());
        let doubled: Vec<_> = wave.iter().map(|request| Ok(request * 2)).collect();
        assert_eq!(answers(callers).await, doubled);
        database.until_idle().await;
    }
    // The first of the first wave, and of the last one: 7 was a task's.
    assert_eq!(database.seen.alone.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn a_lone_caller_asks_by_itself() {
    let mut database = database();
    database.gate.add_permits(3);
    for request in 1..=3 {
        assert_eq!(
            within(database.coalescer.ask(request)).await,
            Ok(request * 2)
        );
        assert_eq!(database.statement().await, [request]);
    }
    assert_eq!(database.seen.alone.load(Ordering::SeqCst), 3);
}

#[tokio::test]
async fn those_who_wait_go_together() {
    let mut database = database();
    let first = database.keep_busy().await;
    let waiting = database.wait_with(&[10, 11, 12]).await;
    database.gate.add_permits(4);
    assert_eq!(answers(first).await, [Ok(2), Ok(4), Ok(6)]);
    assert_eq!(database.statement().await, [10, 11, 12]);
    assert_eq!(answers(waiting).await, [Ok(20), Ok(22), Ok(24)]);
    database.until_idle().await;
}

#[tokio::test]
async fn at_most_so_many_go_together() {
    let mut options = CoalescerOptions::default();
    options.tasks = 2;
    options.batch = 2;
    let mut database = with_options(options);
    let first = database.keep_busy().await;
    let waiting = database.wait_with(&[10, 11, 12, 13, 14]).await;
    database.gate.add_permits(100);
    answers(first).await;
    let mut together = Vec::new();
    answers(waiting).await;
    while let Ok(batch) = database.batches.try_recv() {
        assert!(batch.len() <= 2);
        together.push(batch);
    }
    assert!(together.contains(&vec![10, 11]), "{together:?}");
}

#[tokio::test]
async fn a_request_that_spoils_a_statement_fails_alone() {
    let mut database = database();
    let first = database.keep_busy().await;
    let waiting = database.wait_with(&[12, 13, 14]).await;
    database.gate.add_permits(100);
    answers(first).await;
    let outcome = answers(waiting).await;
    assert_eq!(outcome, [Ok(24), Err("bad luck".to_owned()), Ok(28)]);
}

#[tokio::test]
async fn without_answers_everybody_asks_alone() {
    for act in [Act::Fail, Act::Panic, Act::Miss] {
        let mut database = database();
        let first = database.keep_busy().await;
        let waiting = database.wait_with(&[10, 11, 12]).await;
        *database.seen.act.lock().unwrap() = act;
        database.gate.add_permits(100);
        assert_eq!(answers(first).await, [Ok(2), Ok(4), Ok(6)], "{act:?}");
        assert_eq!(answers(waiting).await, [Ok(20), Ok(22), Ok(24)], "{act:?}");
        assert_eq!(database.seen.alone.load(Ordering::SeqCst), 6, "{act:?}");
        database.until_idle().await;
        *database.seen.act.lock().unwrap() = Act::Answer;
        assert_eq!(within(database.coalescer.ask(4)).await, Ok(8), "{act:?}");
    }
}

#[tokio::test]
async fn a_dropped_caller_has_no_effect_on_others() {
    let mut database = database();
    let first = database.keep_busy().await;
    let waiting = database.wait_with(&[10, 11, 12]).await;
    // One that asks alone, one whose task asks for it, one that waits.
    first[0].abort();
    first[1].abort();
    waiting[0].abort();
    assert!(within(waiting.into_iter().next().unwrap()).await.is_err());
    // The task whose only caller went away takes the others without waiting for its statement.
    assert_eq!(database.statement().await, [11, 12]);
    database.gate.add_permits(100);
    assert_eq!(within(database.coalescer.ask(4)).await, Ok(8));
    database.until_idle().await;
}

#[tokio::test]
async fn a_caller_that_is_not_polled_holds_nobody_up() {
    let mut database = database();
    let coalescer = database.coalescer.clone();
    let mut stuck = Box::pin(coalescer.ask(1));
    assert!(futures::poll!(&mut stuck).is_pending());
    assert_eq!(database.statement().await, [1]);
    let others = [database.ask(2), database.ask(3), database.ask(4)];
    database.gate.add_permits(100);
    assert_eq!(answers(others.into()).await, [Ok(4), Ok(6), Ok(8)]);
    assert_eq!(within(stuck).await, Ok(2));
}

#[tokio::test]
async fn tasks_end_when_nobody_wants_their_answers() {
    let mut database = database();
    let callers = database.keep_busy().await;
    let left: Weak<Seen> = Arc::downgrade(&database.seen);
    for caller in callers {
        caller.abort();
        assert!(within(caller).await.is_err());
    }
    // Nothing passes the gate.
    drop(database);
    within(async {
        while left.upgrade().is_some() {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

#[test]
fn callers_outlive_the_runtime_of_the_tasks() {
    let runtime = || {
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap()
    };
    let (home, away) = (runtime(), runtime());
    let mut database = home.block_on(async { database() });
    let first = home.block_on(database.keep_busy());
    away.block_on(async {
        let waiting = database.wait_with(&[10, 11]).await;
        drop(first);
        database.gate.add_permits(100);
        home.shutdown_background();
        assert_eq!(answers(waiting).await, [Ok(20), Ok(22)]);
        let both = [database.ask(5), database.ask(6)];
        assert_eq!(answers(both.into()).await, [Ok(10), Ok(12)]);
    });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn many_callers_get_their_own_answers_by_few_statements() {
    let mut database = database();
    database.gate.add_permits(1_000_000);
    let mut callers = JoinSet::new();
    for caller in 0..32_u32 {
        let coalescer = database.coalescer.clone();
        callers.spawn(async move {
            for number in 0..500 {
                let request = 1_000 + caller * 1_000 + number;
                // Some lose interest.
                if number % 7 == 0 {
                    let patience = Duration::from_micros(u64::from(number));
                    let _ = tokio::time::timeout(patience, coalescer.ask(request)).await;
                } else {
                    assert_eq!(coalescer.ask(request).await, Ok(request * 2));
                }
            }
        });
    }
    while let Some(caller) = within(callers.join_next()).await {
        caller.unwrap();
    }
    database.until_idle().await;
    assert!(database.seen.most_running.load(Ordering::SeqCst) <= 2);
    assert_eq!(database.seen.running.load(Ordering::SeqCst), 0);
    let mut together = 0;
    while let Ok(batch) = database.batches.try_recv() {
        assert!(batch.len() <= 128);
        together = together.max(batch.len());
    }
    assert!(together > 1, "nobody went together");
}
