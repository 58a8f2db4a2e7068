//! What differs behind a pooler in transaction mode. Only a transaction stays on one backend, so
//! whatever is set or prepared is so for one transaction, and forgotten at its end: the next one
//! on this backend is a stranger's.

use sqlx::{Connection, Error, PgConnection, postgres::PgConnectOptions, raw_sql};

use crate::Pooler;

/// What borrowed connections begin with. A client that freezes must not keep one of few backends.
pub(crate) const READ: &str = "SET LOCAL enable_seqscan = off; SET LOCAL jit = off; \
    SET LOCAL idle_in_transaction_session_timeout = '5s'";

/// The server cannot look for lost clients on all platforms, and a refused setting would end the
/// transaction.
const SETTLE: &str = "DEALLOCATE ALL; \
    SELECT set_config('client_connection_check_interval', CASE WHEN version() LIKE '%linux%' \
      THEN '1s' ELSE current_setting('client_connection_check_interval') END, true)";

impl Pooler {
    pub(crate) fn is_used(self) -> bool {
        self != Self::None
    }

    /// A transaction that begins with these statements, whatever the database's defaults are.
    pub(crate) fn begin(self, statements: &str) -> String {
        let begin = "BEGIN ISOLATION LEVEL READ COMMITTED";
        match self {
            Self::None => format!("{begin}; {statements}"),
            Self::Transaction => format!("{begin}; {SETTLE}; {statements}"),
        }
    }

    /// Poolers refuse parameters that they do not track, and a statement that one backend knows is
    /// unknown to the next.
    pub(crate) fn adapt(self, connect: PgConnectOptions) -> PgConnectOptions {
        match self {
            Self::None => connect,
            Self::Transaction => connect.extra_float_digits(None).statement_cache_capacity(0),
        }
    }
}

/// Ends a transaction, and leaves nothing prepared.
pub(crate) async fn end(connection: &mut PgConnection, commit: bool) -> Result<(), Error> {
    uncache(connection).await?;
    let end = if commit {
        "DEALLOCATE ALL; COMMIT"
    } else {
        "ROLLBACK; DEALLOCATE ALL"
    };
    raw_sql(end).execute(connection).await?;
    Ok(())
}

/// Leaves nothing prepared, before somebody else commits.
pub(crate) async fn forget(connection: &mut PgConnection) -> Result<(), Error> {
    uncache(connection).await?;
    raw_sql("DEALLOCATE ALL").execute(connection).await?;
    Ok(())
}

/// A pool of the application may remember statements.
async fn uncache(connection: &mut PgConnection) -> Result<(), Error> {
    if connection.cached_statements_size() > 0 {
        connection.clear_cached_statements().await?;
    }
    Ok(())
}
