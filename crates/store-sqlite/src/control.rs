//! Who leads which projection, how it is doing, and what is wanted of it.

use std::collections::BTreeMap;

use async_trait::async_trait;
use backstory_event::{Checkpoint, EventId, Position, StoreError};
use backstory_projection::{
    Beat, Control, Leader, Order, OrderKind, OrderOutcome, Progress, ProjectionRow, RebuildReport,
    RowState, Seat, Slot, UnknownWord, owner, room,
};
use chrono::{DateTime, Utc};
use serde_json::json;
use sqlx::{Row, SqliteConnection, sqlite::SqliteRow};
use uuid::Uuid;

use crate::{SqliteStore, progress::progress};

/// Answered orders are kept for a day.
const KEPT: i64 = 24 * 3600 * 1_000_000;

#[async_trait]
impl Control for SqliteStore {
    async fn beat(&self, beat: &Beat) -> Result<Vec<Seat>, StoreError> {
        let mut transaction = self.begin().await?;
        let seats = seats(&mut transaction, beat).await;
        let seats = seats.map_err(|error| self.failed(error))?;
        self.commit(transaction).await?;
        Ok(seats)
    }

    async fn leave(&self, owner: Uuid) -> Result<(), StoreError> {
        let mut transaction = self.begin().await?;
        let gone = sqlx::query("DELETE FROM backstory_replica WHERE owner = ?1 OR until < ?2")
            .bind(owner)
            .bind(now() - KEPT)
            .execute(&mut *transaction)
            .await;
        gone.map_err(|error| self.failed(error))?;
        let left = sqlx::query(
            "UPDATE backstory_projection SET owner = NULL, leased_until = NULL WHERE owner = ?1",
        )
        .bind(owner)
        .execute(&mut *transaction)
        .await;
        left.map_err(|error| self.failed(error))?;
        self.commit(transaction).await
    }

    async fn list_projections(&self) -> Result<Vec<ProjectionRow>, StoreError> {
        let mut reader = self.reader().await?;
        let rows = sqlx::query(
            "SELECT p.name, coalesce(t.position, 0), coalesce(t.event_id, zeroblob(16)), coalesce(t.epoch, 0),
                 p.paused, p.reason, p.reached, p.head, p.behind_since, p.seen_at,
                 iif(p.leased_until > ?1, p.state, 'idle'), iif(p.leased_until > ?1, p.rate, 0.0),
                 iif(p.leased_until > ?1, p.process, NULL),
                 n.position, n.event_id, n.epoch, o.position, o.event_id, o.epoch,
                 iif(p.leased_until > ?1, p.rebuild_state, NULL), p.rebuild_reason, p.rebuild_reached,
                 p.rebuild_rate
             FROM backstory_projection p LEFT JOIN backstory_progress t ON t.projection = p.name
                 LEFT JOIN backstory_progress n
                     ON n.projection = substr(p.name, 1, instr(p.name || '~', '~') - 1) || '~next'
                 LEFT JOIN backstory_progress o ON o.projection = p.name || '~previous'
             ORDER BY p.name",
        )
        .bind(now())
        .fetch_all(&mut *reader)
        .await;
        let rows = rows.map_err(|error| self.failed(error))?;
        let all: Result<_, _> = rows.iter().map(row).collect();
        all.map_err(|error| self.failed(error))
    }

    async fn order(&self, projection: &str, kind: &OrderKind) -> Result<Option<i64>, StoreError> {
        let mut transaction = self.begin().await?;
        let ordered = ordered(&mut transaction, projection, kind).await;
        let ordered = ordered.map_err(|error| self.failed(error))?;
        self.commit(transaction).await?;
        Ok(ordered)
    }

    async fn order_outcome(&self, id: i64) -> Result<OrderOutcome, StoreError> {
        let mut reader = self.reader().await?;
        let outcome = outcome(&mut reader, id).await;
        outcome.map_err(|error| self.failed(error))
    }

    async fn withdraw_order(&self, id: i64) -> Result<OrderOutcome, StoreError> {
        let mut transaction = self.begin().await?;
        let withdrawn = async {
            let outcome = outcome(&mut transaction, id).await?;
            if outcome == OrderOutcome::Pending {
                sqlx::query("DELETE FROM backstory_projection_order WHERE id = ?1")
                    .bind(id)
                    .execute(&mut *transaction)
                    .await?;
            }
            Ok(outcome)
        };
        let outcome = withdrawn
            .await
            .map_err(|error: sqlx::Error| self.failed(error))?;
        self.commit(transaction).await?;
        Ok(outcome)
    }
}

fn now() -> i64 {
    Utc::now().timestamp_micros()
}

async fn seats(connection: &mut SqliteConnection, beat: &Beat) -> Result<Vec<Seat>, sqlx::Error> {
    let now = now();
    let lease = i64::try_from(beat.lease.as_micros()).unwrap_or(i64::MAX);
    if !beat.answers.is_empty() {
        let answers = beat.answers.iter().map(|answer| {
            let (note, failure) = (answer.outcome.as_ref().ok(), answer.outcome.as_ref().err());
            json!({ "id": answer.id, "failure": failure, "note": note })
        });
        sqlx::query(
            "UPDATE backstory_projection_order AS o
             SET answered_at = ?2, process = ?3, failure = q.value ->> 'failure', note = q.value ->> 'note'
             FROM json_each(?1) q WHERE o.id = q.value ->> 'id' AND o.answered_at IS NULL",
        )
        .bind(answers.collect::<serde_json::Value>().to_string())
        .bind(now)
        .bind(&beat.process)
        .execute(&mut *connection)
        .await?;
    }
    let reports = beat.reports.iter().map(|report| {
        json!({
            "projection": report.projection,
            "state": report.state.as_str(),
            "reason": report.reason,
            "reached": report.reached.get(),
            "head": report.head.get(),
            "behind_since": report.behind_since.map(|time| time.timestamp_micros()),
            "rate": report.rate,
            "rebuild_state": report.rebuild.as_ref().map(|it| it.state.as_str()),
            "rebuild_reason": report.rebuild.as_ref().and_then(|it| it.reason.as_deref()),
            "rebuild_reached": report.rebuild.as_ref().map(|it| it.reached.get()),
            "rebuild_rate": report.rebuild.as_ref().map(|it| it.rate),
        })
    });
    let reports = reports.collect::<serde_json::Value>().to_string();
    sqlx::query(
        "INSERT OR IGNORE INTO backstory_projection (name)
         SELECT value ->> 'projection' FROM json_each(?1)",
    )
    .bind(&reports)
    .execute(&mut *connection)
    .await?;
    let full = share_parts(&mut *connection, beat, now, lease).await?;
    // Who leads from now on is the only one to commit: an earlier leader is fenced by the epoch.
    sqlx::query(
        "INSERT INTO backstory_progress (projection, position, event_id, epoch)
         SELECT p.name, 0, zeroblob(16), 1
         FROM json_each(?1) q JOIN backstory_projection p ON p.name = q.value ->> 'projection'
         WHERE p.owner IS NOT ?2 AND (p.owner IS NULL OR p.leased_until <= ?3)
             AND p.name NOT IN (SELECT value FROM json_each(?4))
         ON CONFLICT (projection) DO UPDATE SET epoch = epoch + 1",
    )
    .bind(&reports)
    .bind(beat.owner)
    .bind(now)
    .bind(&full)
    .execute(&mut *connection)
    .await?;
    sqlx::query(
        "UPDATE backstory_projection AS p
         SET term = p.term + (p.owner IS NOT ?2), owner = ?2, process = ?4, origin = ?6,
             leased_until = ?3 + ?5,
             state = q.value ->> 'state', reason = q.value ->> 'reason',
             reached = q.value ->> 'reached', head = q.value ->> 'head',
             behind_since = q.value ->> 'behind_since', rate = q.value ->> 'rate', seen_at = ?3,
             rebuild_state = q.value ->> 'rebuild_state',
             rebuild_reason = q.value ->> 'rebuild_reason',
             rebuild_reached = q.value ->> 'rebuild_reached',
             rebuild_rate = q.value ->> 'rebuild_rate'
         FROM json_each(?1) q
         WHERE p.name = q.value ->> 'projection'
             AND (p.owner IS NULL OR p.owner = ?2 OR p.leased_until <= ?3)
             AND (p.owner IS ?2 OR p.name NOT IN (SELECT value FROM json_each(?7)))",
    )
    .bind(&reports)
    .bind(beat.owner)
    .bind(now)
    .bind(&beat.process)
    .bind(lease)
    .bind(&beat.origin)
    .bind(&full)
    .execute(&mut *connection)
    .await?;
    let rows = sqlx::query(
        "SELECT p.name, coalesce(t.position, 0), coalesce(t.event_id, zeroblob(16)), coalesce(t.epoch, 0),
             p.paused, p.owner = ?2, p.term,
             iif(p.owner <> ?2 AND p.state IN ('failing', 'stopped'), p.reason, NULL), p.owner, p.origin,
             n.position, n.event_id, n.epoch
         FROM json_each(?1) q JOIN backstory_projection p ON p.name = q.value ->> 'projection'
             LEFT JOIN backstory_progress t ON t.projection = p.name
             LEFT JOIN backstory_progress n
                     ON n.projection = substr(p.name, 1, instr(p.name || '~', '~') - 1) || '~next'
         ORDER BY q.key",
    )
    .bind(&reports)
    .bind(beat.owner)
    .fetch_all(&mut *connection)
    .await?;
    let mut seats = rows.iter().map(seat).collect::<Result<Vec<_>, _>>()?;
    let orders = sqlx::query(
        "SELECT o.id, o.projection, o.kind, o.argument
         FROM backstory_projection_order o JOIN backstory_projection p ON p.name = o.projection
         WHERE p.owner = ?1 AND o.answered_at IS NULL ORDER BY o.id",
    )
    .bind(beat.owner)
    .fetch_all(connection)
    .await?;
    for row in &orders {
        let projection: &str = row.try_get(1)?;
        // What this program does not know is left to newer ones.
        let Ok(kind) = OrderKind::parse(row.try_get(2)?, row.try_get(3)?) else {
            continue;
        };
        let id = row.try_get(0)?;
        if let Some(seat) = seats.iter_mut().find(|seat| seat.projection == projection) {
            seat.orders.push(Order { id, kind });
        }
    }
    Ok(seats)
}

/// Shares the parts of projections with other processes: gives up what is too much, and says which
/// parts the process shall not take, as JSON.
async fn share_parts(
    connection: &mut SqliteConnection,
    beat: &Beat,
    now: i64,
    lease: i64,
) -> Result<String, sqlx::Error> {
    let mut parts: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for report in &beat.reports {
        let name = report.projection.as_str();
        if owner(name) != name {
            parts.entry(owner(name)).or_default().push(name);
        }
    }
    let mut full = Vec::new();
    for (projection, names) in parts {
        sqlx::query(
            "INSERT INTO backstory_replica (projection, owner, until) VALUES (?1, ?2, ?3)
             ON CONFLICT (projection, owner) DO UPDATE SET until = excluded.until",
        )
        .bind(projection)
        .bind(beat.owner)
        .bind(now + lease)
        .execute(&mut *connection)
        .await?;
        let processes: i64 = sqlx::query_scalar(
            "SELECT count(*) FROM backstory_replica WHERE projection = ?1 AND until > ?2",
        )
        .bind(projection)
        .bind(now)
        .fetch_one(&mut *connection)
        .await?;
        let led: Vec<String> = sqlx::query_scalar(
            "SELECT name FROM backstory_projection
             WHERE owner = ?1 AND name IN (SELECT value FROM json_each(?2))
             ORDER BY length(name), name",
        )
        .bind(beat.owner)
        .bind(json!(names).to_string())
        .fetch_all(&mut *connection)
        .await?;
        let processes = usize::try_from(processes).unwrap_or(1);
        let room = room(names.len(), processes, led.len());
        for name in led.iter().rev().take((-room).max(0).unsigned_abs()) {
            sqlx::query(
                "UPDATE backstory_projection SET owner = NULL, leased_until = NULL WHERE name = ?1",
            )
            .bind(name)
            .execute(&mut *connection)
            .await?;
        }
        // Those that it may take are the first ones that are free.
        let free: Vec<String> = sqlx::query_scalar(
            "SELECT name FROM backstory_projection
             WHERE name IN (SELECT value FROM json_each(?1))
                 AND owner IS NOT ?2 AND (owner IS NULL OR leased_until <= ?3)
             ORDER BY length(name), name",
        )
        .bind(json!(names).to_string())
        .bind(beat.owner)
        .bind(now)
        .fetch_all(&mut *connection)
        .await?;
        full.extend(free.into_iter().skip(room.max(0).unsigned_abs()));
    }
    Ok(json!(full).to_string())
}

fn seat(row: &SqliteRow) -> Result<Seat, sqlx::Error> {
    let progress = progress(row)?;
    let leads = row.try_get(5)?;
    let leader = match (leads, row.try_get(8)?) {
        (false, Some(owner)) => Some(Leader {
            owner,
            origin: row.try_get(9)?,
        }),
        _ => None,
    };
    Ok(Seat {
        projection: progress.projection.clone(),
        rebuild: beside(row, 10, &progress, Slot::Next)?,
        progress,
        paused: row.try_get(4)?,
        leads,
        leader,
        term: row.try_get(6)?,
        trouble: row.try_get(7)?,
        orders: Vec::new(),
    })
}

fn row(row: &SqliteRow) -> Result<ProjectionRow, sqlx::Error> {
    let progress = progress(row)?;
    let time = |column| -> Result<Option<DateTime<Utc>>, sqlx::Error> {
        let micros: Option<i64> = row.try_get(column)?;
        Ok(micros.and_then(DateTime::from_timestamp_micros))
    };
    let state: &str = row.try_get(10)?;
    let next = beside(row, 13, &progress, Slot::Next)?;
    let previous = beside(row, 16, &progress, Slot::Previous)?;
    let found = ProjectionRow::new(progress, row_state(state)?);
    let mut found = found.with_beside(next, rebuild(row)?, previous);
    found.paused = row.try_get(4)?;
    found.reason = row.try_get(5)?;
    found.reached = Position::new(row.try_get(6)?);
    found.head = Position::new(row.try_get(7)?);
    found.behind_since = time(8)?;
    found.seen_at = time(9)?;
    found.rate = row.try_get(11)?;
    found.process = row.try_get(12)?;
    Ok(found)
}

fn rebuild(row: &SqliteRow) -> Result<Option<RebuildReport>, sqlx::Error> {
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

fn row_state(word: &str) -> Result<RowState, sqlx::Error> {
    word.parse()
        .map_err(|unknown: UnknownWord| sqlx::Error::Decode(unknown.into()))
}

/// The progress of another read model in the columns from there on, if there is one.
fn beside(
    row: &SqliteRow,
    column: usize,
    live: &Progress,
    slot: Slot,
) -> Result<Option<Progress>, sqlx::Error> {
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

async fn ordered(
    connection: &mut SqliteConnection,
    projection: &str,
    kind: &OrderKind,
) -> Result<Option<i64>, sqlx::Error> {
    let now = now();
    let known = sqlx::query(
        "UPDATE backstory_projection
         SET paused = CASE ?2 WHEN 'pause' THEN 1 WHEN 'resume' THEN 0 ELSE paused END
         WHERE name = ?1",
    )
    .bind(projection)
    .bind(kind.as_str())
    .execute(&mut *connection)
    .await?;
    if known.rows_affected() == 0 {
        return Ok(None);
    }
    sqlx::query("DELETE FROM backstory_projection_order WHERE given_at < ?1")
        .bind(now - KEPT)
        .execute(&mut *connection)
        .await?;
    let id = sqlx::query_scalar(
        "INSERT INTO backstory_projection_order (projection, kind, given_at, argument)
         VALUES (?1, ?2, ?3, ?4) RETURNING id",
    )
    .bind(projection)
    .bind(kind.as_str())
    .bind(now)
    .bind(kind.argument())
    .fetch_one(connection)
    .await?;
    Ok(Some(id))
}

async fn outcome(connection: &mut SqliteConnection, id: i64) -> Result<OrderOutcome, sqlx::Error> {
    type Found = (bool, Option<String>, Option<String>, Option<String>);
    let found: Option<Found> = sqlx::query_as(
        "SELECT answered_at IS NOT NULL, process, failure, note FROM backstory_projection_order
         WHERE id = ?1",
    )
    .bind(id)
    .fetch_optional(connection)
    .await?;
    Ok(match found {
        None => OrderOutcome::Gone,
        Some((answered, process, failure, note)) => {
            OrderOutcome::answered(answered, process, failure, note)
        }
    })
}
