//! Commits of other processes, seen while somebody waits for them.

use std::{sync::Arc, time::Duration};

use backstory_event::Position;
use backstory_store_kit::Tail;
use sqlx::{ConnectOptions, Connection, SqliteConnection};
use tokio::{sync::Mutex, time::sleep};

use crate::{error::Failure, lock::closed, options::Location, schema};

const FIRST_PAUSE: Duration = Duration::from_millis(2);
const LONGEST_PAUSE: Duration = Duration::from_millis(100);

/// A connection that asks SQLite whether somebody else has changed the file.
pub(crate) struct Watch {
    location: Arc<Location>,
    connection: Mutex<Option<SqliteConnection>>,
}

impl Watch {
    pub(crate) fn new(location: Arc<Location>) -> Self {
        Self {
            location,
            connection: Mutex::new(None),
        }
    }

    /// Moves the tail whenever the log has grown; ends only with an error. Of all who wait one
    /// does the work, and nobody when nobody waits.
    pub(crate) async fn follow(&self, tail: &Tail, is_closed: impl Fn() -> bool) -> Failure {
        let mut slot = self.connection.lock().await;
        let mut seen = None;
        let mut pause = FIRST_PAUSE;
        while !is_closed() {
            let version = match self.look(&mut slot, seen, tail).await {
                Ok(version) => version,
                Err(error) => {
                    *slot = None;
                    return error.into();
                }
            };
            if seen.replace(version) != Some(version) {
                pause = FIRST_PAUSE;
            }
            sleep(pause).await;
            pause = (pause * 3 / 2).min(LONGEST_PAUSE);
        }
        closed().into()
    }

    async fn look(
        &self,
        slot: &mut Option<SqliteConnection>,
        seen: Option<i64>,
        tail: &Tail,
    ) -> Result<i64, sqlx::Error> {
        let connection = match slot {
            Some(connection) => connection,
            None => slot.insert(self.location.read().connect().await?),
        };
        // It changes with every commit of another connection, whatever the commit wrote.
        let version: i64 = sqlx::query_scalar("PRAGMA data_version")
            .fetch_one(&mut *connection)
            .await?;
        if seen != Some(version) {
            tail.advance(Position::new(schema::head(connection).await?));
        }
        Ok(version)
    }

    pub(crate) async fn close(&self) {
        if let Some(connection) = self.connection.lock().await.take() {
            // It is gone either way.
            let _ = connection.close().await;
        }
    }
}
