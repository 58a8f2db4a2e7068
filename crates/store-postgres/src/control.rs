//! Who leads which projection, how it is doing, and what is wanted of it.

use async_trait::async_trait;
use backstory_event::{Checkpoint, EventId, Position, StoreError};
use backstory_projection::{
    Beat, Control, Leader, Order, OrderKind, OrderOutcome, Progress, ProjectionRow, RebuildReport,
    RowState, Seat, Slot, UnknownWord,
};
use serde_json::{Value, json};
use sqlx::{Error, Row, postgres::PgRow, types::Json};
use uuid::Uuid;

use crate::{
    PostgresStore,
    error::store_error,
    pool::{Lease, retry},
    projections::progress,
    sql::Statement,
};

impl PostgresStore {
    async fn seats(&self, beat: &Beat) -> Result<Vec<Seat>, Error> {
        let lease = i64::try_from(beat.lease.as_micros()).unwrap_or(i64::MAX);
        let reports = beat.reports.iter().map(|report| {
            json!({
                "projection": report.projection,
                "state": report.state.as_str(),
                "reason": report.reason.as_deref().map(storable),
                "reached": report.reached.get(),
                "head": report.head.get(),
                "behind_since": report.behind_since,
                "rate": report.rate,
                "rebuild_state": report.rebuild.as_ref().map(|it| it.state.as_str()),
                "rebuild_reason": report.rebuild.as_ref().and_then(|it| it.reason.as_deref().map(storable)),
                "rebuild_reached": report.rebuild.as_ref().map(|it| it.reached.get()),
                "rebuild_rate": report.rebuild.as_ref().map(|it| it.rate),
            })
        });
        let answers = beat.answers.iter().map(|answer| {
            let failure = answer.outcome.as_ref().err();
            let note = answer.outcome.as_ref().ok().and_then(Option::as_deref);
            json!({
                "id": answer.id,
                "failure": failure.map(|reason| storable(reason)),
                "note": note.map(storable),
            })
        });
        let mut connection = Lease::of(self.pool()).await?;
        let rows = sqlx::query(self.sql().beat.text())
            .bind(beat.owner)
            .bind(&beat.process)
            .bind(&beat.origin)
            .bind(lease)
            .bind(Json(reports.collect::<Value>()))
            .bind(Json(answers.collect::<Value>()))
            .fetch_all(&mut *connection)
            .await;
        let rows = connection.done_with(rows).await?;
        rows.iter().map(seat).collect()
    }

    async fn rows(&self) -> Result<Vec<ProjectionRow>, Error> {
        let mut lease = Lease::of(self.pool()).await?;
        let rows = sqlx::query(self.sql().projections.text())
            .fetch_all(&mut *lease)
            .await;
        let rows = lease.done_with(rows).await?;
        rows.iter().map(row).collect()
    }

    async fn outcome(&self, statement: &Statement, id: i64) -> Result<OrderOutcome, Error> {
        let mut lease = Lease::of(self.pool()).await?;
        let found = sqlx::query_as(statement.text())
            .bind(id)
            .fetch_optional(&mut *lease)
            .await;
        type Found = (bool, Option<String>, Option<String>, Option<String>);
        let found: Option<Found> = lease.done_with(found).await?;
        Ok(match found {
            None => OrderOutcome::Gone,
            Some((answered, process, failure, note)) => {
                OrderOutcome::answered(answered, process, failure, note)
            }
        })
    }
}

/// A text that the server takes: an error may hold anything.
fn storable(text: &str) -> String {
    text.replace('\0', "\u{fffd}")
}

fn seat(row: &PgRow) -> Result<Seat, Error> {
    let progress = progress(row)?;
    type Words = (i64, String, Option<String>);
    let orders: Option<Json<Vec<Words>>> = row.try_get(8)?;
    let orders = orders.map(|Json(orders)| orders).unwrap_or_default();
    let leads = row.try_get(5)?;
    let leader = match (leads, row.try_get(9)?) {
        (false, Some(owner)) => Some(Leader {
            owner,
            origin: row.try_get(10)?,
        }),
        _ => None,
    };
    Ok(Seat {
        projection: progress.projection.clone(),
        rebuild: beside(row, 11, &progress, Slot::Next)?,
        progress,
        paused: row.try_get(4)?,
        leads,
        leader,
        term: row.try_get(6)?,
        trouble: row.try_get(7)?,
        // What this program does not know is left to newer ones.
        orders: orders
            .into_iter()
            .filter_map(|(id, kind, argument)| {
                let kind = OrderKind::parse(&kind, argument.as_deref()).ok()?;
                Some(Order { id, kind })
            })
            .collect(),
    })
}

fn row(row: &PgRow) -> Result<ProjectionRow, Error> {
    let state: &str = row.try_get(10)?;
    let state = row_state(state)?;
    let progress = progress(row)?;
    let next = beside(row, 13, &progress, Slot::Next)?;
    let previous = beside(row, 16, &progress, Slot::Previous)?;
    let found = ProjectionRow::new(progress, state);
    let mut found = found.with_beside(next, rebuild(row)?, previous);
    found.paused = row.try_get(4)?;
    found.reason = row.try_get(5)?;
    found.reached = Position::new(row.try_get(6)?);
    found.head = Position::new(row.try_get(7)?);
    found.behind_since = row.try_get(8)?;
    found.seen_at = row.try_get(9)?;
    found.rate = row.try_get(11)?;
    found.process = row.try_get(12)?;
    Ok(found)
}

fn rebuild(row: &PgRow) -> Result<Option<RebuildReport>, Error> {
    let Some(state) = row.try_get(19)? else {
        return Ok(None);
    };
    let reached: Option<i64> = row.try_get(21)?;
    let rate: Option<f64> = row.try_get(22)?;
    Ok(Some(RebuildReport {
        state: row_state(state)?,
        reason: row.try_get(20)?,
        reached: Position::new(reached.unwrap_or_default()),
        rate: rate.unwrap_or_default(),
    }))
}

fn row_state(word: &str) -> Result<RowState, Error> {
    word.parse()
        .map_err(|unknown: UnknownWord| Error::Decode(unknown.into()))
}

/// The progress of another read model in the columns from there on, if there is one.
fn beside(
    row: &PgRow,
    column: usize,
    live: &Progress,
    slot: Slot,
) -> Result<Option<Progress>, Error> {
    let Some(position) = row.try_get(column)? else {
        return Ok(None);
    };
    Ok(Some(Progress {
        projection: slot.beside(&live.projection),
        checkpoint: Checkpoint {
            position: Position::new(position),
            event_id: EventId::from_uuid(row.try_get(column + 1)?),
        },
        epoch: row.try_get(column + 2)?,
    }))
}

#[async_trait]
impl Control for PostgresStore {
    async fn beat(&self, beat: &Beat) -> Result<Vec<Seat>, StoreError> {
        self.check_open()?;
        retry(self.pool(), || Box::pin(self.seats(beat)))
            .await
            .map_err(store_error)
    }

    async fn leave(&self, owner: Uuid) -> Result<(), StoreError> {
        self.check_open()?;
        let leave = async {
            let mut lease = Lease::of(self.pool()).await?;
            let left = sqlx::query(self.sql().leave.text())
                .bind(owner)
                .execute(&mut *lease)
                .await;
            lease.done_with(left).await
        };
        leave.await.map(drop).map_err(store_error)
    }

    async fn list_projections(&self) -> Result<Vec<ProjectionRow>, StoreError> {
        self.check_open()?;
        retry(self.pool(), || Box::pin(self.rows()))
            .await
            .map_err(store_error)
    }

    async fn order(&self, projection: &str, kind: &OrderKind) -> Result<Option<i64>, StoreError> {
        self.check_open()?;
        let order = async {
            let mut lease = Lease::of(self.pool()).await?;
            let id = sqlx::query_scalar(self.sql().order.text())
                .bind(projection)
                .bind(kind.as_str())
                .bind(kind.argument())
                .fetch_optional(&mut *lease)
                .await;
            lease.done_with(id).await
        };
        order.await.map_err(store_error)
    }

    async fn order_outcome(&self, id: i64) -> Result<OrderOutcome, StoreError> {
        self.check_open()?;
        let statement = &self.sql().order_outcome;
        retry(self.pool(), || Box::pin(self.outcome(statement, id)))
            .await
            .map_err(store_error)
    }

    async fn withdraw_order(&self, id: i64) -> Result<OrderOutcome, StoreError> {
        self.check_open()?;
        let statement = &self.sql().withdraw_order;
        self.outcome(statement, id).await.map_err(store_error)
    }
}
