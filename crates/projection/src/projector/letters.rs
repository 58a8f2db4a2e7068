//! Replaying and discarding what was left out.

use std::collections::HashSet;

use backstory_event::{Checkpoint, EventFilter, EventQuery, Position, RecordedEvent, StoreError};
use tokio::sync::oneshot;

use super::{
    board::Command,
    error::{ProjectorError, ProjectorErrorKind, chain},
    orders::{ATTEMPTS, BUSY},
    running::RunningProjector,
    task::Task,
    worker::BatchError,
};
use crate::{DeadLetter, LetterQuery, LetterWrite};

/// Letters that are replayed or discarded together.
const PAGE: usize = 32;
/// So many keys may fail in one replay: it remembers them, so that their order is kept.
const MAX_KEYS: usize = 10_000;

/// Which of a projection's letters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Letters {
    /// All.
    All,
    /// Those of a key.
    Key(String),
    /// That of the event at a position.
    At(Position),
}

impl From<Position> for Letters {
    fn from(position: Position) -> Self {
        Self::At(position)
    }
}

/// What became of letters that were to be replayed: see [`RunningProjector::replay`].
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct ReplayReport {
    /// So many events are in the read model now, and their letters gone.
    pub replayed: u64,
    /// So many were tried and failed again; their letters say why.
    pub failed: u64,
    /// So many were dropped, because their events are erased.
    pub erased: u64,
    /// So many were not tried, because an earlier letter of their key is still there.
    pub waiting: u64,
    /// False when the replay ended early: the projector is shutting down, or 10,000 keys have failed.
    pub complete: bool,
}

impl ReplayReport {
    fn add(&mut self, other: &Self) {
        self.replayed += other.replayed;
        self.failed += other.failed;
        self.erased += other.erased;
        self.waiting += other.waiting;
        self.complete &= other.complete;
    }
}

impl RunningProjector {
    /// One page of a projection's dead letters, by position.
    ///
    /// # Errors
    /// When there is no such projection, or the store is away.
    pub async fn dead_letters(
        &self,
        query: &LetterQuery,
    ) -> Result<Vec<DeadLetter>, ProjectorError> {
        self.parts(&query.projection)?;
        Ok(self.letters.list_letters(query).await?)
    }

    /// Projects events that were left out, between two batches of the projection: by position, and
    /// of a parked key none before an earlier one. The letter of an event goes in the transaction
    /// that stores what the projection made of it. An event that fails again keeps its letter, with
    /// the new reason and one more attempt. A key without letters is no longer parked.
    ///
    /// The projection sees these events later than ones that are behind them in the log. Any process
    /// can do it, also one that stands by: whoever leads the projection notices and goes on.
    ///
    /// # Errors
    /// When there is no such projection, it has ended, or the store is away; what was replayed
    /// until then stays replayed.
    pub async fn replay(
        &self,
        name: &str,
        letters: impl Into<Letters>,
    ) -> Result<ReplayReport, ProjectorError> {
        let letters = letters.into();
        let mut report = ReplayReport {
            complete: true,
            ..ReplayReport::default()
        };
        for remote in self.parts(name)? {
            let (answer, outcome) = oneshot::channel();
            let command = Command::Replay(letters.clone(), answer);
            remote.send(command).await?;
            report.add(&outcome.await.map_err(|_| remote.ended())??);
        }
        Ok(report)
    }

    /// Removes letters without projecting their events, and says how many. A key without letters is
    /// no longer parked.
    ///
    /// # Errors
    /// As [`Self::replay`].
    pub async fn discard(
        &self,
        name: &str,
        letters: impl Into<Letters>,
    ) -> Result<u64, ProjectorError> {
        let letters = letters.into();
        let mut discarded = 0;
        for remote in self.parts(name)? {
            let (answer, outcome) = oneshot::channel();
            let command = Command::Discard(letters.clone(), answer);
            remote.send(command).await?;
            discarded += outcome.await.map_err(|_| remote.ended())??;
        }
        Ok(discarded)
    }
}

/// Why letters were not changed.
enum Trouble {
    /// The projection's code failed.
    Guilty(String),
    /// Another process moved the projection: the letters may be others now.
    Fenced,
    /// No event is to blame.
    Failed(ProjectorError),
}

impl From<StoreError> for Trouble {
    fn from(error: StoreError) -> Self {
        Self::Failed(error.into())
    }
}

impl Task {
    pub(super) async fn replay(&mut self, which: Letters) -> Result<ReplayReport, ProjectorError> {
        let mut report = ReplayReport::default();
        // Keys of which a parked letter is still there.
        let mut stuck = HashSet::new();
        let mut after = Position::START;
        let mut attempts = 0;
        let outcome = loop {
            if stuck.len() >= MAX_KEYS || self.closing.borrow().is_some() {
                break Ok(());
            }
            match self
                .replay_page(&which, after, &mut stuck, &mut report)
                .await
            {
                Ok(Some(last)) => (after, attempts) = (last, 0),
                Ok(None) => {
                    report.complete = true;
                    break Ok(());
                }
                Err(trouble) => match self.settle(trouble, &mut attempts).await {
                    Ok(()) => {}
                    Err(error) => break Err(error),
                },
            }
        };
        self.recount().await?;
        outcome.map(|()| report)
    }

    pub(super) async fn discard(&mut self, which: Letters) -> Result<u64, ProjectorError> {
        let mut discarded = 0;
        let mut attempts = 0;
        let mut after = Position::START;
        let outcome = loop {
            let page = match self.page(&which, after).await {
                Ok(page) => page,
                Err(error) => break Err(error.into()),
            };
            let Some(last) = page.last().map(|letter| letter.position) else {
                break Ok(());
            };
            let own = page.iter().filter(|letter| self.is_own(letter));
            let removed: Vec<_> = own
                .map(|letter| LetterWrite::Remove(letter.position))
                .collect();
            let count = removed.len() as u64;
            match self.amend(&[], removed).await {
                Ok(()) => (after, discarded) = (last, discarded + count),
                Err(trouble) => match self.settle(trouble, &mut attempts).await {
                    Ok(()) => {}
                    Err(error) => break Err(error),
                },
            }
        };
        self.recount().await?;
        outcome.map(|()| discarded)
    }

    /// Replays one page of letters, and says where it ended.
    async fn replay_page(
        &mut self,
        which: &Letters,
        after: Position,
        stuck: &mut HashSet<String>,
        report: &mut ReplayReport,
    ) -> Result<Option<Position>, Trouble> {
        let page = self.page(which, after).await?;
        let Some(last) = page.last().map(|letter| letter.position) else {
            return Ok(None);
        };
        let mut ready = Vec::new();
        let mut waiting = 0;
        for letter in page
            .into_iter()
            .filter(|letter| self.is_own(letter))
            .collect::<Vec<_>>()
        {
            if self.waits(which, &letter, stuck).await? {
                waiting += 1;
                continue;
            }
            match self.event_of(&letter).await? {
                Some(event) if event.is_erased() => {
                    let gone = vec![LetterWrite::Remove(letter.position)];
                    self.amend(&[], gone).await?;
                    report.erased += 1;
                }
                event => ready.push((letter, event)),
            }
        }
        // All at once, and if that fails one by one.
        let events: Option<Vec<_>> = ready.iter().map(|(_, event)| event.clone()).collect();
        if let Some(events) = events.filter(|events| events.len() > 1) {
            let removed = events
                .iter()
                .map(|event| LetterWrite::Remove(event.position()));
            match self.amend(&events, removed.collect()).await {
                Ok(()) => {
                    report.replayed += events.len() as u64;
                    report.waiting += waiting;
                    return Ok(Some(last));
                }
                Err(Trouble::Guilty(_)) => {}
                Err(trouble) => return Err(trouble),
            }
        }
        for (letter, event) in ready {
            if letter.parked && stuck.contains(&letter.key) {
                waiting += 1;
            } else {
                self.replay_one(letter, event, stuck, report).await?;
            }
        }
        // A page that is begun again is not counted twice.
        report.waiting += waiting;
        Ok(Some(last))
    }

    async fn replay_one(
        &mut self,
        letter: DeadLetter,
        event: Option<RecordedEvent>,
        stuck: &mut HashSet<String>,
        report: &mut ReplayReport,
    ) -> Result<(), Trouble> {
        let replayed = match &event {
            None => Err(Trouble::Guilty(
                "the log does not hold the event any more".to_owned(),
            )),
            Some(event) => {
                let removed = vec![LetterWrite::Remove(letter.position)];
                self.amend(std::slice::from_ref(event), removed).await
            }
        };
        match replayed {
            Ok(()) => {
                report.replayed += 1;
                Ok(())
            }
            Err(Trouble::Guilty(reason)) => {
                if letter.parked {
                    stuck.insert(letter.key.clone());
                }
                let attempts = letter.attempts.saturating_add(1);
                let mut letter = letter.because(&reason, attempts);
                letter.at = self.time.clock();
                self.amend(&[], vec![LetterWrite::Put(letter)]).await?;
                report.failed += 1;
                Ok(())
            }
            Err(trouble) => Err(trouble),
        }
    }

    async fn page(
        &mut self,
        which: &Letters,
        after: Position,
    ) -> Result<Vec<DeadLetter>, StoreError> {
        let query = LetterQuery::of(self.worker.owner())
            .after(after)
            .limit(PAGE);
        match which {
            Letters::All => self.letters.list_letters(&query).await,
            Letters::Key(key) => self.letters.list_letters(&query.key(key)).await,
            Letters::At(position) if *position <= after => Ok(Vec::new()),
            Letters::At(position) => {
                let letter = self.letters.letter(self.worker.owner(), *position).await?;
                Ok(letter.into_iter().collect())
            }
        }
    }

    /// True when an earlier letter of its key is parked.
    async fn waits(
        &mut self,
        which: &Letters,
        letter: &DeadLetter,
        stuck: &HashSet<String>,
    ) -> Result<bool, StoreError> {
        if !letter.parked || stuck.contains(&letter.key) {
            return Ok(letter.parked);
        }
        // Otherwise it would have been replayed before, or be stuck.
        if !matches!(which, Letters::At(_)) {
            return Ok(false);
        }
        let mut query = LetterQuery::of(self.worker.owner()).key(&letter.key);
        loop {
            let page = self.letters.list_letters(&query).await?;
            let earlier = page
                .iter()
                .take_while(|other| other.position < letter.position);
            let (count, parked) = earlier.fold((0, false), |(count, parked), other| {
                (count + 1, parked || other.parked)
            });
            match page.last() {
                Some(last) if count == page.len() && !parked => query = query.after(last.position),
                _ => return Ok(parked),
            }
        }
    }

    /// False when another part of the projection has it.
    fn is_own(&self, letter: &DeadLetter) -> bool {
        self.worker.part().owns(&letter.key)
    }

    /// The event of a letter; none when the log holds another one there.
    async fn event_of(&mut self, letter: &DeadLetter) -> Result<Option<RecordedEvent>, StoreError> {
        let before = Checkpoint::at(Position::new(letter.position.get() - 1));
        let query = EventQuery::new(EventFilter::stream(letter.stream.clone()))
            .after(before)
            .up_to(letter.position)
            .limit(1);
        let event = self.log.read(&query).await?.events.into_iter().next();
        Ok(event.filter(|event| event.id() == letter.event_id))
    }

    /// Projects events and changes letters.
    async fn amend(
        &mut self,
        events: &[RecordedEvent],
        letters: Vec<LetterWrite>,
    ) -> Result<(), Trouble> {
        match self.worker.amend(&self.progress, events, letters).await {
            Ok(progress) => {
                // The checkpoint stays: what is buffered still follows it.
                self.progress = progress;
                Ok(())
            }
            Err(BatchError::Fenced) => Err(Trouble::Fenced),
            Err(BatchError::Guilty { error, .. }) => Err(Trouble::Guilty(chain(&*error))),
            Err(BatchError::Failed(error)) => {
                Err(Trouble::Failed(self.not_changed(chain(&*error))))
            }
        }
    }

    /// Goes on from where another process took the projection; fails for any other reason.
    async fn settle(
        &mut self,
        trouble: Trouble,
        attempts: &mut usize,
    ) -> Result<(), ProjectorError> {
        *attempts += 1;
        match trouble {
            Trouble::Fenced if *attempts < ATTEMPTS => Ok(self.load_anew().await?),
            Trouble::Fenced => Err(self.not_changed(BUSY.to_owned())),
            Trouble::Guilty(reason) => Err(self.not_changed(reason)),
            Trouble::Failed(error) => Err(error),
        }
    }

    fn not_changed(&self, reason: String) -> ProjectorError {
        let projection = self.worker.owner().to_owned();
        ProjectorError::new(ProjectorErrorKind::LettersNotChanged { projection, reason })
    }

    /// How many letters there are now. When the store is away, the projection loads anew.
    async fn recount(&mut self) -> Result<(), ProjectorError> {
        match self.letters.count_letters(self.worker.owner()).await {
            Ok(left_out) => {
                self.left_out = Some(left_out);
                Ok(())
            }
            Err(error) => {
                self.engine.fenced(self.time.now());
                Err(error.into())
            }
        }
    }
}
