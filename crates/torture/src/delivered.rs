//! Compares what a subscriber was given with the log, both read in order, by plain SQL.

use std::{collections::BTreeMap, path::Path};

use backstory_event::Checkpoint;
use futures::TryStreamExt;
use sqlx::PgConnection;
use uuid::Uuid;

use crate::{Result, records};

/// How many missing events are remembered in case they come later; the rest is only counted.
const REMEMBERED: usize = 1_000_000;

/// What was wrong with the events that a subscriber was given.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Delivered {
    pub(crate) events: u64,
    pub(crate) lost: u64,
    pub(crate) repeated: u64,
    pub(crate) reordered: u64,
    pub(crate) invented: u64,
}

/// The comparison so far.
#[derive(Debug, Default)]
struct Comparison {
    found: Delivered,
    highest: i64,
    missing: BTreeMap<i64, Uuid>,
}

impl Comparison {
    fn skipped(&mut self, position: i64, id: Uuid) {
        if self.missing.len() < REMEMBERED {
            self.missing.insert(position, id);
        } else {
            self.found.lost += 1;
        }
    }

    /// A record at or before one that came already.
    fn late(&mut self, record: Checkpoint) {
        match self.missing.remove(&record.position.get()) {
            Some(id) if id == record.event_id.as_uuid() => self.found.reordered += 1,
            Some(_) => {
                self.found.lost += 1;
                self.found.invented += 1;
            }
            None => self.found.repeated += 1,
        }
    }
}

/// Compares the records of a file with the log, or with one category of it.
pub(crate) async fn compare(
    connection: &mut PgConnection,
    category: Option<&str>,
    records: &Path,
) -> Result<Delivered> {
    let mut rows = sqlx::query_as::<_, (i64, Uuid)>(
        "SELECT position, id FROM backstory.event WHERE $1::text IS NULL OR category = $1 \
         ORDER BY position",
    )
    .bind(category)
    .fetch(connection);
    let mut next = rows.try_next().await?;
    let mut comparison = Comparison::default();
    for record in records::read(records)? {
        let record = record?;
        comparison.found.events += 1;
        if record.position.get() <= comparison.highest {
            comparison.late(record);
            continue;
        }
        comparison.highest = record.position.get();
        while let Some((position, id)) = next
            && position < record.position.get()
        {
            comparison.skipped(position, id);
            next = rows.try_next().await?;
        }
        match next {
            Some((position, id)) if position == record.position.get() => {
                if id != record.event_id.as_uuid() {
                    comparison.found.lost += 1;
                    comparison.found.invented += 1;
                }
                next = rows.try_next().await?;
            }
            _ => comparison.found.invented += 1,
        }
    }
    while let Some((position, id)) = next {
        comparison.skipped(position, id);
        next = rows.try_next().await?;
    }
    let mut found = comparison.found;
    found.lost += comparison.missing.len() as u64;
    Ok(found)
}
