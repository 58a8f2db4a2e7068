use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

use async_trait::async_trait;
use backstory_event::{
    Append, Appended, EventFilter, EventQuery, EventStore, Page, Position, StoreError,
    StoreErrorKind, StreamPage, StreamQuery,
};

use super::*;
use crate::{CommitError, LetterWrite, Target, test_util::block_on};

#[derive(Debug)]
struct NoLog;

#[async_trait]
impl EventStore for NoLog {
    async fn append(&self, _: Append) -> Result<Appended, StoreError> {
        Err(StoreErrorKind::Closed.into())
    }

    async fn read(&self, _: &EventQuery) -> Result<Page, StoreError> {
        Err(StoreErrorKind::Closed.into())
    }

    async fn streams(&self, _: &StreamQuery) -> Result<StreamPage, StoreError> {
        Err(StoreErrorKind::Closed.into())
    }

    async fn changed(&self, _: Position) -> Result<Position, StoreError> {
        Err(StoreErrorKind::Closed.into())
    }
}

struct NoUnit(());

#[async_trait]
impl Unit<()> for NoUnit {
    fn context(&mut self) -> &mut () {
        &mut self.0
    }

    async fn commit(self: Box<Self>, _: Target, _: Vec<LetterWrite>) -> Result<(), CommitError> {
        Ok(())
    }
}

fn run(code: Code<()>) -> Result {
    let given = Given {
        name: "job",
        filter: EventFilter::all(),
        events: Vec::new(),
        all_after: None,
        to: Checkpoint::START,
        log: Arc::new(NoLog),
    };
    block_on(Running::new(given, Box::new(NoUnit(()))).run(&code))
}

/// Lets others have a turn.
async fn pause() {
    let mut paused = false;
    std::future::poll_fn(|context| {
        context.waker().wake_by_ref();
        match std::mem::replace(&mut paused, true) {
            true => std::task::Poll::Ready(()),
            false => std::task::Poll::Pending,
        }
    })
    .await;
}

#[derive(Default)]
struct Counted {
    now: AtomicUsize,
    most: AtomicUsize,
    ended: AtomicUsize,
}

/// Does ten things, of which one fails.
fn ten(limit: usize, fails: Option<usize>) -> (Arc<Counted>, Result) {
    let counted = Arc::new(Counted::default());
    let counts = Arc::clone(&counted);
    let outcome = run(super::super::boxed(move |job: JobRun<()>| {
        let counts = Arc::clone(&counts);
        job.concurrently(limit, 0..10, move |number| {
            let counts = Arc::clone(&counts);
            async move {
                let now = counts.now.fetch_add(1, SeqCst) + 1;
                counts.most.fetch_max(now, SeqCst);
                pause().await;
                counts.now.fetch_sub(1, SeqCst);
                counts.ended.fetch_add(1, SeqCst);
                match fails == Some(number) {
                    true => Err(format!("{number} fails").into()),
                    false => Ok(()),
                }
            }
        })
    }));
    (counted, outcome)
}

#[test]
fn so_many_things_are_done_at_a_time() {
    for (limit, most) in [(0, 1), (1, 1), (3, 3), (100, 10)] {
        let (counted, outcome) = ten(limit, None);
        outcome.unwrap();
        assert_eq!(counted.most.load(SeqCst), most);
        assert_eq!(counted.ended.load(SeqCst), 10);
    }
}

#[test]
fn after_a_failure_what_was_begun_ends_and_nothing_else_is_begun() {
    let (counted, outcome) = ten(3, Some(4));
    assert_eq!(outcome.unwrap_err().to_string(), "4 fails");
    assert_eq!(counted.now.load(SeqCst), 0, "nothing is left half done");
    let ended = counted.ended.load(SeqCst);
    assert!((5..=8).contains(&ended), "{ended}");
}
