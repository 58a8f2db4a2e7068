//! Checks the conditions of an append before it waits for the lock of the log.
//!
//! A condition that holds up to some event needs to be checked only behind it while others wait:
//! it is rewritten to begin there. One that is hit begins right before its first hit, so that the
//! writer, which decides in the order that all stores share, finds it at once.

use std::{collections::HashMap, sync::Arc};

use async_trait::async_trait;
use backstory_event::{
    Append, AppendCondition, Checkpoint, EventId, Position, StoreError, StoreErrorKind,
};
use backstory_store_kit::BatchReader;
use futures::future::join_all;
use sqlx::{Error, Row, types::Json};
use tokio::time::timeout;
use uuid::Uuid;

use crate::{
    PostgresStore,
    append::{Look, column, list, looks_of},
    error::store_error,
    pool::{Lease, Pool, retry},
    sql::Statements,
};

/// So few events are looked through under the lock as fast as before it.
const NEAR: i64 = 250;

/// Answers where conditions have to be checked from.
pub(crate) struct AheadReader {
    pub(crate) pool: Pool,
    pub(crate) sql: Arc<Statements>,
}

impl PostgresStore {
    /// Moves the conditions of an append forward as far as they hold already.
    pub(crate) async fn check_ahead(&self, append: &mut Append) -> Result<(), StoreError> {
        let head = self.tail().head().get();
        let far = |condition: &&mut AppendCondition| {
            head.saturating_sub(condition.after.position.get()) > NEAR
        };
        let patience = append.deadline.unwrap_or(self.options().writer.deadline);
        let checks = append
            .conditions
            .iter_mut()
            .filter(far)
            .map(async |condition| {
                condition.after = self.ahead().ask(condition.clone()).await?;
                Ok::<_, Error>(())
            });
        match timeout(patience, join_all(checks)).await {
            Ok(checked) => checked
                .into_iter()
                .collect::<Result<(), _>>()
                .map_err(store_error),
            Err(_) => Err(StoreError::new(StoreErrorKind::NotStored {
                reason: "the deadline passed while its conditions were checked".to_owned(),
            })),
        }
    }
}

impl AheadReader {
    async fn look(&self, conditions: &[&AppendCondition]) -> Result<Vec<Checkpoint>, Error> {
        let proofs = column(conditions, |condition| condition.after.position.get());
        let looks = conditions
            .iter()
            .enumerate()
            .flat_map(|(index, condition)| looks_of(index, 0, condition));
        let (tagged, others): (Vec<_>, Vec<_>) = looks.partition(Look::has_tags);
        let mut lease = Lease::of(&self.pool).await?;
        let found = sqlx::query(self.sql.ahead.text())
            .bind(proofs)
            .bind((!others.is_empty()).then_some(Json(others)))
            .bind((!tagged.is_empty()).then_some(Json(tagged)))
            .fetch_one(&mut *lease)
            .await;
        let row = lease.done_with(found).await?;
        let head = Position::new(row.try_get(0)?);
        let Some(head_id) = row.try_get::<Option<Uuid>, _>(1)? else {
            return Ok(column(conditions, |condition| condition.after));
        };
        let head = Checkpoint {
            position: head,
            event_id: EventId::from_uuid(head_id),
        };
        let ids: HashMap<i64, Uuid> = list::<(i64, Uuid)>(&row, 2)?.into_iter().collect();
        let mut hits: HashMap<usize, i64> = HashMap::new();
        for (index, hit) in list::<(usize, i64)>(&row, 3)? {
            let first = hits.entry(index).or_insert(hit);
            *first = hit.min(*first);
        }
        let answers = conditions.iter().enumerate().map(|(index, condition)| {
            let after = condition.after;
            let id = ids.get(&after.position.get());
            let proved = after.event_id.is_nil() || id == Some(&after.event_id.as_uuid());
            match hits.get(&index) {
                // The writer says what is wrong.
                _ if !proved || after.position >= head.position => after,
                Some(hit) => Checkpoint::at(Position::new(hit - 1)),
                None => head,
            }
        });
        Ok(answers.collect())
    }
}

#[async_trait]
impl BatchReader for AheadReader {
    type Request = AppendCondition;
    type Answer = Checkpoint;
    type Error = Error;

    async fn one(&self, condition: &AppendCondition) -> Result<Checkpoint, Error> {
        let conditions = [condition];
        let found = retry(&self.pool, || Box::pin(self.look(&conditions))).await?;
        Ok(found.first().copied().unwrap_or(condition.after))
    }

    async fn many(&self, conditions: &[Arc<AppendCondition>]) -> Option<Vec<Checkpoint>> {
        let conditions: Vec<&AppendCondition> = conditions.iter().map(Arc::as_ref).collect();
        self.look(&conditions).await.ok()
    }
}
