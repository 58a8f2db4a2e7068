use backstory_event::{Checkpoint, Envelope, Event, Position, StoreError};
use serde::{Deserialize, Serialize};

use super::*;
use crate::{
    Documents, Unit,
    test_util::{MemoryDocuments, block_on},
};

#[derive(Serialize, Deserialize, Event)]
#[event(prefix = "thing", crate = "backstory_event")]
enum ThingEvent {
    Happened,
}

/// A context of a store's own, as an SQL connection would be.
struct Tape;

struct TapeUnit(Tape);

#[async_trait]
impl Host<Tape> for MemoryDocuments {
    async fn begin(&self, _: Progress) -> Result<Box<dyn Unit<Tape>>, StoreError> {
        Ok(Box::new(TapeUnit(Tape)))
    }
}

#[async_trait]
impl Unit<Tape> for TapeUnit {
    fn context(&mut self) -> &mut Tape {
        &mut self.0
    }

    async fn commit(self: Box<Self>, _: Target, _: Vec<LetterWrite>) -> Result<(), CommitError> {
        Ok(())
    }
}

struct OnTape;

#[async_trait]
impl Projection<Tape> for OnTape {
    type Event = ThingEvent;
    const NAME: &'static str = "on_tape";

    async fn project(&self, _: &[Envelope<ThingEvent>], _: &mut Tape) -> crate::Result {
        Ok(())
    }
}

struct InDocuments;

#[async_trait]
impl Projection<Documents> for InDocuments {
    type Event = ThingEvent;
    const NAME: &'static str = "in_documents";

    async fn project(&self, _: &[Envelope<ThingEvent>], _: &mut Documents) -> crate::Result {
        Ok(())
    }
}

/// As `Projector::with` makes a worker: the context is found from the projection.
fn worker<Cx, P>(projection: P) -> Box<dyn Worker>
where
    Cx: Send + 'static,
    P: Projection<Cx>,
    MemoryDocuments: Host<Cx>,
{
    let store = MemoryDocuments::default();
    Box::new(Hosted::<MemoryDocuments, Cx, P>::new(
        store,
        projection,
        P::NAME,
    ))
}

#[test]
fn one_store_runs_projections_with_several_contexts() {
    let to = Checkpoint::at(Position::new(3));
    for worker in [worker(OnTape), worker(InDocuments)] {
        let batch = Batch {
            from: &Progress::start(worker.name()),
            events: &[],
            to,
            parked: HashSet::new(),
            failure: None,
            now: DateTime::UNIX_EPOCH,
        };
        let done = block_on(worker.run(batch)).unwrap();
        assert_eq!(done.progress.checkpoint, to);
    }
}

#[test]
fn only_documents_are_emptied_without_a_reset_of_the_projection() {
    let documents = worker(InDocuments);
    let reset = block_on(documents.reset(&Progress::start("in_documents")));
    assert_eq!(reset.unwrap().epoch, 1);

    let tape = worker(OnTape);
    let reset = block_on(tape.reset(&Progress::start("on_tape")));
    let Err(BatchError::Failed(error)) = reset else {
        panic!("{reset:?}");
    };
    assert!(error.is::<NotResettable>(), "{error}");
}
