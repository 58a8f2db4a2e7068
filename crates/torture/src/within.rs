//! Appends inside a transaction of the application, together with a row of its own.

use std::time::Duration;

use backstory_event::{Append, Position, StoreErrorKind};
use backstory_store_postgres::Pending;
use sqlx::{Postgres, Transaction};
use tokio::{
    sync::mpsc,
    time::{Instant, sleep},
};
use uuid::Uuid;

use crate::{
    LOOK, Result,
    journal::Outcome,
    now,
    orders::answer,
    plan::{End, Plan},
    writer::Writer,
};

const PATIENCE: Duration = Duration::from_secs(20);

/// Appends in a transaction that commits, at once or after a pause, or is rolled back.
pub(crate) async fn append(writer: &mut Writer, plan: Plan, end: End) -> Result {
    let Some(mut transaction) = begin(writer).await else {
        return Ok(());
    };
    let Plan { id, append, .. } = plan;
    writer.journal.intent(id, plan.kind, &append).await?;
    let started = now();
    let outcome = match insert(writer, &mut transaction, append).await {
        Err(outcome) => outcome,
        Ok(pending) => match end {
            End::Rollback => {
                // Lost or not: without a COMMIT nothing is stored.
                let _ = transaction.rollback().await;
                Outcome::Refused("rolled back")
            }
            End::CommitAfter(pause) => {
                sleep(pause).await;
                commit(writer, transaction, &pending).await
            }
        },
    };
    writer.journal.outcome(id, started, outcome).await
}

/// Holds the lock of the log until the server takes it away: says `inside` with the process id of
/// the server's side, waits to be frozen and thawed, and tries to commit.
pub(crate) async fn freeze(writer: &mut Writer, orders: &mut mpsc::Receiver<String>) -> Result {
    loop {
        let Some(mut transaction) = begin(writer).await else {
            return Ok(());
        };
        let pid: Result<i32, _> = sqlx::query_scalar("SELECT pg_backend_pid()")
            .fetch_one(&mut *transaction)
            .await;
        let Ok(pid) = pid else { continue };
        let (id, append) = (Uuid::now_v7(), writer.planner.within()?);
        writer.journal.intent(id, "frozen", &append).await?;
        let started = now();
        match insert(writer, &mut transaction, append).await {
            Err(outcome) => writer.journal.outcome(id, started, outcome).await?,
            Ok(pending) => {
                answer(&format!("inside {pid}"))?;
                orders.recv().await;
                let outcome = commit(writer, transaction, &pending).await;
                writer.journal.outcome(id, started, outcome).await?;
                return answer("thawed");
            }
        }
    }
}

/// An open transaction, as soon as the server lets us; none when the writer is to stop.
async fn begin(writer: &Writer) -> Option<Transaction<'static, Postgres>> {
    while !writer.is_stopped() {
        match writer.shared.pool.begin().await {
            Ok(transaction) => return Some(transaction),
            Err(_) => sleep(LOOK).await,
        }
    }
    None
}

/// A row of the application, then the append as the last statement.
async fn insert(
    writer: &Writer,
    transaction: &mut Transaction<'static, Postgres>,
    append: Append,
) -> Result<Pending, Outcome> {
    for id in append.event_ids() {
        sqlx::query("INSERT INTO torture.application (event_id) VALUES ($1)")
            .bind(id.as_uuid())
            .execute(&mut **transaction)
            .await
            .map_err(|_| Outcome::Refused("rolled back"))?;
    }
    let appended = writer.shared.store.append_in(transaction, append).await;
    appended.map_err(|error| Outcome::of_error(&error))
}

/// Commits, and asks the store what became of it.
async fn commit(
    writer: &Writer,
    transaction: Transaction<'static, Postgres>,
    pending: &Pending,
) -> Outcome {
    let committed = transaction.commit().await.is_ok();
    let deadline = Instant::now() + PATIENCE;
    loop {
        match pending.committed(&writer.shared.store).await {
            Ok(receipt) => {
                let first = receipt
                    .positions
                    .map_or(Position::START, |(first, _)| first);
                return Outcome::Stored(first);
            }
            Err(error) => match error.kind() {
                // Time may tell: the server is away, or has not noticed that we are gone.
                StoreErrorKind::Unavailable { .. } if Instant::now() < deadline => {
                    sleep(LOOK).await;
                }
                StoreErrorKind::NotStored { .. } if committed => {
                    return Outcome::Refused("denied after COMMIT");
                }
                StoreErrorKind::NotStored { .. } => return Outcome::Refused("rolled back"),
                _ => return Outcome::Unknown,
            },
        }
    }
}
