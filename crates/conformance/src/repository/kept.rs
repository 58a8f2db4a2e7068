//! Snapshots, as a repository uses them.

use backstory_aggregate::{Repository, SnapshotRecord, SnapshotStore};
use backstory_event::{Aggregate, EventId, EventStore, Payload, StreamVersion};
use uuid::Uuid;

use super::{
    domain::{Account, AccountV2, added, raw},
    faulty::Faulty,
    id, stored, version,
};
use crate::Fixture;

/// Saves so many events of amount 1, in saves of `step` events.
async fn fill(repository: &Repository<Account>, id: Uuid, events: usize, step: usize) {
    let mut account = repository.load(&id).await.unwrap();
    let mut left = events;
    while left > 0 {
        let now = step.min(left);
        for _ in 0..now {
            account.record(added(1));
        }
        repository.save(&mut account).await.unwrap();
        left -= now;
    }
}

async fn newest<S: SnapshotStore>(store: &S, id: Uuid) -> Option<SnapshotRecord> {
    let stream = Account::stream(&id).unwrap();
    store.latest_snapshot(&stream, None).await.unwrap()
}

pub async fn snapshots_bound_what_a_load_reads<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    let faulty = Faulty::new(store.clone(), []);
    let repository = Repository::<Account>::new(&faulty).with_snapshots(&faulty, 100);
    let id = id();
    fill(&repository, id, 10_000, 37).await;
    faulty.take_events_read();
    let account = repository.load(&id).await.unwrap();
    assert_eq!(
        (account.balance, account.version()),
        (10_000, version(10_000))
    );
    let read = faulty.take_events_read();
    assert!(read <= 101, "{read} events were read");

    for _ in 0..120 {
        fill(&repository, id, 1, 1).await;
        let read = faulty.take_events_read();
        assert!(read <= 101, "{read} events were read");
    }
}

pub async fn a_snapshot_is_kept_every_n_events<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    let repository = Repository::<Account>::new(&store).with_snapshots(&store, 3);
    let id = id();
    for (events, kept) in [
        (2, None),
        (1, Some(3)),
        (2, Some(3)),
        (1, Some(6)),
        (7, Some(13)),
    ] {
        fill(&repository, id, events, events).await;
        let snapshot = newest(&store, id).await;
        assert_eq!(snapshot.map(|kept| kept.version), kept.map(version));
    }
    let snapshot = newest(&store, id).await.unwrap();
    let state: Account = snapshot.state.decode().unwrap();
    assert_eq!((state.balance, snapshot.shape), (13, 1));
    assert_eq!(repository.load(&id).await.unwrap().balance, 13);
}

pub async fn a_snapshot_never_hides_a_deletion<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    let repository = Repository::<Account>::new(&store).with_snapshots(&store, 1);
    let id = id();
    fill(&repository, id, 3, 1).await;
    repository.delete(&id).await.unwrap();
    assert_eq!(newest(&store, id).await.unwrap().version, version(3));
    assert!(repository.load(&id).await.unwrap_err().is_deleted());
    assert_eq!(repository.load_deleted(&id).await.unwrap().balance, 3);
    repository.restore(&id).await.unwrap();
    fill(&repository, id, 1, 1).await;
    assert_eq!(repository.load(&id).await.unwrap().balance, 4);
    repository.delete(&id).await.unwrap();
    assert!(repository.load(&id).await.unwrap_err().is_deleted());
}

pub async fn a_version_is_loaded_from_the_snapshot_below_it<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    let faulty = Faulty::new(store.clone(), []);
    let repository = Repository::<Account>::new(&faulty).with_snapshots(&faulty, 10);
    let id = id();
    fill(&repository, id, 40, 1).await;
    for (at, read) in [(25, 6), (30, 1), (9, 9), (40, 1)] {
        faulty.take_events_read();
        let account = repository.load_at(&id, version(at)).await.unwrap();
        assert_eq!((account.version(), account.balance), (version(at), at));
        assert_eq!(faulty.take_events_read(), read, "at version {at}");
    }
}

pub async fn a_snapshot_of_another_shape_is_passed_over<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    let old = Repository::<Account>::new(&store).with_snapshots(&store, 2);
    let new = Repository::<AccountV2>::new(&store).with_snapshots(&store, 2);
    let id = id();
    fill(&old, id, 4, 2).await;
    let mut account = new.load(&id).await.unwrap();
    assert_eq!(account.balance, 400);
    account.record(added(1));
    new.save(&mut account).await.unwrap();
    assert_eq!(newest(&store, id).await.unwrap().shape, 2);
    assert_eq!(new.load(&id).await.unwrap().balance, 500);
    assert_eq!(
        old.load(&id).await.unwrap().balance,
        5,
        "both programs work side by side"
    );
}

fn lie(id: Uuid, version: StreamVersion, event_id: EventId) -> SnapshotRecord {
    let state = Account {
        balance: 1_000_000,
        ..Account::default()
    };
    SnapshotRecord {
        stream: Account::stream(&id).unwrap(),
        version,
        event_id,
        shape: 1,
        state: Payload::encode(&state).unwrap(),
    }
}

pub async fn a_snapshot_beside_the_log_is_not_believed<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    let repository = Repository::<Account>::new(&store).with_snapshots(&store, 2);
    let id = id();
    fill(&repository, id, 4, 1).await;
    store
        .save_snapshot(lie(id, version(4), EventId::new()))
        .await
        .unwrap();
    assert_eq!(repository.load(&id).await.unwrap().balance, 4);
    fill(&repository, id, 1, 1).await;
    assert_eq!(repository.load(&id).await.unwrap().balance, 5);
    let state: Account = newest(&store, id).await.unwrap().state.decode().unwrap();
    assert_eq!(state.balance, 5, "a true one was kept again");
}

pub async fn a_snapshot_ahead_of_the_log_is_not_believed<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    let repository = Repository::<Account>::new(&store).with_snapshots(&store, 2);
    let id = id();
    fill(&repository, id, 4, 1).await;
    store
        .save_snapshot(lie(id, version(50), EventId::new()))
        .await
        .unwrap();
    assert_eq!(repository.load(&id).await.unwrap().balance, 4);
    fill(&repository, id, 2, 1).await;
    assert_eq!(newest(&store, id).await.unwrap().version, version(5));
    let account = repository.load_at(&id, version(4)).await.unwrap();
    assert_eq!(account.balance, 4);
}

pub async fn a_damaged_snapshot_is_passed_over<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    let repository = Repository::<Account>::new(&store).with_snapshots(&store, 2);
    let id = id();
    fill(&repository, id, 4, 1).await;
    let mut damaged = newest(&store, id).await.unwrap();
    damaged.state = Payload::parse(r#"{"balance":"many"}"#).unwrap();
    store.save_snapshot(damaged).await.unwrap();
    assert_eq!(repository.load(&id).await.unwrap().balance, 4);
}

pub async fn an_outage_of_snapshots_costs_nothing_but_time<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    let faulty = Faulty::new(store.clone(), []);
    let repository = Repository::<Account>::new(&store).with_snapshots(&faulty, 2);
    let id = id();
    fill(&repository, id, 4, 1).await;
    faulty.fail_snapshots();
    fill(&repository, id, 4, 1).await;
    assert_eq!(repository.load(&id).await.unwrap().balance, 8);
    assert_eq!(stored(&store, id).await.len(), 8);
}

pub async fn erased_snapshots_never_come_back<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    let repository = Repository::<Account>::new(&store).with_snapshots(&store, 2);
    let id = id();
    fill(&repository, id, 4, 1).await;
    let old = newest(&store, id).await.unwrap();
    repository.erase(&id).await.unwrap();
    assert_eq!(newest(&store, id).await, None);
    // A slow writer keeps its snapshot only now.
    store.save_snapshot(old.clone()).await.unwrap();
    assert_eq!(newest(&store, id).await, None);

    repository.revive(&id).await.unwrap();
    store.append(raw(id, [added(7)])).await.unwrap();
    store.save_snapshot(old).await.unwrap();
    assert_eq!(repository.load(&id).await.unwrap().balance, 7);
}
