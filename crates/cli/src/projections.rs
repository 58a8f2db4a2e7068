//! How projections are doing, and telling them what to do.

use std::{io::Write, time::Duration};

use backstory_projection::{Operator, OperatorError, ProjectionRow, RowState};
use backstory_store_postgres::{Migrations, PostgresOptions, PostgresStore, Wake};
use serde_json::json;

use crate::{
    args::{Database, OneProjection, Projections},
    run::{Result, advise, print, url},
};

pub(crate) async fn projections(command: Projections, out: &mut impl Write) -> Result<u8> {
    let (one, said) = match command {
        Projections::List { database, json } => return list(&database, json, out).await,
        Projections::Pause(one) => (one, "paused"),
        Projections::Resume(one) => (one, "goes on"),
        Projections::Trigger(one) => (one, "runs now"),
        Projections::Reset(one) => (one, "emptied; it is built again"),
    };
    let OneProjection { name, database, .. } = &one;
    let store = open(database).await?;
    let operator = Operator::new(&store).with_patience(Duration::from_secs(one.patience));
    let process = match said {
        "paused" => operator.pause(name).await,
        "goes on" => operator.resume(name).await,
        "runs now" => operator.trigger(name).await.map(Some),
        _ => operator.reset(name).await.map(Some),
    };
    store.close().await;
    let process = process.map_err(|error| match error {
        OperatorError::Store(error) => advise(&error),
        error => error.to_string(),
    })?;
    match process {
        Some(process) => print(out, &format!("{name}: {said}, in {process}\n")),
        None => print(out, &format!("{name}: {said}; no process runs it now\n")),
    }
}

/// A store that changes no tables, starts no listener and takes few connections.
async fn open(database: &Database) -> Result<PostgresStore> {
    let options = PostgresOptions::default()
        .with_schema(&database.schema.schema)
        .with_migrations(Migrations::Verify)
        .with_wake(Wake::Off)
        .with_readers(1);
    let store = PostgresStore::connect_with(url(database)?, options).await;
    Ok(store.map_err(|error| advise(&error))?)
}

async fn list(database: &Database, json: bool, out: &mut impl Write) -> Result<u8> {
    let store = open(database).await?;
    let rows = Operator::new(&store).list().await;
    store.close().await;
    let rows = rows.map_err(|error| advise(&error))?;
    if json {
        let rows: serde_json::Value = rows.iter().map(object).collect();
        return print(out, &format!("{rows}\n"));
    }
    if rows.is_empty() {
        return print(out, "no projection has ever run on this schema\n");
    }
    print(out, &table(&rows))
}

fn object(row: &ProjectionRow) -> serde_json::Value {
    json!({
        "projection": row.projection,
        "state": row.state.as_str(),
        "paused": row.paused,
        "position": row.progress.checkpoint.position.get(),
        "reached": row.reached.get(),
        "head": row.head.get(),
        "lag": row.lag(),
        "behind_since": row.behind_since,
        "events_per_second": row.rate,
        "process": row.process,
        "seen_at": row.seen_at,
        "reason": row.reason,
    })
}

/// Columns as wide as they have to be.
fn table(rows: &[ProjectionRow]) -> String {
    let mut lines =
        vec![["PROJECTION", "STATE", "REACHED", "LAG", "RATE", "PROCESS"].map(String::from)];
    lines.extend(rows.iter().map(|row| {
        let state = match (row.state, row.paused) {
            (RowState::Idle, true) => "idle, paused",
            (state, _) => state.as_str(),
        };
        [
            row.projection.clone(),
            state.to_owned(),
            row.reached.to_string(),
            row.lag().to_string(),
            format!("{:.0}/s", row.rate),
            row.process.clone().unwrap_or_else(|| "-".to_owned()),
        ]
    }));
    let mut widths = [0; 6];
    for line in &lines {
        for (width, cell) in widths.iter_mut().zip(line) {
            *width = cell.chars().count().max(*width);
        }
    }
    let mut text = String::new();
    for (number, line) in lines.iter().enumerate() {
        for (at, (width, cell)) in widths.iter().zip(line).enumerate() {
            text += &match at {
                2..=4 => format!("{cell:>width$}  "),
                5 => cell.clone(),
                _ => format!("{cell:<width$}  "),
            };
        }
        text.push('\n');
        // The error, where it can be read.
        let row = number.checked_sub(1).and_then(|row| rows.get(row));
        if let Some(reason) = row.and_then(|row| row.reason.as_deref()) {
            text += &format!("  {reason}\n");
        }
    }
    text
}
