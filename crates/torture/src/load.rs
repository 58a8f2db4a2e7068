//! Brings the journal and the faults of a run into tables beside the log, to be joined with it.

use std::{
    fs::File,
    io::{BufRead, BufReader},
};

use sqlx::PgConnection;

use crate::{
    Result,
    fault::Faults,
    journal::{INTENT, OUTCOME},
    stage::Stage,
};

/// What writers need from the start, and what is filled at the end.
pub(crate) const TABLES: &str = "
    CREATE SCHEMA torture;
    -- Rows of the application, written in one transaction with an event.
    CREATE TABLE torture.application (event_id uuid PRIMARY KEY);
    CREATE TABLE torture.intent (append uuid PRIMARY KEY, incarnation int NOT NULL, kind text NOT NULL,
      at bigint NOT NULL, ids uuid[] NOT NULL);
    CREATE TABLE torture.outcome (append uuid NOT NULL, started bigint NOT NULL, ended bigint NOT NULL,
      outcome text NOT NULL, position bigint, reason text NOT NULL,
      number bigint GENERATED ALWAYS AS IDENTITY);
    CREATE TABLE torture.fault (kind text NOT NULL, target int NOT NULL, began bigint NOT NULL,
      ended bigint NOT NULL);
    CREATE TABLE torture.incarnation (number int NOT NULL, tasks int NOT NULL, killed boolean NOT NULL);
";

/// What follows from them: the last answer to each append, and the place of each of its events.
pub(crate) const DERIVED: &str = "
    CREATE TABLE torture.final AS SELECT i.append, i.incarnation, i.kind, i.ids,
        coalesce(o.outcome, 'unanswered') AS outcome, o.position
      FROM torture.intent i LEFT JOIN (SELECT DISTINCT ON (append) * FROM torture.outcome
        ORDER BY append, number DESC) o USING (append);
    CREATE TABLE torture.place AS SELECT f.append, f.outcome, f.kind, m.id, m.n,
        f.position + m.n - 1 AS expected, e.position AS found
      FROM torture.final f CROSS JOIN LATERAL unnest(f.ids) WITH ORDINALITY AS m(id, n)
      LEFT JOIN backstory.event e ON e.id = m.id;
    ANALYZE;
";

pub(crate) async fn load(stage: &Stage, faults: &Faults, connection: &mut PgConnection) -> Result {
    copy_journal(stage, connection, "intent", INTENT).await?;
    let outcome = "outcome (append, started, ended, outcome, position, reason)";
    copy_journal(stage, connection, outcome, OUTCOME).await?;
    for happened in faults.all() {
        sqlx::query("INSERT INTO torture.fault VALUES ($1, $2, $3, $4)")
            .bind(happened.fault.name())
            .bind(happened.target)
            .bind(happened.began)
            .bind(happened.ended)
            .execute(&mut *connection)
            .await?;
    }
    for incarnation in stage.incarnations() {
        sqlx::query("INSERT INTO torture.incarnation VALUES ($1, $2, $3)")
            .bind(incarnation.number)
            .bind(i32::try_from(incarnation.tasks)?)
            .bind(incarnation.killed)
            .execute(&mut *connection)
            .await?;
    }
    sqlx::raw_sql(DERIVED).execute(connection).await?;
    Ok(())
}

/// Copies the lines with one mark; only a part of the journal is ever in memory.
async fn copy_journal(
    stage: &Stage,
    connection: &mut PgConnection,
    table: &str,
    mark: &str,
) -> Result {
    let statement = format!("COPY torture.{table} FROM STDIN");
    let mut copy = connection.copy_in_raw(&statement).await?;
    let mut part = Vec::with_capacity(1 << 20);
    for line in BufReader::new(File::open(stage.journal())?).lines() {
        if let Some(row) = line?.strip_prefix(mark) {
            part.extend_from_slice(row.as_bytes());
            part.push(b'\n');
        }
        if part.len() >= 1 << 19 {
            copy.send(&*part).await?;
            part.clear();
        }
    }
    copy.send(&*part).await?;
    copy.finish().await?;
    Ok(())
}
