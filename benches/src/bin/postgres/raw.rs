//! The raw limit: the same rows into the same tables with the same indexes, by prepared statements.
//!
//! Nothing is checked and nothing is decided: a number that the caller gives is the position, and
//! its text as a uuid is the id and the key of the stream, as many bytes as ours. Numbers grow, so
//! that all indexes grow at their right end, as ours do. pgbench runs the same text.

use std::sync::{
    Arc,
    atomic::{AtomicI64, Ordering},
};

use backstory::BoxError;
use sqlx::{Connection, PgConnection};

use crate::{domain, load::Caller};

macro_rules! uuid {
    ($number:expr) => {
        concat!("lpad(to_hex(", $number, "), 32, '0')::uuid")
    };
}

macro_rules! insert {
    () => {
        "INSERT INTO backstory.event (position, category, key, version, id, name, schema_version, \
         payload, metadata, tags, recorded_at) "
    };
}

macro_rules! row {
    ($tags:expr) => {
        concat!(
            insert!(),
            "VALUES ($1::bigint, 'order', ",
            uuid!("$1::bigint"),
            "::text, 1, ",
            uuid!("$1::bigint"),
            ", 'order.placed', 1, $2::text::jsonb, $3::text::jsonb, ",
            $tags,
            ", clock_timestamp())"
        )
    };
}

/// One row of `backstory.event` per transaction: position, category, key, version 1, id, name,
/// schema version, a payload of about 200 bytes, metadata (`{}`), no tags, time. All rows
/// that ours writes, and nothing else: no notification, no check of a version.
pub const EVENT: &str = row!("'{}'");

/// The same with a tag that no other row has, as long as ours.
pub const TAGGED: &str = row!(concat!(
    "ARRAY['customer:' || ",
    uuid!("$1::bigint"),
    "::text]"
));

/// A hundred rows of `backstory.event` per transaction by UNNEST: ten streams of ten events.
pub const HUNDRED: &str = concat!(
    insert!(),
    "SELECT n, 'order', ",
    uuid!("(n - 1) / 10"),
    "::text, (n - 1) % 10 + 1, ",
    uuid!("n"),
    ", 'order.placed', 1, payload::jsonb, metadata::jsonb, '{}', clock_timestamp() \
     FROM unnest($1::bigint[], $2::text[], $3::text[]) AS q(n, payload, metadata)"
);

/// What a row holds beside its number.
#[derive(Debug, Clone)]
pub struct Content {
    /// The payload.
    pub payload: String,
    /// The metadata.
    pub metadata: String,
}

impl Content {
    /// The payload of all cases, and no metadata.
    pub fn plain() -> Result<Self, BoxError> {
        let payload = domain::payload()?.as_str().to_owned();
        Ok(Self {
            payload,
            metadata: "{}".to_owned(),
        })
    }
}

/// Inserts on a connection of its own.
pub struct Inserter {
    connection: PgConnection,
    statement: &'static str,
    rows: i64,
    numbers: Arc<AtomicI64>,
    content: Content,
}

impl Inserter {
    /// So many of them, on a database whose log may hold something already.
    pub async fn several(
        url: &str,
        connections: usize,
        statement: &'static str,
        content: &Content,
    ) -> Result<Vec<Self>, BoxError> {
        let numbers = numbers(url).await?;
        let rows = if statement.contains("unnest") { 100 } else { 1 };
        let mut inserters = Vec::new();
        for _ in 0..connections {
            inserters.push(Self {
                connection: PgConnection::connect(url).await?,
                statement,
                rows,
                numbers: numbers.clone(),
                content: content.clone(),
            });
        }
        Ok(inserters)
    }
}

/// The last number that is taken.
pub async fn numbers(url: &str) -> Result<Arc<AtomicI64>, BoxError> {
    Ok(Arc::new(AtomicI64::new(head(url).await?)))
}

/// The newest position.
pub async fn head(url: &str) -> Result<i64, BoxError> {
    let mut connection = PgConnection::connect(url).await?;
    let head = "SELECT coalesce(max(position), 0) FROM backstory.event";
    let head = sqlx::query_scalar(head).fetch_one(&mut connection).await?;
    connection.close().await?;
    Ok(head)
}

impl Caller for Inserter {
    async fn call(&mut self) -> Result<u64, BoxError> {
        let first = self.numbers.fetch_add(self.rows, Ordering::Relaxed) + 1;
        let query = sqlx::query(self.statement);
        let query = if self.rows == 1 {
            query
                .bind(first)
                .bind(&self.content.payload)
                .bind(&self.content.metadata)
        } else {
            let rows = usize::try_from(self.rows)?;
            query
                .bind((first..first + self.rows).collect::<Vec<_>>())
                .bind(vec![&*self.content.payload; rows])
                .bind(vec![&*self.content.metadata; rows])
        };
        let done = query.execute(&mut self.connection).await?.rows_affected();
        if done == 0 {
            return Err("the raw statement has stored nothing".into());
        }
        Ok(u64::try_from(self.rows)?)
    }
}
