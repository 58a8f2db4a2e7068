//! The same append again: the whole set of ids decides, before anything else.

use backstory_event::{
    Append, AppendCondition, Checkpoint, EventFilter, EventId, EventStore, ExpectedVersion,
    Lifecycle, NewEvent, StoreErrorKind, StreamVersion,
};
use futures::future::join_all;

use crate::{
    Fixture,
    kit::{any, event, events, exact, head, log, put, refused, stream, within},
};

pub async fn the_same_append_gives_the_same_receipt<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    let other = within(fixture.elsewhere()).await;
    let (one, two) = (stream("todo", "1"), stream("todo", "2"));
    put(&store, &one, &["before"]).await;
    let append = Append::to(one.clone(), exact(1), events(&["a", "b"]))
        .and(two.clone(), ExpectedVersion::NoStream, events(&["c"]))
        .claim("title", "milk", two.clone());
    let receipt = within(store.append(append.clone())).await.unwrap();
    for handle in [&store, &other, &store] {
        assert_eq!(
            within(handle.append(append.clone())).await.unwrap(),
            receipt
        );
    }
    assert_eq!(receipt.version(&one), Some(StreamVersion::new(3)));
    assert_eq!(log(&store).await.len(), 4);
}

pub async fn the_ids_decide_before_everything_else<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    let (one, two) = (stream("todo", "1"), stream("todo", "2"));
    let append = Append::to(one.clone(), ExpectedVersion::NoStream, events(&["a"]))
        .and(two.clone(), exact(0), events(&["b", "c"]))
        .fail_if(AppendCondition::new(EventFilter::all(), Checkpoint::START))
        .claim("title", "milk", one.clone());
    let receipt = within(store.append(append.clone())).await.unwrap();
    // Meanwhile the versions moved on, the condition fails, somebody else holds the claim.
    put(&store, &one, &["later"]).await;
    let handover = any(&two, events(&["later"])).release("title", "milk", one.clone());
    within(store.append(handover)).await.unwrap();
    let taken = any(&two, events(&["later"])).claim("title", "milk", two.clone());
    within(store.append(taken)).await.unwrap();
    assert_eq!(within(store.append(append.clone())).await.unwrap(), receipt);
    // The stream is deleted, then erased.
    let delete = any(&one, [Lifecycle::Deleted.event()]);
    let deleted = within(store.append(delete.clone())).await.unwrap();
    assert_eq!(within(store.append(append.clone())).await.unwrap(), receipt);
    let erase = any(&one, [Lifecycle::Erased.event()]);
    let erased = within(store.append(erase.clone())).await.unwrap();
    assert_eq!(within(store.append(append)).await.unwrap(), receipt);
    // Lifecycle events too are idempotent.
    assert_eq!(within(store.append(delete)).await.unwrap(), deleted);
    assert_eq!(within(store.append(erase)).await.unwrap(), erased);
    assert_eq!(head(&store).await, erased.checkpoint);
    log(&store).await;
}

fn reused(ids: &[EventId], kind: &StoreErrorKind) {
    let StoreErrorKind::EventIdReused { event_id } = kind else {
        panic!("{kind:?} instead of EventIdReused");
    };
    assert!(
        ids.contains(event_id),
        "{event_id} is not an id that was reused"
    );
}

pub async fn anything_but_the_same_append_is_a_reuse<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    let (one, two) = (stream("todo", "1"), stream("todo", "2"));
    let first = events(&["a", "b", "c"]);
    let ids: Vec<_> = first.iter().map(|event| event.id).collect();
    within(store.append(any(&one, first.clone())))
        .await
        .unwrap();
    let pick = |order: &[usize]| -> Vec<NewEvent> {
        order.iter().map(|index| first[*index].clone()).collect()
    };
    let renamed = NewEvent {
        name: "other".to_owned(),
        ..first[0].clone()
    };
    let wrong = [
        (
            "one more at the end",
            any(&one, [pick(&[0, 1, 2]), events(&["d"])].concat()),
        ),
        (
            "one more in front",
            any(&one, [events(&["d"]), pick(&[0, 1, 2])].concat()),
        ),
        (
            "one replaced",
            any(&one, [pick(&[0]), events(&["d"]), pick(&[2])].concat()),
        ),
        ("another order", any(&one, pick(&[1, 0, 2]))),
        ("a gap", any(&one, pick(&[0, 2]))),
        ("another stream", any(&two, pick(&[0, 1, 2]))),
        (
            "split over two streams",
            any(&one, pick(&[0, 1])).and(two.clone(), ExpectedVersion::Any, pick(&[2])),
        ),
        (
            "another name",
            any(&one, [vec![renamed], pick(&[1, 2])].concat()),
        ),
        (
            "one old among new ones",
            any(&two, [events(&["x"]), pick(&[2]), events(&["y"])].concat()),
        ),
    ];
    for (what, append) in wrong {
        let kind = refused(&store, append).await;
        assert!(
            matches!(kind, StoreErrorKind::EventIdReused { .. }),
            "{what}: {kind:?}"
        );
        reused(&ids, &kind);
    }
    // A wrong version does not hide the reuse.
    let append = Append::to(
        one.clone(),
        exact(99),
        [pick(&[0]), events(&["d"])].concat(),
    );
    reused(&ids, &refused(&store, append).await);
}

pub async fn two_appends_with_something_between_are_not_one<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    let one = stream("todo", "1");
    let (first, second) = (event("a"), event("b"));
    within(store.append(any(&one, [first.clone()])))
        .await
        .unwrap();
    put(&store, &stream("todo", "2"), &["between"]).await;
    within(store.append(any(&one, [second.clone()])))
        .await
        .unwrap();
    let ids = [first.id, second.id];
    reused(&ids, &refused(&store, any(&one, [first, second])).await);
}

pub async fn the_same_append_many_times_at_once_is_stored_once<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    let other = within(fixture.elsewhere()).await;
    let (one, two) = (stream("todo", "1"), stream("todo", "2"));
    let append = Append::to(one.clone(), ExpectedVersion::NoStream, events(&["a", "b"])).and(
        two,
        ExpectedVersion::NoStream,
        events(&["c"]),
    );
    let attempts = (0..24).map(|attempt| {
        let handle = if attempt % 3 == 0 {
            other.clone()
        } else {
            store.clone()
        };
        let append = append.clone();
        async move { handle.append(append).await }
    });
    let receipts = within(join_all(attempts)).await;
    for receipt in &receipts {
        assert_eq!(receipt.as_ref().unwrap(), receipts[0].as_ref().unwrap());
    }
    assert_eq!(log(&store).await.len(), 3);
}

pub async fn a_refused_append_may_be_sent_again<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    let (one, two) = (stream("todo", "1"), stream("todo", "2"));
    let sent = events(&["a", "b"]);
    let append = |version| {
        Append::to(one.clone(), ExpectedVersion::Any, [sent[0].clone()]).and(
            two.clone(),
            exact(version),
            [sent[1].clone()],
        )
    };
    let kind = refused(&store, append(3)).await;
    assert!(matches!(kind, StoreErrorKind::Conflict(_)), "{kind:?}");
    // The same ids with the right version: they are not used up.
    let receipt = within(store.append(append(0))).await.unwrap();
    assert_eq!(receipt.version(&one), Some(StreamVersion::new(1)));
}
