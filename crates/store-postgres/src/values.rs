//! Who has which values: claimed by one stream, or entered by many.

use std::sync::Arc;

use async_trait::async_trait;
use backstory_aggregate::{LookupFilter, LookupQuery, LookupRepair, LookupRow, LookupStore};
use backstory_event::{Append, Conflict, StoreError, StreamId};
use backstory_store_kit::ValueChanges;
use sqlx::{AssertSqlSafe, Error, PgConnection, Row, postgres::PgRow, raw_sql};

use crate::{
    PostgresStore,
    append::{Outcomes, column, decide_batch, storable, store},
    error::{sqlstate, store_error},
    pool::{Lease, retry},
    sql::Statements,
    writer::STATEMENT,
};

/// Applies what a decision says of values.
pub(crate) async fn write(
    connection: &mut PgConnection,
    sql: &Statements,
    changes: &ValueChanges,
) -> Result<(), Error> {
    let ValueChanges {
        removed,
        claims,
        entries,
    } = changes;
    if !removed.is_empty() {
        sql.remove_values
            .query()
            .bind(column(removed, |gone| gone.scope.as_str()))
            .bind(column(removed, |gone| gone.value.as_deref()))
            .bind(column(removed, |gone| gone.owner.category()))
            .bind(column(removed, |gone| gone.owner.key()))
            .execute(&mut *connection)
            .await?;
    }
    if !claims.is_empty() {
        sql.take_claims
            .query()
            .bind(column(claims, |((scope, _), _)| scope.as_str()))
            .bind(column(claims, |((_, value), _)| value.as_str()))
            .bind(column(claims, |(_, owner)| owner.category()))
            .bind(column(claims, |(_, owner)| owner.key()))
            .execute(&mut *connection)
            .await?;
    }
    if !entries.is_empty() {
        sql.make_entries
            .query()
            .bind(column(entries, |entry| entry.scope.as_str()))
            .bind(column(entries, |entry| entry.value.as_str()))
            .bind(column(entries, |entry| entry.owner.category()))
            .bind(column(entries, |entry| entry.owner.key()))
            .execute(connection)
            .await?;
    }
    Ok(())
}

fn row(row: &PgRow) -> Result<LookupRow, Error> {
    let (category, key): (&str, &str) = (row.try_get(1)?, row.try_get(2)?);
    Ok(LookupRow {
        value: row.try_get(0)?,
        owner: StreamId::stored(category, key),
        claimed: row.try_get(3)?,
    })
}

impl PostgresStore {
    async fn values(&self, query: &LookupQuery) -> Result<Vec<LookupRow>, Error> {
        let limit = i64::try_from(query.limit).unwrap_or(i64::MAX);
        let after = query.after.as_ref();
        let value = after.map_or("", |(value, _)| value);
        let mut lease = Lease::of(self.pool()).await?;
        let rows = if let LookupFilter::Owner(owner) = &query.filter {
            sqlx::query(self.sql().values_of.text())
                .bind(&query.scope)
                .bind(owner.category())
                .bind(owner.key())
                .bind(value)
                .bind(limit)
                .fetch_all(&mut *lease)
                .await
        } else {
            let (low, high) = query.bounds();
            sqlx::query(self.sql().values.text())
                .bind(&query.scope)
                .bind(low)
                .bind(high)
                .bind(value)
                .bind(after.map_or("", |(_, owner)| owner.category()))
                .bind(after.map_or("", |(_, owner)| owner.key()))
                .bind(limit)
                .fetch_all(&mut *lease)
                .await
        };
        let rows = lease.done_with(rows).await?;
        rows.iter().map(row).collect()
    }

    /// Decides and writes under the lock of the log, as the writer does.
    async fn repair(&self, appends: &[Arc<Append>]) -> Result<Outcomes, Error> {
        let (options, sql) = (self.options(), self.sql());
        let begin = format!(
            "SET TRANSACTION READ WRITE; SET LOCAL lock_timeout = {}; \
             SET LOCAL idle_in_transaction_session_timeout = {}; SET LOCAL statement_timeout = {}",
            options.lock_timeout.as_millis(),
            options.append_idle_timeout.as_millis(),
            STATEMENT.as_millis(),
        );
        let mut lease = Lease::begin(self.pool(), &begin).await?;
        raw_sql(AssertSqlSafe(sql.lock_append.as_str()))
            .execute(&mut *lease)
            .await?;
        let (decision, _) = decide_batch(&mut lease, sql, appends).await?;
        store(&mut lease, sql, &decision).await?;
        lease.commit().await?;
        Ok(decision.outcomes)
    }
}

#[async_trait]
impl LookupStore for PostgresStore {
    async fn lookup_rows(&self, query: &LookupQuery) -> Result<Vec<LookupRow>, StoreError> {
        self.check_open()?;
        let is_storable = match &query.filter {
            LookupFilter::Value(text) | LookupFilter::Prefix(text) => storable(text),
            LookupFilter::Owner(owner) => storable(owner.category()) && storable(owner.key()),
        };
        if !is_storable || !storable(&query.scope) {
            return Ok(Vec::new());
        }
        retry(self.pool(), || Box::pin(self.values(query)))
            .await
            .map_err(store_error)
    }

    async fn repair_lookup(
        &self,
        repairs: &[LookupRepair],
    ) -> Result<Vec<Result<(), Conflict>>, StoreError> {
        self.check_open()?;
        let appends = repairs.iter().map(LookupRepair::to_append);
        let appends = appends.collect::<Result<Vec<_>, _>>()?;
        // The same again gives the same, or conflicts with what came in between.
        let outcomes = retry(self.pool(), || Box::pin(self.repair(&appends))).await;
        match outcomes {
            Ok(outcomes) => LookupRepair::answers(outcomes),
            Err(error) if sqlstate(&error) == Some("55P03") => Err(self.name_holder(error).await),
            Err(error) => Err(store_error(error)),
        }
    }
}
