//! Each index is worth its price: the store's own statements with and without it, on 100,000 rows.

#![allow(clippy::unwrap_used, reason = "a broken set-up fails the test")]

use backstory_event::{
    Checkpoint, EventFilter, EventQuery, FilterItem, Position, StreamCursor, StreamId, StreamQuery,
    StreamState, Tag,
};
use backstory_test_postgres::TestDatabase;
use sqlx::{
    Arguments, AssertSqlSafe, Connection, Executor, PgConnection, Postgres, QueryBuilder,
    postgres::PgArguments, raw_sql,
};

mod once;

use super::OptionalIndex;
use crate::{schema::Schema, sql::Statements, statement, streams};

// A hundred streams of a category of their own, and few of all else that is looked for.
const FILL: &str = "INSERT INTO {s}.event (position, category, key, version, id, name, schema_version, payload, \
      metadata, tags, recorded_at) \
    SELECT n, CASE WHEN n % 1000 = 0 THEN 'rare' ELSE 'todo' END, (n / 2)::text, 1 + n % 2, gen_random_uuid(), \
      CASE WHEN n % 1000 = 1 THEN 'todo.rare' ELSE 'todo.added' END, 1, '{}', \
      jsonb_build_object('correlation_id', md5((n / 10)::text)::uuid, 'causation_id', md5(n::text)::uuid), \
      CASE WHEN n % 1000 = 2 THEN ARRAY['rare'] WHEN n % 3 = 0 THEN ARRAY['list:' || n % 7] ELSE '{}' END, \
      timestamptz '2026-01-01 00:00Z' + n * interval '1 second' \
    FROM generate_series(1, 100000) AS n; \
  INSERT INTO {s}.stream_state SELECT 'todo', n::text, \
      CASE WHEN n % 10000 = 3 THEN 'erased' WHEN n % 3 = 0 THEN 'deleted' ELSE 'live' END, \
      CASE WHEN n % 1000 = 2 THEN ARRAY['rare'] ELSE ARRAY['list:' || n % 7] END FROM generate_series(1, 40000) AS n; \
  INSERT INTO {s}.claim SELECT 'title', 'nr ' || n, 'todo', n::text FROM generate_series(1, 100000) AS n; \
  INSERT INTO {s}.entry SELECT 'city', 'nr ' || n % 1000, 'todo', n::text FROM generate_series(1, 100000) AS n; \
  INSERT INTO {s}.collection (name, projection) VALUES ('list', 'list'); \
  INSERT INTO {s}.document SELECT generation, n::text, '{}', 'todo', n::text \
    FROM {s}.collection, generate_series(1, 100000) AS n; \
  INSERT INTO {s}.document_index SELECT generation, 'title', 'nr ' || n, n::text \
    FROM {s}.collection, generate_series(1, 100000) AS n";

const ANALYZE: &str =
    "ANALYZE {s}.event, {s}.stream_state, {s}.claim, {s}.entry, {s}.document, {s}.document_index";

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
        Self::bound(statement::whole(
            &schema(),
            &query,
            20_000,
            1_000,
            statement::Server::Primary,
        ))
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

/// The plan of a statement, and how many blocks it touches, functions that it calls included; what
/// it does is undone.
async fn explain(
    connection: &mut PgConnection,
    first: &str,
    statement: &Statement,
) -> (String, i64) {
    let mut transaction = connection.begin().await.unwrap();
    run(&mut transaction, first).await;
    let text = format!(
        "EXPLAIN (ANALYZE, BUFFERS, TIMING off, FORMAT json) {}",
        statement.text
    );
    let mut blocks = 0;
    let mut plan = serde_json::Value::Null;
    // The first run also reads the catalog.
    for _ in 0..3 {
        let query =
            sqlx::query_scalar_with(AssertSqlSafe(text.clone()), statement.arguments.clone());
        let mut savepoint = transaction.begin().await.unwrap();
        plan = query
            .persistent(false)
            .fetch_one(&mut *savepoint)
            .await
            .unwrap();
        savepoint.rollback().await.unwrap();
        blocks = touched(&plan[0]["Plan"]);
    }
    transaction.rollback().await.unwrap();
    (plan.to_string(), blocks)
}

/// The blocks of a node and all below it. What changes rows in a WITH counts beside the root.
fn touched(node: &serde_json::Value) -> i64 {
    let own = ["Shared Hit Blocks", "Shared Read Blocks"]
        .iter()
        .map(|key| node[key].as_i64().unwrap())
        .sum();
    let below = node["Plans"].as_array().into_iter().flatten().map(touched);
    below.fold(own, i64::max)
}

/// Asserts that a statement touches at least some times as many blocks without the index.
async fn worth(
    connection: &mut PgConnection,
    index: &str,
    times: i64,
    inside: bool,
    statement: &Statement,
) {
    let (with, few) = explain(connection, "SELECT", statement).await;
    let without = format!("DROP INDEX {{s}}.{index}");
    let (bare, many) = explain(connection, &without, statement).await;
    assert!(
        inside || with.contains(index),
        "{index} is not used:\n{with}"
    );
    assert!(
        0 < few && few * times <= many,
        "{index}: {few} blocks with it, {many} without\n{with}\n\n{bare}"
    );
}

fn rare_tag() -> Tag {
    Tag::new("rare").unwrap()
}

#[tokio::test]
async fn each_index_is_worth_its_price() {
    let (_database, mut connection) = filled().await;
    run(&mut connection, ANALYZE).await;
    times_need_no_index(&mut connection).await;
    optional_indexes(&mut connection).await;
    core_indexes(&mut connection).await;
}

async fn core_indexes(connection: &mut PgConnection) {
    let sql = Statements::new(&schema(), true);

    let named = Statement::page(FilterItem::new().name("todo.rare"), 40_000);
    worth(connection, "event_name_position", 10, false, &named).await;
    let tagged = Statement::page(FilterItem::new().tag(rare_tag()), 40_000);
    worth(connection, "event_tags", 5, false, &tagged).await;
    let condition = Statement::plain(
        "SELECT * FROM {s}.hit_v1(0, 100000, NULL, NULL, NULL, NULL, '{rare,never}')",
    );
    worth(connection, "event_tags", 100, true, &condition).await;
    let list = Statement::bound(streams::statement(
        &schema(),
        &StreamQuery::new().tag(rare_tag()).limit(2),
    ));
    worth(connection, "stream_tags", 5, false, &list).await;
    let list = Statement::bound(streams::statement(
        &schema(),
        &StreamQuery::new().state(StreamState::Erased),
    ));
    worth(connection, "stream_gone", 5, false, &list).await;

    // What an erasure deletes.
    run(
        connection,
        "INSERT INTO {s}.event SELECT 100001, 'todo', '7', 9, gen_random_uuid(), 'backstory.erased', 1, '{}', '{}', \
           '{}', recorded_at FROM {s}.event WHERE position = 100000",
    )
    .await;
    let erase = Statement::plain("SELECT {s}.erase_v1('{todo}', '{7}')");
    for index in [
        "claim_owner",
        "entry_owner",
        "document_owner",
        "document_index_key",
    ] {
        worth(connection, index, 5, true, &erase).await;
    }

    // Values by their owners, and what is cleared.
    for (index, scope) in [("claim_owner", "title"), ("entry_owner", "city")] {
        let mut arguments = PgArguments::default();
        for text in [scope, "todo", "7", ""] {
            arguments.add(text).unwrap();
        }
        arguments.add(10_i64).unwrap();
        let list = Statement {
            text: sql.values_of.as_str().to_owned(),
            arguments,
        };
        worth(connection, index, 5, false, &list).await;
        let mut arguments = PgArguments::default();
        arguments.add(vec![scope]).unwrap();
        arguments.add(vec![None::<&str>]).unwrap();
        arguments.add(vec!["todo"]).unwrap();
        arguments.add(vec!["7"]).unwrap();
        let remove = Statement {
            text: sql.remove_values.as_str().to_owned(),
            arguments,
        };
        worth(connection, index, 5, false, &remove).await;
    }

    let mut arguments = PgArguments::default();
    for column in [vec!["list"], vec!["77"], vec![], vec![], vec![], vec![]] {
        arguments.add(column).unwrap();
    }
    let index = Statement {
        text: sql.index_documents.as_str().to_owned(),
        arguments,
    };
    worth(connection, "document_index_key", 10, false, &index).await;
}

async fn optional_indexes(connection: &mut PgConnection) {
    let page = Statement::page(FilterItem::new().category("rare"), 40_000);
    let correlation = Statement::plain(
        "SELECT * FROM {s}.event WHERE metadata->>'correlation_id' = md5('77')::uuid::text ORDER BY position",
    );
    let causation = Statement::plain(
        "SELECT * FROM {s}.event WHERE metadata->>'causation_id' = md5('77')::uuid::text ORDER BY position",
    );
    for index in OptionalIndex::ALL {
        let made = super::create(connection, &schema(), index).await.unwrap();
        assert_eq!(made, super::IndexChange::Created);
    }
    // An index on expressions is chosen by the statistics of the expressions.
    run(connection, "ANALYZE {s}.event").await;
    // Without the one on categories the events of the whole category are met with all of the window.
    for (index, times, statement) in [
        (OptionalIndex::Category, 2, &page),
        (OptionalIndex::Correlation, 100, &correlation),
        (OptionalIndex::Causation, 100, &causation),
    ] {
        worth(connection, index.relation(), times, false, statement).await;
    }
}

async fn times_need_no_index(connection: &mut PgConnection) {
    let when = "'2026-01-01 12:00Z'";
    let find = Statement::plain(&format!("SELECT {{s}}.position_at_v1({when})"));
    let (_, blocks) = explain(connection, "SELECT", &find).await;
    assert!(blocks < 200, "{blocks} blocks");
    let text = format!("SELECT {{s}}.position_at_v1({when})");
    let position: i64 = connection
        .fetch_one(AssertSqlSafe(schema().sql(&text)))
        .await
        .map(|row| sqlx::Row::get(&row, 0))
        .unwrap();
    assert_eq!(position, 12 * 3600);
}

/// One stream has 20,000 events more, and nobody has told the server so.
const LONG: &str = "ALTER TABLE {s}.event SET (autovacuum_enabled = false); \
  INSERT INTO {s}.event (position, category, key, version, id, name, schema_version, payload, metadata, tags, recorded_at) \
    SELECT 100000 + n, 'todo', '1001', 2 + n, gen_random_uuid(), 'todo.added', 1, '{}', '{}', '{}', now() \
    FROM generate_series(1, 20000) AS n";

/// A batch of one event for that stream.
const APPEND: &str = "SELECT 1 / t.stored::int FROM {s}.append_v1(1000, false, '{todo}', '{1001}', \
    '{20003}', ARRAY[gen_random_uuid()], '{todo.added}', '{1}', '{\"{}\"}', '{\"{}\"}', '{[]}', '{todo}', '{1001}', \
    '{20002}', NULL) t";

#[tokio::test]
async fn what_is_asked_of_streams_costs_what_it_answers() {
    let (_database, mut connection) = filled().await;
    run(&mut connection, LONG).await;
    let sql = Statements::new(&schema(), true);
    let cursor = |category, key| StreamCursor::behind(StreamId::new(category, key).unwrap());
    let query = || StreamQuery::new().limit(10);
    let lists = [
        query(),
        query().after(cursor("todo", "1000")),
        query().category("todo").after(cursor("todo", "1000")),
        query().category("todo").after(cursor("rare", "7000")),
        query().category("rare").after(cursor("rare", "7000")),
        query().category("none"),
        query().category("todo").key(1001).key(7).key("none"),
        query().key(1001).key(500).key("none"),
        query().tag(rare_tag()).after(cursor("todo", "1000")),
        query().state(StreamState::Deleted),
        query()
            .state(StreamState::Deleted)
            .state(StreamState::Erased)
            .after(cursor("todo", "1000")),
        query()
            .category("todo")
            .state(StreamState::Erased)
            .after(cursor("todo", "1000")),
    ];
    let lists = lists.iter().map(|query| {
        let statement = streams::statement(&schema(), query);
        (format!("{query:?}"), Statement::bound(statement))
    });
    let mut all: Vec<_> = lists.collect();
    let one = [vec!["todo"], vec!["1001"]];
    let bound = |text: &str, strings: &[Vec<&str>]| {
        let mut arguments = PgArguments::default();
        strings
            .iter()
            .for_each(|column| arguments.add(column).unwrap());
        Statement {
            text: text.to_owned(),
            arguments,
        }
    };
    let mut facts = bound(sql.facts.as_str(), &one);
    let ids = Vec::<uuid::Uuid>::new();
    facts.arguments.add(&ids).unwrap();
    facts.arguments.add(Vec::<&str>::new()).unwrap();
    facts.arguments.add(Vec::<&str>::new()).unwrap();
    facts.arguments.add(Vec::<i64>::new()).unwrap();
    facts.arguments.add(serde_json::json!([])).unwrap();
    all.push(("facts".to_owned(), facts));
    let mut facts = bound(sql.import_facts.as_str(), &one);
    facts.arguments.add(ids).unwrap();
    all.push(("import_facts".to_owned(), facts));
    let lock = bound(sql.lock_owners.as_str(), &one);
    all.push(("lock_owners".to_owned(), lock));
    let states = [
        vec!["todo", "todo"],
        vec!["1001", "3"],
        vec!["deleted", "live"],
        vec!["[]", "[]"],
    ];
    let states = bound(sql.put_states.as_str(), &states);
    all.push(("put_states".to_owned(), states));
    all.push(("append".to_owned(), Statement::plain(APPEND)));
    let view = "SELECT * FROM {s}.stream WHERE category = 'todo' AND key = '7'";
    all.push(("view".to_owned(), Statement::plain(view)));
    // The plans of the writer are made once.
    for settings in [
        "SELECT",
        ANALYZE,
        "SET plan_cache_mode = force_generic_plan",
    ] {
        run(&mut connection, settings).await;
        for (what, statement) in &all {
            let (plan, blocks) = explain(&mut connection, "SELECT", statement).await;
            assert!(
                0 < blocks && blocks < 400,
                "{blocks} blocks after {settings} for {what}\n{plan}"
            );
        }
    }
}
