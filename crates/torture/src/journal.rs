//! What writers report to the acknowledger: lines in the text format of COPY behind a mark.

use std::path::Path;

use backstory_event::{Append, Conflict, EventId, Position, StoreError, StoreErrorKind};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixStream,
};
use uuid::Uuid;

use crate::{Result, now};

/// Marks the line of an append that is about to be made.
pub(crate) const INTENT: &str = "I\t";
/// Marks the line of an answer to it.
pub(crate) const OUTCOME: &str = "O\t";

/// What became of an append.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// Its first event stands here.
    Stored(Position),
    /// Nothing was stored, and why.
    Refused(&'static str),
    /// Nobody knows.
    Unknown,
}

impl Outcome {
    /// What an error of the store says.
    pub(crate) fn of_error(error: &StoreError) -> Self {
        Self::Refused(match error.kind() {
            StoreErrorKind::OutcomeUnknown { .. } => return Self::Unknown,
            StoreErrorKind::Conflict(Conflict::Version { .. }) => "version",
            StoreErrorKind::Conflict(Conflict::Condition { .. }) => "condition",
            StoreErrorKind::Conflict(Conflict::Claim { .. }) => "claim",
            StoreErrorKind::NotStored { .. } => "not stored",
            StoreErrorKind::Unavailable { .. } => "unavailable",
            StoreErrorKind::Closed => "closed",
            StoreErrorKind::Corrupt { .. } => "corrupt",
            StoreErrorKind::Database { .. } => "database",
            StoreErrorKind::EventIdReused { .. } => "event id reused",
            StoreErrorKind::Invalid(_) => "invalid",
            _ => "unexpected",
        })
    }
}

/// A connection to the acknowledger.
#[derive(Debug)]
pub(crate) struct Journal {
    stream: UnixStream,
    incarnation: i32,
}

impl Journal {
    pub(crate) async fn connect(socket: &Path, incarnation: i32) -> Result<Self> {
        let stream = UnixStream::connect(socket).await?;
        Ok(Self {
            stream,
            incarnation,
        })
    }

    /// Says that an append is about to be made.
    pub(crate) async fn intent(&mut self, id: Uuid, kind: &str, append: &Append) -> Result {
        let ids: Vec<String> = append.event_ids().iter().map(EventId::to_string).collect();
        let ids = ids.join(",");
        let (incarnation, now) = (self.incarnation, now());
        self.write(&format!(
            "{INTENT}{id}\t{incarnation}\t{kind}\t{now}\t{{{ids}}}\n"
        ))
        .await
    }

    /// Says what became of it; `started` is when the call began.
    pub(crate) async fn outcome(&mut self, id: Uuid, started: i64, outcome: Outcome) -> Result {
        let now = now();
        let (what, position, reason) = match outcome {
            Outcome::Stored(position) => ("stored", position.to_string(), ""),
            Outcome::Refused(reason) => ("refused", "\\N".to_owned(), reason),
            Outcome::Unknown => ("unknown", "\\N".to_owned(), ""),
        };
        self.write(&format!(
            "{OUTCOME}{id}\t{started}\t{now}\t{what}\t{position}\t{reason}\n"
        ))
        .await
    }

    /// Returns when the line is on the disk.
    async fn write(&mut self, line: &str) -> Result {
        self.stream.write_all(line.as_bytes()).await?;
        self.stream.read_u8().await?;
        Ok(())
    }
}
