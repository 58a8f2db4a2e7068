//! One reader at the end of the log for all who wait there.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use backstory_event::{Checkpoint, EventFilter, EventQuery, Page};
use backstory_store_kit::Tail;
use tokio::{sync::watch, task::JoinHandle, time::timeout};

use crate::{
    read::Reader,
    ring::{self, Ring},
    statement::streams_only,
};

/// How long the newest events are kept after the last time that several readers waited for more.
const LINGER: Duration = Duration::from_secs(5);
/// How long one look may take before each reader looks by itself.
const ANSWER: Duration = Duration::from_secs(3);
/// How many events are searched for those of single streams.
const STREAM_REACH: i64 = 64;

/// Reads the end of the log once for all who follow it. A page from here is as fresh as one from
/// the database: the look that it comes from began after it was asked for.
///
/// The looking is done by a task of its own, which no slow reader can hold up. It ends with this
/// value, or by [`Edge::close`].
#[derive(Debug)]
pub(crate) struct Edge {
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

#[derive(Debug)]
pub(crate) struct Shared {
    state: Mutex<State>,
    // The number of the newest look that somebody waits for, and that has ended.
    wanted: watch::Sender<u64>,
    ended: watch::Sender<u64>,
    // How often the log was doubted.
    doubts: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct State {
    ring: Ring,
    // How often the ring was cleared: a look that began before has no place in it.
    cleared: u64,
    begun: u64,
    // Where the next look begins when nothing is kept.
    seed: Option<Checkpoint>,
    waiting: usize,
    crowded: Option<Instant>,
}

impl State {
    fn clear(&mut self) {
        self.ring.clear();
        self.cleared += 1;
        self.seed = None;
    }

    /// True when several readers follow the log: for a single one there is nothing to share.
    fn is_crowded(&self) -> bool {
        self.waiting > 1 || self.crowded.is_some_and(|last| last.elapsed() < LINGER)
    }
}

/// Somebody who waits for the log to grow.
#[derive(Debug)]
pub(crate) struct Follower<'a> {
    shared: &'a Shared,
    doubts: watch::Receiver<u64>,
}

impl Follower<'_> {
    /// Waits until the log may be another one.
    pub(crate) async fn doubted(&mut self) {
        if self.doubts.changed().await.is_err() {
            std::future::pending().await
        }
    }
}

impl Drop for Follower<'_> {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        if state.waiting > 1 {
            state.crowded = Some(Instant::now());
        }
        state.waiting -= 1;
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The log may be another one now, after a failover: forgets what was read, and lets those who
    /// wait look whether their past still stands.
    pub(crate) fn doubt(&self) {
        self.lock().clear();
        self.doubts.send_modify(|count| *count += 1);
    }

    /// Tells of doubts.
    pub(crate) fn doubts(&self) -> watch::Receiver<u64> {
        self.doubts.subscribe()
    }

    /// Frees what nobody shares any more.
    pub(crate) fn tidy(&self) {
        let mut state = self.lock();
        if !state.is_crowded() {
            state.clear();
        }
    }

    async fn look(&self, reader: &Reader) {
        let (number, cleared, from) = {
            let mut state = self.lock();
            state.begun += 1;
            let from = state.ring.end().or(state.seed.take());
            (state.begun, state.cleared, from)
        };
        if let Some(from) = from {
            let query = EventQuery::new(EventFilter::all()).after(from);
            let found = timeout(ANSWER, reader.read(&query)).await;
            let mut state = self.lock();
            match found {
                Ok(Ok(page)) if state.cleared == cleared => state.ring.extend(from, page),
                // Whoever waits finds out by itself what is wrong.
                _ => state.clear(),
            }
        }
        self.ended.send_replace(number);
    }
}

impl Edge {
    pub(crate) fn spawn(reader: Reader) -> Self {
        let (wanted, mut asked) = watch::channel(0);
        let shared = Arc::new(Shared {
            state: Mutex::default(),
            wanted,
            ended: watch::Sender::new(0),
            doubts: watch::Sender::new(0),
        });
        let ours = Ended(shared.clone());
        let task = tokio::spawn(async move {
            loop {
                let begun = ours.0.lock().begun;
                if asked.wait_for(|wanted| *wanted > begun).await.is_err() {
                    return;
                }
                ours.0.look(&reader).await;
            }
        });
        Self { shared, task }
    }

    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    pub(crate) fn follow(&self) -> Follower<'_> {
        self.shared.lock().waiting += 1;
        Follower {
            shared: &self.shared,
            doubts: self.shared.doubts.subscribe(),
        }
    }

    /// The page of a query near the end of the log; nothing when the database has to be asked.
    pub(crate) async fn read(
        &self,
        query: &EventQuery,
        tail: &Tail,
        reader: &Reader,
    ) -> Option<Page> {
        if !ring::answers(query) {
            return None;
        }
        // An index finds the events of streams; the ring would have to be searched.
        let behind = tail.head().get() - query.after.position.get();
        if behind > STREAM_REACH && streams_only(&query.filter).is_some() {
            return None;
        }
        let number = self.ticket(query.after, tail, reader)?;
        let mut ended = self.shared.ended.subscribe();
        self.shared.wanted.send_if_modified(|wanted| {
            let more = number > *wanted;
            *wanted = number.max(*wanted);
            more
        });
        ended.wait_for(|ended| *ended >= number).await.ok()?;
        self.shared
            .lock()
            .ring
            .page(query, reader.window, reader.page)
    }

    /// The number of the first look that begins after this, if it can help who is at `after`.
    fn ticket(&self, after: Checkpoint, tail: &Tail, reader: &Reader) -> Option<u64> {
        let mut state = self.shared.lock();
        if !state.is_crowded() {
            return None;
        }
        let position = after.position.get();
        let page = i64::try_from(reader.page).unwrap_or(i64::MAX);
        if let Some(end) = state.ring.end() {
            if position <= end.position.get().saturating_add(page) {
                let reached = state.ring.reaches(after.position);
                return reached.then_some(state.begun + 1);
            }
            // Those who wait now are far ahead of it.
            state.clear();
        }
        let provable = !after.event_id.is_nil() || after == Checkpoint::START;
        if !provable || tail.head().get() - position > page {
            return None;
        }
        // The farthest behind of those who wait for this look.
        if state.seed.is_none_or(|seed| after.position < seed.position) {
            state.seed = Some(after);
        }
        Some(state.begun + 1)
    }

    pub(crate) fn close(&self) {
        self.task.abort();
    }
}

impl Drop for Edge {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Lets go of those who wait when the task ends, also with its runtime.
struct Ended(Arc<Shared>);

impl Drop for Ended {
    fn drop(&mut self) {
        self.0.lock().clear();
        self.0.ended.send_replace(u64::MAX);
    }
}
