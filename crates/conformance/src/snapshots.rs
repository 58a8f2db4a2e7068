//! What every store of snapshots must do.

use backstory_aggregate::{SnapshotRecord, SnapshotStore};
use backstory_event::{
    Append, EventId, EventStore, ExpectedVersion, Lifecycle, NewEvent, Payload, StreamId,
    StreamVersion,
};

use crate::Fixture;

/// One test per case of the suite of snapshot stores.
#[macro_export]
macro_rules! snapshots_suite {
    ($make:expr) => {
        $crate::cases!($make, $crate::snapshots, [
            what_is_kept_comes_back
            the_newest_counts_whatever_was_saved_last
            a_bound_finds_the_newest_below_it
            the_same_version_is_replaced
            the_newest_ten_are_kept
            streams_do_not_mix
            forgetting_forgets_one_stream
            an_erased_stream_has_no_snapshots
        ]);
    };
}

fn stream(key: &str) -> StreamId {
    StreamId::new("snapshot", key).unwrap()
}

fn record(key: &str, version: i64) -> SnapshotRecord {
    SnapshotRecord {
        stream: stream(key),
        version: StreamVersion::new(version),
        event_id: EventId::new(),
        shape: 3,
        state: Payload::parse(&format!(r#"{{"at":{version},"text":"ä{{,}}\""}}"#)).unwrap(),
    }
}

async fn versions<S: SnapshotStore>(store: &S, key: &str, bounds: &[i64]) -> Vec<Option<i64>> {
    let mut found = Vec::new();
    for bound in bounds {
        let bound = Some(StreamVersion::new(*bound));
        let snapshot = store.latest_snapshot(&stream(key), bound).await.unwrap();
        found.push(snapshot.map(|snapshot| snapshot.version.get()));
    }
    found
}

pub async fn what_is_kept_comes_back<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    assert_eq!(
        store.latest_snapshot(&stream("a"), None).await.unwrap(),
        None
    );
    let record = record("a", 7);
    store.save_snapshot(record.clone()).await.unwrap();
    for store in [store, fixture.elsewhere().await] {
        let found = store.latest_snapshot(&stream("a"), None).await.unwrap();
        assert_eq!(found, Some(record.clone()));
    }
}

pub async fn the_newest_counts_whatever_was_saved_last<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    for version in [10, 1, 20, 5] {
        store.save_snapshot(record("a", version)).await.unwrap();
    }
    let newest = store.latest_snapshot(&stream("a"), None).await.unwrap();
    assert_eq!(newest.unwrap().version, StreamVersion::new(20));
}

pub async fn a_bound_finds_the_newest_below_it<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    for version in [10, 5, 20, 3] {
        store.save_snapshot(record("a", version)).await.unwrap();
    }
    assert_eq!(
        versions(&store, "a", &[2, 3, 4, 19, 20, 99]).await,
        [None, Some(3), Some(3), Some(10), Some(20), Some(20)]
    );
}

pub async fn the_same_version_is_replaced<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    store.save_snapshot(record("a", 7)).await.unwrap();
    let mut newer = record("a", 7);
    newer.shape = 4;
    store.save_snapshot(newer.clone()).await.unwrap();
    let found = store.latest_snapshot(&stream("a"), None).await.unwrap();
    assert_eq!(found, Some(newer));
}

pub async fn the_newest_ten_are_kept<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    for version in 1..=30 {
        store.save_snapshot(record("a", version)).await.unwrap();
    }
    let wanted: Vec<_> = (21..=30).map(Some).collect();
    let bounds: Vec<_> = (21..=30).collect();
    assert_eq!(versions(&store, "a", &bounds).await, wanted);
}

pub async fn streams_do_not_mix<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    store.save_snapshot(record("a", 1)).await.unwrap();
    store.save_snapshot(record("b", 2)).await.unwrap();
    assert_eq!(versions(&store, "a", &[9]).await, [Some(1)]);
    assert_eq!(versions(&store, "b", &[9]).await, [Some(2)]);
    assert_eq!(versions(&store, "c", &[9]).await, [None]);
}

pub async fn forgetting_forgets_one_stream<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    for version in [1, 2] {
        store.save_snapshot(record("a", version)).await.unwrap();
    }
    store.save_snapshot(record("b", 2)).await.unwrap();
    store.delete_snapshots(&stream("a")).await.unwrap();
    store.delete_snapshots(&stream("unknown")).await.unwrap();
    assert_eq!(versions(&store, "a", &[1, 2]).await, [None, None]);
    assert_eq!(versions(&store, "b", &[2]).await, [Some(2)]);
    store.save_snapshot(record("a", 1)).await.unwrap();
    assert_eq!(versions(&store, "a", &[2]).await, [Some(1)]);
}

pub async fn an_erased_stream_has_no_snapshots<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    let append = async |key: &str, event: NewEvent| {
        let append = Append::to(stream(key), ExpectedVersion::Any, [event]);
        store.append(append).await.unwrap()
    };
    for key in ["a", "b"] {
        append(key, NewEvent::raw("snapshot.made", Payload::empty())).await;
        store.save_snapshot(record(key, 1)).await.unwrap();
    }
    append("a", Lifecycle::Erased.event()).await;
    assert_eq!(versions(&store, "a", &[9]).await, [None]);
    assert_eq!(versions(&store, "b", &[9]).await, [Some(1)]);
    store.save_snapshot(record("a", 1)).await.unwrap();
    assert_eq!(versions(&store, "a", &[9]).await, [None]);
}
