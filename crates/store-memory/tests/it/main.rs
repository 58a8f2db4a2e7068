//! The conformance suites on the memory store.

use backstory_conformance::{Dyn, Fixture};
use backstory_store_memory::MemoryStore;

struct Memory(MemoryStore);

impl Fixture for Memory {
    type Store = MemoryStore;

    fn store(&self) -> MemoryStore {
        self.0.clone()
    }

    async fn elsewhere(&self) -> MemoryStore {
        self.0.clone()
    }
}

async fn memory() -> Memory {
    Memory(MemoryStore::new())
}

async fn dynamic() -> Dyn<Memory> {
    Dyn(memory().await)
}

macro_rules! suites {
    ($($module:ident: $suite:ident)*) => {
        mod direct {
            $(mod $module {
                backstory_conformance::$suite!(crate::memory());
            })*
        }

        mod through_dyn {
            $(mod $module {
                backstory_conformance::$suite!(crate::dynamic());
            })*
        }
    };
}

suites! {
    event_store: event_store_suite
    bus: bus_suite
    subscription: subscription_suite
    properties: property_suite
    snapshots: snapshots_suite
    documents: documents_suite
    repository: repository_suite
    commands: commands_suite
    projector: projector_suite
}

#[test]
fn saboteurs_are_noticed() {
    backstory_conformance::saboteur::check_saboteurs(memory);
}
