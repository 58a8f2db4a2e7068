//! Reads from a streaming replica.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use backstory_event::{
    Direction, EventFilter, EventQuery, Page, Position, StoreError, StoreErrorKind,
};
use backstory_store_kit::Tail;
use sqlx::postgres::PgConnectOptions;
use tokio::{
    sync::watch,
    task::JoinHandle,
    time::{sleep, timeout},
};

use crate::{
    PostgresOptions,
    edge::Edge,
    error::{store_error, timed_out},
    need::Need,
    outage::Outage,
    pool::{Lease, Pool, connections},
    read::Reader,
    statement::{Server, streams_only},
};

/// How long the replica may take for a page before the primary is asked.
const ANSWER: Duration = Duration::from_secs(5);
/// How often a replica that failed is looked at again, at first and at last.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// For how long nobody asks a replica for its end after it was found behind.
const LAG: Duration = Duration::from_millis(100);

/// A replica that answers what it surely knows. A task of its own decides whether it is trusted:
/// at the start, after each failure, and when the primary may be another one. It ends with this
/// value, or by [`Replica::close`].
#[derive(Debug)]
pub(crate) struct Replica {
    reader: Reader,
    primary: Reader,
    tail: Tail,
    trusted: Arc<watch::Sender<bool>>,
    lag: Mutex<Lag>,
    task: JoinHandle<()>,
}

/// How far the replica was when it was last asked, and when it was found behind.
#[derive(Debug, Default)]
struct Lag {
    head: Position,
    found: Option<Instant>,
}

impl Replica {
    pub(crate) fn open(
        connect: PgConnectOptions,
        options: &PostgresOptions,
        primary: Reader,
        tail: Tail,
        edge: &Edge,
    ) -> Self {
        // It is not waited for: there is the primary.
        let options = options
            .clone()
            .with_retry(Duration::ZERO)
            .with_connect_timeout(options.connect_timeout.min(Duration::from_secs(2)));
        let outage = Outage::new();
        let pool = connections(connect, &options, &outage);
        let reader = Reader {
            pool: Pool::new(pool, Some(Need::default()), &options),
            outage,
            server: Server::Standby,
            tail: None,
            ..primary.clone()
        };
        let trusted = Arc::new(watch::Sender::new(false));
        let task = tokio::spawn(watch_over(
            reader.clone(),
            primary.clone(),
            trusted.clone(),
            edge.shared().doubts(),
        ));
        Self {
            reader,
            primary,
            tail,
            trusted,
            lag: Mutex::default(),
            task,
        }
    }

    /// The page of a query; nothing when the primary has to be asked.
    pub(crate) async fn read(&self, query: &EventQuery) -> Option<Page> {
        if !*self.trusted.borrow() {
            return None;
        }
        // Where a time is in the log is asked at the primary: the replica may not know it yet.
        let query = self.primary.narrow(query).await.ok()?;
        if self.is_behind(&query) {
            return None;
        }
        let answer = match timeout(ANSWER, self.reader.page(&query)).await {
            Ok(answer) => answer,
            Err(_) => {
                self.reader.outage.found();
                self.trusted.send_replace(false);
                return None;
            }
        };
        let known = self.tail.head();
        match answer {
            Ok(mut page) => {
                if page.head == Position::START && known > page.head {
                    // It may be a primary by now: that is looked at.
                    self.trusted.send_replace(false);
                    return None;
                }
                let behind = page.head < known;
                *self.lag() = Lag {
                    head: page.head,
                    found: behind.then(Instant::now),
                };
                if !holds(&query, &page, known) {
                    return None;
                }
                page.head = page.head.max(known);
                Some(page)
            }
            // It may not have the event yet: only the primary knows.
            Err(error) if error.is_diverged() => None,
            Err(error) => {
                tracing::debug!(error = %error, "backstory.postgres.replica failed");
                self.trusted.send_replace(false);
                None
            }
        }
    }

    /// True when the answer would surely be that the replica is behind.
    fn is_behind(&self, query: &EventQuery) -> bool {
        let lag = self.lag();
        let known = self.tail.head();
        let recent = lag.found.is_some_and(|found| found.elapsed() < LAG);
        let end = query.up_to.is_none_or(|bound| bound > lag.head);
        let asks_for_end = match query.direction {
            Direction::Forward => {
                query.after.position >= lag.head || (end && streams_only(&query.filter).is_some())
            }
            Direction::Backward => end,
        };
        recent && known > lag.head && asks_for_end
    }

    fn lag(&self) -> MutexGuard<'_, Lag> {
        self.lag.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) async fn close(&self) {
        self.task.abort();
        self.reader.pool.connections.close().await;
    }
}

impl Drop for Replica {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// True when a replica's page tells nothing else than the primary would, of which `known` is known.
fn holds(query: &EventQuery, page: &Page, known: Position) -> bool {
    if page.head == known {
        return true;
    }
    // Ahead of what is known of the primary it is not believed: it may have been one itself.
    let end = page.head.min(known);
    let bounded = query.up_to.is_some_and(|bound| bound <= end);
    match query.direction {
        Direction::Forward => {
            let full = query.limit == Some(page.events.len());
            (page.next.is_some() || bounded || full) && page.checkpoint.position <= end
        }
        Direction::Backward => bounded,
    }
}

async fn watch_over(
    replica: Reader,
    primary: Reader,
    trusted: Arc<watch::Sender<bool>>,
    mut doubts: watch::Receiver<u64>,
) {
    let mut pause = FIRST_PAUSE;
    let mut failed = trusted.subscribe();
    loop {
        doubts.mark_unchanged();
        match check(&replica, &primary).await {
            Ok(()) => {
                pause = FIRST_PAUSE;
                trusted.send_replace(true);
                tokio::select! {
                    _ = failed.wait_for(|trusted| !*trusted) => {}
                    doubted = doubts.changed() => if doubted.is_err() { return },
                }
                trusted.send_replace(false);
            }
            Err(error) => {
                tracing::warn!(error = %error, "the replica is not read from");
            }
        }
        tokio::select! {
            () = sleep(pause) => {}
            doubted = doubts.changed() => if doubted.is_err() { return },
        }
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// Looks whether the newest event of the replica stands in the log of the primary.
async fn check(replica: &Reader, primary: &Reader) -> Result<(), StoreError> {
    let newest = EventQuery::new(EventFilter::all()).backward().limit(1);
    let work = async {
        let mut lease = Lease::of(&replica.pool).await.map_err(store_error)?;
        let standby = sqlx::query_scalar("SELECT pg_is_in_recovery()")
            .fetch_one(&mut *lease)
            .await;
        if !lease.done_with(standby).await.map_err(store_error)? {
            return Err(StoreError::new(StoreErrorKind::Config {
                reason: "the server of `with_replica` is no streaming replica".to_owned(),
            }));
        }
        let page = replica.page(&newest).await?;
        if let Some(event) = page.events.first() {
            let there = EventQuery::new(EventFilter::none()).after(event.checkpoint());
            primary.page(&there).await?;
        }
        Ok(())
    };
    match timeout(ANSWER, work).await {
        Ok(checked) => checked,
        Err(_) => {
            replica.outage.found();
            Err(store_error(timed_out("the replica did not answer")))
        }
    }
}
