//! Unique claims, written with the append.

use backstory_event::{
    Append, Conflict, EventStore, ExpectedVersion, Lifecycle, StoreErrorKind, StreamId,
};
use futures::future::join_all;

use crate::{
    Fixture,
    kit::{any, event, exact, log, refused, stream, within},
};

fn user(name: &str) -> StreamId {
    stream("user", name)
}

fn claims(owner: &StreamId, value: &str) -> Append {
    any(owner, [event("renamed")]).claim("user.email", value, owner.clone())
}

fn releases(owner: &StreamId, value: &str) -> Append {
    any(owner, [event("left")]).release("user.email", value, owner.clone())
}

fn held(value: &str, owner: &StreamId) -> StoreErrorKind {
    StoreErrorKind::Conflict(Conflict::Claim {
        scope: "user.email".to_owned(),
        value: value.to_owned(),
        owner: owner.clone(),
    })
}

pub async fn a_claim_is_held_by_one_stream<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    let other = within(fixture.elsewhere()).await;
    let (ann, ben) = (user("ann"), user("ben"));
    within(store.append(claims(&ann, "a@x.org"))).await.unwrap();
    assert_eq!(
        refused(&store, claims(&ben, "a@x.org")).await,
        held("a@x.org", &ann)
    );
    assert_eq!(
        refused(&other, claims(&ben, "a@x.org")).await,
        held("a@x.org", &ann)
    );
    // Another value, and the same value in another scope, are free.
    within(store.append(claims(&ben, "b@x.org"))).await.unwrap();
    let nick = any(&ben, [event("named")]).claim("user.nick", "a@x.org", ben.clone());
    within(store.append(nick)).await.unwrap();
}

pub async fn the_owner_may_claim_again<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    let (ann, ben) = (user("ann"), user("ben"));
    for _ in 0..3 {
        within(store.append(claims(&ann, "a@x.org"))).await.unwrap();
    }
    // Taken three times, given back once.
    within(store.append(releases(&ann, "a@x.org")))
        .await
        .unwrap();
    within(store.append(claims(&ben, "a@x.org"))).await.unwrap();
}

pub async fn a_released_value_is_free<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    let (ann, ben) = (user("ann"), user("ben"));
    within(store.append(claims(&ann, "a@x.org"))).await.unwrap();
    within(store.append(releases(&ann, "a@x.org")))
        .await
        .unwrap();
    within(store.append(claims(&ben, "a@x.org"))).await.unwrap();
    assert_eq!(
        refused(&store, claims(&ann, "a@x.org")).await,
        held("a@x.org", &ben)
    );
    // What nobody holds can be given back.
    within(store.append(releases(&ann, "nobody@x.org")))
        .await
        .unwrap();
}

pub async fn only_the_owner_releases<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    let (ann, ben) = (user("ann"), user("ben"));
    within(store.append(claims(&ann, "a@x.org"))).await.unwrap();
    assert_eq!(
        refused(&store, releases(&ben, "a@x.org")).await,
        held("a@x.org", &ann)
    );
    assert_eq!(
        refused(&store, claims(&ben, "a@x.org")).await,
        held("a@x.org", &ann)
    );
}

pub async fn a_claim_goes_with_its_append<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    let (ann, ben) = (user("ann"), user("ben"));
    within(store.append(claims(&ben, "b@x.org"))).await.unwrap();
    // Refused for its version: the claim was not taken.
    let stale = Append::to(ann.clone(), exact(5), [event("renamed")]).claim(
        "user.email",
        "a@x.org",
        ann.clone(),
    );
    refused(&store, stale).await;
    within(store.append(claims(&ben, "a@x.org"))).await.unwrap();
    // Refused for its second claim: the first was not taken, and the release did not happen.
    let two = any(&ann, [event("renamed")])
        .claim("user.email", "c@x.org", ann.clone())
        .claim("user.email", "b@x.org", ann.clone());
    assert_eq!(refused(&store, two).await, held("b@x.org", &ben));
    let mixed = any(&ben, [event("renamed")])
        .release("user.email", "b@x.org", ben.clone())
        .claim("user.email", "d@x.org", ben.clone())
        .check(ann.clone(), ExpectedVersion::StreamExists);
    refused(&store, mixed).await;
    within(store.append(claims(&ann, "c@x.org"))).await.unwrap();
    within(store.append(claims(&ann, "d@x.org"))).await.unwrap();
    assert_eq!(
        refused(&store, claims(&ann, "b@x.org")).await,
        held("b@x.org", &ben)
    );
}

pub async fn one_append_changes_from_one_value_to_another<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    let (ann, ben) = (user("ann"), user("ben"));
    within(store.append(claims(&ann, "old@x.org")))
        .await
        .unwrap();
    let change = any(&ann, [event("renamed")])
        .release("user.email", "old@x.org", ann.clone())
        .claim("user.email", "new@x.org", ann.clone());
    within(store.append(change)).await.unwrap();
    within(store.append(claims(&ben, "old@x.org")))
        .await
        .unwrap();
    assert_eq!(
        refused(&store, claims(&ben, "new@x.org")).await,
        held("new@x.org", &ann)
    );
}

pub async fn values_are_compared_byte_by_byte<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    let values = [
        "a@x.org", "A@x.org", "a@x.or", "a@x.org.", "\u{e9}", "e\u{301}", "{a,b}", "'", "\"",
    ];
    for (number, value) in values.into_iter().enumerate() {
        within(store.append(claims(&user(&number.to_string()), value)))
            .await
            .unwrap();
    }
    for (number, value) in values.into_iter().enumerate() {
        let kind = refused(&store, claims(&user("late"), value)).await;
        assert_eq!(kind, held(value, &user(&number.to_string())));
    }
}

pub async fn a_claim_may_be_for_a_stream_without_events<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    let (ann, ben) = (user("ann"), user("ben"));
    let append = any(&stream("register", "1"), [event("reserved")]).claim(
        "user.email",
        "a@x.org",
        ann.clone(),
    );
    within(store.append(append)).await.unwrap();
    assert_eq!(
        refused(&store, claims(&ben, "a@x.org")).await,
        held("a@x.org", &ann)
    );
    within(store.append(claims(&ann, "a@x.org"))).await.unwrap();
}

pub async fn deletion_keeps_claims_and_erasure_frees_them<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    let (ann, ben) = (user("ann"), user("ben"));
    for value in ["a@x.org", "ann@x.org"] {
        within(store.append(claims(&ann, value))).await.unwrap();
    }
    within(store.append(claims(&ben, "b@x.org"))).await.unwrap();
    within(store.append(any(&ann, [Lifecycle::Deleted.event()])))
        .await
        .unwrap();
    assert_eq!(
        refused(&store, claims(&ben, "a@x.org")).await,
        held("a@x.org", &ann)
    );
    within(store.append(any(&ann, [Lifecycle::Erased.event()])))
        .await
        .unwrap();
    for value in ["a@x.org", "ann@x.org"] {
        within(store.append(claims(&ben, value))).await.unwrap();
    }
    assert_eq!(
        refused(&store, claims(&user("eve"), "b@x.org")).await,
        held("b@x.org", &ben)
    );
    log(&store).await;
}

pub async fn of_many_claims_at_once_one_wins<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    let other = within(fixture.elsewhere()).await;
    let attempts = (0..16).map(|number| {
        let handle = if number % 2 == 0 {
            store.clone()
        } else {
            other.clone()
        };
        let append = claims(&user(&number.to_string()), "a@x.org");
        async move { handle.append(append).await }
    });
    let outcomes = within(join_all(attempts)).await;
    let stored = log(&store).await;
    assert_eq!(stored.len(), 1);
    for (number, outcome) in outcomes.into_iter().enumerate() {
        match outcome {
            Ok(_) => assert_eq!(stored[0].stream(), &user(&number.to_string())),
            Err(error) => assert_eq!(error.into_kind(), held("a@x.org", stored[0].stream())),
        }
    }
}
