//! Making a lookup from the events, while others write.
//!
//! What a stream's events say up to a version is written only if the stream is still at that
//! version, decided under the lock of the log. Whoever appends later keeps it right.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use backstory_event::{
    Aggregate, Conflict, EventStoreExt, Invalid, StreamId, StreamInfo, StreamQuery, StreamState,
    StreamVersion,
};
use futures::{StreamExt, TryStreamExt, stream};

use super::{
    Lookup, LookupFilter, LookupList, LookupQuery, LookupReader, LookupRepair, LookupRow,
    history::History,
};
use crate::RepositoryError;

/// Streams that are compared, and then written in one transaction.
const STREAMS: usize = 100;
/// Streams that are read at once.
const READS: usize = 16;
/// Conflicts that are listed.
const LISTED: usize = 1_000;

/// What a rebuild did.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Rebuilt {
    /// Aggregates that were looked at.
    pub aggregates: u64,
    /// Streams whose values were others than their events say, and are right now.
    pub changed: u64,
    /// Unique values that two aggregates have by their events: at most 1,000.
    pub conflicts: Vec<LookupConflict>,
    /// How many there are, listed or not.
    pub found_conflicts: u64,
}

/// A unique value that two aggregates have by their events. One of them holds it; the other one is
/// not found by it until its next event that sets a value, or a rebuild after the holder gave it up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LookupConflict {
    /// The value.
    pub value: String,
    /// Who holds it: who held it before, or else the first one by id.
    pub holder: StreamId,
    /// Who has it, too.
    pub other: StreamId,
}

impl Rebuilt {
    fn conflict(&mut self, conflict: LookupConflict) {
        self.found_conflicts += 1;
        if self.conflicts.len() < LISTED {
            self.conflicts.push(conflict);
        }
    }
}

impl<L: Lookup> LookupReader<L> {
    /// Makes the values what the events say: for a lookup that is new to a history, whose
    /// [`change`](Lookup::change) became another one, or whose aggregates were written without it.
    /// Writers go on meanwhile; those that have the lookup are never set back. It can be run
    /// again at any time, also after it was broken off, and writes nothing where all is right.
    ///
    /// It reads each aggregate's whole stream, and writes up to 100 of them in one transaction.
    ///
    /// # Errors
    /// `Decode` and `UnknownEvent` for an event that a decision could not load either, `Invalid`
    /// for what is no value, or the store's error. What was done until then stays.
    pub async fn rebuild(&self) -> Result<Rebuilt, RepositoryError> {
        let mut rebuilt = Rebuilt::default();
        self.take_from_strangers(&mut rebuilt).await?;
        let category = L::Aggregate::CATEGORY;
        let mut query = any_state(StreamQuery::new().category(category).limit(STREAMS));
        loop {
            let page = self.store.streams(&query).await?;
            self.compare(page.streams, &mut rebuilt).await?;
            match page.next {
                Some(cursor) => query = query.after(cursor),
                None => return Ok(rebuilt),
            }
        }
    }

    async fn compare(
        &self,
        streams: Vec<StreamInfo>,
        rebuilt: &mut Rebuilt,
    ) -> Result<(), RepositoryError> {
        rebuilt.aggregates += streams.len() as u64;
        let compared = stream::iter(streams).map(|info| self.difference(info.stream));
        let found: Vec<_> = compared.buffered(READS).try_collect().await?;
        let repairs: Vec<LookupRepair> = found.into_iter().flatten().collect();
        if repairs.is_empty() {
            return Ok(());
        }
        let answers = self.store.repair_lookup(&repairs).await?;
        for (repair, answer) in repairs.into_iter().zip(answers) {
            match answer {
                Ok(()) => rebuilt.changed += 1,
                Err(_) => self.settle(&repair.owner, rebuilt).await?,
            }
        }
        Ok(())
    }

    /// What is to be repaired. The events are read before the rows: a change in between leaves
    /// rows that are either right, or not those that the events say.
    async fn difference(&self, owner: StreamId) -> Result<Option<LookupRepair>, RepositoryError> {
        let (version, values) = self.by_events(&owner).await?;
        let rows = self.rows_of(&owner).await?;
        let repair = self.repair(owner, version, values)?;
        Ok((!is_so(&rows, &repair)).then_some(repair))
    }

    /// Repairs one stream, whatever others do meanwhile.
    async fn settle(&self, owner: &StreamId, rebuilt: &mut Rebuilt) -> Result<(), RepositoryError> {
        // What others have by their events.
        let mut taken: BTreeMap<String, StreamId> = BTreeMap::new();
        loop {
            let (version, mut values) = self.by_events(owner).await?;
            taken.retain(|value, _| values.remove(value));
            let rows = self.rows_of(owner).await?;
            let repair = self.repair(owner.clone(), version, values)?;
            let is_right = is_so(&rows, &repair);
            let answer = match is_right {
                true => Ok(()),
                false => self.repair_one(repair).await?,
            };
            match answer {
                Ok(()) => {
                    rebuilt.changed += u64::from(!is_right);
                    for (value, holder) in taken {
                        rebuilt.conflict(LookupConflict {
                            value,
                            holder,
                            other: owner.clone(),
                        });
                    }
                    return Ok(());
                }
                Err(Conflict::Claim {
                    value,
                    owner: holder,
                    ..
                }) => {
                    if self.has_lost(&holder, &value, rebuilt).await? {
                        continue;
                    }
                    taken.insert(value, holder);
                }
                // It was written meanwhile: others get on.
                Err(_) => {}
            }
        }
    }

    /// False if the holder of a value has it by its events; else it may have to give it up first.
    async fn has_lost(
        &self,
        holder: &StreamId,
        value: &str,
        rebuilt: &mut Rebuilt,
    ) -> Result<bool, RepositoryError> {
        let (version, mut values) = self.by_events(holder).await?;
        if values.contains(value) {
            return Ok(false);
        }
        // What it gets comes in its own turn.
        let rows = self.rows_of(holder).await?;
        values.retain(|value| rows.iter().any(|row| row.value == *value && row.claimed));
        let repair = self.repair(holder.clone(), version, values)?;
        if self.repair_one(repair).await?.is_ok() {
            rebuilt.changed += 1;
        }
        Ok(true)
    }

    /// Takes values from streams that cannot have any.
    async fn take_from_strangers(&self, rebuilt: &mut Rebuilt) -> Result<(), RepositoryError> {
        let mut query = LookupQuery {
            scope: L::NAME.to_owned(),
            filter: LookupFilter::Prefix(String::new()),
            after: None,
            limit: LookupList::MAX_LIMIT,
        };
        loop {
            let rows = self.store.lookup_rows(&query).await?;
            let last = rows
                .last()
                .map(|row| (row.value.clone(), row.owner.clone()));
            let owners: HashSet<_> = rows.into_iter().map(|row| row.owner).collect();
            let known = self.known(&owners).await?;
            for stranger in owners.difference(&known) {
                self.take_from(stranger, rebuilt).await?;
            }
            match last {
                Some(last) => query.after = Some(last),
                None => return Ok(()),
            }
        }
    }

    /// Those that are streams of aggregates of this type.
    async fn known(
        &self,
        owners: &HashSet<StreamId>,
    ) -> Result<HashSet<StreamId>, RepositoryError> {
        let category = L::Aggregate::CATEGORY;
        let mut query = any_state(StreamQuery::new().category(category).limit(owners.len()));
        let own = owners.iter().filter(|owner| owner.category() == category);
        query.keys = own.map(|owner| owner.key().to_owned()).collect();
        if query.keys.is_empty() {
            return Ok(HashSet::new());
        }
        let page = self.store.streams(&query).await?;
        Ok(page.streams.into_iter().map(|info| info.stream).collect())
    }

    async fn take_from(
        &self,
        stranger: &StreamId,
        rebuilt: &mut Rebuilt,
    ) -> Result<(), RepositoryError> {
        loop {
            let info = self.store.stream_info(stranger).await?;
            let version = info.map_or(StreamVersion::EMPTY, |info| info.version);
            if version > StreamVersion::EMPTY && stranger.category() == L::Aggregate::CATEGORY {
                // It has just begun.
                return Ok(());
            }
            let repair = self.repair(stranger.clone(), version, BTreeSet::new())?;
            if self.repair_one(repair).await?.is_ok() {
                rebuilt.changed += 1;
                return Ok(());
            }
        }
    }

    async fn repair_one(
        &self,
        repair: LookupRepair,
    ) -> Result<Result<(), Conflict>, RepositoryError> {
        let answers = self.store.repair_lookup(&[repair]).await?;
        Ok(answers.into_iter().next().unwrap_or(Ok(())))
    }

    fn repair(
        &self,
        owner: StreamId,
        version: StreamVersion,
        values: BTreeSet<String>,
    ) -> Result<LookupRepair, Invalid> {
        let repair = LookupRepair {
            scope: L::NAME.to_owned(),
            unique: L::UNIQUE,
            owner,
            version,
            values,
        };
        match repair.to_append() {
            Ok(_) => Ok(repair),
            Err(invalid) => {
                let owner = repair.owner.to_string();
                Err(Invalid::new("history", &owner, invalid.to_string()))
            }
        }
    }

    /// The values of a stream by its events, and up to which version.
    async fn by_events(
        &self,
        stream: &StreamId,
    ) -> Result<(StreamVersion, BTreeSet<String>), RepositoryError> {
        if stream.category() != L::Aggregate::CATEGORY {
            let info = self.store.stream_info(stream).await?;
            let version = info.map_or(StreamVersion::EMPTY, |info| info.version);
            return Ok((version, BTreeSet::new()));
        }
        let history = History::read(&*self.store, stream, None, &*self.lookup).await?;
        Ok((history.version, history.in_force(L::ON_DELETE)))
    }
}

fn any_state(query: StreamQuery) -> StreamQuery {
    [StreamState::Live, StreamState::Deleted, StreamState::Erased]
        .into_iter()
        .fold(query, StreamQuery::state)
}

/// Whether the rows of a stream are what a repair would make of them.
fn is_so(rows: &[LookupRow], repair: &LookupRepair) -> bool {
    rows.len() == repair.values.len()
        && rows
            .iter()
            .all(|row| row.claimed == repair.unique && repair.values.contains(&row.value))
}
