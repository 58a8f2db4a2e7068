//! The tables of a SQL projection beside the live ones. They have the same names in schemas of their
//! own, which stand first on the search path while a rebuild writes: `backstory_next`, and
//! `backstory_previous` for what was live before.

use backstory_projection::{Slot, TurnRefusal};
use sqlx::{AssertSqlSafe, PgConnection, Row, raw_sql};

use crate::turn::Trouble;

fn refused(reason: String) -> Trouble {
    TurnRefusal::Refused(reason).into()
}

/// The schema of a slot that is not live.
fn schema(store: &str, slot: Slot) -> String {
    match slot {
        Slot::Next => format!("{store}_next"),
        Slot::Live | Slot::Previous => format!("{store}_previous"),
    }
}

/// A name that SQL takes as it is.
fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// Lets names without a schema mean the tables that are being built.
pub(crate) fn search_path(store: &str) -> String {
    let next = quoted(&schema(store, Slot::Next));
    format!("SELECT set_config('search_path', '{next}, ' || current_setting('search_path'), true)")
}

/// Makes empty tables like the live ones, with the same rights.
pub(crate) async fn copy(
    connection: &mut PgConnection,
    store: &str,
    tables: &[&str],
) -> Result<(), Trouble> {
    if tables.is_empty() {
        return Err(refused(
            "it does not say which tables are its own: implement `Projection::tables`, or reset it"
                .to_owned(),
        ));
    }
    let next = schema(store, Slot::Next);
    make(connection, &next).await?;
    for table in tables {
        let live = live_schema(connection, table).await?;
        let (from, to) = (quoted(&live), quoted(&next));
        let name = quoted(table);
        run(
            connection,
            format!("CREATE TABLE {to}.{name} (LIKE {from}.{name} INCLUDING ALL)"),
        )
        .await?;
        let rights: Option<String> = sqlx::query_scalar(
            "SELECT string_agg(format('GRANT %s ON TABLE %I.%I TO %s%s', a.privilege_type, $2::text, $3::text, \
                 CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(a.grantee)) END, \
                 CASE WHEN a.is_grantable THEN ' WITH GRANT OPTION' ELSE '' END), '; ') \
             FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace, LATERAL aclexplode(c.relacl) a \
             WHERE n.nspname = $1 AND c.relname = $3 AND a.grantee <> c.relowner",
        )
        .bind(&live)
        .bind(&next)
        .bind(*table)
        .fetch_one(&mut *connection)
        .await?;
        if let Some(rights) = rights {
            run(connection, rights).await?;
        }
    }
    Ok(())
}

/// The tables of a slot become the live ones, which become the previous ones.
pub(crate) async fn exchange(
    connection: &mut PgConnection,
    store: &str,
    tables: &[&str],
    beside: Slot,
) -> Result<(), Trouble> {
    let (from, kept) = (schema(store, beside), schema(store, Slot::Previous));
    // Where tables are while others take their names.
    let aside = format!("{store}_aside");
    make(connection, &kept).await?;
    make(connection, &aside).await?;
    // Whoever reads a live table for long keeps its new readers waiting no longer than that.
    run(connection, "SET LOCAL lock_timeout = '200ms'".to_owned()).await?;
    for table in tables {
        let live = live_schema(connection, table).await?;
        for (from, to) in [(&from, &aside), (&live, &kept), (&aside, &live)] {
            let (from, name, to) = (quoted(from), quoted(table), quoted(to));
            let moved = format!("ALTER TABLE {from}.{name} SET SCHEMA {to}");
            run(connection, moved).await?;
        }
    }
    Ok(())
}

/// Drops the tables of a slot that is not live.
pub(crate) async fn remove(
    connection: &mut PgConnection,
    store: &str,
    tables: &[&str],
    slot: Slot,
) -> Result<(), Trouble> {
    let schema = quoted(&schema(store, slot));
    for table in tables {
        let table = quoted(table);
        run(connection, format!("DROP TABLE IF EXISTS {schema}.{table}")).await?;
    }
    Ok(())
}

/// Where the live table is.
async fn live_schema(connection: &mut PgConnection, table: &str) -> Result<String, Trouble> {
    let found = sqlx::query(
        "SELECT n.nspname::text, c.relkind IN ('r', 'p') FROM pg_class c \
         JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = to_regclass(quote_ident($1))",
    )
    .bind(table)
    .fetch_optional(&mut *connection)
    .await?;
    match found {
        Some(row) if row.try_get(1)? => Ok(row.try_get(0)?),
        _ => Err(refused(format!(
            "there is no table {table:?} on the search path: name each without a schema, and create \
             it before"
        ))),
    }
}

async fn make(connection: &mut PgConnection, schema: &str) -> Result<(), Trouble> {
    let there: bool =
        sqlx::query_scalar("SELECT EXISTS (SELECT FROM pg_namespace WHERE nspname = $1)")
            .bind(schema)
            .fetch_one(&mut *connection)
            .await?;
    match there {
        true => Ok(()),
        false => run(connection, format!("CREATE SCHEMA {}", quoted(schema))).await,
    }
}

/// What the server does not let this role do, or what stands in the way, is no outage.
async fn run(connection: &mut PgConnection, statement: String) -> Result<(), Trouble> {
    let done = raw_sql(AssertSqlSafe(statement)).execute(connection).await;
    let Err(error) = done else { return Ok(()) };
    let reason = error.as_database_error().filter(|error| {
        let code = error.code().unwrap_or_default();
        // Syntax or access, dependent objects, a lock that was not to be had.
        code.starts_with("42") || code == "2BP01" || code == "55P03"
    });
    Err(match reason {
        Some(error) => refused(error.message().to_owned()),
        None => error.into(),
    })
}
