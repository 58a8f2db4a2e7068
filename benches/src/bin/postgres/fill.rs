//! A large table, by a few statements.

use backstory::BoxError;
use sqlx::{AssertSqlSafe, Connection, PgConnection, Row};

use crate::domain;

/// Ten events per stream, with ids and keys as in `raw.rs`, and a tag that 1 of 100,000 has.
const EVENTS: &str = "INSERT INTO backstory.event (position, category, key, version, id, name, schema_version, \
       payload, metadata, tags, recorded_at) \
     SELECT n, 'order', lpad(to_hex((n - 1) / 10), 32, '0')::uuid::text, (n - 1) % 10 + 1, \
       lpad(to_hex(n), 32, '0')::uuid, 'order.placed', 1, p.payload, '{}', \
       ARRAY['customer-' || n % 100000], clock_timestamp() \
     FROM (SELECT $1::text::jsonb AS payload OFFSET 0) AS p, generate_series(1, $2::bigint) AS n";

/// Statements that take away and give back what makes inserts slow: constraints and indexes.
const INDEXES: &str = "SELECT format('ALTER TABLE %s DROP CONSTRAINT %I', conrelid::regclass, conname), \
       format('ALTER TABLE %s ADD CONSTRAINT %I %s', conrelid::regclass, conname, pg_get_constraintdef(oid)) \
     FROM pg_constraint WHERE contype IN ('p', 'u') \
       AND conrelid = 'backstory.event'::regclass \
     UNION ALL \
     SELECT format('DROP INDEX %s', indexrelid::regclass), pg_get_indexdef(indexrelid) \
     FROM pg_index WHERE indrelid = 'backstory.event'::regclass \
       AND NOT EXISTS (SELECT FROM pg_constraint c WHERE c.conindid = indexrelid)";

/// Fills an empty store with so many events, as one that ran for long: vacuumed, with statistics.
pub async fn fill(url: &str, events: u64) -> Result<(), BoxError> {
    let mut connection = PgConnection::connect(url).await?;
    let settings = "SET maintenance_work_mem = '512MB'; SET synchronous_commit = off";
    sqlx::raw_sql(settings).execute(&mut connection).await?;
    let rows = sqlx::query(INDEXES).fetch_all(&mut connection).await?;
    let mut give_back = Vec::new();
    for row in rows {
        execute(&mut connection, row.try_get(0)?).await?;
        give_back.push(row.try_get(1)?);
    }
    sqlx::query(EVENTS)
        .bind(domain::payload()?.as_str())
        .bind(i64::try_from(events)?)
        .execute(&mut connection)
        .await?;
    for statement in give_back {
        execute(&mut connection, statement).await?;
    }
    execute(&mut connection, "VACUUM (FREEZE, ANALYZE)".to_owned()).await?;
    Ok(connection.close().await?)
}

async fn execute(connection: &mut PgConnection, statement: String) -> Result<(), BoxError> {
    let done = sqlx::raw_sql(AssertSqlSafe(statement.clone()))
        .execute(connection)
        .await;
    done.map_err(|error| -> BoxError { format!("{statement}: {error}").into() })?;
    Ok(())
}
