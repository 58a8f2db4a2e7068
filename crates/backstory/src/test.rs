//! For tests of applications: given / when / then, and a whole runtime in memory.

use std::{sync::Arc, time::Duration};

use backstory_command::CommandBus;
use backstory_event::{BoxError, ManualClock};
use backstory_projection::{Projector, RunningProjector};
use backstory_store_memory::{MemoryOptions, MemoryStore};

use crate::{Bus, Store};

pub use backstory_command::given;
pub use backstory_projection::test_util::given_events;

/// Store, bus, commands and projector in memory, with a clock that stands still until the test
/// moves it.
///
/// ```
/// # use backstory::test::Runtime;
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), backstory::BoxError> {
/// let runtime = Runtime::start(|projector| projector).await?; // add projections with `.with(…)`
/// runtime.clock.advance(std::time::Duration::from_secs(60));
/// runtime.projector.shutdown().await?;
/// # Ok(()) }
/// ```
#[derive(Debug)]
pub struct Runtime {
    /// The store.
    pub store: Store,
    /// The event bus.
    pub bus: Bus,
    /// The command bus.
    pub commands: CommandBus,
    /// The projector.
    pub projector: RunningProjector,
    /// The time of the store and of all schedules.
    pub clock: ManualClock,
}

impl Runtime {
    /// Starts it with the projections that the closure adds.
    ///
    /// # Errors
    /// When two projections share a name.
    pub async fn start(
        projections: impl FnOnce(Projector<Store>) -> Projector<Store>,
    ) -> Result<Self, BoxError> {
        let clock = ManualClock::default();
        let options = MemoryOptions::default().with_clock(clock.clone());
        let store = Store::from(MemoryStore::with_options(options));
        let bus = Bus::start(&store).await?;
        let commands = CommandBus::new(&store);
        let projector = Projector::new(&store).with_clock(Arc::new(clock.clone()));
        let projector = projections(projector).start().await?;
        Ok(Self {
            store,
            bus,
            commands,
            projector,
            clock,
        })
    }

    /// Moves the clock forward.
    pub fn advance(&self, by: Duration) {
        self.clock.advance(by);
    }
}
