//! Indexes that are made on request, while the programs run.

#[cfg(test)]
mod plans;

use std::{
    fmt::{self, Display},
    str::FromStr,
};

use backstory_event::{Invalid, StoreError, StoreErrorKind};
use serde::Serialize;
use sqlx::{AssertSqlSafe, Error, PgConnection, Row, raw_sql};

use crate::{error::store_error, schema::Schema};

/// An index on the events that not every database needs: each append pays for it.
///
/// There is none on times, because none is needed: the store finds the position of a time by
/// bisection, and so can a query of one's own:
/// `WHERE position >= backstory.position_at_v1('2026-11-21 12:00Z')`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum OptionalIndex {
    /// For projections and subscriptions that are about rare categories, one event in a thousand
    /// or less: they pass over the events of the others.
    Category,
    /// For operators who ask what one request set in motion:
    /// `WHERE metadata->>'correlation_id' = '…'`.
    Correlation,
    /// For operators who ask what a command or event caused:
    /// `WHERE metadata->>'causation_id' = '…'`.
    Causation,
}

impl OptionalIndex {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Category, Self::Correlation, Self::Causation];

    /// Its name here and on the command line: `category`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Category => "category",
            Self::Correlation => "correlation",
            Self::Causation => "causation",
        }
    }

    /// Its name in the database.
    pub const fn relation(self) -> &'static str {
        match self {
            Self::Category => "event_category_position",
            Self::Correlation => "event_correlation_id",
            Self::Causation => "event_causation_id",
        }
    }

    /// What it is for.
    pub const fn purpose(self) -> &'static str {
        match self {
            Self::Category => "projections and subscriptions on rare categories",
            Self::Correlation => "queries with metadata->>'correlation_id' = '…'",
            Self::Causation => "queries with metadata->>'causation_id' = '…'",
        }
    }

    const fn definition(self) -> &'static str {
        match self {
            Self::Category => "(category, position)",
            Self::Correlation => {
                "((metadata->>'correlation_id')) WHERE metadata->>'correlation_id' IS NOT NULL"
            }
            Self::Causation => {
                "((metadata->>'causation_id')) WHERE metadata->>'causation_id' IS NOT NULL"
            }
        }
    }
}

impl Display for OptionalIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for OptionalIndex {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let mut all = Self::ALL.into_iter();
        all.find(|index| index.as_str() == text).ok_or_else(|| {
            let names = Self::ALL.map(Self::as_str).join(", ");
            Invalid::new("index", text, format!("there are {names}"))
        })
    }
}

/// What an index is like in a database.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum IndexState {
    /// It is not there.
    Absent,
    /// Somebody is building it.
    Building,
    /// It is left over from an interrupted build: appends pay for it, and nobody can use it.
    Invalid,
    /// It is used.
    Ready,
}

impl Display for IndexState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Absent => "absent",
            Self::Building => "building",
            Self::Invalid => "invalid",
            Self::Ready => "ready",
        })
    }
}

/// An optional index in a database.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct IndexInfo {
    /// Which.
    pub index: OptionalIndex,
    /// What it is like.
    pub state: IndexState,
    /// How large it is.
    pub bytes: i64,
}

/// What was done to get an index, or to get rid of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum IndexChange {
    /// It was as wanted already.
    Unchanged,
    /// It was built.
    Created,
    /// What an interrupted build had left was dropped, and the index built.
    Rebuilt,
    /// It was dropped.
    Dropped,
}

// Building: the view shows those of one's own role.
const STATE: &str = "SELECT x.indisvalid AND x.indisready, \
      EXISTS (SELECT FROM pg_stat_progress_create_index p WHERE p.index_relid = x.indexrelid), \
      coalesce(pg_relation_size(x.indexrelid), 0) \
    FROM pg_index x JOIN pg_class i ON i.oid = x.indexrelid \
    JOIN pg_class c ON c.oid = x.indrelid JOIN pg_namespace n ON n.oid = c.relnamespace \
    WHERE n.nspname = $1 AND c.relname = 'event' AND i.relname = $2";

/// All optional indexes, with their state.
pub(crate) async fn list(
    connection: &mut PgConnection,
    schema: &Schema,
) -> Result<Vec<IndexInfo>, StoreError> {
    schema.require(connection).await?;
    let mut list = Vec::new();
    for index in OptionalIndex::ALL {
        list.push(info(connection, schema, index).await.map_err(store_error)?);
    }
    Ok(list)
}

async fn info(
    connection: &mut PgConnection,
    schema: &Schema,
    index: OptionalIndex,
) -> Result<IndexInfo, Error> {
    let row = sqlx::query(STATE)
        .bind(schema.name())
        .bind(index.relation())
        .fetch_optional(connection)
        .await?;
    let (state, bytes) = match row {
        None => (IndexState::Absent, 0),
        Some(row) => {
            let state = match (row.try_get(0)?, row.try_get(1)?) {
                (true, _) => IndexState::Ready,
                (false, true) => IndexState::Building,
                (false, false) => IndexState::Invalid,
            };
            (state, row.try_get(2)?)
        }
    };
    Ok(IndexInfo {
        index,
        state,
        bytes,
    })
}

/// Builds an index unless it is there.
pub(crate) async fn create(
    connection: &mut PgConnection,
    schema: &Schema,
    index: OptionalIndex,
) -> Result<IndexChange, StoreError> {
    alone(connection, schema).await?;
    let created = create_alone(connection, schema, index).await;
    let_others(connection, schema, created).await
}

/// Drops an index if it is there.
pub(crate) async fn drop(
    connection: &mut PgConnection,
    schema: &Schema,
    index: OptionalIndex,
) -> Result<IndexChange, StoreError> {
    alone(connection, schema).await?;
    let dropped = drop_alone(connection, schema, index).await;
    let_others(connection, schema, dropped).await
}

async fn create_alone(
    connection: &mut PgConnection,
    schema: &Schema,
    index: OptionalIndex,
) -> Result<IndexChange, StoreError> {
    let state = state(connection, schema, index).await?;
    let change = match state {
        IndexState::Ready => return Ok(IndexChange::Unchanged),
        IndexState::Building => return Err(busy(schema)),
        IndexState::Absent => IndexChange::Created,
        IndexState::Invalid => {
            remove(connection, schema, index).await?;
            IndexChange::Rebuilt
        }
    };
    let text = format!(
        "CREATE INDEX CONCURRENTLY {} ON {{s}}.event {}",
        index.relation(),
        index.definition()
    );
    execute(connection, schema, &text).await?;
    Ok(change)
}

async fn drop_alone(
    connection: &mut PgConnection,
    schema: &Schema,
    index: OptionalIndex,
) -> Result<IndexChange, StoreError> {
    match state(connection, schema, index).await? {
        IndexState::Absent => Ok(IndexChange::Unchanged),
        IndexState::Building => Err(busy(schema)),
        IndexState::Ready | IndexState::Invalid => {
            remove(connection, schema, index).await?;
            Ok(IndexChange::Dropped)
        }
    }
}

async fn state(
    connection: &mut PgConnection,
    schema: &Schema,
    index: OptionalIndex,
) -> Result<IndexState, StoreError> {
    let info = info(connection, schema, index).await;
    info.map(|info| info.state).map_err(store_error)
}

async fn remove(
    connection: &mut PgConnection,
    schema: &Schema,
    index: OptionalIndex,
) -> Result<(), StoreError> {
    let text = format!(
        "DROP INDEX CONCURRENTLY IF EXISTS {{s}}.{}",
        index.relation()
    );
    execute(connection, schema, &text).await
}

async fn execute(
    connection: &mut PgConnection,
    schema: &Schema,
    text: &str,
) -> Result<(), StoreError> {
    raw_sql(AssertSqlSafe(schema.sql(text)))
        .execute(connection)
        .await
        .map_err(store_error)?;
    Ok(())
}

fn turn(schema: &Schema) -> String {
    format!("backstory-indexes:{}", schema.name())
}

/// One at a time: an index that somebody else is building looks like one left over. It does not
/// wait for its turn, because a build waits for all who wait.
async fn alone(connection: &mut PgConnection, schema: &Schema) -> Result<(), StoreError> {
    schema.require(connection).await?;
    let free: bool = sqlx::query_scalar("SELECT pg_try_advisory_lock(hashtextextended($1, 0))")
        .bind(turn(schema))
        .fetch_one(connection)
        .await
        .map_err(store_error)?;
    if free { Ok(()) } else { Err(busy(schema)) }
}

async fn let_others<T>(
    connection: &mut PgConnection,
    schema: &Schema,
    result: Result<T, StoreError>,
) -> Result<T, StoreError> {
    let unlocked = sqlx::query("SELECT pg_advisory_unlock(hashtextextended($1, 0))")
        .bind(turn(schema))
        .execute(connection)
        .await;
    // The first error is what matters; without a connection the turn has ended anyway.
    let value = result?;
    unlocked.map_err(store_error)?;
    Ok(value)
}

fn busy(schema: &Schema) -> StoreError {
    StoreError::new(StoreErrorKind::Unavailable {
        reason: format!(
            "somebody else changes the indexes of schema `{}`: try again when that is done",
            schema.name()
        ),
    })
}
