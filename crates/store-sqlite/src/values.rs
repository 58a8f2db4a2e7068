//! Who has which values: claimed by one stream, or entered by many.

use std::sync::Arc;

use async_trait::async_trait;
use backstory_aggregate::{LookupFilter, LookupQuery, LookupRepair, LookupRow, LookupStore};
use backstory_event::{Conflict, StoreError, StreamId};
use backstory_store_kit::ValueChanges;
use sqlx::{Row, SqliteConnection, sqlite::SqliteRow};

use crate::{SqliteStore, append, bind::json, error::Failure};

// Each is found by its owner: a stream has few of a scope.
const REMOVE: [&str; 2] = [
    "
DELETE FROM backstory_claim
WHERE (scope, value) IN (
    SELECT c.scope, c.value
    FROM json_each(?1) w CROSS JOIN backstory_claim c INDEXED BY backstory_claim_owner
        ON c.category = w.value ->> 2 AND c.key = w.value ->> 3 AND c.scope = w.value ->> 0
    WHERE w.value ->> 1 IS NULL OR c.value = w.value ->> 1
)",
    "
DELETE FROM backstory_entry
WHERE (scope, value, category, key) IN (
    SELECT e.scope, e.value, e.category, e.key
    FROM json_each(?1) w CROSS JOIN backstory_entry e INDEXED BY backstory_entry_owner
        ON e.category = w.value ->> 2 AND e.key = w.value ->> 3 AND e.scope = w.value ->> 0
    WHERE w.value ->> 1 IS NULL OR e.value = w.value ->> 1
)",
];

const CLAIM: &str = "
INSERT INTO backstory_claim (scope, value, category, key)
SELECT value ->> 0, value ->> 1, value ->> 2, value ->> 3 FROM json_each(?1)
WHERE true
ON CONFLICT (scope, value) DO UPDATE SET category = excluded.category, key = excluded.key";

const ENTER: &str = "
INSERT INTO backstory_entry (scope, value, category, key)
SELECT value ->> 0, value ->> 1, value ->> 2, value ->> 3 FROM json_each(?1)
WHERE true
ON CONFLICT (scope, value, category, key) DO NOTHING";

/// Applies what a decision says of values.
pub(crate) async fn write(
    connection: &mut SqliteConnection,
    changes: &ValueChanges,
) -> Result<(), Failure> {
    let ValueChanges {
        removed,
        claims,
        entries,
    } = changes;
    if !removed.is_empty() {
        let rows = removed.iter().map(|gone| {
            let (category, key) = (gone.owner.category(), gone.owner.key());
            (&gone.scope, &gone.value, category, key)
        });
        let rows = json(&rows.collect::<Vec<_>>())?;
        for statement in REMOVE {
            let remove = sqlx::query(statement).bind(&rows);
            remove.execute(&mut *connection).await?;
        }
    }
    if !claims.is_empty() {
        let rows = claims.iter().map(|((scope, value), owner)| {
            let (category, key) = (owner.category(), owner.key());
            (scope, value, category, key)
        });
        let claim = sqlx::query(CLAIM).bind(json(&rows.collect::<Vec<_>>())?);
        claim.execute(&mut *connection).await?;
    }
    if !entries.is_empty() {
        let rows = entries.iter().map(|entry| {
            let (category, key) = (entry.owner.category(), entry.owner.key());
            (&entry.scope, &entry.value, category, key)
        });
        let enter = sqlx::query(ENTER).bind(json(&rows.collect::<Vec<_>>())?);
        enter.execute(connection).await?;
    }
    Ok(())
}

// Each part comes in order and bounded, so the sum is.
const BY_VALUE: &str = "
SELECT * FROM (
    SELECT value, category, key, true FROM backstory_claim
    WHERE scope = ?1 AND value >= ?2 AND value < ?3 AND (value, category, key) > (?4, ?5, ?6)
    ORDER BY value LIMIT ?7
)
UNION ALL SELECT * FROM (
    SELECT value, category, key, false FROM backstory_entry
    WHERE scope = ?1 AND value >= ?2 AND value < ?3 AND (value, category, key) > (?4, ?5, ?6)
    ORDER BY value, category, key LIMIT ?7
)
ORDER BY 1, 2, 3, 4 LIMIT ?7";

const BY_OWNER: &str = "
SELECT value, category, key, true FROM backstory_claim INDEXED BY backstory_claim_owner
WHERE scope = ?1 AND category = ?2 AND key = ?3 AND value > ?4
UNION ALL SELECT value, category, key, false
FROM backstory_entry INDEXED BY backstory_entry_owner
WHERE scope = ?1 AND category = ?2 AND key = ?3 AND value > ?4
ORDER BY 1, 4 LIMIT ?5";

async fn list(
    connection: &mut SqliteConnection,
    query: &LookupQuery,
) -> Result<Vec<LookupRow>, Failure> {
    let limit = i64::try_from(query.limit).unwrap_or(i64::MAX);
    let after = query.after.as_ref();
    let value = after.map_or("", |(value, _)| value);
    let rows = if let LookupFilter::Owner(owner) = &query.filter {
        let rows = sqlx::query(BY_OWNER)
            .bind(&query.scope)
            .bind(owner.category())
            .bind(owner.key())
            .bind(value)
            .bind(limit);
        rows.fetch_all(connection).await?
    } else {
        let (low, high) = query.bounds();
        let rows = sqlx::query(BY_VALUE)
            .bind(&query.scope)
            .bind(low)
            .bind(high)
            .bind(value)
            .bind(after.map_or("", |(_, owner)| owner.category()))
            .bind(after.map_or("", |(_, owner)| owner.key()))
            .bind(limit);
        rows.fetch_all(connection).await?
    };
    Ok(rows.iter().map(row).collect::<Result<_, _>>()?)
}

fn row(row: &SqliteRow) -> Result<LookupRow, sqlx::Error> {
    let text = |column| row.try_get::<&str, _>(column).map(Arc::from);
    let (category, key): (Arc<str>, Arc<str>) = (text(1)?, text(2)?);
    Ok(LookupRow {
        value: row.try_get(0)?,
        owner: StreamId::stored(category, key),
        claimed: row.try_get(3)?,
    })
}

#[async_trait]
impl LookupStore for SqliteStore {
    async fn lookup_rows(&self, query: &LookupQuery) -> Result<Vec<LookupRow>, StoreError> {
        let mut reader = self.reader().await?;
        list(&mut reader, query)
            .await
            .map_err(|failure| self.failed(failure))
    }

    async fn repair_lookup(
        &self,
        repairs: &[LookupRepair],
    ) -> Result<Vec<Result<(), Conflict>>, StoreError> {
        let appends = repairs.iter().map(LookupRepair::to_append);
        let appends = appends.collect::<Result<Vec<_>, _>>()?;
        let mut transaction = self.begin().await?;
        let decision = append::run(&mut transaction, &appends).await;
        let decision = decision.map_err(|failure| self.failed(failure))?;
        self.commit(transaction).await?;
        LookupRepair::answers(decision.outcomes)
    }
}
