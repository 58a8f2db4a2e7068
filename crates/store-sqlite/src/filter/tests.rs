//! Which index each kind of filter goes through.

use backstory_event::{StreamId, Tag};
use sqlx::{AssertSqlSafe, Connection, Row};

use super::*;

/// What SQLite says it would do for a page, a line each.
async fn plan(query: &EventQuery) -> String {
    let mut connection = SqliteConnection::connect("sqlite::memory:").await.unwrap();
    sqlx::raw_sql(include_str!("../../migrations/1.sql"))
        .execute(&mut connection)
        .await
        .unwrap();
    let scan = Scan::plan(query, Position::new(1_000_000), 20_000, 1_000);
    let sql = page(query, &scan, "*").unwrap();
    let explain = format!("EXPLAIN QUERY PLAN {}", sql.sql().as_str());
    let rows = sqlx::query(AssertSqlSafe(explain))
        .fetch_all(&mut connection)
        .await
        .unwrap();
    let lines: Vec<String> = rows.iter().map(|row| row.get("detail")).collect();
    lines.join("\n")
}

fn stream(key: &str) -> StreamId {
    StreamId::new("todo", key).unwrap()
}

#[tokio::test]
async fn streams_go_through_their_index() {
    let filter = EventFilter::stream(stream("1"))
        .or(FilterItem::new().stream(stream("2")).name("todo.added"));
    for query in [
        EventQuery::new(filter.clone()),
        EventQuery::new(filter).backward(),
    ] {
        let plan = plan(&query).await;
        let search =
            "SEARCH e USING INDEX backstory_event_stream (category=? AND key=? AND version>?)";
        assert_eq!(plan.matches(search).count(), 1, "{plan}");
        let search = search.replace("INDEX", "COVERING INDEX");
        assert_eq!(plan.matches(&search).count(), 1, "{plan}");
        assert!(!plan.contains("SCAN e"), "{plan}");
    }
}

#[tokio::test]
async fn names_go_through_their_index_in_order() {
    let filter = EventFilter::from(FilterItem::new().names(["added", "done", "removed"]));
    for query in [
        EventQuery::new(filter.clone()),
        EventQuery::new(filter).backward(),
    ] {
        let plan = plan(&query).await;
        let search = "USING COVERING INDEX backstory_event_name (name=? AND rowid>? AND rowid<?)";
        assert_eq!(plan.matches(search).count(), 3, "{plan}");
        assert!(plan.contains("MERGE (UNION)"), "{plan}");
        assert!(
            !plan.contains("TEMP B-TREE"),
            "it would read all before the limit: {plan}"
        );
    }
}

#[tokio::test]
async fn tags_go_through_their_index() {
    let query = EventQuery::new(EventFilter::tag(Tag::new("list:1").unwrap()));
    let plan = plan(&query).await;
    let search = "SEARCH t USING PRIMARY KEY (tag=? AND position>? AND position<?)";
    assert!(plan.contains(search), "{plan}");
    assert!(!plan.contains("SCAN e"), "{plan}");
    assert!(
        !plan.contains("TEMP B-TREE"),
        "it would read all before the limit: {plan}"
    );
}

#[tokio::test]
async fn the_rest_goes_by_position() {
    let names: Vec<_> = (0..100).map(|number| format!("name{number}")).collect();
    for filter in [
        EventFilter::all(),
        EventFilter::category("todo"),
        FilterItem::new().names(names).into(),
    ] {
        let plan = plan(&EventQuery::new(filter)).await;
        let search = "SEARCH e USING INTEGER PRIMARY KEY (rowid>? AND rowid<?)";
        assert!(plan.contains(search), "{plan}");
        assert!(
            !plan.contains("TEMP B-TREE"),
            "it would read all before the limit: {plan}"
        );
    }
}
