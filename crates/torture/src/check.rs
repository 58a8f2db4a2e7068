//! The proof: plain SQL over the log, the journal and the faults.

use backstory_store_postgres::verify;
use sqlx::{AssertSqlSafe, PgConnection};

use crate::{
    Result,
    args::Args,
    delivered::{Delivered, compare},
    fault::{Fault, Faults},
    load::load,
    never::{LOST, NEVER},
    stage::{SUBSCRIBERS, Stage},
};

/// Each of these must have happened, or the run proves little.
const OUTCOMES: &str = "SELECT w.what FROM (VALUES ('stored'), ('version'), ('condition'), ('claim'), \
    ('rolled back')) AS w(what) WHERE NOT EXISTS (SELECT FROM torture.outcome o \
    WHERE w.what IN (o.outcome, o.reason))";

/// How long others waited, in microseconds, while a client was frozen inside `append_in`.
const LONGEST_WAIT: &str = "SELECT coalesce(max(o.ended - o.started), 0) FROM torture.fault f \
    JOIN torture.outcome o ON o.started BETWEEN f.began AND f.ended \
    JOIN torture.intent i ON i.append = o.append \
    WHERE f.kind = $1 AND i.incarnation <> f.target";

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

/// Looks at everything.
pub(crate) async fn check(args: &Args, stage: &Stage, faults: &Faults) -> Result<Verdict> {
    let minimum = args.minimum();
    let mut connection = stage.connect().await?;
    load(stage, faults, &mut connection).await?;
    let mut verdict = Verdict {
        faults: faults.all().len(),
        events: count(&mut connection, "SELECT count(*) FROM backstory.event").await?,
        ..Verdict::default()
    };
    check_faults(&mut verdict, stage, faults, minimum);
    check_answers(&mut verdict, &mut connection, minimum > 0).await?;
    check_waits(&mut verdict, &mut connection, args).await?;
    for (what, sql) in NEVER {
        let found = count(&mut connection, sql).await?;
        verdict.demand(found == 0, || format!("{found}: {what}"));
    }
    // And what operators would run.
    let verification = verify(&mut connection, "backstory").await?;
    for finding in &verification.findings {
        verdict.demand(false, || format!("verify found {finding}"));
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
    Ok(())
}

async fn check_waits(verdict: &mut Verdict, connection: &mut PgConnection, args: &Args) -> Result {
    let longest: i64 = sqlx::query_scalar(LONGEST_WAIT)
        .bind(Fault::FreezeInside.name())
        .fetch_one(connection)
        .await?;
    println!(
        "longest wait while a client was frozen inside append_in: {} ms",
        longest / 1_000
    );
    let allowed = i64::try_from(args.longest_wait)? * 1_000_000;
    verdict.demand(longest <= allowed, || {
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
