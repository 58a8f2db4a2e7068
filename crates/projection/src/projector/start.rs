//! Where a projection begins that has not stored a checkpoint yet.

use backstory_event::{
    Checkpoint, EventFilter, EventQuery, EventStore, EventStoreExt, Position, RecordedEvent,
    StoreError,
};
use chrono::TimeDelta;

use super::error::{ProjectorError, ProjectorErrorKind};
use crate::{Part, Progress, Start};

/// Refuses a start that is not in the log.
pub(super) fn check(projection: &str, start: Start, end: Position) -> Result<(), ProjectorError> {
    match start {
        Start::Position(position) if position > end => {
            let kind = ProjectorErrorKind::StartBeyondTheEnd {
                projection: projection.to_owned(),
                start: position,
                end,
            };
            Err(ProjectorError::new(kind))
        }
        _ => Ok(()),
    }
}

/// Refuses another number of parts than the projection has run in.
pub(super) fn check_parts(
    projection: &str,
    partitions: u32,
    known: &[Progress],
) -> Result<(), ProjectorError> {
    let parts = known.iter().filter_map(|progress| {
        let (owner, part) = Part::split(&progress.projection);
        (owner == projection && progress.epoch > 0).then_some(part)
    });
    let others = parts.map(|part| part.count);
    match others.max() {
        Some(stored) if stored != partitions => {
            Err(ProjectorError::new(ProjectorErrorKind::OtherPartitions {
                projection: projection.to_owned(),
                stored,
                partitions,
            }))
        }
        _ => Ok(()),
    }
}

/// The checkpoint of a start. `now` is the end of the log when the projection began; somebody who
/// does not know goes from the beginning, and misses nothing.
pub(super) async fn find(
    log: &dyn EventStore,
    start: Start,
    now: Option<Checkpoint>,
) -> Result<Checkpoint, StoreError> {
    match start {
        Start::Beginning => Ok(Checkpoint::START),
        Start::Now => Ok(now.unwrap_or_default()),
        Start::Time(time) => match time.checked_sub_signed(TimeDelta::microseconds(1)) {
            Some(before) => log.position_at(before).await,
            None => Ok(Checkpoint::START),
        },
        Start::Position(position) => {
            let last = EventQuery::new(EventFilter::all()).up_to(position);
            let found = log.read(&last.backward().limit(1)).await?;
            let last = found.events.first().map(RecordedEvent::checkpoint);
            Ok(last.unwrap_or_default())
        }
    }
}
