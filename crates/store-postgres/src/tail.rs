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
    time::{Instant, MissedTickBehavior, interval, sleep, timeout},
};

use crate::{
    PostgresOptions, Wake,
    edge::{self, Edge},
    error::timed_out,
    health::Listener,
    outage::Outage,
    pause::jitter,
    pool::{Lease, Pool},
    schema::Schema,
    session::prepare,
    sql::Statements,
};

/// How long the server may take to say how far the log reaches.
const ANSWER: Duration = Duration::from_secs(3);
const FIRST_POLL: Duration = Duration::from_millis(10);
const TIDY: Duration = Duration::from_secs(10);
/// How long news are still listened to when nobody waits any more.
const LINGER: Duration = Duration::from_secs(2);
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
    pub(crate) edge: Arc<edge::Shared>,
    pub(crate) outage: Outage,
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
                Wake::Listen if !watch.options.pooler.is_used() => watch.listen(waiters).await,
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
        edge: &Edge,
        after: Position,
    ) -> Result<Position, StoreError> {
        let mut closed = self.closed.subscribe();
        let mut following = edge.follow();
        self.waiting.send_modify(|count| *count += 1);
        let _waiting = Waiting(&self.waiting);
        tokio::select! {
            biased;
            _ = closed.wait_for(|closed| *closed) => Err(StoreError::new(StoreErrorKind::Closed)),
            head = tail.beyond(after) => head,
            () = following.doubted() => Ok(tail.head()),
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
    fn found(&mut self, watch: &Watch, head: Position) {
        let claimed = watch.tail.head();
        if head >= claimed {
            self.suspect = None;
            watch.tail.advance(head);
        } else if self.suspect.replace(claimed) == Some(claimed) {
            self.suspect = None;
            watch.tail.reset(head);
            watch.edge.doubt();
        }
    }
}

/// What outlives the connections of the listener.
#[derive(Debug)]
struct Listening {
    heads: Heads,
    waiting: watch::Receiver<usize>,
    pause: Duration,
    connected: bool,
}

impl Listening {
    fn is_wanted(&self) -> bool {
        *self.waiting.borrow() > 0
    }

    /// Waits until somebody waits.
    async fn wanted(&mut self) {
        let ended = self.waiting.wait_for(|count| *count > 0).await.is_err();
        if ended {
            std::future::pending().await
        }
    }
}

impl Watch {
    async fn listen(self, waiting: watch::Receiver<usize>) {
        let mut state = Listening {
            heads: Heads::default(),
            waiting,
            pause: Duration::ZERO,
            connected: false,
        };
        loop {
            let error = self.listen_once(&mut state).await;
            self.listener.lost();
            tracing::debug!(%error, schema = self.schema.name(), "backstory.postgres.listener lost");
            sleep(state.pause + jitter(state.pause)).await;
            state.pause = (state.pause * 2).clamp(FIRST_PAUSE, LONGEST_PAUSE);
        }
    }

    /// Listens until the connection breaks, and says why it did.
    async fn listen_once(&self, state: &mut Listening) -> Error {
        // The listener takes its connection from a pool; this one has only that.
        let pool = PgPoolOptions::new()
            .max_connections(1)
            .acquire_timeout(self.options.connect_timeout)
            .test_before_acquire(false)
            .max_lifetime(None)
            .idle_timeout(None)
            .after_connect(|connection, _| Box::pin(prepare(connection)))
            .connect_lazy_with(self.connect.clone());
        let result = self.listen_on(&pool, state).await;
        match result {
            Ok(()) => Error::PoolClosed,
            Err(error) => error,
        }
    }

    async fn listen_on(&self, pool: &PgPool, state: &mut Listening) -> Result<(), Error> {
        let limit = self.options.connect_timeout;
        let mut listener = within(limit, PgListener::connect_with(pool)).await?;
        listener.eager_reconnect(false);
        listener.ignore_pool_close_event(true);
        self.listener.idles();
        if std::mem::replace(&mut state.connected, true) {
            // Another server may be behind the address now, and what was opened before may have
            // fallen silent while nobody listened.
            self.edge.doubt();
            self.outage.found();
        }
        let channel = self.schema.channel();
        // Whoever listens costs each append of all processes: nobody does for nobody.
        let mut last_wanted: Option<Instant> = None;
        let mut ticks = interval(self.options.poll);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
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
                () = state.wanted(), if last_wanted.is_none() => {
                    within(limit, listener.listen(&channel)).await?;
                    self.listener.listens();
                    last_wanted = Some(Instant::now());
                    // What was announced while nobody listened.
                    state.heads.found(self, self.head(&mut listener).await?);
                }
                // A connection that died without a word is found out by this, too.
                _ = ticks.tick() => {
                    state.heads.found(self, self.head(&mut listener).await?);
                    state.pause = FIRST_PAUSE;
                    self.edge.tidy();
                    if state.is_wanted() {
                        last_wanted = last_wanted.map(|_| Instant::now());
                    } else if last_wanted.is_some_and(|last| last.elapsed() > LINGER) {
                        within(limit, listener.unlisten(&channel)).await?;
                        self.listener.idles();
                        last_wanted = None;
                    }
                }
            }
        }
    }

    async fn head(
        &self,
        executor: impl sqlx::Executor<'_, Database = sqlx::Postgres>,
    ) -> Result<Position, Error> {
        let head = sqlx::query_scalar(self.sql.head.text()).fetch_one(executor);
        let limit = ANSWER.min(self.options.connect_timeout);
        match timeout(limit, head).await {
            Ok(head) => head.map(Position::new),
            Err(_) => {
                self.outage.found();
                Err(timed_out("the server did not answer"))
            }
        }
    }

    /// Asks again and again, but only while somebody waits: at once after news, then ever later.
    async fn poll(self, mut waiting: watch::Receiver<usize>) {
        let mut heads = Heads::default();
        let mut pause = FIRST_POLL;
        let mut lost = false;
        loop {
            if *waiting.borrow_and_update() == 0 {
                let wait = waiting.wait_for(|count| *count > 0);
                if timeout(TIDY, wait).await.is_err() {
                    self.edge.tidy();
                    pause = FIRST_POLL;
                }
            }
            if waiting.wait_for(|count| *count > 0).await.is_err() {
                return;
            }
            let before = self.tail.head();
            let head = async {
                let mut lease = Lease::of(&self.pool).await?;
                let head = self.head(&mut *lease).await;
                lease.done_with(head).await
            };
            match head.await {
                Ok(head) => {
                    heads.found(&self, head);
                    if std::mem::take(&mut lost) {
                        self.edge.doubt();
                    }
                }
                Err(error) => {
                    lost = true;
                    tracing::debug!(%error, "backstory.postgres.poll failed");
                }
            }
            // Own appends wake by themselves, and tell nothing of those of others.
            if self.tail.head() > before {
                pause = FIRST_POLL;
            }
            sleep(pause.min(self.options.poll)).await;
            pause = (pause * 2).min(self.options.poll);
        }
    }
}

/// Waits for something, but not for ever.
async fn within<T>(
    limit: Duration,
    work: impl Future<Output = Result<T, Error>>,
) -> Result<T, Error> {
    match timeout(limit, work).await {
        Ok(result) => result,
        Err(_) => Err(timed_out("the server did not answer")),
    }
}
