//! Batches of appends with the projections that run inside them, in one transaction.
//!
//! The lock of the log comes first, then what is to be known; the code of projections over
//! documents only reads then, that of SQL projections writes. Then rows are locked in the order in
//! which batches of projections do it, so that nobody waits for each other: rows of the user, the
//! progress, streams, documents. Nothing is locked while others could still move a projection
//! unseen: the step proves that nobody did.

use std::{sync::Arc, time::Duration};

use backstory_event::{Append, Position, RecordedEvent, StoreError, StoreErrorKind};
use backstory_projection::{
    CommitError, Documents, INLINE_ATTEMPTS, InlineError, InlineProjection, InlineTerms, Step,
    Target,
};
use backstory_store_kit::{Decision, WriteFailure};
use sqlx::{Error, PgConnection};
use tokio::{sync::Mutex, time::Instant};

mod runs;

use self::runs::project;
use super::{ANSWER, Phase, PostgresWriter, STATEMENT, answered};
use crate::{
    append::{Outcomes, decide_batch, store},
    documents::write_documents,
    error::{breaks_connection, is_outage, sqlstate},
    holder::lock_holder,
    letters,
    projections::advance,
    session::Session,
};

/// A projection that runs inside appends.
#[derive(Debug, Clone)]
pub(crate) enum Inline {
    Documents(InlineProjection<Documents>),
    Sql(InlineProjection<PgConnection>),
}

impl AsRef<InlineTerms> for Inline {
    fn as_ref(&self) -> &InlineTerms {
        match self {
            Self::Documents(projection) => projection.terms(),
            Self::Sql(projection) => projection.terms(),
        }
    }
}

impl Inline {
    fn keys(&self, events: &[RecordedEvent]) -> Vec<String> {
        match self {
            Self::Documents(projection) => projection.keys(events),
            Self::Sql(projection) => projection.keys(events),
        }
    }

    fn moved(&self, step: &Step, events: usize) {
        let letters = step.letters.len();
        match self {
            Self::Documents(projection) => projection.moved(step.result(), events, letters),
            Self::Sql(projection) => projection.moved(step.result(), events, letters),
        }
    }
}

/// Why a batch was not stored.
enum Failure {
    /// A statement of our own failed.
    Sql(Error),
    /// A projection cannot follow one of the appends.
    Guilty(StoreErrorKind),
    /// Nothing was stored, and the same batch may pass soon.
    Again(StoreErrorKind),
    /// A projection was dropped while it used the connection.
    Dropped(StoreErrorKind),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Sql(error)
    }
}

impl Failure {
    fn of(error: InlineError, terms: &InlineTerms) -> Self {
        let kind = error.kind(terms);
        match error {
            InlineError::TooSlow => Self::Dropped(kind),
            InlineError::Store(_) => Self::Again(kind),
            InlineError::Code(error) if is_outage(&*error) => {
                let reason = format!("inline projection `{}`: {error}", terms.name());
                Self::Again(StoreErrorKind::Unavailable { reason })
            }
            InlineError::Code(_) => Self::Guilty(kind),
        }
    }
}

/// The connection of the batch, lent to documents while a projection reads them.
type Held = Arc<Mutex<Session>>;

impl PostgresWriter {
    /// Stores a batch with what these projections make of it.
    pub(super) async fn attempt_inline(
        &mut self,
        batch: &[Arc<Append>],
        wanting: &[Inline],
    ) -> Result<Outcomes, WriteFailure> {
        let session = match self.session().await {
            Ok(session) => session,
            Err(error) => return self.failed(batch, &error, Phase::Before, None),
        };
        // Until it is proved to be idle again: this future may be dropped.
        self.lost = session.backend.clone();
        let held = Arc::new(Mutex::new(session));
        let mut phase = Phase::Before;
        let begun = Instant::now();
        let result = self.run_inline(&held, batch, wanting, &mut phase).await;
        // Nobody else has it any more, but for code that leaks its context.
        let session = Arc::into_inner(held).map(Mutex::into_inner);
        if let Some(session) = &session {
            self.lost = session.backend.clone();
        }
        let (failure, session) = match (result, session) {
            (Ok((outcomes, head)), session) => {
                self.open = None;
                self.collided = false;
                self.again = 0;
                if let Some(session) = session {
                    self.keep(session);
                }
                self.tail.advance(head);
                return Ok(outcomes);
            }
            // Its connection may still be at work.
            (Err(failure @ Failure::Dropped(_)), _) => (failure, None),
            (Err(failure), session) => (failure, session),
        };
        let broken = matches!(&failure, Failure::Sql(error) if breaks_connection(error));
        let mut holder = None;
        if let Some(mut session) = session.filter(|_| !broken)
            && answered(Duration::from_secs(2), session.roll_back())
                .await
                .is_ok()
        {
            let state = match &failure {
                Failure::Sql(error) => sqlstate(error),
                _ => None,
            };
            if state == Some("55P03") {
                self.lock_wait.record_time(begun.elapsed());
                holder = lock_holder(&mut session.connection, &self.sql).await;
            }
            // Read-only: the server is no primary any more, another one may be.
            if state != Some("25006") {
                self.keep(session);
            }
        }
        match failure {
            Failure::Sql(error) => self.failed(batch, &error, phase, holder),
            Failure::Guilty(kind) | Failure::Dropped(kind) => {
                self.open = None;
                Err(WriteFailure::Isolate(StoreError::new(kind)))
            }
            Failure::Again(kind) => {
                self.again += 1;
                match self.again % INLINE_ATTEMPTS {
                    0 => Err(WriteFailure::Isolate(StoreError::new(kind))),
                    _ => Err(WriteFailure::Retry(StoreError::new(kind))),
                }
            }
        }
    }

    async fn run_inline(
        &mut self,
        held: &Held,
        batch: &[Arc<Append>],
        wanting: &[Inline],
        phase: &mut Phase,
    ) -> Result<(Outcomes, Position), Failure> {
        let sql = self.sql.clone();
        let (decision, base) = {
            let mut session = held.lock().await;
            self.begin_inline(&mut session, wanting).await?;
            let decide = decide_batch(&mut session.connection, &sql, batch);
            answered(ANSWER, decide).await?
        };
        let events: Vec<_> = decision
            .events
            .iter()
            .map(|row| RecordedEvent::new(row.recorded.clone()))
            .collect();
        // What is erased now must not be read and written again.
        let erases = !decision.erased.is_empty();
        if erases {
            self.store_batch(held, &decision).await?;
        }
        let mut runs = self.runs(held, wanting, &events, base).await?;
        project(held, &sql, &self.schema, &mut runs).await?;

        let mut steps = Vec::with_capacity(runs.len());
        if let Some(last) = events.last() {
            let to = Target::Advance(last.checkpoint());
            let mut session = held.lock().await;
            for run in &mut runs {
                let step = Step::new(run.place.progress.clone(), to)
                    .with_letters(std::mem::take(&mut run.letters));
                let moved = advance(&mut session.connection, &sql, &step);
                if !answered(ANSWER, moved).await? {
                    let reason = CommitError::Fenced {
                        projection: step.from.projection,
                    };
                    let reason = reason.to_string();
                    return Err(Failure::Again(StoreErrorKind::Unavailable { reason }));
                }
                steps.push(step);
            }
        }
        if !erases {
            self.store_batch(held, &decision).await?;
        }
        let mut session = held.lock().await;
        for (run, step) in runs.iter().zip(&steps) {
            let connection = &mut session.connection;
            match run.inline {
                Inline::Documents(_) => {
                    let write = write_documents(connection, &sql, &run.writes, step);
                    answered(ANSWER, write).await?;
                }
                Inline::Sql(_) => {
                    answered(ANSWER, letters::write(connection, &sql, step)).await?;
                }
            }
        }
        if erases {
            self.versions.forget();
        } else {
            self.versions.learn(&decision);
            self.versions.correct(&decision.outcomes);
        }
        answered(ANSWER, session.forget()).await?;
        let last = events.last().map(RecordedEvent::position);
        if last.is_some() {
            *phase = Phase::Commit;
        }
        answered(ANSWER, session.commit()).await?;
        for (run, step) in runs.iter().zip(&steps) {
            run.inline.moved(step, run.events.len());
        }
        Ok((decision.outcomes, last.unwrap_or(base)))
    }

    async fn begin_inline(
        &mut self,
        session: &mut Session,
        wanting: &[Inline],
    ) -> Result<(), Error> {
        let limits = wanting.iter().map(|inline| inline.as_ref().limit());
        let limit = limits.max().unwrap_or_default() + Duration::from_secs(1);
        let lock_timeout = self.lock_timeout();
        let begin = format!(
            "SET TRANSACTION READ WRITE; SET LOCAL idle_in_transaction_session_timeout = {}; \
             SET LOCAL statement_timeout = {}; SET LOCAL lock_timeout = {}; {}",
            self.options.append_idle_timeout.max(limit).as_millis(),
            STATEMENT.max(limit).as_millis(),
            lock_timeout.as_millis(),
            self.sql.lock_append.as_str(),
        );
        let begun = Instant::now();
        let lock = session.begin_outer(&begin);
        answered(lock_timeout + Duration::from_secs(3), lock).await?;
        self.lock_wait.record_time(begun.elapsed());
        Ok(())
    }

    async fn store_batch(&self, held: &Held, decision: &Decision) -> Result<(), Error> {
        let mut session = held.lock().await;
        answered(ANSWER, store(&mut session.connection, &self.sql, decision)).await
    }
}
