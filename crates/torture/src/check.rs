//! The proof: plain SQL over the log, the journal and the faults.

use sqlx::{AssertSqlSafe, PgConnection};

use crate::{
    Result,
    delivered::{Delivered, compare},
    fault::{Fault, Faults},
    load::load,
    stage::{SUBSCRIBERS, Stage},
};

/// Events that were acknowledged, and are not where the receipt says.
const LOST: &str = "SELECT count(*) FROM torture.place WHERE outcome = 'stored' AND found IS DISTINCT FROM expected";

/// What must not be: each answers with a count.
const NEVER: &[(&str, &str)] = &[
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
        "stream rows do not agree with the events",
        "SELECT count(*) FROM backstory.stream s FULL JOIN (SELECT category, key, max(version) AS version, \
           min(position) AS first, max(position) AS last FROM backstory.event GROUP BY category, key) e \
         ON e.category = s.category AND e.key = s.key \
         WHERE (e.version, e.first, e.last, 'live') IS DISTINCT FROM \
           (s.version, s.first_position, s.last_position, s.state)",
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

/// Each of these must have happened, or the run proves little.
const OUTCOMES: &str = "SELECT w.what FROM (VALUES ('stored'), ('version'), ('condition'), ('claim'), \
    ('rolled back')) AS w(what) WHERE NOT EXISTS (SELECT FROM torture.outcome o \
    WHERE w.what IN (o.outcome, o.reason))";

/// How long others waited, in microseconds, while a client was frozen inside `append_in`.
const LONGEST_WAIT: &str = "SELECT coalesce(max(o.ended - o.started), 0) FROM torture.fault f \
    JOIN torture.outcome o ON o.started BETWEEN f.began AND f.ended \
    JOIN torture.intent i ON i.append = o.append \
    WHERE f.kind = $1 AND i.incarnation <> f.target";
const LONGEST_WAIT_ALLOWED: i64 = 7_000_000;

/// What the proof says.
#[derive(Debug, Default)]
pub(crate) struct Verdict {
    events: i64,
    faults: usize,
    stored: i64,
    refused: i64,
    unknown: i64,
    delivered: Delivered,
    pub(crate) violations: Vec<String>,
}

impl Verdict {
    pub(crate) fn holds(&self) -> bool {
        let Delivered {
            lost,
            repeated,
            reordered,
            ..
        } = self.delivered;
        self.violations.is_empty() && lost + repeated + reordered == 0
    }

    /// The last line of a run.
    pub(crate) fn line(&self) -> String {
        let Self {
            events,
            faults,
            stored,
            refused,
            unknown,
            delivered,
            ..
        } = self;
        let Delivered {
            lost,
            repeated,
            reordered,
            ..
        } = delivered;
        format!(
            "events {events}, faults {faults}, subscribers {}: stored {stored}, refused {refused}, \
             unknown {unknown}, lost {lost}, repeated {repeated}, reordered {reordered}",
            SUBSCRIBERS.len(),
        )
    }

    fn demand(&mut self, holds: bool, otherwise: impl FnOnce() -> String) {
        if !holds {
            self.violations.push(otherwise());
        }
    }
}

/// Looks at everything; `minimum` is how often each fault had to happen.
pub(crate) async fn check(stage: &Stage, faults: &Faults, minimum: usize) -> Result<Verdict> {
    let mut connection = stage.connect().await?;
    load(stage, faults, &mut connection).await?;
    let mut verdict = Verdict {
        faults: faults.all().len(),
        events: count(&mut connection, "SELECT count(*) FROM backstory.event").await?,
        ..Verdict::default()
    };
    check_faults(&mut verdict, stage, faults, minimum);
    check_answers(&mut verdict, &mut connection, minimum > 0).await?;
    for (what, sql) in NEVER {
        let found = count(&mut connection, sql).await?;
        verdict.demand(found == 0, || format!("{found}: {what}"));
    }
    let lost = count(&mut connection, LOST).await?;
    verdict.demand(lost == 0, || {
        format!("{lost}: acknowledged events are not where the receipt says")
    });
    verdict.delivered.lost += u64::try_from(lost)?;
    for (number, category) in SUBSCRIBERS.into_iter().enumerate() {
        let found = compare(&mut connection, category, &stage.records(number)).await?;
        println!("subscriber {number}: {found:?}");
        let total = &mut verdict.delivered;
        total.lost += found.lost;
        total.repeated += found.repeated;
        total.reordered += found.reordered;
        let invented = found.invented;
        verdict.demand(invented == 0, || {
            format!("{invented}: events were invented for subscriber {number}")
        });
    }
    Ok(verdict)
}

fn check_faults(verdict: &mut Verdict, stage: &Stage, faults: &Faults, minimum: usize) {
    for fault in Fault::ALL {
        let (found, name) = (faults.count(fault), fault.name());
        println!("fault {name}: {found}");
        verdict.demand(!stage.allows(fault) || found >= minimum, || {
            format!("{name} happened {found} times instead of {minimum}")
        });
    }
    for number in 0..SUBSCRIBERS.len() {
        let found = faults.restarts(number);
        println!("subscriber {number}: restarted {found}");
        verdict.demand(found >= minimum, || {
            format!("subscriber {number} was restarted {found} times instead of {minimum}")
        });
    }
}

async fn check_answers(
    verdict: &mut Verdict,
    connection: &mut PgConnection,
    complete: bool,
) -> Result {
    let answers: Vec<(String, String, i64)> = sqlx::query_as(
        "SELECT outcome, reason, count(*) FROM torture.outcome GROUP BY 1, 2 ORDER BY 1, 2",
    )
    .fetch_all(&mut *connection)
    .await?;
    let mut transient = 0;
    for (outcome, reason, found) in answers {
        println!("{outcome} {reason}: {found}");
        match outcome.as_str() {
            "stored" => verdict.stored += found,
            "refused" => verdict.refused += found,
            _ => verdict.unknown += found,
        }
        if matches!(reason.as_str(), "not stored" | "unavailable") {
            transient += found;
        }
    }
    let (stored, unknown) = (verdict.stored, verdict.unknown);
    let all = stored + verdict.refused + unknown;
    verdict.demand(unknown * 100 <= all, || {
        format!("{unknown} of {all} outcomes are unknown")
    });
    // A store that refuses everything loses nothing.
    verdict.demand(transient * 10 <= all && stored * 3 >= all, || {
        format!("only {stored} of {all} appends were stored, {transient} could not be made")
    });
    let missing: Vec<String> = sqlx::query_scalar(OUTCOMES)
        .fetch_all(&mut *connection)
        .await?;
    verdict.demand(!complete || missing.is_empty(), || {
        format!("these answers were never given: {}", missing.join(", "))
    });
    let longest: i64 = sqlx::query_scalar(LONGEST_WAIT)
        .bind(Fault::FreezeInside.name())
        .fetch_one(connection)
        .await?;
    println!(
        "longest wait while a client was frozen inside append_in: {} ms",
        longest / 1_000
    );
    verdict.demand(longest <= LONGEST_WAIT_ALLOWED, || {
        format!(
            "an append waited {} ms for a frozen client",
            longest / 1_000
        )
    });
    Ok(())
}

async fn count(connection: &mut PgConnection, sql: &'static str) -> Result<i64> {
    let count: Option<i64> = sqlx::query_scalar(AssertSqlSafe(sql))
        .fetch_one(connection)
        .await?;
    Ok(count.unwrap_or(0))
}
