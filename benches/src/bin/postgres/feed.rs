//! The other process of the case `visible`: appends, and prints when each append returned.

use std::io::Write;

use backstory::{BoxError, postgres::PostgresStore};

use crate::cases::live;

/// A line when it is ready, then `position micros` per event.
pub async fn run(url: &str, events: usize) -> Result<(), BoxError> {
    let store = PostgresStore::connect(url).await?;
    let mut stdout = std::io::stdout().lock();
    writeln!(stdout, "0 0")?;
    stdout.flush()?;
    let returned = live::append(&store, events).await?;
    for (position, micros) in returned {
        writeln!(stdout, "{} {micros}", position.get())?;
    }
    stdout.flush()?;
    store.close().await;
    Ok(())
}
