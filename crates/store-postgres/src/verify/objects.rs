//! What guards and serves the tables: triggers, functions and indexes.

use std::collections::HashMap;

use sqlx::{Error, FromRow, PgConnection, postgres::PgRow};

use super::{FindingKind, Report, Subject};
use crate::schema::{Schema, VERSION};

// The bits of `tgtype`: 1 row, 2 before, 8 delete, 16 update, 32 truncate.
const GUARDS: [(&str, i32); 2] = [("guard_row", 1 + 2 + 8 + 16), ("guard_table", 2 + 32)];

/// Whatever fires `ALWAYS` cannot be switched off by a setting of a session.
const TRIGGERS: &str = "SELECT t.tgname::text, t.tgtype::int, t.tgenabled = 'A' AND t.tgqual IS NULL \
      AND t.tgattr::text = '' AND p.pronamespace = c.relnamespace AND p.proname LIKE 'guard\\_event\\_v%' \
    FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid JOIN pg_namespace n ON n.oid = c.relnamespace \
    JOIN pg_proc p ON p.oid = t.tgfoid \
    WHERE n.nspname = $1 AND c.relname = 'event' AND NOT t.tgisinternal";

const FUNCTIONS: &str = "SELECT p.proname::text, p.prosrc, p.prosecdef, \
      coalesce(p.proconfig::text LIKE '%search_path=pg_catalog, pg_temp%', false) \
    FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace WHERE n.nspname = $1";

const INDEXES: &str = "SELECT i.relname::text, x.indisvalid AND x.indisready, x.indisunique \
    FROM pg_index x JOIN pg_class i ON i.oid = x.indexrelid JOIN pg_namespace n ON n.oid = i.relnamespace \
    WHERE n.nspname = $1";

/// Compares what the catalog has with the statements that this program makes a schema of.
pub(super) async fn check(
    connection: &mut PgConnection,
    schema: &Schema,
    stored_version: i32,
    report: &mut Report,
) -> Result<(), Error> {
    let text = schema.ddl();
    guards(connection, schema, report).await?;
    functions(connection, schema, &text, report).await?;
    // A later version may have replaced an index.
    if stored_version == VERSION {
        indexes(connection, schema, &text, report).await?;
    }
    Ok(())
}

/// What the catalog says of a schema.
async fn rows<R>(
    connection: &mut PgConnection,
    text: &'static str,
    schema: &Schema,
) -> Result<Vec<R>, Error>
where
    R: for<'r> FromRow<'r, PgRow> + Send + Unpin,
{
    let query = sqlx::query_as(text).persistent(false);
    query.bind(schema.name()).fetch_all(connection).await
}

async fn guards(
    connection: &mut PgConnection,
    schema: &Schema,
    report: &mut Report,
) -> Result<(), Error> {
    let rows: Vec<(String, i32, bool)> = rows(connection, TRIGGERS, schema).await?;
    let rows = rows.into_iter();
    let found: HashMap<_, _> = rows
        .map(|(name, kind, armed)| (name, (kind, armed)))
        .collect();
    for (name, wanted) in GUARDS {
        let subject = Subject::Object(name.to_owned());
        match found.get(name) {
            None => {
                let detail = "there is no such trigger on `event`".to_owned();
                report.add(FindingKind::GuardMissing, subject, detail);
            }
            Some((kind, armed)) if !armed || *kind != wanted => {
                let detail = "it is not enabled ALWAYS, or not for all changes".to_owned();
                report.add(FindingKind::GuardOff, subject, detail);
            }
            Some(_) => {}
        }
    }
    Ok(())
}

async fn functions(
    connection: &mut PgConnection,
    schema: &Schema,
    text: &str,
    report: &mut Report,
) -> Result<(), Error> {
    let rows: Vec<(String, String, bool, bool)> = rows(connection, FUNCTIONS, schema).await?;
    let rows = rows.into_iter();
    let found: HashMap<_, _> = rows
        .map(|(name, body, definer, path)| (name, (body, definer, path)))
        .collect();
    for function in declared_functions(schema, text) {
        let subject = Subject::Object(function.name.to_owned());
        match found.get(function.name) {
            None => {
                let detail = "there is no such function".to_owned();
                report.add(FindingKind::FunctionMissing, subject, detail);
            }
            Some((body, definer, path)) => {
                let same = body == function.body
                    && *definer == function.head.contains("SECURITY DEFINER")
                    && (*path || !function.head.contains("search_path"));
                if !same {
                    let detail = "its text or its attributes are others".to_owned();
                    report.add(FindingKind::FunctionChanged, subject, detail);
                }
            }
        }
    }
    Ok(())
}

async fn indexes(
    connection: &mut PgConnection,
    schema: &Schema,
    text: &str,
    report: &mut Report,
) -> Result<(), Error> {
    let rows: Vec<(String, bool, bool)> = rows(connection, INDEXES, schema).await?;
    let rows = rows.into_iter();
    let found: HashMap<_, _> = rows
        .map(|(name, valid, unique)| (name, (valid, unique)))
        .collect();
    for (name, unique) in declared_indexes(schema, text) {
        let detail = match found.get(&name) {
            None => "there is no such index",
            Some((false, _)) => "it is not valid",
            Some((_, false)) if unique => "it is not unique",
            Some(_) => continue,
        };
        let subject = Subject::Object(name);
        report.add(FindingKind::IndexMissing, subject, detail.to_owned());
    }
    Ok(())
}

struct Declared<'a> {
    name: &'a str,
    head: &'a str,
    body: &'a str,
}

/// The functions that the statements create.
fn declared_functions<'a>(schema: &Schema, text: &'a str) -> Vec<Declared<'a>> {
    let create = schema.sql("CREATE FUNCTION {s}.");
    let pieces = text.split(&*create).skip(1);
    pieces
        .filter_map(|piece| {
            let (name, _) = piece.split_once('(')?;
            let mut parts = piece.splitn(3, "$$");
            let (head, body) = (parts.next()?, parts.next()?);
            Some(Declared { name, head, body })
        })
        .collect()
}

/// The indexes that the statements create, and which of them are unique.
fn declared_indexes(schema: &Schema, text: &str) -> Vec<(String, bool)> {
    let table = schema.sql("CREATE TABLE {s}.");
    let word = |text: &str| text.split(' ').next().unwrap_or_default().to_owned();
    text.lines()
        .filter_map(|line| {
            let line = line.trim_start();
            if let Some(rest) = line.strip_prefix(&*table) {
                return Some((format!("{}_pkey", word(rest)), true));
            }
            if let Some(rest) = line.strip_prefix("CREATE INDEX ") {
                return Some((word(rest), false));
            }
            let rest = line.strip_prefix("CONSTRAINT ")?;
            rest.contains(" UNIQUE ").then(|| (word(rest), true))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[allow(clippy::unwrap_used, reason = "a broken set-up fails the test")]
    fn the_statements_are_understood() {
        let schema = Schema::new("backstory").unwrap();
        let text = schema.ddl();
        let functions = declared_functions(&schema, &text);
        assert_eq!(functions.len(), text.matches("CREATE FUNCTION").count());
        for function in &functions {
            assert!(function.body.contains("END"), "{}", function.name);
        }
        let definers = functions
            .iter()
            .filter(|function| function.head.contains("SECURITY DEFINER"));
        assert_eq!(definers.count(), text.matches("SECURITY DEFINER").count());

        let indexes = declared_indexes(&schema, &text);
        for (name, unique) in [
            ("event_pkey", true),
            ("event_id_key", true),
            ("event_version_key", true),
            ("event_tags", false),
            ("document_index_pkey", true),
            ("document_owner", false),
        ] {
            assert!(indexes.contains(&(name.to_owned(), unique)), "{name}");
        }
    }
}
