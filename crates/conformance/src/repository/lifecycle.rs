//! Delete, restore, erase, revive, tag, list.

use backstory_aggregate::{Repository, RepositoryErrorKind};
use backstory_event::{
    Aggregate, EventQuery, EventStore, EventStoreExt, Metadata, StoreErrorKind, StreamCursor,
    StreamQuery, StreamState,
};
use uuid::Uuid;

use super::{
    account,
    domain::{Account, added, raw, tag},
    id, patient, stored, version,
};
use crate::Fixture;

pub async fn a_deleted_one_refuses_everything<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    let id = account(&store, &[1, 2]).await;
    let repository = Repository::<Account>::new(&store);
    let mut stale = repository.load(&id).await.unwrap();
    let receipt = repository.delete(&id).await.unwrap();
    assert_eq!(receipt.version(stale.stream()), Some(version(3)));

    assert!(repository.load(&id).await.unwrap_err().is_deleted());
    assert!(repository.find(&id).await.unwrap_err().is_deleted());
    stale.record(added(1));
    assert!(repository.save(&mut stale).await.is_err());
    let any = store.append(raw(id, [added(1)])).await.unwrap_err();
    assert!(matches!(any.kind(), StoreErrorKind::StreamDeleted { .. }));
    assert!(
        repository
            .tag(&id, [tag("a")])
            .await
            .unwrap_err()
            .is_deleted()
    );

    let deleted = repository.load_deleted(&id).await.unwrap();
    assert!(deleted.is_deleted());
    assert_eq!(deleted.balance, 3);
    assert!(
        repository
            .load_at(&id, version(3))
            .await
            .unwrap_err()
            .is_deleted()
    );
    assert_eq!(
        repository.load_at(&id, version(2)).await.unwrap().balance,
        3
    );

    let again = repository.delete(&id).await.unwrap();
    assert_eq!(
        (again.positions, again.position()),
        (None, receipt.position())
    );
    assert_eq!(stored(&store, id).await.len(), 3);
}

pub async fn a_restored_one_works_on<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    let id = account(&store, &[1, 2]).await;
    let repository = Repository::<Account>::new(&store);
    repository.delete(&id).await.unwrap();
    repository.restore(&id).await.unwrap();
    repository.restore(&id).await.unwrap(); // changes nothing
    let mut account = repository.load(&id).await.unwrap();
    assert_eq!((account.balance, account.version()), (3, version(4)));
    assert!(!account.is_deleted());
    account.record(added(4));
    repository.save(&mut account).await.unwrap();
    repository.delete(&id).await.unwrap();
    assert!(repository.load(&id).await.unwrap_err().is_deleted());
    repository.restore(&id).await.unwrap();
    assert_eq!(repository.load(&id).await.unwrap().balance, 7);
}

pub async fn an_erased_one_is_gone_for_good<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    let (id, other) = (account(&store, &[1, 2]).await, account(&store, &[5]).await);
    let repository = Repository::<Account>::new(&store);
    let mut stale = repository.load(&id).await.unwrap();
    repository.erase(&id).await.unwrap();
    assert_eq!(repository.erase(&id).await.unwrap().positions, None);

    assert!(repository.load(&id).await.unwrap_err().is_erased());
    assert!(repository.load_deleted(&id).await.unwrap_err().is_erased());
    for at in 1..=3 {
        let error = repository.load_at(&id, version(at)).await.unwrap_err();
        assert!(error.is_erased(), "version {at}");
    }
    stale.record(added(1));
    assert!(repository.save(&mut stale).await.is_err());
    assert!(repository.restore(&id).await.unwrap_err().is_erased());
    assert!(repository.delete(&id).await.unwrap_err().is_erased());

    let stream = EventQuery::stream(Account::stream(&id).unwrap());
    let skeleton = store.collect(stream).await.unwrap();
    assert_eq!(skeleton.len(), 3);
    for event in &skeleton[..2] {
        assert!(event.is_erased());
        assert_eq!(
            (event.name(), event.payload().as_str()),
            ("account.added", "{}")
        );
    }
    assert_eq!(repository.load(&other).await.unwrap().balance, 5);
}

pub async fn a_deleted_one_can_be_erased<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    let id = account(&store, &[1, 2]).await;
    let repository = Repository::<Account>::new(&store);
    repository.delete(&id).await.unwrap();
    repository.erase(&id).await.unwrap();
    assert!(repository.load_deleted(&id).await.unwrap_err().is_erased());
}

pub async fn a_revived_one_begins_anew<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    let id = account(&store, &[1, 2]).await;
    let repository = Repository::<Account>::new(&store);
    repository.revive(&id).await.unwrap(); // it lives: nothing to do
    repository.delete(&id).await.unwrap();
    assert!(repository.revive(&id).await.unwrap_err().is_deleted());
    repository.erase(&id).await.unwrap();
    repository.revive(&id).await.unwrap();

    let mut account = repository.load(&id).await.unwrap();
    assert_eq!(account.state(), &Account::default());
    assert_eq!(account.version(), version(5));
    account.record(added(9));
    repository.save(&mut account).await.unwrap();
    assert_eq!(repository.load(&id).await.unwrap().balance, 9);
    assert!(
        repository
            .load_at(&id, version(2))
            .await
            .unwrap_err()
            .is_erased()
    );
}

pub async fn what_is_not_there_cannot_be_deleted<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    let repository = Repository::<Account>::new(&store);
    let id = id();
    for outcome in [
        repository.delete(&id).await,
        repository.restore(&id).await,
        repository.erase(&id).await,
        repository.revive(&id).await,
        repository.tag(&id, [tag("a")]).await,
        repository.untag(&id, [tag("a")]).await,
    ] {
        assert!(outcome.unwrap_err().is_not_found());
    }
    assert!(stored(&store, id).await.is_empty());
}

pub async fn concurrent_deletions_agree<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    let id = account(&store, &[1]).await;
    let repository = Repository::<Account>::new(&store).with_options(patient());
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..8 {
        let repository = repository.clone();
        tasks.spawn(async move { repository.delete(&id).await.unwrap().positions.is_some() });
    }
    let deleted = tasks.join_all().await;
    assert_eq!(deleted.into_iter().filter(|deleted| *deleted).count(), 1);
    assert_eq!(
        stored(&store, id).await,
        ["account.added", "backstory.deleted"]
    );
}

pub async fn lifecycle_events_carry_metadata<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    let id = account(&store, &[1]).await;
    let repository =
        Repository::<Account>::new(&store).with_metadata(Metadata::new().with_actor("ann"));
    repository.delete(&id).await.unwrap();
    let event = store.collect(EventQuery::stream(Account::stream(&id).unwrap()));
    let events = event.await.unwrap();
    assert_eq!(events[1].metadata().actor.as_deref(), Some("ann"));
}

pub async fn tags_find_aggregates<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    let repository = Repository::<Account>::new(&store);
    let (one, two) = (account(&store, &[1]).await, account(&store, &[2]).await);
    account(&store, &[3]).await;
    let odd = tag(r#"a{,}" b"#);
    repository
        .tag(&one, [tag("vip"), odd.clone()])
        .await
        .unwrap();
    repository.tag(&two, [tag("vip")]).await.unwrap();
    let again = repository.tag(&one, [tag("vip")]).await.unwrap();
    assert_eq!(again.positions, None);

    let find = async |tags: &[&str]| {
        let query = tags
            .iter()
            .fold(StreamQuery::new(), |query, text| query.tag(tag(text)));
        let page = repository.list(query).await.unwrap();
        let mut ids: Vec<Uuid> = page.items.into_iter().map(|(id, _)| id).collect();
        ids.sort();
        ids
    };
    assert_eq!(find(&["vip"]).await, [one, two]);
    assert_eq!(find(&["vip", odd.as_str()]).await, [one]);
    assert!(find(&["other"]).await.is_empty());
    assert_eq!(find(&[]).await.len(), 3);

    repository
        .untag(&one, [tag("vip"), tag("other")])
        .await
        .unwrap();
    assert_eq!(find(&["vip"]).await, [two]);
    let info = repository.info(&one).await.unwrap().unwrap();
    assert_eq!((info.tags, info.version), (vec![odd], version(3)));
    assert_eq!(repository.load(&one).await.unwrap().balance, 1);
}

pub async fn tags_go_with_events<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    let repository = Repository::<Account>::new(&store);
    let mut account = repository.load(&id()).await.unwrap();
    account.record(added(1));
    account.tag([tag("new"), tag("old")]);
    account.untag([tag("old")]);
    repository.save(&mut account).await.unwrap();
    assert_eq!(account.version(), version(3));
    let info = repository.info(account.id()).await.unwrap().unwrap();
    assert_eq!((info.tags, info.version), (vec![tag("new")], version(3)));
    account.record(added(1));
    repository.save(&mut account).await.unwrap();
}

pub async fn a_list_is_stable_while_others_write<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    let repository = Repository::<Account>::new(&store);
    let mut there = Vec::new();
    for _ in 0..25 {
        there.push(account(&store, &[1]).await);
    }
    let (mut listed, mut cursor) = (Vec::new(), None::<String>);
    loop {
        let mut query = StreamQuery::new().limit(4);
        if let Some(text) = &cursor {
            query = query.after(text.parse::<StreamCursor>().unwrap());
        }
        let page = repository.list(query).await.unwrap();
        assert!(page.items.len() <= 4);
        listed.extend(page.items.into_iter().map(|(id, _)| id));
        // Writes before and behind the cursor, to old and to new streams.
        store.append(raw(there[0], [added(1)])).await.unwrap();
        store.append(raw(there[24], [added(1)])).await.unwrap();
        store
            .append(raw(Uuid::from_u128(listed.len() as u128), [added(1)]))
            .await
            .unwrap();
        cursor = page.next.map(|cursor| cursor.to_string());
        if cursor.is_none() {
            break;
        }
    }
    let mut sorted = listed.clone();
    sorted.sort_by_key(Uuid::to_string);
    sorted.dedup();
    assert_eq!(listed, sorted, "in order, nothing twice");
    listed.retain(|id| there.contains(id));
    there.sort_by_key(Uuid::to_string);
    assert_eq!(listed, there);
}

pub async fn a_list_shows_the_wanted_states<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    let repository = Repository::<Account>::new(&store);
    let live = account(&store, &[1]).await;
    let deleted = account(&store, &[1]).await;
    let erased = account(&store, &[1]).await;
    repository.delete(&deleted).await.unwrap();
    repository.erase(&erased).await.unwrap();
    let list = async |query: StreamQuery| {
        let page = repository.list(query).await.unwrap();
        page.items.into_iter().map(|(id, _)| id).collect::<Vec<_>>()
    };
    assert_eq!(list(StreamQuery::new()).await, [live]);
    for (state, id) in [
        (StreamState::Live, live),
        (StreamState::Deleted, deleted),
        (StreamState::Erased, erased),
    ] {
        assert_eq!(list(StreamQuery::new().state(state)).await, [id]);
    }
    assert_eq!(list(StreamQuery::new().key(live)).await, [live]);
    assert!(list(StreamQuery::new().key(deleted)).await.is_empty());

    // A key that is no id of the type is an error, not a gap in the list.
    let stream = backstory_event::StreamId::new(Account::CATEGORY, "no uuid").unwrap();
    let mut append = raw(id(), [added(1)]);
    append.parts[0].stream = stream;
    store.append(append).await.unwrap();
    let error = repository.list(StreamQuery::new()).await.unwrap_err();
    assert!(matches!(error.kind(), RepositoryErrorKind::Store(error) if error.is_invalid()));
}
