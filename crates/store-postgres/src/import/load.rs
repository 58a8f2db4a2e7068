//! Storing the chunks of an import, one after another.

use std::{iter, ops::Range, sync::Arc, time::Duration};

use backstory_event::{EventId, Position, StoreError, StoreErrorKind, StreamId, StreamVersion};
use backstory_store_kit::{StreamRow, Tail};
use chrono::{DateTime, Utc};
use sqlx::{Connection, Error, PgConnection, Row, postgres::PgConnectOptions, raw_sql};
use tokio::{
    sync::mpsc,
    time::{Instant, sleep},
};
use tracing::Instrument;
use uuid::Uuid;

use super::{
    ImportError, Imported,
    chunk::{Chunk, Facts, HEADER, Plan, Stored, TRAILER},
};
use crate::{
    PostgresOptions, PostgresStore,
    append::{StreamFact, column, erase, known, list, put_states},
    error::{Class, breaks_connection, class, kind, sqlstate, store_error},
    holder::lock_holder,
    pause::jitter,
    session::{Backend, Session},
    sql::Statements,
    writer::{ANSWER, STATEMENT, answered},
};

/// Bytes of one message of a COPY.
const MESSAGE: usize = 256 << 10;
const FIRST_PAUSE: Duration = Duration::from_millis(5);
const LONGEST_PAUSE: Duration = Duration::from_millis(500);

type EventFact = (Uuid, i64, String, String, String);

/// Owns the connection of an import.
pub(super) struct Loader {
    connect: PgConnectOptions,
    sql: Arc<Statements>,
    options: PostgresOptions,
    tail: Tail,
    session: Option<Session>,
    // The backend of a connection that broke: it must be gone before its events are sent again.
    lost: Option<Backend>,
    done: Imported,
}

/// Why a part of a chunk is not stored.
enum Failure {
    /// One of its events is the cause.
    Data(StoreError),
    /// No event is.
    Store(StoreError),
}

impl Loader {
    pub(super) fn of(store: &PostgresStore) -> Self {
        Self {
            connect: store.connect_options().clone(),
            sql: store.sql().clone(),
            options: store.options().clone(),
            tail: store.tail().clone(),
            session: None,
            lost: None,
            done: Imported::default(),
        }
    }

    pub(super) async fn run(
        mut self,
        mut chunks: mpsc::Receiver<Chunk>,
    ) -> Result<Imported, ImportError> {
        let mut result = Ok(());
        while let Some(mut chunk) = chunks.recv().await {
            let span = tracing::debug_span!("backstory.postgres.import", events = chunk.len());
            result = self.load(&mut chunk).instrument(span).await;
            if result.is_err() {
                // Nobody goes on cutting for nothing.
                chunks.close();
                break;
            }
        }
        if let Some(session) = self.session.take() {
            // What it did is known; that it does not say good-bye is no failure.
            let _ = answered(ANSWER, session.connection.close()).await;
        }
        result.map(|()| self.done)
    }

    /// Stores a chunk, in parts when one of its events is refused by the server: all before that
    /// one are stored, as if they had come one by one.
    async fn load(&mut self, chunk: &mut Chunk) -> Result<(), ImportError> {
        let mut todo: Vec<_> = iter::once(0..chunk.len()).collect();
        while let Some(part) = todo.pop() {
            let event = chunk.number(part.start);
            match self.store(chunk, part.clone()).await {
                Ok(None) => {}
                Ok(Some((event, refused))) => {
                    let error = StoreError::new(refused);
                    return Err(ImportError::Event { event, error });
                }
                Err(Failure::Data(error)) if part.len() == 1 => {
                    return Err(ImportError::Event { event, error });
                }
                Err(Failure::Data(_)) => {
                    let middle = part.start + part.len() / 2;
                    todo.push(middle..part.end);
                    todo.push(part.start..middle);
                }
                Err(Failure::Store(error)) => return Err(ImportError::Store { event, error }),
            }
        }
        Ok(())
    }

    /// Stores a part of a chunk, again and again until the outcome is known or the deadline passes.
    async fn store(
        &mut self,
        chunk: &mut Chunk,
        part: Range<usize>,
    ) -> Result<Option<(u64, StoreErrorKind)>, Failure> {
        let deadline = Instant::now() + self.options.writer.deadline;
        let mut pause = FIRST_PAUSE;
        // What was planned when a COMMIT was not answered.
        let mut open: Option<Imported> = None;
        loop {
            let mut committing = None;
            let result = self.attempt(chunk, part.clone(), &mut committing).await;
            let error = match result {
                Ok(plan) => {
                    let did = Imported::of(&plan);
                    // All of it is there: then that COMMIT was done.
                    let before = open.filter(|open| open.events > 0 && did.events == 0);
                    self.done.add(before.unwrap_or(did));
                    return Ok(plan.refused);
                }
                Err(error) => error,
            };
            if breaks_connection(&error) {
                open = committing.or(open);
            }
            match (class(&error), open) {
                (Class::Transient, _) | (_, Some(_)) => {}
                (Class::Data, None) => return Err(Failure::Data(store_error(error))),
                (Class::Lasting, None) => return Err(Failure::Store(store_error(error))),
            }
            if Instant::now() + pause > deadline {
                let error = match (open, self.holder(&error).await) {
                    (Some(_), _) => StoreError::new(StoreErrorKind::OutcomeUnknown {
                        event_ids: chunk.ids().collect(),
                    }),
                    (None, Some(reason)) => StoreError::new(StoreErrorKind::Unavailable { reason }),
                    (None, None) => StoreError::new(kind(&error)),
                };
                return Err(Failure::Store(error));
            }
            tracing::debug!(%error, "backstory.postgres.import is tried again");
            sleep(pause + jitter(pause)).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }
}

impl Loader {
    /// An open connection; the backend of the one before is gone.
    async fn session(&mut self) -> Result<Session, Error> {
        let limit = self.options.connect_timeout;
        let mut session = match self.session.take() {
            Some(session) => session,
            None => Session::open(&self.connect, &self.options).await?,
        };
        if let Some(lost) = &self.lost {
            session.end(lost, limit).await?;
            self.lost = None;
        }
        Ok(session)
    }

    async fn attempt(
        &mut self,
        chunk: &mut Chunk,
        part: Range<usize>,
        committing: &mut Option<Imported>,
    ) -> Result<Plan, Error> {
        let mut session = self.session().await?;
        let result = self
            .transaction(&mut session, chunk, part, committing)
            .await;
        let usable = match &result {
            Ok(_) => true,
            // Read-only: the server is no primary any more, another one may be.
            Err(error) if breaks_connection(error) || sqlstate(error) == Some("25006") => false,
            Err(_) => {
                let rollback = raw_sql("ROLLBACK").execute(&mut session.connection);
                answered(Duration::from_secs(2), rollback).await.is_ok()
            }
        };
        if usable {
            self.session = Some(session);
        } else {
            self.lost = session.backend;
        }
        if let Ok(plan) = &result {
            self.tail.advance(plan.head.position);
        }
        result
    }

    async fn transaction(
        &self,
        session: &mut Session,
        chunk: &mut Chunk,
        part: Range<usize>,
        committing: &mut Option<Imported>,
    ) -> Result<Plan, Error> {
        let begin = format!(
            "SET TRANSACTION READ WRITE; SET LOCAL lock_timeout = {}; \
             SET LOCAL idle_in_transaction_session_timeout = {}; SET LOCAL statement_timeout = {}; {}",
            self.options.lock_timeout.as_millis(),
            self.options.append_idle_timeout.as_millis(),
            STATEMENT.as_millis(),
            self.sql.lock_append.as_str(),
        );
        let lock = session.begin(&begin);
        answered(self.options.lock_timeout + Duration::from_secs(3), lock).await?;
        let connection = &mut session.connection;
        let facts = answered(ANSWER, self.facts(connection, chunk)).await?;
        let plan = chunk.plan(part, facts);
        if plan.events > 0 {
            answered(ANSWER, self.copy(connection, chunk, &plan)).await?;
            answered(ANSWER, self.streams(connection, chunk, &plan)).await?;
            *committing = Some(Imported::of(&plan));
        }
        answered(ANSWER, raw_sql("COMMIT").execute(connection)).await?;
        Ok(plan)
    }

    async fn facts(&self, connection: &mut PgConnection, chunk: &Chunk) -> Result<Facts, Error> {
        let streams = chunk.streams();
        let row = self
            .sql
            .import_facts
            .query()
            .bind(column(streams, StreamId::category))
            .bind(column(streams, StreamId::key))
            .bind(column(chunk.ids(), EventId::as_uuid))
            .fetch_one(connection)
            .await?;
        let (newest, now): (Option<DateTime<Utc>>, DateTime<Utc>) =
            (row.try_get(1)?, row.try_get(2)?);
        let mut facts = Facts {
            head: Position::new(row.try_get(0)?),
            recorded_at: newest.map_or(now, |newest| newest.max(now)),
            streams: vec![StreamRow::empty(); streams.len()],
            events: Default::default(),
        };
        for (n, version, state, tags) in list::<StreamFact>(&row, 3)? {
            if let Some(row) = facts.streams.get_mut(n.wrapping_sub(1)) {
                *row = known(StreamVersion::new(version), state, tags);
            }
        }
        for (id, position, category, key, name) in list::<EventFact>(&row, 4)? {
            let stored = Stored {
                position: Position::new(position),
                stream: StreamId::stored(category, key),
                name,
            };
            facts.events.insert(EventId::from_uuid(id), stored);
        }
        Ok(facts)
    }

    async fn copy(
        &self,
        connection: &mut PgConnection,
        chunk: &Chunk,
        plan: &Plan,
    ) -> Result<(), Error> {
        let mut copy = connection
            .copy_in_raw(self.sql.import_events.as_str())
            .await?;
        copy.send(HEADER).await?;
        for message in plan
            .runs
            .iter()
            .flat_map(|run| chunk.bytes(run).chunks(MESSAGE))
        {
            copy.send(message).await?;
        }
        copy.send(TRAILER).await?;
        copy.finish().await?;
        Ok(())
    }

    /// The notification, what lifecycle events make of streams, and what an erasure takes.
    async fn streams(
        &self,
        connection: &mut PgConnection,
        chunk: &Chunk,
        plan: &Plan,
    ) -> Result<(), Error> {
        let head = plan.head.position.get().to_string();
        let notify = self.sql.notify.query().bind(head);
        notify.execute(&mut *connection).await?;
        let names = chunk.streams();
        let changed = plan.changed.iter();
        let changed = changed.map(|number| (&names[*number], &plan.streams[*number]));
        put_states(connection, &self.sql, changed.collect()).await?;
        let erased = plan.erased.iter().map(|number| &names[*number]);
        erase(connection, &self.sql, erased.collect()).await
    }

    /// Who holds the lock that an attempt waited for in vain.
    async fn holder(&mut self, error: &Error) -> Option<String> {
        if sqlstate(error) != Some("55P03") {
            return None;
        }
        let session = self.session.as_mut()?;
        lock_holder(&mut session.connection, &self.sql).await
    }
}

impl Imported {
    fn of(plan: &Plan) -> Self {
        Self {
            events: plan.events,
            skipped: plan.skipped,
            head: plan.head,
        }
    }

    fn add(&mut self, other: Self) {
        self.events += other.events;
        self.skipped += other.skipped;
        if other.head.position > self.head.position {
            self.head = other.head;
        }
    }
}
