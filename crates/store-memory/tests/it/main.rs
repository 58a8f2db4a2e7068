//! The conformance suites on the memory store.

use backstory_conformance::Fixture;
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

mod direct {
    mod event_store {
        backstory_conformance::event_store_suite!(crate::memory());
    }
}
