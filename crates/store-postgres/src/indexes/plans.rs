//! Each index is worth its price: the store's own statements with and without it, on 100,000 rows.

#![allow(clippy::unwrap_used, reason = "a broken set-up fails the test")]

use backstory_event::{
    Checkpoint, EventFilter, EventQuery, FilterItem, Position, StreamQuery, Tag,
};
use backstory_test_postgres::TestDatabase;
use sqlx::{
    Arguments, AssertSqlSafe, Connection, Executor, PgConnection, Postgres, QueryBuilder,
    postgres::PgArguments, raw_sql,
};

use super::OptionalIndex;
use crate::{read, schema::Schema, sql::Statements, streams};

// A hundred streams of a category of their own, and few of all else that is looked for.
const FILL: &str = "INSERT INTO {s}.event (position, category, key, version, id, name, schema_version, payload, \
      metadata, tags, recorded_at) \
    SELECT n, CASE WHEN n % 1000 = 0 THEN 'rare' ELSE 'todo' END, (n / 2)::text, 1 + n % 2, gen_random_uuid(), \
      CASE WHEN n % 1000 = 1 THEN 'todo.rare' ELSE 'todo.added' END, 1, '{}', \
      jsonb_build_object('correlation_id', md5((n / 10)::text)::uuid, 'causation_id', md5(n::text)::uuid), \
      CASE WHEN n % 1000 = 2 THEN ARRAY['rare'] WHEN n % 3 = 0 THEN ARRAY['list:' || n % 7] ELSE '{}' END, \
      timestamptz '2026-01-01 00:00Z' + n * interval '1 second' \
    FROM generate_series(1, 100000) AS n; \
  INSERT INTO {s}.stream SELECT 'todo', n::text, 2, 'live', \
      CASE WHEN n % 1000 = 2 THEN ARRAY['rare'] ELSE '{}' END, 2 * n, 2 * n + 1 FROM generate_series(1, 100000) AS n; \
  INSERT INTO {s}.claim SELECT 'title', 'nr ' || n, 'todo', n::text FROM generate_series(1, 100000) AS n; \
  INSERT INTO {s}.collection (name, projection) VALUES ('list', 'list'); \
  INSERT INTO {s}.document SELECT generation, n::text, '{}', 'todo', n::text \
    FROM {s}.collection, generate_series(1, 100000) AS n; \
  INSERT INTO {s}.document_index SELECT generation, 'done', CASE WHEN n % 2 = 0 THEN 'no' ELSE 'yes' END, n::text \
    FROM {s}.collection, generate_series(1, 100000) AS n; \
  ANALYZE {s}.event, {s}.stream, {s}.claim, {s}.document, {s}.document_index";

// Counted by the server within the transaction.
const TOUCHED: &str = "SELECT sum(t.seq_tup_read + coalesce(t.idx_tup_fetch, 0))::bigint \
    FROM pg_stat_xact_user_tables t WHERE t.schemaname = 'backstory'";

/// A statement with what is bound to it.
#[derive(Clone)]
struct Statement {
    text: String,
    arguments: PgArguments,
}

impl Statement {
    fn plain(text: &str) -> Self {
        Self {
            text: schema().sql(text).to_string(),
            arguments: PgArguments::default(),
        }
    }

    fn bound(mut builder: QueryBuilder<Postgres>) -> Self {
        let text = builder.sql().as_str().to_owned();
        let arguments = sqlx::Execute::take_arguments(&mut builder.build());
        Self {
            text,
            arguments: arguments.unwrap().unwrap(),
        }
    }

    fn page(filter: impl Into<EventFilter>, after: i64) -> Self {
        let query = EventQuery::new(filter.into()).after(Checkpoint::at(Position::new(after)));
        Self::bound(read::statement(&schema(), &query, 20_000, 1_000))
    }
}

fn schema() -> Schema {
    Schema::new("backstory").unwrap()
}

async fn run(connection: &mut PgConnection, text: &str) {
    let text = schema().sql(text);
    raw_sql(AssertSqlSafe(text))
        .execute(connection)
        .await
        .unwrap();
}

/// A database with 100,000 rows a table, read by a session as the store's own.
async fn filled() -> (TestDatabase, PgConnection) {
    let database = TestDatabase::create().await;
    let mut connection = PgConnection::connect(database.url()).await.unwrap();
    run(&mut connection, &schema().ddl()).await;
    run(&mut connection, FILL).await;
    crate::session::prepare(&mut connection).await.unwrap();
    (database, connection)
}

/// The plan of a statement, and how many rows it touches; what it does is undone.
async fn explain(
    connection: &mut PgConnection,
    first: &str,
    statement: &Statement,
) -> (String, i64) {
    let mut transaction = connection.begin().await.unwrap();
    run(&mut transaction, first).await;
    let before: i64 = sqlx::query_scalar(TOUCHED)
        .persistent(false)
        .fetch_one(&mut *transaction)
        .await
        .unwrap();
    let text = format!("EXPLAIN (ANALYZE, TIMING off) {}", statement.text);
    let query = sqlx::query_scalar_with(AssertSqlSafe(text), statement.arguments.clone());
    let plan: Vec<String> = query
        .persistent(false)
        .fetch_all(&mut *transaction)
        .await
        .unwrap();
    let after: i64 = sqlx::query_scalar(TOUCHED)
        .persistent(false)
        .fetch_one(&mut *transaction)
        .await
        .unwrap();
    transaction.rollback().await.unwrap();
    (plan.join("\n"), after - before)
}

/// Asserts that a statement touches ten times as many rows without the index.
async fn worth(connection: &mut PgConnection, index: &str, inside: bool, statement: &Statement) {
    let (with, few) = explain(connection, "SELECT", statement).await;
    let without = format!("DROP INDEX {{s}}.{index}");
    let (bare, many) = explain(connection, &without, statement).await;
    assert!(
        inside || with.contains(index),
        "{index} is not used:\n{with}"
    );
    assert!(
        few * 10 <= many && few <= 1_000,
        "{index}: {few} rows with it, {many} without\n{with}\n\n{bare}"
    );
}

fn rare_tag() -> Tag {
    Tag::new("rare").unwrap()
}

#[tokio::test]
async fn the_indexes_of_the_schema_are_worth_their_price() {
    let (_database, mut connection) = filled().await;
    let sql = Statements::new(&schema(), true);

    let named = Statement::page(FilterItem::new().name("todo.rare"), 40_000);
    worth(&mut connection, "event_name_position", false, &named).await;
    let tagged = Statement::page(FilterItem::new().tag(rare_tag()), 40_000);
    worth(&mut connection, "event_tags", false, &tagged).await;
    let condition = Statement::plain(
        "SELECT * FROM {s}.hit_v1(0, 100000, NULL, NULL, NULL, NULL, '{rare,never}')",
    );
    worth(&mut connection, "event_tags", true, &condition).await;
    let list = Statement::bound(streams::statement(
        &schema(),
        &StreamQuery::new().tag(rare_tag()),
    ));
    worth(&mut connection, "stream_tags", false, &list).await;

    // What an erasure deletes.
    run(
        &mut connection,
        "INSERT INTO {s}.event SELECT 100001, 'todo', '7', 9, gen_random_uuid(), 'backstory.erased', 1, '{}', '{}', \
           '{}', recorded_at FROM {s}.event WHERE position = 100000",
    )
    .await;
    let erase = Statement::plain("SELECT {s}.erase_v1('todo', '7')");
    for index in ["claim_owner", "document_owner", "document_index_key"] {
        worth(&mut connection, index, true, &erase).await;
    }

    let mut arguments = PgArguments::default();
    for column in [vec!["list"], vec!["77"], vec![], vec![], vec![], vec![]] {
        arguments.add(column).unwrap();
    }
    let index = Statement {
        text: sql.index_documents.as_str().to_owned(),
        arguments,
    };
    worth(&mut connection, "document_index_key", false, &index).await;
}

#[tokio::test]
async fn the_optional_indexes_are_worth_their_price() {
    let (_database, mut connection) = filled().await;
    let rare = FilterItem::new().category("rare");
    let page = Statement::page(rare, 40_000);
    let condition =
        Statement::plain("SELECT * FROM {s}.hit_v1(0, 100000, NULL, '{never}', '{}', '{}', NULL)");
    let correlation = Statement::plain(
        "SELECT * FROM {s}.event WHERE metadata->>'correlation_id' = md5('77')::uuid::text ORDER BY position",
    );
    let causation = Statement::plain(
        "SELECT * FROM {s}.event WHERE metadata->>'causation_id' = md5('77')::uuid::text ORDER BY position",
    );
    for index in OptionalIndex::ALL {
        let made = super::create(&mut connection, &schema(), index)
            .await
            .unwrap();
        assert_eq!(made, super::IndexChange::Created);
    }
    // An index on expressions is chosen by the statistics of the expressions.
    run(&mut connection, "ANALYZE {s}.event").await;
    for (index, inside, statement) in [
        (OptionalIndex::Category, false, &page),
        (OptionalIndex::Category, true, &condition),
        (OptionalIndex::Correlation, false, &correlation),
        (OptionalIndex::Causation, false, &causation),
    ] {
        worth(&mut connection, index.relation(), inside, statement).await;
    }
}

#[tokio::test]
async fn times_need_no_index() {
    let (_database, mut connection) = filled().await;
    let when = "'2026-01-01 12:00Z'";
    let find = Statement::plain(&format!("SELECT {{s}}.position_at_v1({when})"));
    let (_, touched) = explain(&mut connection, "SELECT", &find).await;
    assert!(touched < 50, "{touched} rows");
    let text = format!("SELECT {{s}}.position_at_v1({when})");
    let position: i64 = connection
        .fetch_one(AssertSqlSafe(schema().sql(&text)))
        .await
        .map(|row| sqlx::Row::get(&row, 0))
        .unwrap();
    assert_eq!(position, 12 * 3600);
}
