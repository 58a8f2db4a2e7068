//! The other process of the case `live`: follows a log and prints when it sees each event.

use std::{
    io::Write,
    time::{Duration, SystemTime},
};

use backstory::{BoxError, EventFilter, EventStoreExt, Position, postgres::PostgresStore};
use tokio::io::AsyncReadExt;

/// Microseconds of the clock that all processes of a machine share.
pub fn micros() -> Result<u64, BoxError> {
    let now: Duration = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?;
    Ok(u64::try_from(now.as_micros())?)
}

/// Where the log ends, then `position micros` per event; ends with stdin.
pub async fn run(url: &str) -> Result<(), BoxError> {
    let store = PostgresStore::connect(url).await?;
    let head = store.head().await?;
    let mut subscription = store.subscribe(head, EventFilter::all());
    let mut stdout = std::io::stdout().lock();
    writeln!(stdout, "{} 0", head.position.get())?;
    stdout.flush()?;
    let mut end = [0];
    let mut stdin = tokio::io::stdin();
    loop {
        let page = tokio::select! {
            page = subscription.next_page() => page?,
            _ = stdin.read(&mut end) => break,
        };
        let now = micros()?;
        for event in &page.events {
            writeln!(stdout, "{} {now}", event.position().get())?;
        }
        stdout.flush()?;
    }
    store.close().await;
    Ok(())
}

/// The position and the time of a line.
pub fn parse(line: &str) -> Option<(Position, u64)> {
    let (position, micros) = line.split_once(' ')?;
    Some((Position::new(position.parse().ok()?), micros.parse().ok()?))
}
