//! Many callers of one aggregate: they take turns, and nobody waits for who is gone.

use std::{
    pin::Pin,
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use async_trait::async_trait;
use backstory_aggregate::{Loaded, Repository, RepositoryOptions, SaveHook, UpdateError};
use backstory_event::{
    AppendCondition, Appended, BoxError, Checkpoint, EventFilter, EventStore, StreamVersion,
};
use futures::{FutureExt, future::join_all, poll};
use tokio::task::JoinSet;
use uuid::Uuid;

use super::{
    account,
    domain::{Account, added, raw},
    faulty::{Fault, Faulty},
    stored,
};
use crate::{Fixture, kit::within};

const CALLERS: usize = 8;
const UPDATES: usize = 25;

pub async fn callers_of_one_aggregate_take_turns<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    let Stuck {
        update,
        repository,
        id,
        faulty,
    } = stuck(&store, &[0; 200]).await;
    let decisions = AtomicUsize::new(0);
    let callers = (0..CALLERS).map(|_| {
        let (repository, decisions) = (repository.clone(), &decisions);
        let caller = async move {
            let mut seen = Vec::new();
            for _ in 0..UPDATES {
                let update = repository.update(&id, |account| {
                    decisions.fetch_add(1, Ordering::SeqCst);
                    seen.push(account.balance);
                    account.record(added(1));
                    Ok::<_, &str>(())
                });
                update.await.unwrap();
            }
            seen
        };
        Box::pin(caller)
    });
    let mut callers: Vec<_> = callers.collect();
    for caller in &mut callers {
        assert!(poll!(caller).is_pending(), "it takes its turn");
    }
    faulty.take_events_read();
    drop(update);
    let seen = within(join_all(callers)).await;

    // Nobody was overtaken again, and each had its turn as often as every other one.
    let updates = CALLERS * UPDATES;
    assert_eq!(decisions.load(Ordering::SeqCst), updates);
    for (caller, seen) in seen.into_iter().enumerate() {
        let turns = (0..UPDATES).map(|turn| 320 + i64::try_from(turn * CALLERS + caller).unwrap());
        assert_eq!(seen, turns.collect::<Vec<_>>());
    }
    let account = Repository::<Account>::new(&store).load(&id).await.unwrap();
    let stored = i64::try_from(updates).unwrap();
    assert_eq!(
        (account.balance, account.version()),
        (320 + stored, StreamVersion::new(202 + stored))
    );
    let read = faulty.take_events_read();
    assert!(read <= 202 + 2 * updates, "{read} events were read");
}

/// A caller that was overtaken once and is now stuck in its turn.
struct Stuck<S> {
    update: Pin<Box<dyn Future<Output = ()> + Send>>,
    repository: Repository<Account>,
    id: Uuid,
    faulty: Faulty<S>,
}

async fn stuck<S: EventStore + Clone>(store: &S, amounts: &[i64]) -> Stuck<S> {
    let id = account(store, amounts).await;
    let faults = [Fault::Overtake(raw(id, [added(20)])), Fault::Hang];
    let faulty = Faulty::new(store.clone(), faults);
    let repository = Repository::<Account>::new(&faulty);
    let clone = repository.clone();
    let mut update = async move {
        let update = clone.update(&id, |account| {
            account.record(added(300));
            Ok::<_, &str>(())
        });
        // It is stored, but it never learns that.
        assert!(update.await.is_err());
    }
    .boxed();
    tokio::select! {
        () = &mut update => panic!("the append hangs"),
        () = within(faulty.hung()) => {}
    }
    Stuck {
        update,
        repository,
        id,
        faulty,
    }
}

/// Adds 4,000; what it saw before.
async fn add(repository: &Repository<Account>, id: Uuid) -> Result<i64, UpdateError<&'static str>> {
    let update = repository.update(&id, |account| {
        let seen = account.balance;
        account.record(added(4_000));
        Ok(seen)
    });
    update.await.map(|(seen, _)| seen)
}

pub async fn a_turn_ends_with_its_caller<F: Fixture>(fixture: &F) {
    let Stuck {
        update,
        repository,
        id,
        ..
    } = stuck(&fixture.store(), &[1]).await;
    let mut waiting = [0, 1, 2].map(|_| Box::pin(add(&repository, id)));
    for waiting in &mut waiting {
        assert!(poll!(waiting).is_pending(), "it takes its turn");
    }
    let [first, second, third] = waiting;
    drop(second);
    drop(update);
    // In the order in which they came; who went away is passed over.
    let mut third = third;
    assert!(poll!(&mut third).is_pending(), "it is not its turn yet");
    assert_eq!(within(first).await.unwrap(), 321);
    assert_eq!(within(third).await.unwrap(), 4_321);
}

pub async fn a_turn_ends_with_a_panic<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    let Stuck {
        update,
        repository,
        id,
        ..
    } = stuck(&store, &[1]).await;
    let clone = repository.clone();
    let mut panics = async move {
        let update = clone.update(&id, |_| -> Result<(), &str> { panic!("a decision panics") });
        update.await.map(drop)
    }
    .boxed();
    let mut next = Box::pin(add(&repository, id));
    assert!(poll!(&mut panics).is_pending());
    assert!(poll!(&mut next).is_pending());
    drop(update);
    assert!(within(tokio::spawn(panics)).await.unwrap_err().is_panic());
    assert_eq!(within(next).await.unwrap(), 321);
}

pub async fn a_stuck_turn_ends_by_itself<F: Fixture>(fixture: &F) {
    let Stuck {
        update,
        repository,
        id,
        ..
    } = stuck(&fixture.store(), &[1]).await;
    // It is still there, and nobody polls it.
    assert_eq!(within(add(&repository, id)).await.unwrap(), 321);
    assert_eq!(within(add(&repository, id)).await.unwrap(), 4_321);
    drop(update);
    assert_eq!(within(add(&repository, id)).await.unwrap(), 8_321);
}

pub async fn a_deadline_counts_while_a_turn_is_awaited<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    let Stuck {
        update,
        repository,
        id,
        ..
    } = stuck(&store, &[1]).await;
    let options = RepositoryOptions::default().with_deadline(Duration::from_millis(20));
    let hurried = repository.clone().with_options(options);
    let error = within(add(&hurried, id)).await.unwrap_err();
    assert!(error.repository().unwrap().is_timed_out());
    assert_eq!(stored(&store, id).await.len(), 3);
    drop(update);
    assert_eq!(within(add(&repository, id)).await.unwrap(), 321);
}

pub async fn what_a_turn_recorded_and_did_not_store_does_not_leak<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    let Stuck {
        update,
        repository,
        id,
        ..
    } = stuck(&store, &[1]).await;
    let mut recording = Box::pin(repository.update(&id, |account| {
        account.record(added(1_000_000));
        Err::<(), _>("no")
    }));
    // Everything that was ever stored fails it.
    let always = || AppendCondition::new(EventFilter::all(), Checkpoint::START);
    let mut limiting = Box::pin(repository.update(&id, |account| {
        account.fail_if(always());
        Err::<(), _>("no")
    }));
    let mut idle = Box::pin(repository.update(&id, |account| {
        account.fail_if(always());
        Ok::<_, &str>(account.balance)
    }));
    let mut honest = Box::pin(add(&repository, id));
    let mut next = Box::pin(add(&repository, id));
    assert!(poll!(&mut recording).is_pending());
    assert!(poll!(&mut limiting).is_pending());
    assert!(poll!(&mut idle).is_pending());
    assert!(poll!(&mut honest).is_pending());
    assert!(poll!(&mut next).is_pending());
    drop(update);
    let refused = within(recording).await.unwrap_err();
    assert_eq!(refused.rejection(), Some(&"no"));
    let refused = within(limiting).await.unwrap_err();
    assert_eq!(refused.rejection(), Some(&"no"));
    assert_eq!(within(idle).await.unwrap().0, 321);
    assert_eq!(within(honest).await.unwrap(), 321);
    assert_eq!(within(next).await.unwrap(), 4_321);
    assert_eq!(stored(&store, id).await.len(), 5);
}

pub async fn what_others_stored_between_two_turns_is_seen<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    let Stuck {
        update,
        repository,
        id,
        ..
    } = stuck(&store, &[1]).await;
    let mut first = Box::pin(add(&repository, id));
    let mut second = Box::pin(add(&repository, id));
    assert!(poll!(&mut first).is_pending());
    assert!(poll!(&mut second).is_pending());
    drop(update);
    assert_eq!(within(first).await.unwrap(), 321);
    // Another process, before the second one is polled again.
    store.append(raw(id, [added(50_000)])).await.unwrap();
    assert_eq!(within(second).await.unwrap(), 54_321);
}

/// Updates the saved aggregate once more.
struct Again(Repository<Account>);

#[async_trait]
impl SaveHook<Account> for Again {
    async fn after(&self, loaded: &Loaded<Account>, _: &Appended) -> Result<(), BoxError> {
        let update = self.0.update(loaded.id(), |account| {
            account.record(added(1));
            Ok::<_, &str>(())
        });
        update
            .await
            .map(drop)
            .map_err(|error| error.to_string().into())
    }
}

/// Looks at another aggregate before each save, by an update of it.
struct Across(Repository<Account>, [Uuid; 2]);

#[async_trait]
impl SaveHook<Account> for Across {
    async fn before(
        &self,
        loaded: &Loaded<Account>,
        _: &mut backstory_aggregate::Save<Account>,
    ) -> Result<(), BoxError> {
        let other = if *loaded.id() == self.1[0] { 1 } else { 0 };
        let update = self.0.update(&self.1[other], |_| Ok::<_, &str>(()));
        update
            .await
            .map(drop)
            .map_err(|error| error.to_string().into())
    }
}

pub async fn hooks_that_update_are_no_deadlock<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    let plain = Repository::<Account>::new(&store);
    let id = account(&store, &[0]).await;
    let hooked = plain.clone().with_hook(Again(plain.clone()));
    let mut callers = JoinSet::new();
    for _ in 0..CALLERS {
        let hooked = hooked.clone();
        callers.spawn(async move {
            for _ in 0..UPDATES {
                let update = hooked.update(&id, |account| {
                    account.record(added(1));
                    Ok::<_, &str>(())
                });
                update.await.unwrap();
            }
        });
    }
    within(callers.join_all()).await;
    let updates = i64::try_from(CALLERS * UPDATES).unwrap();
    assert_eq!(plain.load(&id).await.unwrap().balance, updates * 2);

    // Each waits for the other's turn until one of them is over.
    let ids = [account(&store, &[0]).await, account(&store, &[0]).await];
    let hooked = plain.clone().with_hook(Across(plain.clone(), ids));
    let mut callers = JoinSet::new();
    for caller in 0..4 {
        let hooked = hooked.clone();
        callers.spawn(async move { add(&hooked, ids[caller % 2]).await.unwrap() });
    }
    let mut seen = within(callers.join_all()).await;
    seen.sort_unstable();
    assert_eq!(seen, [0, 0, 4_000, 4_000]);
}
