//! Who holds the lock of the log.

use std::time::Duration;

use serde::Serialize;
use sqlx::{AssertSqlSafe, Error, PgConnection, Row, raw_sql};

use crate::{sql::Statements, writer::answered};

/// Who holds the lock of the log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct LockHolder {
    /// Its process at the server; `None` for a prepared transaction.
    pub pid: Option<i32>,
    /// Its `application_name`, as far as the role may see it.
    pub application: Option<String>,
    /// What it does, as `pg_stat_activity` names it: `idle in transaction`.
    pub state: Option<String>,
    /// The name of the prepared transaction, if it is one.
    pub prepared: Option<String>,
    /// The age of its transaction, in microseconds.
    pub age_micros: Option<i64>,
    /// How many sessions wait for it.
    pub waiting: i64,
}

impl LockHolder {
    /// By the simple protocol: it needs no prepared statement, whatever is in between.
    pub(crate) async fn find(
        connection: &mut PgConnection,
        sql: &Statements,
    ) -> Result<Option<Self>, Error> {
        let look = raw_sql(AssertSqlSafe(sql.lock_holder.as_str()));
        let Some(row) = look.fetch_optional(connection).await? else {
            return Ok(None);
        };
        Ok(Some(Self {
            pid: row.try_get(0)?,
            application: row.try_get(1)?,
            state: row.try_get(2)?,
            prepared: row.try_get(3)?,
            age_micros: row.try_get(4)?,
            waiting: row.try_get(5)?,
        }))
    }

    /// For those who wait in vain.
    fn reason(self) -> String {
        let seconds = self.age_micros.unwrap_or_default() as f64 / 1e6;
        match (self.pid, self.prepared) {
            (_, Some(gid)) => format!(
                "the prepared transaction {gid:?} holds the lock of the log since {seconds:.1} s: \
                 COMMIT PREPARED or ROLLBACK PREPARED it"
            ),
            (Some(pid), None) => format!(
                "process {pid} (application {:?}, {}) holds the lock of the log; its transaction is {seconds:.1} s old",
                self.application.unwrap_or_default(),
                self.state.unwrap_or_else(|| "state unknown".to_owned()),
            ),
            (None, None) => "an unknown session holds the lock of the log".to_owned(),
        }
    }
}

/// Names who holds the lock of the log, if that can be found out soon.
pub(crate) async fn lock_holder(connection: &mut PgConnection, sql: &Statements) -> Option<String> {
    let look = LockHolder::find(connection, sql);
    let holder = answered(Duration::from_secs(2), look).await.ok()??;
    Some(holder.reason())
}
