//! Batches of appends with the projections that run inside them, in one transaction: the one place
//! besides SQL projections where code of the user runs while the write lock is held.

use std::{
    collections::HashSet,
    path::{Path, PathBuf},
    sync::{Arc, atomic::Ordering},
};

use async_trait::async_trait;
use backstory_event::{Append, Appended, Payload, RecordedEvent, StoreError, StoreErrorKind};
use backstory_projection::{
    CommitError, DocumentKey, DocumentList, DocumentRow, DocumentStore, DocumentWrite, Documents,
    INLINE_ATTEMPTS, InlineError, InlinePlace, InlinePlan, InlineProjection, InlineTerms,
    LetterWrite, MISSING_POSITIONS, Progress, Step, Target, Turn,
};
use backstory_store_kit::{Decision, WriteFailure};
use sqlx::{Row, SqliteConnection};
use tokio::sync::Mutex;

use crate::{
    append::{Batches, not_stored, run},
    bind::json,
    documents,
    error::{Failure, is_outage},
    letters,
    lock::WriteTransaction,
    progress::{advance, progress},
    read,
};

/// A projection that runs inside appends.
#[derive(Debug, Clone)]
pub(crate) enum Inline {
    Documents(InlineProjection<Documents>),
    Sql(InlineProjection<SqliteConnection>),
}

impl AsRef<InlineTerms> for Inline {
    fn as_ref(&self) -> &InlineTerms {
        match self {
            Self::Documents(projection) => projection.terms(),
            Self::Sql(projection) => projection.terms(),
        }
    }
}

/// Why a batch was not stored.
enum Trouble {
    Store(Failure),
    /// What a projection needs is away.
    Again(StoreErrorKind),
    /// A projection cannot follow one of the appends.
    Guilty(StoreErrorKind),
}

impl<E: Into<Failure>> From<E> for Trouble {
    fn from(error: E) -> Self {
        Self::Store(error.into())
    }
}

impl Trouble {
    fn of(error: InlineError, terms: &InlineTerms) -> Self {
        let kind = error.kind(terms);
        match error {
            InlineError::Store(_) => Self::Again(kind),
            InlineError::Code(error) if is_outage(&*error) => {
                let reason = format!("inline projection `{}`: {error}", terms.name());
                Self::Again(StoreErrorKind::Unavailable { reason })
            }
            InlineError::Code(_) | InlineError::TooSlow => Self::Guilty(kind),
        }
    }
}

/// What a projection made of a batch.
struct Done<'a> {
    inline: &'a Inline,
    step: Step,
    events: usize,
}

/// The transaction of the batch, lent to documents while a projection reads them.
type Held = Arc<Mutex<WriteTransaction>>;

impl Batches {
    /// Stores a batch with what these projections make of it.
    pub(crate) async fn store_inline(
        &self,
        transaction: WriteTransaction,
        batch: &[Arc<Append>],
        wanting: &[Inline],
    ) -> Result<Vec<Result<Appended, StoreErrorKind>>, WriteFailure> {
        let held = Arc::new(Mutex::new(transaction));
        let stored = run_inline(&held, &self.path, batch, wanting).await;
        // Nobody else has it any more, but for code that leaks its context.
        let transaction = Arc::into_inner(held).map(Mutex::into_inner);
        let (decision, done) = match stored {
            Ok(stored) => stored,
            Err(trouble) => {
                if let Some(transaction) = transaction {
                    // Dropping it instead would cost the connection.
                    let _ = transaction.rollback().await;
                }
                return Err(match trouble {
                    Trouble::Store(failure) => not_stored(failure.at(&self.path)),
                    Trouble::Again(kind) => {
                        let again = self.again.fetch_add(1, Ordering::Relaxed) + 1;
                        match again % INLINE_ATTEMPTS {
                            0 => WriteFailure::Isolate(StoreError::new(kind)),
                            _ => WriteFailure::Retry(StoreError::new(kind)),
                        }
                    }
                    Trouble::Guilty(kind) => WriteFailure::Isolate(StoreError::new(kind)),
                });
            }
        };
        let Some(transaction) = transaction else {
            let reason = "a projection has kept its documents: drop them".to_owned();
            let error = StoreError::new(StoreErrorKind::NotStored { reason });
            return Err(WriteFailure::Isolate(error));
        };
        let Some(last) = decision.events.last() else {
            let _ = transaction.rollback().await;
            return Ok(decision.outcomes);
        };
        self.commit(transaction, last.recorded.position).await?;
        self.again.store(0, Ordering::Relaxed);
        for Done {
            inline,
            step,
            events,
        } in done
        {
            let letters = step.letters.len();
            match inline {
                Inline::Documents(one) => one.moved(step.result(), events, letters),
                Inline::Sql(one) => one.moved(step.result(), events, letters),
            }
        }
        Ok(decision.outcomes)
    }
}

async fn run_inline<'a>(
    held: &Held,
    path: &Path,
    batch: &[Arc<Append>],
    wanting: &'a [Inline],
) -> Result<(Decision, Vec<Done<'a>>), Trouble> {
    let decision = run(&mut *held.lock().await, batch).await?;
    let events = decision.events.iter();
    let events: Vec<_> = events
        .map(|row| RecordedEvent::new(row.recorded.clone()))
        .collect();
    let mut done = Vec::new();
    for inline in wanting {
        if let Some(run) = project(held, path, inline, &events).await? {
            done.push(run);
        }
    }
    Ok((decision, done))
}

/// Lets a projection follow the events of a batch, which are stored by now.
async fn project<'a>(
    held: &Held,
    path: &Path,
    inline: &'a Inline,
    events: &[RecordedEvent],
) -> Result<Option<Done<'a>>, Trouble> {
    let terms = inline.as_ref();
    let wanted = terms.wanted(events);
    let (Some(first), Some(last)) = (events.first(), events.last()) else {
        return Ok(None);
    };
    if wanted.is_empty() {
        return Ok(None);
    }
    let mut transaction = held.lock().await;
    let place = place(&mut transaction, terms.name()).await?;
    let base = backstory_event::Position::new(first.position().get() - 1);
    let mut all = match terms.plan(&place, base).map_err(Trouble::Guilty)? {
        InlinePlan::Skip => return Ok(None),
        InlinePlan::Project => Vec::new(),
        InlinePlan::CatchUp(query) => {
            let limit = query.limit.unwrap_or_default();
            let page = read::events(&mut transaction, &query, MISSING_POSITIONS, limit).await?;
            match terms.missing(&place, page, base).map_err(Trouble::Guilty)? {
                Some(missing) => missing,
                None => return Ok(None),
            }
        }
    };
    all.extend(wanted);
    let parked = match place.parks {
        true => parked(&mut transaction, inline, &all).await?,
        false => HashSet::new(),
    };
    let blame = |error| Trouble::of(error, terms);
    let mut writes = Vec::new();
    let letters: Vec<LetterWrite> = match inline {
        Inline::Sql(inline) => {
            let projected = inline.project(&all, &parked, &mut transaction);
            projected.await.map_err(blame)?
        }
        Inline::Documents(inline) => {
            drop(transaction);
            let mut documents = Documents::new(Arc::new(Inside {
                held: held.clone(),
                path: path.to_owned(),
            }));
            let projected = inline.project(&all, &parked, &mut documents);
            let letters = projected.await.map_err(blame)?;
            writes = documents.into_writes();
            transaction = held.lock().await;
            letters
        }
    };
    let to = Target::Advance(last.checkpoint());
    let step = Step::new(place.progress, to).with_letters(letters);
    if !advance(&mut transaction, &step).await? {
        // The write lock is held: only the projection's own code can have done that.
        let reason = "it moved its own progress: leave that to the store";
        return Err(Trouble::Guilty(terms.failed(reason)));
    }
    if !writes.is_empty() {
        documents::write(&mut transaction, &writes, &step).await?;
    }
    letters::write(&mut transaction, &step).await?;
    Ok(Some(Done {
        inline,
        step,
        events: all.len(),
    }))
}

async fn place(
    connection: &mut SqliteConnection,
    projection: &str,
) -> Result<InlinePlace, sqlx::Error> {
    let row = sqlx::query(
        "SELECT q.name, coalesce(t.position, 0), coalesce(t.event_id, zeroblob(16)),
             coalesce(t.epoch, 0), coalesce(p.paused, 0),
             EXISTS (SELECT 1 FROM backstory_dead_letter d WHERE d.projection = q.name),
             t.projection IS NOT NULL
         FROM (SELECT ?1 AS name) q
         LEFT JOIN backstory_progress t ON t.projection = q.name
         LEFT JOIN backstory_projection p ON p.name = q.name",
    )
    .bind(projection)
    .fetch_one(connection)
    .await?;
    Ok(InlinePlace {
        progress: match row.try_get(6)? {
            true => progress(&row)?,
            false => Progress::start(projection),
        },
        paused: row.try_get(4)?,
        parks: row.try_get(5)?,
    })
}

async fn parked(
    connection: &mut SqliteConnection,
    inline: &Inline,
    events: &[RecordedEvent],
) -> Result<HashSet<String>, Trouble> {
    let keys = match inline {
        Inline::Documents(inline) => inline.keys(events),
        Inline::Sql(inline) => inline.keys(events),
    };
    let parked = sqlx::query_scalar(letters::PARKED)
        .bind(inline.as_ref().name())
        .bind(json(&keys)?)
        .fetch_all(connection)
        .await?;
    Ok(parked.into_iter().collect())
}

/// Documents as the transaction of a batch sees them.
#[derive(Debug)]
struct Inside {
    held: Held,
    path: PathBuf,
}

#[async_trait]
impl DocumentStore for Inside {
    async fn get_documents(
        &self,
        keys: &[DocumentKey],
    ) -> Result<Vec<Option<Payload>>, StoreError> {
        let mut transaction = self.held.lock().await;
        let found = documents::get(&mut transaction, keys).await;
        found.map_err(|failure| failure.at(&self.path))
    }

    async fn list_documents(&self, list: &DocumentList) -> Result<Vec<DocumentRow>, StoreError> {
        let mut transaction = self.held.lock().await;
        let found = documents::list(&mut transaction, list).await;
        found.map_err(|failure| failure.at(&self.path))
    }

    async fn commit_documents(&self, _: Vec<DocumentWrite>, _: &Step) -> Result<(), CommitError> {
        // Its append commits.
        Err(StoreError::new(StoreErrorKind::Closed).into())
    }

    async fn turn_documents(&self, _: &Turn) -> Result<Progress, CommitError> {
        Err(StoreError::new(StoreErrorKind::Closed).into())
    }
}
