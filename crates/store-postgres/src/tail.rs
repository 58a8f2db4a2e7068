//! Learning that other processes have appended.

use std::{sync::Arc, time::Duration};

use backstory_event::{Position, StoreError, StoreErrorKind};
use backstory_store_kit::Tail;
use sqlx::{
    Error, PgPool,
    postgres::{PgConnectOptions, PgListener, PgPoolOptions},
};
use tokio::{
    sync::watch,
    task::JoinHandle,
    time::{MissedTickBehavior, interval, sleep, timeout},
};

use crate::{
    PostgresOptions, Wake,
    error::timed_out,
    health::Listener,
    schema::Schema,
    session::{Lease, Pool, jitter, prepare},
    sql::Statements,
};

const POLL_WHILE_WAITING: Duration = Duration::from_millis(100);
const FIRST_PAUSE: Duration = Duration::from_millis(20);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// The task that keeps a [`Tail`] up to date. It ends with this value.
#[derive(Debug)]
pub(crate) struct Watcher {
    task: JoinHandle<()>,
    closed: Arc<watch::Sender<bool>>,
    waiting: Arc<watch::Sender<usize>>,
}

/// Everything the task needs.
pub(crate) struct Watch {
    pub(crate) connect: PgConnectOptions,
    pub(crate) pool: Pool,
    pub(crate) schema: Schema,
    pub(crate) sql: Arc<Statements>,
    pub(crate) options: PostgresOptions,
    pub(crate) tail: Tail,
    pub(crate) listener: Arc<Listener>,
}

/// Says on its way out that nobody watches any more: also when the runtime ends.
struct Ended(Arc<watch::Sender<bool>>);

impl Drop for Ended {
    fn drop(&mut self) {
        self.0.send_replace(true);
    }
}

/// Counts somebody who waits.
struct Waiting<'a>(&'a watch::Sender<usize>);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.send_modify(|count| *count = count.saturating_sub(1));
    }
}

impl Watcher {
    pub(crate) fn spawn(watch: Watch) -> Self {
        let closed = Arc::new(watch::Sender::new(false));
        let waiting = Arc::new(watch::Sender::new(0));
        let ended = Ended(closed.clone());
        let waiters = waiting.subscribe();
        let task = tokio::spawn(async move {
            let _ended = ended;
            match watch.options.wake {
                // What listens is a backend, and behind a pooler that is a stranger's next.
                Wake::Listen if !watch.options.pooler.is_used() => watch.listen().await,
                _ => watch.poll(waiters).await,
            }
        });
        Self {
            task,
            closed,
            waiting,
        }
    }

    /// True after the end of the task: the store was closed, or its runtime is gone.
    pub(crate) fn is_closed(&self) -> bool {
        *self.closed.borrow()
    }

    /// Waits until the log may reach beyond a position.
    pub(crate) async fn beyond(
        &self,
        tail: &Tail,
        after: Position,
    ) -> Result<Position, StoreError> {
        let mut closed = self.closed.subscribe();
        self.waiting.send_modify(|count| *count += 1);
        let _waiting = Waiting(&self.waiting);
        tokio::select! {
            biased;
            _ = closed.wait_for(|closed| *closed) => Err(StoreError::new(StoreErrorKind::Closed)),
            head = tail.beyond(after) => head,
        }
    }

    pub(crate) fn close(&self) {
        self.task.abort();
        self.closed.send_replace(true);
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// The newest position that a query found. When it stays behind what the tail claims, the log has
/// become shorter: a failover, or a notification that was none of ours.
#[derive(Debug, Default)]
struct Heads {
    suspect: Option<Position>,
}

impl Heads {
    fn found(&mut self, tail: &Tail, head: Position) {
        let claimed = tail.head();
        if head >= claimed {
            self.suspect = None;
            tail.advance(head);
        } else if self.suspect.replace(claimed) == Some(claimed) {
            self.suspect = None;
            tail.reset(head);
        }
    }
}

impl Watch {
    async fn listen(self) {
        let mut pause = FIRST_PAUSE;
        let mut heads = Heads::default();
        loop {
            let error = self.listen_once(&mut heads, &mut pause).await;
            self.listener.lost();
            tracing::debug!(%error, schema = self.schema.name(), "backstory.postgres.listener lost");
            sleep(pause + jitter(pause)).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// Listens until the connection breaks, and says why it did.
    async fn listen_once(&self, heads: &mut Heads, pause: &mut Duration) -> Error {
        // The listener takes its connection from a pool; this one has only that.
        let pool = PgPoolOptions::new()
            .max_connections(1)
            .acquire_timeout(self.options.connect_timeout)
            .test_before_acquire(false)
            .max_lifetime(None)
            .idle_timeout(None)
            .after_connect(|connection, _| Box::pin(prepare(connection)))
            .connect_lazy_with(self.connect.clone());
        let result = self.listen_on(&pool, heads, pause).await;
        match result {
            Ok(()) => Error::PoolClosed,
            Err(error) => error,
        }
    }

    async fn listen_on(
        &self,
        pool: &PgPool,
        heads: &mut Heads,
        pause: &mut Duration,
    ) -> Result<(), Error> {
        let mut listener = PgListener::connect_with(pool).await?;
        listener.eager_reconnect(false);
        listener.ignore_pool_close_event(true);
        listener.listen(&self.schema.channel()).await?;
        self.listener.listens();
        // What was announced while nobody listened.
        heads.found(&self.tail, self.head(&mut listener).await?);
        // Whoever waits proves that this is still the log that it has read.
        self.tail.look_again();
        *pause = FIRST_PAUSE;

        let mut ticks = interval(self.options.poll);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        ticks.tick().await;
        loop {
            tokio::select! {
                notification = listener.try_recv() => match notification? {
                    Some(notification) => {
                        if let Ok(head) = notification.payload().parse() {
                            self.tail.advance(Position::new(head));
                        }
                    }
                    None => return Ok(()),
                },
                // A connection that died without a word is found out by this, too.
                _ = ticks.tick() => heads.found(&self.tail, self.head(&mut listener).await?),
            }
        }
    }

    async fn head(
        &self,
        executor: impl sqlx::Executor<'_, Database = sqlx::Postgres>,
    ) -> Result<Position, Error> {
        let head = sqlx::query_scalar(self.sql.head.text()).fetch_one(executor);
        match timeout(self.options.connect_timeout, head).await {
            Ok(head) => head.map(Position::new),
            Err(_) => Err(timed_out("the server did not answer")),
        }
    }

    /// Asks again and again, but only while somebody waits.
    async fn poll(self, mut waiting: watch::Receiver<usize>) {
        let mut heads = Heads::default();
        let mut lost = false;
        while waiting.wait_for(|count| *count > 0).await.is_ok() {
            let head = async {
                let mut lease = Lease::of(&self.pool).await?;
                let head = self.head(&mut *lease).await;
                lease.done_with(head).await
            };
            match head.await {
                Ok(head) => {
                    heads.found(&self.tail, head);
                    if std::mem::take(&mut lost) {
                        self.tail.look_again();
                    }
                }
                Err(error) => {
                    lost = true;
                    tracing::debug!(%error, "backstory.postgres.poll failed");
                }
            }
            sleep(POLL_WHILE_WAITING.min(self.options.poll)).await;
        }
    }
}
