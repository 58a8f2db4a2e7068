//! Making lookups from the events.

use std::collections::BTreeSet;

use backstory_aggregate::{
    LookupConflict, LookupRepair, LookupStore, LookupStoreExt, RepositoryErrorKind,
};
use backstory_event::{
    Append, Conflict, EventStore, ExpectedVersion, NewEvent, Payload, StreamVersion,
};
use futures::future::{join, join_all};

use super::domain::{
    Emails, Groups, OwnGroups, UserEvent, all, by_events, found, joined, moved, quit, registered,
    save, stream, unseen, user, users,
};
use crate::{
    Fixture,
    kit::{self, Dice, event, within},
};

async fn append(store: &impl EventStore, append: Append) {
    within(store.append(append)).await.unwrap();
}

pub async fn a_rebuild_makes_a_lookup_of_a_history<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    let bare = backstory_aggregate::Repository::<super::User>::new(&store);
    for number in 1..=230 {
        let email = format!("{number:03}@x.org");
        let events = [registered("first@x.org"), joined("all"), moved(&email)];
        append(&store, unseen(number, events)).await;
    }
    append(&store, unseen(7, [UserEvent::Left])).await;
    append(
        &store,
        unseen(
            8,
            [quit("all"), joined("few"), joined("none"), quit("none")],
        ),
    )
    .await;
    bare.delete(&user(9)).await.unwrap();
    bare.erase(&user(10)).await.unwrap();
    bare.erase(&user(11)).await.unwrap();
    bare.revive(&user(11)).await.unwrap();
    append(&store, unseen(11, [joined("few")])).await;
    assert_eq!(found(&store).await, Default::default());

    let emails = within(store.lookup(Emails).rebuild()).await.unwrap();
    assert_eq!((emails.aggregates, emails.changed), (230, 227));
    assert_eq!(emails.conflicts, []);
    let groups = within(store.lookup(Groups).rebuild()).await.unwrap();
    assert_eq!((groups.aggregates, groups.changed), (230, 228));
    let expected = by_events(&store).await;
    assert_eq!(found(&store).await, expected);
    assert_eq!((expected.0.len(), expected.1.len()), (227, 228));

    // What is right is left alone.
    let again = within(store.lookup(Emails).rebuild()).await.unwrap();
    assert_eq!((again.aggregates, again.changed), (230, 0));
    // From now on it is kept right.
    let users = users(&within(fixture.elsewhere()).await);
    save(&users, 1, [moved("new@x.org"), quit("all")])
        .await
        .unwrap();
    assert!(save(&users, 7, [registered("002@x.org")]).await.is_err());
    assert_eq!(found(&store).await, by_events(&store).await);
}

pub async fn a_rebuild_gives_a_value_to_whom_it_belongs<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    let users = users(&store);
    for number in 1..=3 {
        let email = format!("{number}@x.org");
        save(&users, number, [registered(&email)]).await.unwrap();
    }
    // A ring of moves that no lookup saw: each value is in the way of the next.
    for number in 1..=3 {
        let email = format!("{}@x.org", number % 3 + 1);
        append(&store, unseen(number, [moved(&email)])).await;
    }
    let rebuilt = within(store.lookup(Emails).rebuild()).await.unwrap();
    assert_eq!(rebuilt.conflicts, []);
    assert_eq!(found(&store).await, by_events(&store).await);
    let expected = super::pairs([("2@x.org", 1), ("3@x.org", 2), ("1@x.org", 3)]);
    assert_eq!(found(&store).await.0, expected);
}

pub async fn a_rebuild_tells_of_values_that_two_have<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    for number in [3, 1, 2] {
        append(
            &store,
            unseen(number, [registered("a@x.org"), joined("choir")]),
        )
        .await;
    }
    append(&store, unseen(4, [registered("d@x.org")])).await;
    let conflict = |holder, other| LookupConflict {
        value: "a@x.org".to_owned(),
        holder: stream(holder),
        other: stream(other),
    };
    for _ in 0..2 {
        let rebuilt = within(store.lookup(Emails).rebuild()).await.unwrap();
        assert_eq!(rebuilt.conflicts, [conflict(1, 2), conflict(1, 3)]);
        assert_eq!(rebuilt.found_conflicts, 2);
        let expected = super::pairs([("a@x.org", 1), ("d@x.org", 4)]);
        assert_eq!(found(&store).await.0, expected);
    }
    // Groups may have many members.
    let rebuilt = within(store.lookup(Groups).rebuild()).await.unwrap();
    assert_eq!((rebuilt.changed, rebuilt.found_conflicts), (3, 0));
    // The loser gets on, and so does a value whose holder gives it up.
    let users = users(&store);
    save(&users, 2, [moved("b@x.org")]).await.unwrap();
    save(&users, 1, [UserEvent::Left]).await.unwrap();
    let rebuilt = within(store.lookup(Emails).rebuild()).await.unwrap();
    assert_eq!((rebuilt.changed, rebuilt.found_conflicts), (1, 0));
    assert_eq!(found(&store).await, by_events(&store).await);
}

pub async fn a_rebuild_takes_values_from_strangers<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    let users = users(&store);
    save(&users, 1, [registered("a@x.org")]).await.unwrap();
    // Reserved, of another category, and more than the events say.
    let other = kit::stream("account", "1");
    let append_ = kit::any(&other, [event("opened")])
        .claim("user.email", "reserved@x.org", stream(9))
        .claim("user.email", "other@x.org", other.clone())
        .claim("user.nick", "other@x.org", other.clone())
        .claim("user.email", "more@x.org", stream(1))
        .enter("user.email", "a@x.org", stream(1));
    append(&store, append_).await;
    let rebuilt = within(store.lookup(Emails).rebuild()).await.unwrap();
    assert_eq!((rebuilt.aggregates, rebuilt.changed), (1, 3));
    assert_eq!(found(&store).await.0, super::pairs([("a@x.org", 1)]));
    for free in ["reserved@x.org", "other@x.org", "more@x.org"] {
        save(&users, 2, [registered(free)]).await.unwrap();
    }
    // Another scope is not touched.
    let late = kit::any(&stream(2), [event("named")]);
    let late = late.claim("user.nick", "other@x.org", stream(2));
    kit::refused(&store, late).await;
}

pub async fn a_rebuild_follows_a_change_of_uniqueness<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    let users = users(&store);
    save(&users, 1, [joined("choir"), joined("band")])
        .await
        .unwrap();
    save(&users, 2, [joined("choir")]).await.unwrap();
    let rebuilt = within(store.lookup(OwnGroups).rebuild()).await.unwrap();
    assert_eq!((rebuilt.changed, rebuilt.found_conflicts), (2, 1));
    let expected = super::pairs([("choir", 1), ("band", 1)]);
    assert_eq!(all(&store, OwnGroups).await, expected);
    let own = backstory_aggregate::Repository::new(&store).with_lookup(OwnGroups);
    let error = save(&own, 3, [joined("band")]).await.unwrap_err();
    assert!(matches!(error.conflict(), Some(Conflict::Claim { .. })));
    // And back: the second member is found again.
    let rebuilt = within(store.lookup(Groups).rebuild()).await.unwrap();
    assert_eq!((rebuilt.changed, rebuilt.found_conflicts), (2, 0));
    assert_eq!(found(&store).await.1, by_events(&store).await.1);
}

pub async fn a_rebuild_stops_at_what_it_cannot_read<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    append(&store, unseen(1, [registered("a@x.org")])).await;
    append(&store, unseen(2, [registered("b\nc")])).await;
    let error = store.lookup(Emails).rebuild().await.unwrap_err();
    assert!(error.is_invalid());
    assert!(error.to_string().contains(stream(2).key()), "{error}");
    append(&store, unseen(2, [moved("b@x.org")])).await;

    let unknown = NewEvent::raw("user.audited", Payload::empty());
    append(&store, kit::any(&stream(3), [unknown])).await;
    let error = store.lookup(Emails).rebuild().await.unwrap_err();
    assert!(matches!(
        error.kind(),
        RepositoryErrorKind::UnknownEvent { stream: found, .. } if *found == stream(3)
    ));
}

pub async fn a_repair_that_comes_late_changes_nothing<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    let users = users(&store);
    save(&users, 1, [registered("a@x.org")]).await.unwrap();
    save(&users, 2, [registered("b@x.org")]).await.unwrap();
    let repair = |number, version, values: &[&str]| LookupRepair {
        scope: "user.email".to_owned(),
        unique: true,
        owner: stream(number),
        version: StreamVersion::new(version),
        values: values.iter().map(|value| (*value).to_owned()).collect(),
    };
    // Read before the move, written after it.
    let stale = repair(1, 1, &["a@x.org"]);
    save(&users, 1, [moved("c@x.org")]).await.unwrap();
    let early = repair(3, 1, &[]);
    let taken = repair(2, 1, &["b@x.org", "c@x.org"]);
    let right = repair(2, 1, &["a@x.org"]);
    let repairs = [stale, early, taken, right];
    let answers = within(store.repair_lookup(&repairs)).await.unwrap();
    let late = |number, expected, actual| {
        Err(Conflict::Version {
            stream: stream(number),
            expected: ExpectedVersion::Exact(StreamVersion::new(expected)),
            actual: StreamVersion::new(actual),
        })
    };
    let held = Err(super::held("c@x.org", 1));
    assert_eq!(answers, [late(1, 1, 2), late(3, 1, 0), held, Ok(())]);
    let expected = super::pairs([("c@x.org", 1), ("a@x.org", 2)]);
    assert_eq!(found(&store).await.0, expected);
    assert_eq!(within(store.repair_lookup(&[])).await.unwrap(), []);
}

pub async fn a_rebuild_under_load_equals_the_events<F: Fixture>(fixture: &F) {
    const USERS: u64 = 40;
    let store = fixture.store();
    let other = within(fixture.elsewhere()).await;
    // Without lookups; every address is of one user.
    for number in 1..=USERS {
        let email = format!("{number}@x.org");
        let events = [registered("first@x.org"), joined("all"), moved(&email)];
        append(&store, unseen(number, events)).await;
    }
    // Each writer has users of its own, and all want the same few addresses.
    let writers = (0..4_u64).map(|writer| {
        let users = users(if writer % 2 == 0 { &store } else { &other });
        async move {
            let mut dice = Dice::new(writer);
            let mut taken = 0;
            for _ in 0..60 {
                let below = |dice: &mut Dice, bound| u64::try_from(dice.below(bound)).unwrap();
                let number = 1 + writer + 4 * below(&mut dice, 10);
                let event = match dice.below(5) {
                    0 => UserEvent::Left,
                    1 => joined(["choir", "band", "all"][dice.below(3)]),
                    2 => quit(["choir", "band", "all"][dice.below(3)]),
                    _ => moved(&format!("wanted {}", dice.below(12))),
                };
                match save(&users, number, [event]).await {
                    Ok(_) => {}
                    Err(error) if matches!(error.conflict(), Some(Conflict::Claim { .. })) => {
                        taken += 1;
                    }
                    Err(error) => panic!("{error}"),
                }
            }
            taken
        }
    });
    let rebuilds = async {
        let mut changed = 0;
        for _ in 0..4 {
            let emails = store.lookup(Emails).rebuild().await.unwrap();
            let groups = other.lookup(Groups).rebuild().await.unwrap();
            assert_eq!(emails.conflicts, []);
            changed += emails.changed + groups.changed;
        }
        changed
    };
    let (taken, changed) = within(join(join_all(writers), rebuilds)).await;
    assert!(taken.iter().sum::<u32>() > 0, "writers met");
    assert!(changed > 0, "there was something to do");
    assert_eq!(found(&store).await, by_events(&store).await);
    let owners: BTreeSet<_> = found(&store)
        .await
        .0
        .into_iter()
        .map(|(_, id)| id)
        .collect();
    assert!(!owners.is_empty());
}
