//! How the suites get hold of a store.

use std::{future::Future, sync::Arc};

use backstory_aggregate::{LookupStore, SnapshotStore};
use backstory_event::{EventBus, LocalBus};
use backstory_projection::{Checkpoints, Control, DeadLetters, DocumentStore};

/// Everything that a complete store does, as one dyn-compatible trait.
pub trait CompleteStore:
    LookupStore + SnapshotStore + Checkpoints + Control + DeadLetters + DocumentStore
{
}

impl<T> CompleteStore for T where
    T: LookupStore + SnapshotStore + Checkpoints + Control + DeadLetters + DocumentStore + ?Sized
{
}

/// A store under test, empty at first, and whatever keeps it alive.
pub trait Fixture: Send + Sync + 'static {
    /// The store's handle.
    type Store: CompleteStore + Clone;

    /// A handle.
    fn store(&self) -> Self::Store;

    /// A handle on the same log as another process would have it; a store that lives in one
    /// process gives another clone.
    fn elsewhere(&self) -> impl Future<Output = Self::Store> + Send;

    /// A new bus whose subscribers may each be `capacity` events behind; the one within a process
    /// unless the fixture is for another one.
    fn bus(&self, capacity: usize) -> Arc<dyn EventBus> {
        Arc::new(LocalBus::with_capacity(capacity))
    }
}

/// Runs a suite through `Arc<dyn …>`.
#[derive(Debug)]
pub struct Dyn<F>(pub F);

impl<F: Fixture> Fixture for Dyn<F> {
    type Store = Arc<dyn CompleteStore>;

    fn store(&self) -> Self::Store {
        Arc::new(self.0.store())
    }

    async fn elsewhere(&self) -> Self::Store {
        Arc::new(self.0.elsewhere().await)
    }

    fn bus(&self, capacity: usize) -> Arc<dyn EventBus> {
        Arc::new(self.0.bus(capacity))
    }
}

/// Makes one `#[tokio::test]` of each named case of a module: each gets a fixture of its own.
#[macro_export]
macro_rules! cases {
    ($make:expr, $suite:path, [$($case:ident)*]) => {
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $case() {
                use $suite as suite;
                let fixture = $make.await;
                suite::$case(&fixture).await;
            }
        )*
    };
}

/// All suites for one store, directly and through `Arc<dyn …>`. The argument makes a fixture, as in
/// `complete_suite!(crate::fixture())`.
#[macro_export]
macro_rules! complete_suite {
    ($make:expr) => {
        mod direct {
            $crate::every_suite!($make);
        }

        mod through_dyn {
            $crate::every_suite!(async { $crate::Dyn($make.await) });
        }
    };
}

/// A module for each suite, directly only.
#[macro_export]
macro_rules! every_suite {
    ($make:expr) => {
        mod event_store {
            $crate::event_store_suite!($make);
        }
        mod bus {
            $crate::bus_suite!($make);
        }
        mod subscription {
            $crate::subscription_suite!($make);
        }
        mod live {
            $crate::live_suite!($make);
        }
        mod properties {
            $crate::property_suite!($make);
        }
        mod snapshots {
            $crate::snapshots_suite!($make);
        }
        mod documents {
            $crate::documents_suite!($make);
        }
        mod letters {
            $crate::letters_suite!($make);
        }
        mod repository {
            $crate::repository_suite!($make);
        }
        mod lookups {
            $crate::lookups_suite!($make);
        }
        mod commands {
            $crate::commands_suite!($make);
        }
        mod projector {
            $crate::projector_suite!($make);
        }
    };
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, fs, path::Path};

    fn sources(folder: &Path, texts: &mut Vec<String>) {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                sources(&path, texts);
            } else {
                texts.push(fs::read_to_string(path).unwrap());
            }
        }
    }

    /// A case that no suite names never runs.
    #[test]
    fn every_case_is_in_a_suite() {
        let mut texts = Vec::new();
        sources(
            &Path::new(env!("CARGO_MANIFEST_DIR")).join("src"),
            &mut texts,
        );
        let (mut written, mut listed) = (BTreeSet::new(), BTreeSet::new());
        for text in &texts {
            let cases = text.lines().filter_map(|line| {
                line.strip_prefix("pub async fn ")?
                    .split_once("<F: Fixture>(")
                    .map(|(name, _)| name)
            });
            written.extend(cases);
            for list in text.split("$crate::cases!(").skip(1) {
                let names = list.split(']').next().and_then(|list| list.split_once('['));
                listed.extend(
                    names
                        .map(|(_, names)| names)
                        .unwrap_or_default()
                        .split_whitespace(),
                );
            }
        }
        assert!(written.len() > 100, "{} cases", written.len());
        let forgotten: Vec<_> = written.difference(&listed).collect();
        assert!(forgotten.is_empty(), "in no suite: {forgotten:?}");
    }
}
