//! Statements that are asked all day are not planned again each time.

use sqlx::{Arguments, AssertSqlSafe, Connection, PgConnection, postgres::PgArguments};

use super::{ANALYZE, Statement, filled, run, schema};
use crate::sql::Statements;

/// The server tries five plans for the values of a call before it compares them with one for all.
const CALLS: i64 = 8;

fn asked() -> Vec<(&'static str, Statement)> {
    macro_rules! with {
        ($($value:expr),+) => {{
            let mut arguments = PgArguments::default();
            $(arguments.add($value).unwrap();)+
            arguments
        }};
    }
    let sql = Statements::new(&schema(), true);
    let (todo, key) = (vec!["todo"], vec!["7"]);
    // Near the end of the log a plan for the values of a call looks cheapest.
    let end = 99_990_i64;
    let looks = |names: Option<&str>, tags: Option<&str>| {
        serde_json::json!([{
            "append": 0, "number": 0, "after": end, "names": names.map(|name| [name]), "categories": null,
            "stream_categories": [], "stream_keys": [], "tags": tags.map(|tag| [tag]),
        }])
    };
    let all = [
        ("tail", &sql.tail, with![end]),
        ("head", &sql.head, PgArguments::default()),
        (
            "load",
            &sql.load,
            with!["todo", "7", 0_i64, i64::MAX, 100_i64],
        ),
        (
            "load_on",
            &sql.load_on,
            with!["todo", "7", 0_i64, i64::MAX, 100_i64, 14_i64],
        ),
        (
            "load_many",
            &sql.load_many,
            with![&todo, &key, vec![0_i64], vec![i64::MAX], vec![100_i64]],
        ),
        (
            "ahead",
            &sql.ahead,
            with![
                vec![end],
                looks(Some("never"), None),
                looks(None, Some("rare"))
            ],
        ),
        (
            "get_documents",
            &sql.get_documents,
            with![vec!["list"], &key],
        ),
        (
            "latest_snapshot",
            &sql.latest_snapshot,
            with!["todo", "7", 2_i64],
        ),
    ];
    all.map(|(what, sql, arguments)| {
        let text = sql.as_str().to_owned();
        (what, Statement { text, arguments })
    })
    .into()
}

/// How often a statement of this connection ran with one plan for all values.
async fn plans_for_all(connection: &mut PgConnection, statement: &Statement) -> i64 {
    sqlx::query_scalar(
        "SELECT sum(generic_plans)::bigint FROM pg_prepared_statements WHERE statement = $1",
    )
    .bind(&statement.text)
    .fetch_one(connection)
    .await
    .unwrap()
}

#[tokio::test]
async fn what_is_asked_all_day_is_planned_once() {
    let (_database, mut connection) = filled().await;
    for settings in ["SELECT", ANALYZE] {
        run(&mut connection, settings).await;
        connection.clear_cached_statements().await.unwrap();
        for (what, statement) in asked() {
            for _ in 0..CALLS {
                let text = AssertSqlSafe(statement.text.clone());
                let query = sqlx::query_with(text, statement.arguments.clone());
                query.fetch_all(&mut connection).await.unwrap();
            }
            let plans = plans_for_all(&mut connection, &statement).await;
            assert!(plans > 0, "{what} is planned each time after {settings}");
        }
    }
}
