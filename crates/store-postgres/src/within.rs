//! Appending inside a transaction of the caller.

use std::{sync::Arc, time::Duration};

use backstory_event::{Append, Appended, EventId, Position, StoreError, StoreErrorKind};
use sqlx::{Error, PgConnection, Row};

use crate::{
    PostgresStore,
    append::{decide_batch, store},
    error::{sqlstate, store_error},
    holder::lock_holder,
    pool::{Lease, retry},
};

/// An append in a transaction that is not committed yet. It becomes a receipt by
/// [`Pending::committed`].
#[derive(Debug)]
#[must_use = "it becomes a receipt by `committed` after the COMMIT of the transaction"]
pub struct Pending {
    receipt: Appended,
    event_ids: Vec<EventId>,
    transaction: String,
}

impl Pending {
    /// The receipt, once the transaction has committed. Proved by the event's id, because a
    /// position that was rolled back goes to another event.
    ///
    /// # Errors
    /// `NotStored` when the transaction was rolled back, `Unavailable` while it is still open or
    /// the store is away: ask again. `OutcomeUnknown` when the server has forgotten it.
    pub async fn committed(&self, store: &PostgresStore) -> Result<Appended, StoreError> {
        store.check_open()?;
        let (position, status) = retry(store.pool(), || Box::pin(self.look(store)))
            .await
            .map_err(store_error)?;
        let expected = self.receipt.position();
        if position == Some(expected) {
            store.tail().advance(expected);
            return Ok(self.receipt.clone());
        }
        Err(StoreError::new(match status.as_deref() {
            Some("aborted") => StoreErrorKind::NotStored {
                reason: "its transaction was rolled back".to_owned(),
            },
            Some("in progress") => StoreErrorKind::Unavailable {
                reason: "the transaction of the append is still open: commit it first".to_owned(),
            },
            _ => StoreErrorKind::OutcomeUnknown {
                event_ids: self.event_ids.clone(),
            },
        }))
    }

    async fn look(
        &self,
        store: &PostgresStore,
    ) -> Result<(Option<Position>, Option<String>), Error> {
        let mut lease = Lease::of(store.pool()).await?;
        let found = sqlx::query_as(store.sql().pending.text())
            .bind(self.receipt.checkpoint.event_id.as_uuid())
            .bind(&self.transaction)
            .fetch_one(&mut *lease)
            .await;
        let (position, status): (Option<i64>, _) = lease.done_with(found).await?;
        Ok((position.map(Position::new), status))
    }
}

impl PostgresStore {
    /// Appends inside the caller's own open transaction, so that it commits together with rows of
    /// the application. The rules are those of [`append`](backstory_event::EventStore::append).
    ///
    /// **Make it the last statement before COMMIT**: until then no other append of the store can
    /// proceed. A client that freezes in between is ended by the server after the [append idle
    /// timeout](crate::PostgresOptions::with_append_idle_timeout). After an error roll back.
    ///
    /// ```no_run
    /// # use backstory_event::{Append, Appended};
    /// # use backstory_store_postgres::PostgresStore;
    /// # async fn f(pool: sqlx::PgPool, append: Append) -> Result<Appended, Box<dyn std::error::Error>> {
    /// let store = PostgresStore::with_pool(pool.clone()).await?;
    /// let mut transaction = pool.begin().await?;
    /// sqlx::query("UPDATE account SET seen = now()").execute(&mut *transaction).await?;
    /// let pending = store.append_in(&mut transaction, append).await?;
    /// transaction.commit().await?;
    /// let receipt = pending.committed(&store).await?;
    /// # Ok(receipt) }
    /// ```
    ///
    /// # Errors
    /// What `append` answers, except that nothing is sent again. `Config` when the connection is
    /// in no transaction, or in one that is not READ COMMITTED; two-phase commit is refused by
    /// the server at PREPARE TRANSACTION.
    pub async fn append_in(
        &self,
        connection: &mut PgConnection,
        append: Append,
    ) -> Result<Pending, StoreError> {
        self.check_open()?;
        append.validate(&self.options().writer.limits)?;
        let span = tracing::debug_span!("backstory.postgres.append_in");
        tracing::Instrument::instrument(self.append_within(connection, append), span).await
    }

    async fn append_within(
        &self,
        connection: &mut PgConnection,
        append: Append,
    ) -> Result<Pending, StoreError> {
        let (options, sql) = (self.options(), self.sql());
        let patience = append.deadline.unwrap_or(options.writer.deadline);
        let settled = sql
            .settle_append
            .query()
            .bind(millis(options.lock_timeout.min(patience)))
            .bind(millis(options.append_idle_timeout))
            .fetch_one(&mut *connection)
            .await
            .map_err(store_error)?;
        let isolation: String = settled.try_get(0).map_err(store_error)?;
        if isolation != "read committed" {
            return Err(config(format!(
                "`append_in` needs a READ COMMITTED transaction, this one is {}",
                isolation.to_uppercase()
            )));
        }
        let locked = sql.lock_within.query().fetch_one(&mut *connection).await;
        let locked = match locked {
            Err(error) if sqlstate(&error) == Some("55P03") => {
                return Err(self.name_holder(error).await);
            }
            locked => locked.map_err(store_error)?,
        };
        if !locked.try_get::<bool, _>(0).map_err(store_error)? {
            return Err(config(
                "`append_in` needs an open transaction: BEGIN first".to_owned(),
            ));
        }
        let seqscan: String = locked.try_get(1).map_err(store_error)?;

        let append = Arc::new(append);
        let appends = [append.clone()];
        let (decision, _) = decide_batch(connection, sql, &appends)
            .await
            .map_err(store_error)?;
        store(connection, sql, &decision)
            .await
            .map_err(store_error)?;
        if decision.events.is_empty() {
            // Also then: it makes PREPARE TRANSACTION fail, which would keep the lock for ever.
            sql.notify
                .query()
                .bind("0")
                .execute(&mut *connection)
                .await
                .map_err(store_error)?;
        }
        let restored = sql
            .restore
            .query()
            .bind(seqscan)
            .fetch_one(connection)
            .await
            .map_err(store_error)?;
        let receipt = decision
            .outcomes
            .into_iter()
            .next()
            .unwrap_or(Err(StoreErrorKind::Closed))?;
        Ok(Pending {
            receipt,
            event_ids: append.event_ids(),
            transaction: restored.try_get(1).map_err(store_error)?,
        })
    }

    /// Names who holds the lock of the log that somebody waited for in vain.
    pub(crate) async fn name_holder(&self, error: Error) -> StoreError {
        let look = async {
            let mut lease = Lease::of(self.pool()).await.ok()?;
            let holder = lock_holder(&mut lease, self.sql()).await;
            lease.done_with(Ok(holder)).await.ok()?
        };
        match look.await {
            Some(reason) => {
                StoreError::new(StoreErrorKind::Unavailable { reason }).with_source(error)
            }
            None => store_error(error),
        }
    }
}

fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis())
        .unwrap_or(i64::MAX)
        .max(1)
}

fn config(reason: String) -> StoreError {
    StoreError::new(StoreErrorKind::Config { reason })
}
