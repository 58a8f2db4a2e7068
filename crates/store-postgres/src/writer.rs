//! The group-commit writer on a connection of its own.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use backstory_event::{Append, EventId, Position, StoreError, StoreErrorKind};
use backstory_projection::Inlines;
use backstory_store_kit::{BatchWriter, Histogram, Tail, WriteFailure};
use sqlx::{Error, postgres::PgConnectOptions, raw_sql};
use tokio::time::{Instant, timeout};
use tracing::Instrument;

mod inline;

pub(crate) use inline::Inline;

use crate::{
    PostgresOptions, Wake,
    alone::Alone,
    append::{Outcomes, decide_batch, store},
    error::{Class, breaks_connection, class, kind, sqlstate, timed_out},
    guess::{Guess, Terms, Versions},
    holder::lock_holder,
    pause::jitter,
    recent::Recent,
    schema::Schema,
    session::{Backend, Session},
    sql::Statements,
};

/// How long a statement under the lock may take, at the server and here.
pub(crate) const STATEMENT: Duration = Duration::from_secs(8);
pub(crate) const ANSWER: Duration = Duration::from_secs(10);

/// Writes batches. It owns one connection and opens another when that one breaks.
pub(crate) struct PostgresWriter {
    connect: PgConnectOptions,
    sql: Arc<Statements>,
    options: PostgresOptions,
    tail: Tail,
    session: Option<Session>,
    // The backend of a connection that broke: it must be gone before a batch is sent again.
    lost: Option<Backend>,
    // The batch whose COMMIT was not answered, by its first event.
    open: Option<EventId>,
    deadline: Option<Instant>,
    // A row stood where the facts said there was none; once may be a writer that went past the lock.
    collided: bool,
    versions: Versions,
    alone: Alone,
    recent: Recent,
    lock_wait: Arc<Histogram>,
    schema: Schema,
    inlines: Inlines<Inline>,
    // How often in a row inline projections could not follow.
    again: u32,
}

/// How far a batch came before it failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Without a COMMIT nothing is stored.
    Before,
    /// COMMIT was sent.
    Commit,
}

impl PostgresWriter {
    pub(crate) fn new(
        connect: PgConnectOptions,
        sql: Arc<Statements>,
        options: PostgresOptions,
        tail: Tail,
        session: Session,
        schema: Schema,
        inlines: Inlines<Inline>,
    ) -> Self {
        Self {
            connect,
            sql,
            options,
            tail,
            session: Some(session),
            lost: None,
            open: None,
            deadline: None,
            collided: false,
            versions: Versions::default(),
            alone: Alone::default(),
            recent: Recent::new(),
            lock_wait: Arc::default(),
            schema,
            inlines,
            again: 0,
        }
    }

    /// An open connection; the backend of the one before is gone.
    async fn session(&mut self) -> Result<Session, Error> {
        let limit = self.options.connect_timeout;
        let mut session = match self.session.take() {
            Some(session) => session,
            None => {
                // Another server may answer now, with another history.
                self.recent.restart(Position::START);
                tokio::time::sleep(jitter(Duration::from_millis(20))).await;
                let opened = Session::open(&self.connect, &self.options).await?;
                opened.for_batches(limit).await?
            }
        };
        if let Some(lost) = &self.lost {
            session.end(lost, limit).await?;
            self.lost = None;
        }
        Ok(session)
    }

    /// How long to wait for the lock: until shortly before the first caller's patience ends, so
    /// that it learns who holds it.
    fn lock_timeout(&self) -> Duration {
        let patience = self.deadline.map_or(Duration::MAX, |deadline| {
            deadline.saturating_duration_since(Instant::now())
        });
        let patience = patience
            .saturating_sub(Duration::from_millis(100))
            .max(Duration::from_millis(10));
        self.options.lock_timeout.min(patience)
    }

    /// One call when the batch is what it seems to be, else a look under the lock.
    async fn run(
        &mut self,
        session: &mut Session,
        batch: &[Arc<Append>],
        phase: &mut Phase,
    ) -> Result<(Outcomes, Position), Error> {
        let pooled = self.options.pooler.is_used();
        let mut locked = false;
        let head = self.tail.head();
        if !pooled && batch.iter().any(|append| !append.conditions.is_empty()) {
            self.recent.want();
        }
        // Behind a pooler nobody knows when the server changes.
        let is_known = !pooled && self.alone.is_proved() && self.recent.end() == head;
        let recent = is_known.then_some(&self.recent);
        // What was sent before is probably stored: no use in guessing.
        if self.open.is_none()
            && let Some(guess) = Guess::of(batch, &self.versions, head, recent)
        {
            let mut lock_timeout = self.lock_timeout();
            if pooled {
                // Its settings are those that sessions of our own have.
                let begin = self.begin(lock_timeout + STATEMENT, self.sql.settle.as_str());
                let begun = session.begin(&begin);
                answered(lock_timeout + Duration::from_secs(3), begun).await?;
                lock_timeout = self.lock_timeout();
            } else {
                *phase = Phase::Commit;
            }
            let wake = self.options.wake == Wake::Listen;
            let connection = &mut session.connection;
            if !pooled && let Some(event) = guess.only_event(batch) {
                let stored = self.alone.store(connection, &self.sql, event, wake);
                if answered(ANSWER, stored).await? {
                    self.lock_wait.record(0);
                    let (outcomes, end) = guess.stored(0, &mut self.versions, &mut self.recent);
                    self.alone.saw(&outcomes, end, true);
                    return Ok((outcomes, end));
                }
            }
            let expected = guess.end();
            let terms = Terms {
                lock_timeout: i64::try_from(lock_timeout.as_millis()).unwrap_or(i64::MAX),
                wake,
                waited: &self.lock_wait,
            };
            let (versions, recent) = (&mut self.versions, &mut self.recent);
            let call = guess.store(connection, &self.sql, batch, terms, versions, recent);
            if let Some((outcomes, end)) = answered(lock_timeout + ANSWER, call).await? {
                self.alone.saw(&outcomes, end, end == expected);
                if pooled {
                    *phase = Phase::Commit;
                    answered(ANSWER, raw_sql("COMMIT").execute(connection)).await?;
                }
                return Ok((outcomes, end));
            }
            *phase = Phase::Before;
            locked = pooled;
        }
        if !locked {
            let lock_timeout = self.lock_timeout();
            let lock = format!(
                "SET LOCAL lock_timeout = {}; {}",
                lock_timeout.as_millis(),
                self.sql.lock_append.as_str()
            );
            let begin = self.begin(STATEMENT, &lock);
            let begun = Instant::now();
            let lock = session.begin(&begin);
            answered(lock_timeout + Duration::from_secs(3), lock).await?;
            self.lock_wait.record_time(begun.elapsed());
        }
        self.look_and_store(session, batch, phase).await
    }

    /// What a transaction of a batch begins with.
    fn begin(&self, statement_timeout: Duration, rest: &str) -> String {
        format!(
            "SET TRANSACTION READ WRITE; SET LOCAL idle_in_transaction_session_timeout = {}; \
             SET LOCAL statement_timeout = {}; {rest}",
            self.options.append_idle_timeout.as_millis(),
            statement_timeout.as_millis(),
        )
    }

    /// Decides and stores a batch in a transaction that has the lock.
    async fn look_and_store(
        &mut self,
        session: &mut Session,
        batch: &[Arc<Append>],
        phase: &mut Phase,
    ) -> Result<(Outcomes, Position), Error> {
        let connection = &mut session.connection;
        let (mut decision, before) =
            answered(ANSWER, decide_batch(connection, &self.sql, batch)).await?;
        answered(ANSWER, store(connection, &self.sql, &decision)).await?;
        let last = decision.events.last().map(|row| row.recorded.position);
        if decision.erased.is_empty() {
            self.versions.learn(&decision);
            self.versions.correct(&decision.outcomes);
        } else {
            self.versions.forget();
        }
        if last.is_some() {
            *phase = Phase::Commit;
        }
        answered(ANSWER, raw_sql("COMMIT").execute(&mut *connection)).await?;
        let end = last.unwrap_or(before);
        match decision.erased.is_empty() {
            true => self
                .recent
                .follow(before, std::mem::take(&mut decision.events)),
            false => self.recent.restart(end),
        }
        let outcomes = decision.outcomes;
        self.alone.saw(&outcomes, end, before == self.tail.head());
        Ok((outcomes, end))
    }

    async fn attempt(&mut self, batch: &[Arc<Append>]) -> Result<Outcomes, WriteFailure> {
        let mut session = match self.session().await {
            Ok(session) => session,
            Err(error) => return self.failed(batch, &error, Phase::Before, None),
        };
        // Until it is proved to be idle again: this future may be dropped.
        self.lost = session.backend.clone();
        let mut phase = Phase::Before;
        let begun = Instant::now();
        let result = self.run(&mut session, batch, &mut phase).await;
        let error = match result {
            Ok((outcomes, head)) => {
                self.open = None;
                self.collided = false;
                self.keep(session);
                self.tail.advance(head);
                return Ok(outcomes);
            }
            Err(error) => error,
        };
        self.lost = session.backend.clone();
        let mut holder = None;
        if !breaks_connection(&error) {
            let rollback = raw_sql("ROLLBACK").execute(&mut session.connection);
            if answered(Duration::from_secs(2), rollback).await.is_ok() {
                if sqlstate(&error) == Some("55P03") {
                    self.lock_wait.record_time(begun.elapsed());
                    holder = lock_holder(&mut session.connection, &self.sql).await;
                }
                // Read-only: the server is no primary any more, another one may be.
                if sqlstate(&error) != Some("25006") {
                    self.keep(session);
                }
            }
        }
        self.failed(batch, &error, phase, holder)
    }

    fn keep(&mut self, session: Session) {
        self.session = Some(session);
        self.lost = None;
    }

    /// What a failure means for the callers.
    fn failed(
        &mut self,
        batch: &[Arc<Append>],
        error: &Error,
        phase: Phase,
        holder: Option<String>,
    ) -> Result<Outcomes, WriteFailure> {
        let first = batch.first().and_then(|append| append.events().next());
        let first = first.map(|event| event.id);
        let answer = match holder {
            Some(reason) => StoreErrorKind::Unavailable { reason },
            None => kind(error),
        };
        if phase == Phase::Commit && breaks_connection(error) {
            self.open = first;
            return Err(WriteFailure::Lost(StoreError::new(answer)));
        }
        if sqlstate(error) == Some("23505") && !std::mem::replace(&mut self.collided, true) {
            return Err(WriteFailure::Retry(StoreError::new(answer)));
        }
        let open = first.is_some() && self.open == first;
        match class(error) {
            // Only the log itself can tell what became of an open batch.
            Class::Lasting if open => Err(WriteFailure::Retry(StoreError::new(answer))),
            // The server takes no writes, whatever they are.
            Class::Lasting if matches!(answer, StoreErrorKind::NotWritable { .. }) => {
                Ok(batch.iter().map(|_| Err(answer.clone())).collect())
            }
            Class::Data | Class::Lasting => Err(WriteFailure::Refused(StoreError::new(answer))),
            Class::Transient => Err(WriteFailure::Retry(StoreError::new(answer))),
        }
    }
}

#[async_trait]
impl BatchWriter for PostgresWriter {
    fn deadline(&mut self, earliest: Instant) {
        self.deadline = Some(earliest);
    }

    fn lock_wait(&self) -> Option<Arc<Histogram>> {
        Some(self.lock_wait.clone())
    }

    fn is_apart(&self, append: &Append) -> bool {
        !self.inlines.wanting(std::iter::once(append)).is_empty()
    }

    async fn write(&mut self, batch: &[Arc<Append>]) -> Result<Outcomes, WriteFailure> {
        let span = tracing::debug_span!("backstory.postgres.batch", appends = batch.len());
        let wanting = self.inlines.wanting(batch.iter().map(Arc::as_ref));
        if !wanting.is_empty() {
            return self.attempt_inline(batch, &wanting).instrument(span).await;
        }
        self.attempt(batch).instrument(span).await
    }
}

/// Awaits an answer of the server, but not for ever: the network may be gone.
pub(crate) async fn answered<T>(
    limit: Duration,
    answer: impl Future<Output = Result<T, Error>>,
) -> Result<T, Error> {
    match timeout(limit, answer).await {
        Ok(result) => result,
        Err(_) => Err(timed_out("the server did not answer")),
    }
}
