//! Projections that run inside appends: their read model is up to date when the append returns.
//!
//! **Promise.** What an append stores and what an inline projection makes of it commit together or
//! not at all, each event once, whoever appended it. How each failure is met:
//!
//! - Its code fails, panics or takes too long: the append fails ([`ProjectionFailed`]) and leaves
//!   nothing. Appends of others that were in the same batch are tried again one by one.
//! - Its events were appended by somebody who does not run it (another program, a bulk import, an
//!   append in a transaction of the application): the next append projects them first; more than
//!   1,000 of them are left to the projection's task, and the append fails
//!   ([`ProjectionBehind`]) or [goes on without it](crate::schedule::Inline::allow_behind).
//! - Another process moves the projection meanwhile, or the server ends a deadlock: the batch is
//!   rolled back and tried again, [`INLINE_ATTEMPTS`] times.
//! - It is paused: appends go on without it, and it catches up once it is resumed.
//! - A key is parked: its events become dead letters in the same transaction, as everywhere.
//!
//! A store asks of an [`InlineProjection`] what it wants, and runs it in the transaction of the
//! append: plan, read what is missing, project, move the progress.
//!
//! [`ProjectionFailed`]: StoreErrorKind::ProjectionFailed
//! [`ProjectionBehind`]: StoreErrorKind::ProjectionBehind

use std::{
    collections::HashSet,
    fmt,
    sync::{
        Arc, PoisonError, RwLock,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use backstory_event::{
    Append, BoxError, EventFilter, EventQuery, Page, Position, RecordedEvent, StoreErrorKind,
};
use tokio::{sync::watch, time::timeout};

use crate::{
    LetterWrite, Progress,
    projector::{error_chain, is_of_the_store},
};

/// How many events an append projects at most that others have left.
pub(crate) const MISSING: usize = 1_000;
/// How often a batch of appends is tried that inline projections cannot follow just now, because
/// somebody else moves them or what they need is away. Then each append is told by itself.
pub const INLINE_ATTEMPTS: u32 = 8;
/// How many positions an append looks at for them.
pub const MISSING_POSITIONS: i64 = 100_000;

/// What a store has to know of an inline projection.
#[derive(Debug, Clone)]
pub struct InlineTerms {
    pub(crate) name: &'static str,
    pub(crate) filter: EventFilter,
    pub(crate) limit: Duration,
    pub(crate) allow_behind: bool,
}

/// Where an inline projection is, as the transaction of an append finds it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InlinePlace {
    /// Its progress.
    pub progress: Progress,
    /// It is to rest.
    pub paused: bool,
    /// It has parked keys.
    pub parks: bool,
}

/// What an append does about an inline projection.
#[derive(Debug, Clone, PartialEq)]
pub enum InlinePlan {
    /// Goes on without it.
    Skip,
    /// Projects the append's own events.
    Project,
    /// Reads one page of this first, and asks [`InlineTerms::missing`] what it means.
    CatchUp(EventQuery),
}

impl InlineTerms {
    /// The projection's name.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// How long its code may take.
    pub fn limit(&self) -> Duration {
        self.limit
    }

    /// True when the projection wants one of the append's events.
    pub fn wants(&self, append: &Append) -> bool {
        append.parts.iter().any(|part| {
            let mut events = part.events.iter();
            events.any(|event| {
                self.filter
                    .matches_parts(&event.name, &part.stream, &event.tags)
            })
        })
    }

    /// The events that the projection wants.
    pub fn wanted<'a>(
        &self,
        events: impl IntoIterator<Item = &'a RecordedEvent>,
    ) -> Vec<RecordedEvent> {
        let events = events.into_iter();
        events
            .filter(|event| self.filter.matches(event))
            .cloned()
            .collect()
    }

    /// What to do when the log ended at `base` before the append.
    ///
    /// # Errors
    /// `ProjectionFailed` when the projection is beyond the log.
    pub fn plan(&self, place: &InlinePlace, base: Position) -> Result<InlinePlan, StoreErrorKind> {
        let after = place.progress.checkpoint;
        if place.paused {
            return Ok(InlinePlan::Skip);
        }
        if after.position > base {
            return Err(self.failed(format!(
                "it has seen position {} of a log that ends at {base}: reset it",
                after.position
            )));
        }
        if after.position == base {
            return Ok(InlinePlan::Project);
        }
        let query = EventQuery::new(self.filter.clone()).after(after);
        Ok(InlinePlan::CatchUp(query.up_to(base).limit(MISSING + 1)))
    }

    /// The events of a page that was read for a plan; `None`: the append goes on without the
    /// projection.
    ///
    /// # Errors
    /// `ProjectionBehind` when too much is missing.
    pub fn missing(
        &self,
        place: &InlinePlace,
        page: Page,
        base: Position,
    ) -> Result<Option<Vec<RecordedEvent>>, StoreErrorKind> {
        if page.events.len() <= MISSING && page.checkpoint.position >= base {
            return Ok(Some(page.events));
        }
        match self.allow_behind {
            true => Ok(None),
            false => Err(StoreErrorKind::ProjectionBehind {
                projection: self.name.to_owned(),
                after: place.progress.checkpoint.position,
                head: base,
            }),
        }
    }

    /// The error of an append that the projection could not follow.
    pub fn failed(&self, reason: impl Into<String>) -> StoreErrorKind {
        StoreErrorKind::ProjectionFailed {
            projection: self.name.to_owned(),
            reason: reason.into(),
        }
    }
}

/// Why an inline projection did not project.
#[derive(Debug)]
pub enum InlineError {
    /// Its code failed or panicked.
    Code(BoxError),
    /// The store was away: no event is to blame.
    Store(BoxError),
    /// It took longer than it may. It was dropped wherever it was.
    TooSlow,
}

impl InlineError {
    /// What the caller of the append is told.
    pub fn kind(&self, terms: &InlineTerms) -> StoreErrorKind {
        match self {
            Self::Code(error) => terms.failed(error_chain(&**error)),
            Self::Store(error) => StoreErrorKind::Unavailable {
                reason: error_chain(&**error),
            },
            Self::TooSlow => terms.failed(format!("it took longer than {:?}", terms.limit)),
        }
    }
}

/// A projection's code, without its type.
#[async_trait]
pub(crate) trait InlineCode<Cx>: Send + Sync {
    fn key(&self, event: &RecordedEvent) -> String;

    async fn project(
        &self,
        events: &[RecordedEvent],
        parked: &HashSet<String>,
        cx: &mut Cx,
    ) -> Result<Vec<LetterWrite>, BoxError>;
}

/// How far appends of this process have taken a projection.
#[derive(Debug, Clone, Default)]
pub(crate) struct Moved {
    pub(crate) progress: Option<Progress>,
    /// Events and letters since the start.
    pub(crate) events: u64,
    pub(crate) letters: u64,
}

/// A projection that a store runs inside its appends, with the context `Cx`.
pub struct InlineProjection<Cx> {
    terms: Arc<InlineTerms>,
    code: Arc<dyn InlineCode<Cx>>,
    news: watch::Sender<Moved>,
}

impl<Cx: Send> InlineProjection<Cx> {
    pub(crate) fn new(
        terms: InlineTerms,
        code: Arc<dyn InlineCode<Cx>>,
        news: watch::Sender<Moved>,
    ) -> Self {
        Self {
            terms: Arc::new(terms),
            code,
            news,
        }
    }

    /// What the store has to know of it.
    pub fn terms(&self) -> &InlineTerms {
        &self.terms
    }

    /// The keys of events, each once: which of them are parked is asked of the store.
    pub fn keys(&self, events: &[RecordedEvent]) -> Vec<String> {
        let keys: HashSet<_> = events.iter().map(|event| self.code.key(event)).collect();
        keys.into_iter().collect()
    }

    /// Runs the projection's code over events that follow each other. What has to become a letter,
    /// because its key is parked, is given back. When it fails, what it wrote must not be kept.
    ///
    /// # Errors
    /// [`InlineError`].
    pub async fn project(
        &self,
        events: &[RecordedEvent],
        parked: &HashSet<String>,
        cx: &mut Cx,
    ) -> Result<Vec<LetterWrite>, InlineError> {
        let code = self.code.project(events, parked, cx);
        match timeout(self.terms.limit, code).await {
            Ok(Ok(letters)) => Ok(letters),
            Ok(Err(error)) if is_of_the_store(&*error) => Err(InlineError::Store(error)),
            Ok(Err(error)) => Err(InlineError::Code(error)),
            Err(_) => Err(InlineError::TooSlow),
        }
    }

    /// The append is committed: the projection's task need not look for it.
    pub fn moved(&self, progress: Progress, events: usize, letters: usize) {
        self.news.send_modify(|moved| {
            moved.progress = Some(progress);
            moved.events += events as u64;
            moved.letters += letters as u64;
        });
    }
}

impl<Cx> Clone for InlineProjection<Cx> {
    fn clone(&self) -> Self {
        Self {
            terms: Arc::clone(&self.terms),
            code: Arc::clone(&self.code),
            news: self.news.clone(),
        }
    }
}

impl<Cx> AsRef<InlineTerms> for InlineProjection<Cx> {
    fn as_ref(&self) -> &InlineTerms {
        &self.terms
    }
}

impl<Cx> fmt::Debug for InlineProjection<Cx> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("InlineProjection")
            .field(&self.terms.name)
            .finish()
    }
}

/// The inline projections that are registered with the handles of one store. Clones share them.
pub struct Inlines<T>(Arc<Registry<T>>);

struct Registry<T> {
    any: AtomicBool,
    next: AtomicU64,
    entries: RwLock<Arc<[(u64, T)]>>,
}

impl<T: AsRef<InlineTerms> + Clone + Send + Sync + 'static> Inlines<T> {
    /// Registers a projection until the answer is dropped. Of several with one name the first one
    /// runs.
    pub fn enlist(&self, projection: T) -> Enlisted {
        let number = self.0.next.fetch_add(1, Ordering::Relaxed);
        self.change(|entries| {
            entries.push((number, projection));
            // In one order everywhere: they lock rows.
            entries.sort_by_key(|(number, entry)| (entry.as_ref().name, *number));
        });
        let list = self.clone();
        Enlisted(Some(Box::new(move || {
            list.change(|entries| entries.retain(|(other, _)| *other != number));
        })))
    }

    fn change(&self, change: impl FnOnce(&mut Vec<(u64, T)>)) {
        let mut entries = (self.0.entries.write()).unwrap_or_else(PoisonError::into_inner);
        let mut list = entries.to_vec();
        change(&mut list);
        self.0.any.store(!list.is_empty(), Ordering::Release);
        *entries = list.into();
    }

    /// True when none is registered: that is all that most appends ask.
    pub fn is_empty(&self) -> bool {
        !self.0.any.load(Ordering::Acquire)
    }

    /// Those that want an event of these appends, ordered by name.
    pub fn wanting<'a>(&self, appends: impl Iterator<Item = &'a Append> + Clone) -> Vec<T> {
        if self.is_empty() {
            return Vec::new();
        }
        let entries = self.0.entries.read();
        let entries = Arc::clone(&entries.unwrap_or_else(PoisonError::into_inner));
        let mut last = None;
        let mut wanting = Vec::new();
        for (_, entry) in &*entries {
            let terms = entry.as_ref();
            if last.replace(terms.name) != Some(terms.name)
                && appends.clone().any(|append| terms.wants(append))
            {
                wanting.push(entry.clone());
            }
        }
        wanting
    }
}

impl<T> Default for Inlines<T> {
    fn default() -> Self {
        Self(Arc::new(Registry {
            any: AtomicBool::new(false),
            next: AtomicU64::new(0),
            entries: RwLock::new(Arc::new([])),
        }))
    }
}

impl<T> Clone for Inlines<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<T> fmt::Debug for Inlines<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let any = self.0.any.load(Ordering::Relaxed);
        f.debug_struct("Inlines")
            .field("any", &any)
            .finish_non_exhaustive()
    }
}

/// An inline projection that is registered with a store, until this is dropped. An append that has
/// begun by then may still run it.
#[must_use = "the projection is withdrawn when this is dropped"]
pub struct Enlisted(Option<Box<dyn FnOnce() + Send + Sync>>);

impl Drop for Enlisted {
    fn drop(&mut self) {
        if let Some(withdraw) = self.0.take() {
            withdraw();
        }
    }
}

impl fmt::Debug for Enlisted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Enlisted")
    }
}

/// The answer of a store that runs no projections inside its appends.
pub(crate) fn unsupported(projection: &str) -> StoreErrorKind {
    StoreErrorKind::Config {
        reason: format!(
            "this store cannot run projection `{projection}` inside its appends: give it another \
             schedule"
        ),
    }
}
