//! The tables: their names, creation and versions.

use std::sync::Arc;

use backstory_event::{StoreError, StoreErrorKind};
use sqlx::{AssertSqlSafe, PgConnection, Row, raw_sql};

use crate::{Migrations, error::store_error};

/// A step from one version of the schema to the next. It is never changed after a release.
struct Migration {
    version: i32,
    // The oldest program, by the version it knows, that can still work with the result.
    readable_from: i32,
    text: &'static str,
}

const MIGRATIONS: &[Migration] = &[Migration {
    version: 1,
    readable_from: 1,
    text: include_str!("schema_v1.sql"),
}];

/// The version that this program knows.
pub(crate) const VERSION: i32 = 1;

/// The name of a schema, checked, and what follows from it.
#[derive(Debug, Clone)]
pub(crate) struct Schema {
    name: Arc<str>,
}

impl Schema {
    pub(crate) fn new(name: &str) -> Result<Self, StoreError> {
        let fits = !name.is_empty()
            && name.len() <= 40
            && !name.starts_with("pg_")
            && !name.starts_with(|first: char| first.is_ascii_digit())
            && name
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
        if !fits {
            return Err(config(format!(
                "the schema name {name:?} is refused: use 1 to 40 ASCII letters, digits and `_`, \
                 beginning with a letter"
            )));
        }
        Ok(Self { name: name.into() })
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// The channel of its notifications.
    pub(crate) fn channel(&self) -> String {
        format!("backstory_{}", self.name)
    }

    /// Fills in a statement: `{s}` is the schema, `{lock}` the key of its lock, `{channel}` that
    /// of its notifications.
    pub(crate) fn sql(&self, text: &str) -> Arc<str> {
        // The name holds no quotes, see `new`.
        text.replace("{s}", &format!("\"{}\"", self.name))
            .replace(
                "{lock}",
                &format!("hashtextextended('backstory:{}', 0)", self.name),
            )
            .replace("{channel}", &format!("'{}'", self.channel()))
            .into()
    }

    fn migration(&self, migration: &Migration) -> String {
        let Migration {
            version,
            readable_from,
            text,
        } = migration;
        let text = self.sql(text);
        let insert = self.sql("INSERT INTO {s}.migration (version, readable_from)");
        format!("{text}\n{insert} VALUES ({version}, {readable_from});\n")
    }

    /// All statements that make the schema.
    pub(crate) fn ddl(&self) -> String {
        let mut text = format!("BEGIN;\n\nCREATE SCHEMA \"{}\";\n", self.name);
        text += &self.sql(MIGRATION_TABLE);
        for migration in MIGRATIONS {
            text.push('\n');
            text += &self.migration(migration);
        }
        text + "\nCOMMIT;\n"
    }

    /// The rights of a role that runs a program but may not change tables.
    pub(crate) fn grants(&self, role: &str) -> String {
        let role = role.replace('"', "\"\"");
        self.sql(GRANTS).replace("{role}", &format!("\"{role}\""))
    }

    /// Makes sure that the tables are there and fit, as the options say.
    pub(crate) async fn prepare(
        &self,
        connection: &mut PgConnection,
        migrations: Migrations,
    ) -> Result<(), StoreError> {
        // One transaction, and no statement that stays prepared: behind a pooler the next backend
        // may be another one.
        let begin = raw_sql("BEGIN ISOLATION LEVEL READ COMMITTED").execute(&mut *connection);
        begin.await.map_err(store_error)?;
        self.check_server(connection).await?;
        let stored = self.stored_version(connection).await?;
        let commit = raw_sql("COMMIT").execute(&mut *connection);
        commit.await.map_err(store_error)?;
        if stored >= VERSION {
            return Ok(());
        }
        match migrations {
            Migrations::Verify => Err(schema_error(format!(
                "schema `{}` is missing or too old: run the statements of `PostgresStore::ddl`",
                self.name
            ))),
            Migrations::Apply => {
                let applied = self.apply(connection).await;
                if applied.is_err() {
                    // The connection may be broken; the first error is what matters.
                    let _ = raw_sql("ROLLBACK").execute(connection).await;
                }
                applied
            }
        }
    }

    async fn check_server(&self, connection: &mut PgConnection) -> Result<(), StoreError> {
        if connection
            .server_version_num()
            .is_some_and(|version| version < 140_000)
        {
            return Err(config("the server is older than Postgres 14".to_owned()));
        }
        let row =
            raw_sql("SELECT current_setting('server_encoding'), current_setting('fsync') = 'on'")
                .fetch_one(&mut *connection)
                .await
                .map_err(store_error)?;
        let encoding: String = row.try_get(0).map_err(store_error)?;
        if encoding != "UTF8" {
            return Err(config(format!(
                "the database is encoded as {encoding}: create it with ENCODING 'UTF8'"
            )));
        }
        if !row.try_get::<bool, _>(1).map_err(store_error)? {
            tracing::warn!("fsync is off on this server: a crash of its machine loses events");
        }
        Ok(())
    }

    /// The newest version that is stored; 0 when there is none.
    async fn stored_version(&self, connection: &mut PgConnection) -> Result<i32, StoreError> {
        let exists: bool = sqlx::query_scalar(
            "SELECT EXISTS (SELECT FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
             WHERE n.nspname = $1 AND c.relname = 'migration')",
        )
        .bind(self.name())
        .persistent(false)
        .fetch_one(&mut *connection)
        .await
        .map_err(store_error)?;
        if !exists {
            return Ok(0);
        }
        let newest = raw_sql(AssertSqlSafe(self.sql(
            "SELECT version, readable_from FROM {s}.migration ORDER BY version DESC LIMIT 1",
        )))
        .fetch_optional(connection)
        .await
        .map_err(store_error)?;
        let Some(newest) = newest else { return Ok(0) };
        let version = newest.try_get(0).map_err(store_error)?;
        let readable_from: i32 = newest.try_get(1).map_err(store_error)?;
        if VERSION < readable_from {
            return Err(schema_error(format!(
                "schema `{}` has version {version} and needs a program that knows version \
                 {readable_from}; this one knows {VERSION}: update it",
                self.name
            )));
        }
        Ok(version)
    }

    /// The version that is stored.
    ///
    /// # Errors
    /// `Schema` when there is none.
    pub(crate) async fn require(&self, connection: &mut PgConnection) -> Result<i32, StoreError> {
        match self.stored_version(connection).await? {
            0 => Err(schema_error(format!(
                "there is no schema `{}` of this store in the database",
                self.name
            ))),
            version => Ok(version),
        }
    }

    async fn apply(&self, connection: &mut PgConnection) -> Result<(), StoreError> {
        let run = async |connection: &mut PgConnection, text: String| {
            raw_sql(AssertSqlSafe(text))
                .execute(connection)
                .await
                .map_err(store_error)
        };
        // Many processes may start at once: one migrates, the others find it done.
        let begin = format!(
            "BEGIN ISOLATION LEVEL READ COMMITTED; SET LOCAL lock_timeout = 0; \
             SELECT pg_advisory_xact_lock(hashtextextended('backstory-schema:{}', 0))",
            self.name
        );
        run(connection, begin).await?;
        let stored = self.stored_version(connection).await?;
        if stored == 0 {
            let exists: bool =
                sqlx::query_scalar("SELECT to_regnamespace(quote_ident($1)) IS NOT NULL")
                    .bind(self.name())
                    .persistent(false)
                    .fetch_one(&mut *connection)
                    .await
                    .map_err(store_error)?;
            if !exists {
                run(connection, format!("CREATE SCHEMA \"{}\"", self.name)).await?;
            }
            run(connection, self.sql(MIGRATION_TABLE).to_string()).await?;
        }
        for migration in MIGRATIONS {
            if migration.version > stored {
                tracing::info!(
                    schema = self.name(),
                    version = migration.version,
                    "migrating"
                );
                run(connection, self.migration(migration)).await?;
            }
        }
        run(connection, "COMMIT".to_owned()).await?;
        Ok(())
    }
}

const MIGRATION_TABLE: &str = "
CREATE TABLE IF NOT EXISTS {s}.migration (
  version integer PRIMARY KEY,
  readable_from integer NOT NULL, -- the oldest program that still works with it
  applied_at timestamptz NOT NULL DEFAULT clock_timestamp()
);
";

const GRANTS: &str = "GRANT USAGE ON SCHEMA {s} TO {role};
GRANT SELECT ON ALL TABLES IN SCHEMA {s} TO {role};
GRANT INSERT ON {s}.event TO {role};
GRANT INSERT, UPDATE, DELETE
  ON {s}.stream_state, {s}.claim, {s}.entry, {s}.snapshot, {s}.progress, {s}.projection, {s}.replica, {s}.projection_order,
    {s}.dead_letter, {s}.collection, {s}.document, {s}.document_index TO {role};
GRANT EXECUTE ON FUNCTION {s}.lock_owners_v1(text[], text[]), {s}.erase_v1(text[], text[]) TO {role};
";

fn config(reason: String) -> StoreError {
    StoreError::new(StoreErrorKind::Config { reason })
}

fn schema_error(reason: String) -> StoreError {
    StoreError::new(StoreErrorKind::Schema { reason })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_plain_names_are_schemas() {
        for name in ["backstory", "a_1", "Orders"] {
            assert!(Schema::new(name).is_ok(), "{name}");
        }
        for name in ["", "a\"b", "pg_x", "1a", "a b", "ä", &"x".repeat(41)] {
            assert!(Schema::new(name).is_err(), "{name}");
        }
    }

    #[test]
    fn the_last_migration_is_the_version_of_the_program() {
        assert_eq!(MIGRATIONS.last().map(|last| last.version), Some(VERSION));
    }
}
