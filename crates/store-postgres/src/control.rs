//! Who leads which projection, how it is doing, and what is wanted of it.

use async_trait::async_trait;
use backstory_event::{Position, StoreError};
use backstory_projection::{
    Beat, Control, Leader, Order, OrderKind, OrderOutcome, ProjectionRow, RowState, Seat,
    UnknownWord,
};
use serde_json::{Value, json};
use sqlx::{Error, Row, postgres::PgRow, types::Json};
use uuid::Uuid;

use crate::{
    PostgresStore,
    error::store_error,
    projections::progress,
    session::{Lease, retry},
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
            })
        });
        let answers = beat.answers.iter().map(|answer| {
            let failure = answer.outcome.as_ref().err();
            json!({ "id": answer.id, "failure": failure.map(|reason| storable(reason)) })
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
        let found: Option<(bool, Option<String>, Option<String>)> = lease.done_with(found).await?;
        Ok(match found {
            None => OrderOutcome::Gone,
            Some((false, ..)) => OrderOutcome::Pending,
            Some((_, _, Some(reason))) => OrderOutcome::Failed { reason },
            Some((_, process, None)) => OrderOutcome::Done {
                process: process.unwrap_or_default(),
            },
        })
    }
}

/// A text that the server takes: an error may hold anything.
fn storable(text: &str) -> String {
    text.replace('\0', "\u{fffd}")
}

fn seat(row: &PgRow) -> Result<Seat, Error> {
    let progress = progress(row)?;
    let orders: Option<Json<Vec<(i64, String)>>> = row.try_get(8)?;
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
        progress,
        paused: row.try_get(4)?,
        leads,
        leader,
        term: row.try_get(6)?,
        trouble: row.try_get(7)?,
        // What this program does not know is left to newer ones.
        orders: orders
            .into_iter()
            .filter_map(|(id, kind)| {
                Some(Order {
                    id,
                    kind: kind.parse().ok()?,
                })
            })
            .collect(),
    })
}

fn row(row: &PgRow) -> Result<ProjectionRow, Error> {
    let state: &str = row.try_get(10)?;
    let state: RowState = state
        .parse()
        .map_err(|unknown: UnknownWord| Error::Decode(unknown.into()))?;
    let mut found = ProjectionRow::new(progress(row)?, state);
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

    async fn order(&self, projection: &str, kind: OrderKind) -> Result<Option<i64>, StoreError> {
        self.check_open()?;
        let order = async {
            let mut lease = Lease::of(self.pool()).await?;
            let id = sqlx::query_scalar(self.sql().order.text())
                .bind(projection)
                .bind(kind.as_str())
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
