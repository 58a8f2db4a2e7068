//! What must never be, as plain SQL over the log and the tables of [`load`](crate::load).

/// Events that were acknowledged, and are not where the receipt says.
pub(crate) const LOST: &str = "SELECT count(*) FROM torture.place WHERE outcome = 'stored' AND found IS DISTINCT FROM expected";

/// What must not be: each answers with a count.
pub(crate) const NEVER: &[(&str, &str)] = &[
    (
        "events of refused appends are in the log",
        "SELECT count(*) FROM torture.place WHERE outcome = 'refused' AND found IS NOT NULL",
    ),
    (
        "appends without a final answer are there in part, or not in one piece",
        "SELECT count(*) FROM (SELECT append FROM torture.place WHERE outcome IN ('unknown', 'unanswered') \
         GROUP BY append HAVING count(found) NOT IN (0, count(*)) OR count(DISTINCT found - n) > 1) p",
    ),
    (
        "events are in the log that nobody appended",
        "SELECT count(*) FROM backstory.event e LEFT JOIN torture.place p ON p.id = e.id WHERE p.id IS NULL",
    ),
    (
        "writer processes owe more answers than they have writers, or were not killed",
        "SELECT count(*) FROM (SELECT FROM torture.final f JOIN torture.incarnation i ON i.number = f.incarnation \
         WHERE f.outcome = 'unanswered' GROUP BY i.number, i.tasks, i.killed \
         HAVING count(*) > i.tasks + 1 OR NOT i.killed) i",
    ),
    (
        "outcomes were unknown without a fault in flight",
        "SELECT count(*) FROM torture.outcome o WHERE o.outcome = 'unknown' AND NOT EXISTS \
         (SELECT FROM torture.fault f WHERE f.began <= o.ended AND f.ended >= o.started)",
    ),
    (
        "answers are none that a fault or a conflict explains",
        "SELECT count(*) FROM torture.outcome WHERE outcome = 'refused' AND reason NOT IN \
         ('version', 'condition', 'claim', 'not stored', 'unavailable', 'rolled back')",
    ),
    (
        "positions are missing or there twice",
        "SELECT greatest(count(*), max(position)) - least(count(*), count(DISTINCT position)) FROM backstory.event",
    ),
    (
        "positions are below 1",
        "SELECT count(*) FROM backstory.event WHERE position < 1",
    ),
    (
        "streams have holes in their versions",
        "SELECT count(*) FROM (SELECT FROM backstory.event GROUP BY category, key \
         HAVING count(*) <> max(version) OR count(DISTINCT version) <> count(*) OR min(version) <> 1) s",
    ),
    (
        "versions do not follow the positions",
        "SELECT count(*) FROM (SELECT position < lag(position) OVER (PARTITION BY category, key ORDER BY version) \
         AS wrong FROM backstory.event) e WHERE wrong",
    ),
    (
        "streams have a state that no event gave them",
        "SELECT count(*) FROM backstory.stream_state",
    ),
    (
        "times go back along the positions",
        "SELECT count(*) FROM (SELECT recorded_at < lag(recorded_at) OVER (ORDER BY position) AS wrong \
         FROM backstory.event) e WHERE wrong",
    ),
    (
        "events stand at another version than was expected",
        "SELECT count(*) FROM backstory.event WHERE payload ? 'expected' \
         AND version <> (payload->>'expected')::bigint + 1",
    ),
    (
        "seats were sold twice in spite of a condition",
        "SELECT count(*) FROM (SELECT FROM backstory.event WHERE name = 'torture.seated' \
         GROUP BY tags HAVING count(*) > 1) s",
    ),
    (
        "claims do not agree with the events that made them",
        "SELECT count(*) FROM backstory.claim c FULL JOIN (SELECT payload->>'claim' AS value, key \
         FROM backstory.event WHERE name = 'torture.claimed') e ON e.value = c.value AND e.key = c.key \
         WHERE c.value IS NULL OR e.value IS NULL",
    ),
    (
        "rows of the application and the events of its transaction are not there together",
        "SELECT count(*) FROM torture.application a FULL JOIN (SELECT id FROM backstory.event \
         WHERE name = 'torture.within') e ON e.id = a.event_id WHERE a.event_id IS NULL OR e.id IS NULL",
    ),
];

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use backstory_store_postgres::PostgresStore;
    use backstory_test_postgres::TestDatabase;
    use sqlx::{AssertSqlSafe, Connection, PgConnection};

    use super::{LOST, NEVER};
    use crate::load::{DERIVED, TABLES};

    /// Makes ids and events out of small numbers.
    const TOOLS: &str = "
        CREATE FUNCTION id(n int) RETURNS uuid LANGUAGE sql AS $$ SELECT lpad(n::text, 32, '0')::uuid $$;
        CREATE FUNCTION event(at int, key text, version int, kind text DEFAULT 'added',
            payload jsonb DEFAULT '{}', tags text[] DEFAULT '{}') RETURNS void LANGUAGE sql AS $$
          INSERT INTO backstory.event (position, category, key, version, id, name, schema_version, payload,
            metadata, tags, recorded_at)
          VALUES (at, 's', key, version, id(at), 'torture.' || kind, 1, payload, '{}', tags,
            to_timestamp(1000 + at)) $$;
        CREATE FUNCTION answer(n int, ids int[], what text, at int DEFAULT NULL, reason text DEFAULT '')
          RETURNS void LANGUAGE sql AS $$
          INSERT INTO torture.intent VALUES (id(n), 1, 'new', 0, ARRAY(SELECT id(i) FROM unnest(ids) i));
          INSERT INTO torture.outcome SELECT id(n), 10, 20, what, at, reason WHERE what <> 'unanswered' $$;";

    /// A run in which everything held.
    const STORY: &str = "
        INSERT INTO torture.incarnation VALUES (1, 1, true);
        INSERT INTO torture.fault VALUES ('cut', 0, 15, 16);
        SELECT event(1, 'a', 1, payload => '{\"expected\": 0}'), event(2, 'a', 2),
          answer(1, '{1,2}', 'stored', 1);
        SELECT event(3, 'b', 1, 'seated', tags => '{seat:1}'), answer(3, '{3}', 'stored', 3);
        SELECT event(4, 'c', 1, 'claimed', '{\"claim\": \"x\"}'), answer(4, '{4}', 'stored', 4);
        INSERT INTO backstory.claim VALUES ('torture', 'x', 's', 'c');
        SELECT event(5, 'd', 1, 'within'), answer(5, '{5}', 'stored', 5);
        INSERT INTO torture.application VALUES (id(5));
        SELECT answer(90, '{90}', 'refused', NULL, 'version'), answer(91, '{91,92}', 'unknown'),
          answer(93, '{93}', 'unanswered'), answer(94, '{94}', 'unanswered');
        SELECT event(6, 'e', 1), event(7, 'e', 2), answer(6, '{6,7}', 'unknown');";

    /// What is done to the story, and words of what is found then.
    const FALSIFIED: &[(&str, &[&str])] = &[
        ("SELECT answer(8, '{8}', 'stored', 8)", &["acknowledged"]),
        (
            "UPDATE torture.outcome SET position = 4 WHERE append = id(3)",
            &["acknowledged"],
        ),
        (
            "SELECT event(8, 'f', 1), answer(8, '{8}', 'refused', NULL, 'version')",
            &["refused"],
        ),
        (
            "SELECT event(8, 'f', 1), answer(8, '{8,9}', 'unknown')",
            &["in part"],
        ),
        (
            "SELECT event(8, 'f', 1), event(9, 'f', 2), answer(8, '{9,8}', 'unanswered'),
          answer(9, '{10}', 'stored', 10), event(10, 'g', 1);
          UPDATE torture.incarnation SET tasks = 2",
            &["in part"],
        ),
        ("SELECT event(8, 'f', 1)", &["nobody appended"]),
        ("SELECT answer(8, '{8}', 'unanswered')", &["owe"]),
        ("UPDATE torture.incarnation SET killed = false", &["owe"]),
        ("DELETE FROM torture.fault", &["without a fault"]),
        (
            "UPDATE torture.outcome SET reason = 'database' WHERE reason = 'version'",
            &["explains"],
        ),
        (
            "SELECT event(9, 'f', 1), answer(9, '{9}', 'stored', 9)",
            &["positions are missing"],
        ),
        (
            "SELECT event(8, 'f', 2), answer(8, '{8}', 'stored', 8)",
            &["holes"],
        ),
        (
            "SELECT event(8, 'f', 2), event(9, 'f', 1), answer(8, '{8,9}', 'stored', 8)",
            &["versions do not follow"],
        ),
        (
            "INSERT INTO backstory.stream_state VALUES ('s', 'a', 'deleted', '{}')",
            &["no event gave"],
        ),
        (
            "UPDATE backstory.event SET recorded_at = now() WHERE position = 3",
            &["times"],
        ),
        (
            "UPDATE backstory.event SET payload = '{\"expected\": 2}' WHERE position = 2",
            &["another version"],
        ),
        (
            "UPDATE backstory.event SET name = 'torture.seated', tags = '{seat:1}' WHERE position = 2",
            &["seats"],
        ),
        ("DELETE FROM backstory.claim", &["claims"]),
        (
            "INSERT INTO backstory.claim VALUES ('torture', 'y', 's', 'c')",
            &["claims"],
        ),
        ("DELETE FROM torture.application", &["application"]),
        (
            "INSERT INTO torture.application VALUES (id(80))",
            &["application"],
        ),
        (
            "ALTER TABLE backstory.event DROP CONSTRAINT event_pkey;
          ALTER TABLE backstory.event DROP CONSTRAINT event_position_check;
          UPDATE backstory.event SET position = position - 1;
          UPDATE torture.outcome SET position = position - 1",
            &["below 1"],
        ),
    ];

    #[tokio::test]
    async fn each_falsehood_is_found_and_nothing_else() {
        let database = TestDatabase::create().await;
        let store = PostgresStore::connect(database.url()).await.unwrap();
        store.close().await;
        let mut connection = PgConnection::connect(database.url()).await.unwrap();
        run(&mut connection, TABLES).await;
        run(&mut connection, TOOLS).await;
        // The past can be changed here.
        run(
            &mut connection,
            "ALTER TABLE backstory.event DISABLE TRIGGER USER",
        )
        .await;
        run(&mut connection, "BEGIN").await;
        run(&mut connection, STORY).await;
        run(&mut connection, "SAVEPOINT story").await;
        assert_eq!(found(&mut connection).await, [""; 0]);
        let mut seen = BTreeSet::new();
        for (falsify, words) in FALSIFIED {
            run(&mut connection, "ROLLBACK TO SAVEPOINT story").await;
            run(&mut connection, falsify).await;
            let found = found(&mut connection).await;
            assert_eq!(found.len(), words.len(), "{falsify}: {found:?}");
            for word in *words {
                assert!(
                    found.iter().any(|what| what.contains(word)),
                    "{falsify}: {found:?}"
                );
            }
            seen.extend(found);
        }
        let all = NEVER.iter().map(|(what, _)| *what).chain(["acknowledged"]);
        assert_eq!(seen, all.collect());
    }

    async fn found(connection: &mut PgConnection) -> Vec<&'static str> {
        run(connection, DERIVED).await;
        let mut found = Vec::new();
        for (what, sql) in NEVER.iter().chain([&("acknowledged", LOST)]) {
            let count: Option<i64> = sqlx::query_scalar(AssertSqlSafe(*sql))
                .fetch_one(&mut *connection)
                .await
                .unwrap();
            if count != Some(0) {
                found.push(*what);
            }
        }
        found
    }

    async fn run(connection: &mut PgConnection, sql: &'static str) {
        sqlx::raw_sql(AssertSqlSafe(sql))
            .execute(connection)
            .await
            .unwrap_or_else(|error| panic!("{sql}: {error}"));
    }
}
