//! The tables, and how an older file gets them.

use std::path::Path;

use backstory_event::StoreErrorKind;
use sqlx::{Connection, SqliteConnection};

use crate::error::Failure;

/// Each brings the schema one version further. They never change once they are published.
const MIGRATIONS: [&str; 1] = [include_str!("../migrations/1.sql")];

/// The newest schema that this program knows.
const VERSION: i64 = MIGRATIONS.len() as i64;

/// Programs that know at least this version can work with the newest schema.
const READABLE_FROM: i64 = 1;

/// Brings the schema up to date, in one transaction: many processes may start at once.
///
/// # Errors
/// As SQLite says; `Schema` when the file is of a newer program.
pub(crate) async fn migrate(connection: &mut SqliteConnection, path: &Path) -> Result<(), Failure> {
    if version(connection, path).await? >= VERSION {
        return Ok(());
    }
    let mut transaction = connection.begin_with("BEGIN IMMEDIATE").await?;
    // Another process may have been faster.
    let version = version(&mut transaction, path).await?;
    let known = usize::try_from(version).unwrap_or(0);
    for migration in MIGRATIONS.into_iter().skip(known) {
        sqlx::raw_sql(migration).execute(&mut *transaction).await?;
    }
    sqlx::query(
        "INSERT INTO backstory_schema (id, version, readable_from) VALUES (1, ?1, ?2)
         ON CONFLICT (id) DO UPDATE
         SET version = excluded.version, readable_from = excluded.readable_from",
    )
    .bind(VERSION)
    .bind(READABLE_FROM)
    .execute(&mut *transaction)
    .await?;
    transaction.commit().await?;
    Ok(())
}

/// The version of the schema, 0 in a new file.
async fn version(connection: &mut SqliteConnection, path: &Path) -> Result<i64, Failure> {
    let refuse = |reason| Err(StoreErrorKind::Schema { reason }.into());
    let encoding: String = sqlx::query_scalar("PRAGMA encoding")
        .fetch_one(&mut *connection)
        .await?;
    if encoding != "UTF-8" {
        return refuse(format!(
            "{} keeps text as {encoding}, in another order than other stores: use a UTF-8 database",
            path.display()
        ));
    }
    let exists: bool = sqlx::query_scalar(
        "SELECT EXISTS (SELECT 1 FROM sqlite_schema WHERE name = 'backstory_schema')",
    )
    .fetch_one(&mut *connection)
    .await?;
    if !exists {
        return Ok(0);
    }
    let (version, readable_from): (i64, i64) =
        sqlx::query_as("SELECT version, readable_from FROM backstory_schema WHERE id = 1")
            .fetch_one(connection)
            .await?;
    if readable_from > VERSION {
        return refuse(format!(
            "{} has version {version}, for programs that know at least version {readable_from}; \
             this one knows {VERSION}: update it",
            path.display()
        ));
    }
    Ok(version)
}

/// The newest position.
pub(crate) async fn head(connection: &mut SqliteConnection) -> Result<i64, sqlx::Error> {
    sqlx::query_scalar("SELECT coalesce(max(position), 0) FROM backstory_event")
        .fetch_one(connection)
        .await
}
