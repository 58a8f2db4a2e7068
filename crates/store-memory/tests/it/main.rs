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

backstory_conformance::complete_suite!(crate::memory());

#[test]
fn saboteurs_are_noticed() {
    backstory_conformance::saboteur::check_saboteurs(memory);
}
