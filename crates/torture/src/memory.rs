//! How much memory a subscriber takes: the same at 1 and at 10 million events.

use backstory_event::{Checkpoint, EventFilter, EventStoreExt};
use backstory_store_postgres::PostgresStore;
use backstory_test_postgres::{TestCluster, TestDatabase};
use sqlx::{AssertSqlSafe, Connection, PgConnection};

use crate::{
    Result,
    args::{Args, MemoryReaderArgs},
    orders::{answer, orders},
    process::Process,
    subscriber::connect,
};

/// Rows of one statement.
const PART: i64 = 100_000;

/// Fills a log, lets a subscriber read it, and compares its memory at both points.
pub(crate) async fn measure(args: &Args) -> Result<bool> {
    let cluster;
    let database = match &args.url {
        Some(url) => TestDatabase::create_on(url).await,
        None => {
            cluster = TestCluster::start().await;
            cluster.create_database().await
        }
    };
    let first = args.events;
    fill(database.url(), first * 10).await?;
    let arguments = ["memory-reader".to_owned(), format!("--events={first}")];
    let mut reader = Process::start(database.url(), &arguments)?;
    let mut resident = [0.0_f64; 2];
    for (resident, events) in resident.iter_mut().zip([first, first * 10]) {
        let kib: u32 = reader
            .answer(&format!("resident at {events}:"))
            .await?
            .parse()?;
        println!("RSS at {events} events: {kib} KiB");
        *resident = f64::from(kib);
    }
    let [at_first, at_second] = resident;
    let growth = at_second / at_first;
    let holds = growth <= 1.1;
    let verdict = if holds { "bounded" } else { "NOT BOUNDED" };
    println!("memory at ten times the events: {growth:.3} × ({verdict}, at most 1.1 × is allowed)");
    Ok(holds)
}

/// By plain SQL, and without the indexes that a reader of everything does not need.
async fn fill(url: &str, events: i64) -> Result {
    PostgresStore::connect(url).await?.close().await;
    let mut connection = PgConnection::connect(url).await?;
    let drops: Vec<String> = sqlx::query_scalar(
        "SELECT CASE WHEN c.conname IS NULL THEN format('DROP INDEX %s', i.indexrelid::regclass) \
           ELSE format('ALTER TABLE %s DROP CONSTRAINT %I', i.indrelid::regclass, c.conname) END \
         FROM pg_index i LEFT JOIN pg_constraint c ON c.conindid = i.indexrelid \
         WHERE i.indrelid = 'backstory.event'::regclass AND NOT i.indisprimary",
    )
    .fetch_all(&mut connection)
    .await?;
    for drop in drops {
        sqlx::raw_sql(AssertSqlSafe(drop))
            .execute(&mut connection)
            .await?;
    }
    let mut first = 1;
    while first <= events {
        let last = events.min(first + PART - 1);
        sqlx::query(
            "INSERT INTO backstory.event (position, category, key, version, id, name, schema_version, \
               payload, metadata, tags, recorded_at) \
             SELECT n, 'memory', n::text, 1, gen_random_uuid(), 'torture.added', 1, \
               jsonb_build_object('number', n, 'filler', repeat('x', 100)), '{}', '{}', now() \
             FROM generate_series($1::bigint, $2::bigint) AS n",
        )
        .bind(first)
        .bind(last)
        .execute(&mut connection)
        .await?;
        first = last + 1;
    }
    sqlx::raw_sql("VACUUM ANALYZE backstory.event")
        .execute(&mut connection)
        .await?;
    println!("{events} events are in the log");
    Ok(())
}

/// The process that is measured.
pub(crate) async fn read(args: &MemoryReaderArgs) -> Result {
    let _orders = orders();
    let store = connect(&args.address, "torture-memory").await?;
    let mut subscription = store.subscribe(Checkpoint::START, EventFilter::all());
    let mut seen = 0;
    for events in [args.events, args.events * 10] {
        while seen < events {
            let page = subscription.next_page().await?;
            seen += i64::try_from(page.events.len())?;
        }
        answer(&format!("resident at {events}: {}", resident_kib()?))?;
    }
    Ok(())
}

fn resident_kib() -> Result<u64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.split_whitespace().next());
    Ok(kib.ok_or("/proc/self/status has no VmRSS")?.parse()?)
}
