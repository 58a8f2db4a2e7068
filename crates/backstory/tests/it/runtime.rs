//! The runtime in memory, for tests of applications.

use std::time::Duration;

use backstory::{
    Append, BoxError, Documents, Envelope, Event, EventStore, ExpectedVersion, NewEvent,
    Projection, Schedule, StreamId, async_trait, projection, test::Runtime,
};
use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Event)]
#[event(prefix = "tick")]
enum Tick {
    Happened,
}

struct Count;

#[async_trait]
impl Projection<Documents> for Count {
    type Event = Tick;
    const NAME: &'static str = "count";

    async fn project(&self, batch: &[Envelope<Tick>], docs: &mut Documents) -> projection::Result {
        let before: Option<usize> = docs.get("count", "all").await?;
        Ok(docs
            .put("count", "all", &(before.unwrap_or(0) + batch.len()))
            .await?)
    }
}

#[tokio::test]
async fn a_periodic_projection_runs_when_the_test_moves_the_clock() -> Result<(), BoxError> {
    let hour = Duration::from_secs(3_600);
    let runtime = Runtime::start(|it| it.with(Count, Schedule::every(hour))).await?;
    let event = NewEvent::of(&Tick::Happened)?;
    let append = Append::to(StreamId::new("tick", 1)?, ExpectedVersion::Any, [event]);
    runtime.store.append(append).await?;
    let count = async || runtime.store.documents().get::<usize>("count", "all").await;
    assert_eq!(count().await?, None);

    let deadline = tokio::time::Instant::now() + Duration::from_secs(10);
    while count().await? != Some(1) {
        assert!(
            tokio::time::Instant::now() < deadline,
            "the projection never ran"
        );
        runtime.advance(hour);
        tokio::task::yield_now().await;
    }
    Ok(())
}
