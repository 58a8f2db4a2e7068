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

#[cfg(test)]
mod tests {
    use std::path::Path;

    use backstory_event::{Checkpoint, EventId, Position};
    use backstory_store_postgres::PostgresStore;
    use backstory_test_postgres::TestDatabase;
    use sqlx::{Connection, PgConnection};
    use uuid::Uuid;

    use super::{Delivered, compare};
    use crate::records::Records;

    /// Six events; what a subscriber was given of them, and what is to be said of it.
    const CASES: &[(&[i64], Delivered)] = &[
        (&[1, 2, 3, 4, 5, 6], said(6, 0, 0, 0, 0)),
        (&[], said(0, 6, 0, 0, 0)),
        (&[1, 2, 4, 5, 6], said(5, 1, 0, 0, 0)),
        (&[1, 2, 3, 4], said(4, 2, 0, 0, 0)),
        (&[1, 2, 3, 3, 4, 5, 6], said(7, 0, 1, 0, 0)),
        (&[1, 2, 3, 4, 5, 2, 3, 6], said(8, 0, 2, 0, 0)),
        (&[1, 2, 4, 3, 5, 6], said(6, 0, 0, 1, 0)),
        (&[1, 2, 4, 3, 3, 6], said(6, 1, 1, 1, 0)),
        (&[1, 2, 3, 4, 5, 6, 7], said(7, 0, 0, 0, 1)),
        // Minus: an event that never was at this position.
        (&[1, 2, -3, 4, 5, 6], said(6, 1, 0, 0, 1)),
        (&[1, 2, 4, -3, 5, 6], said(6, 1, 0, 0, 1)),
    ];

    const fn said(
        events: u64,
        lost: u64,
        repeated: u64,
        reordered: u64,
        invented: u64,
    ) -> Delivered {
        Delivered {
            events,
            lost,
            repeated,
            reordered,
            invented,
        }
    }

    #[tokio::test]
    async fn what_was_lost_repeated_reordered_or_invented_is_counted() {
        let database = TestDatabase::create().await;
        let store = PostgresStore::connect(database.url()).await.unwrap();
        store.close().await;
        let mut connection = PgConnection::connect(database.url()).await.unwrap();
        for position in 1..=6 {
            insert(&mut connection, position).await;
        }
        let directory = tempfile::tempdir().unwrap();
        for (number, (given, expected)) in CASES.iter().enumerate() {
            let path = directory.path().join(number.to_string());
            write(&path, given);
            let found = compare(&mut connection, None, &path).await.unwrap();
            assert_eq!(found, *expected, "{given:?}");
        }
        let path = directory.path().join("category");
        write(&path, &[2, 4]);
        let found = compare(&mut connection, Some("even"), &path).await;
        assert_eq!(found.unwrap(), said(2, 1, 0, 0, 0));
    }

    async fn insert(connection: &mut PgConnection, position: i64) {
        sqlx::query(
            "INSERT INTO backstory.event (position, category, key, version, id, name, \
               schema_version, payload, metadata, tags, recorded_at) \
             VALUES ($1, $2, $1::text, 1, $3, 'x', 1, '{}', '{}', '{}', now())",
        )
        .bind(position)
        .bind(["even", "odd"][usize::try_from(position % 2).unwrap()])
        .bind(id(position))
        .execute(connection)
        .await
        .unwrap();
    }

    fn write(path: &Path, given: &[i64]) {
        let mut records = Records::open(path).unwrap();
        let checkpoints = given.iter().map(|position| Checkpoint {
            position: Position::new(position.abs()),
            event_id: EventId::from_uuid(id(*position)),
        });
        records.append(checkpoints).unwrap();
    }

    fn id(position: i64) -> Uuid {
        Uuid::from_u64_pair(1, position.cast_unsigned())
    }
}
