//! What every store must let a lookup do: values to aggregates and back, unique or not.

pub mod domain;
mod random;
mod rebuild;

use std::{collections::BTreeSet, sync::atomic::Ordering};

use backstory_aggregate::{LookupCursor, LookupList, LookupStoreExt, Repository};
use backstory_command::{CommandBus, Taken};
use backstory_event::{Append, Conflict, EventStore, ExpectedVersion};
use futures::future::join_all;

use crate::{
    Fixture,
    kit::{log, refused, within},
    repository::{
        faulty::{Fault, Faulty},
        patient,
    },
};
use domain::{
    Emails, Groups, LiveEmails, Register, User, UserEvent, all, found, joined, moved, quit,
    registered, save, stream, unseen, user, users,
};
pub use random::*;
pub use rebuild::*;

/// One test per case of the suite of lookups.
#[macro_export]
macro_rules! lookups_suite {
    ($make:expr) => {
        $crate::cases!($make, $crate::lookups, [
            a_value_finds_its_aggregate_and_back
            a_value_moves_with_its_event
            a_value_that_was_given_up_can_be_taken
            of_100_registrations_of_one_address_one_wins
            a_command_tells_that_a_value_is_taken
            two_streams_swap_values_in_one_append
            the_same_append_sent_again_leaves_lookups_alone
            a_lost_answer_leaves_lookups_right
            a_refused_save_leaves_lookups_alone
            only_the_end_of_a_save_counts
            one_aggregate_has_many_values
            many_aggregates_have_one_value
            lists_come_in_byte_order_page_by_page
            deletion_keeps_values_and_erasure_takes_them
            a_deletion_releases_values_if_the_lookup_says_so
            odd_values_are_refused_and_found_nowhere
            random_changes_equal_the_events
            a_rebuild_makes_a_lookup_of_a_history
            a_rebuild_gives_a_value_to_whom_it_belongs
            a_rebuild_tells_of_values_that_two_have
            a_rebuild_takes_values_from_strangers
            a_rebuild_follows_a_change_of_uniqueness
            a_rebuild_stops_at_what_it_cannot_read
            a_repair_that_comes_late_changes_nothing
            a_rebuild_under_load_equals_the_events
        ]);
    };
}

fn held(value: &str, number: u64) -> Conflict {
    Conflict::Claim {
        scope: "user.email".to_owned(),
        value: value.to_owned(),
        owner: stream(number),
    }
}

fn pairs<const N: usize>(pairs: [(&str, u64); N]) -> BTreeSet<(String, uuid::Uuid)> {
    pairs
        .map(|(value, number)| (value.to_owned(), user(number)))
        .into()
}

pub async fn a_value_finds_its_aggregate_and_back<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    let users = users(&store);
    save(&users, 1, [registered("ann@x.org")]).await.unwrap();
    save(&users, 2, [registered("ben@x.org"), UserEvent::Renamed])
        .await
        .unwrap();
    for store in [store, within(fixture.elsewhere()).await] {
        let emails = store.lookup(Emails);
        assert_eq!(emails.find("ann@x.org").await.unwrap(), Some(user(1)));
        assert_eq!(emails.find("ben@x.org").await.unwrap(), Some(user(2)));
        for nobody in ["", "ann", "ann@x.org ", "Ann@x.org", "eve@x.org"] {
            assert_eq!(emails.find(nobody).await.unwrap(), None, "{nobody:?}");
        }
        let value = emails.value_of(&user(1)).await.unwrap();
        assert_eq!(value.as_deref(), Some("ann@x.org"));
        assert_eq!(emails.value_of(&user(9)).await.unwrap(), None);
        assert_eq!(emails.values_of(&user(2)).await.unwrap(), ["ben@x.org"]);
        assert_eq!(store.lookup(Groups).find("ann@x.org").await.unwrap(), None);
    }
}

pub async fn a_value_moves_with_its_event<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    let users = users(&store);
    save(&users, 1, [registered("old@x.org")]).await.unwrap();
    save(&users, 1, [moved("new@x.org")]).await.unwrap();
    assert_eq!(found(&store).await.0, pairs([("new@x.org", 1)]));
    save(&users, 2, [registered("old@x.org")]).await.unwrap();
    let error = save(&users, 3, [registered("new@x.org")]).await;
    assert_eq!(error.unwrap_err().conflict(), Some(&held("new@x.org", 1)));
    // To where it is already.
    save(&users, 1, [moved("new@x.org")]).await.unwrap();
    let expected = pairs([("new@x.org", 1), ("old@x.org", 2)]);
    assert_eq!(found(&store).await.0, expected);
}

pub async fn a_value_that_was_given_up_can_be_taken<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    let users = users(&store);
    save(&users, 1, [registered("a@x.org"), joined("choir")])
        .await
        .unwrap();
    save(&users, 1, [UserEvent::Left]).await.unwrap();
    assert_eq!(found(&store).await, Default::default());
    save(&users, 2, [registered("a@x.org")]).await.unwrap();
    let error = save(&users, 1, [registered("a@x.org")]).await;
    assert_eq!(error.unwrap_err().conflict(), Some(&held("a@x.org", 2)));
    save(&users, 2, [UserEvent::Left]).await.unwrap();
    save(&users, 1, [registered("a@x.org")]).await.unwrap();
    assert_eq!(found(&store).await.0, pairs([("a@x.org", 1)]));
}

pub async fn of_100_registrations_of_one_address_one_wins<F: Fixture>(fixture: &F) {
    let handles = [fixture.store(), within(fixture.elsewhere()).await];
    let buses = handles
        .clone()
        .map(|store| CommandBus::new(&store).with_lookup(Emails));
    let registrations = (0..100).map(|number| {
        let bus = &buses[usize::try_from(number).unwrap() % 2];
        bus.dispatch(Register::new(user(number + 1), "a@x.org"))
    });
    let outcomes = within(join_all(registrations)).await;
    let [store, _] = handles;
    let stored = log(&store).await;
    assert_eq!(stored.len(), 1);
    let winner = stored[0].stream();
    assert_eq!(outcomes.iter().filter(|outcome| outcome.is_ok()).count(), 1);
    for error in outcomes.into_iter().filter_map(Result::err) {
        let taken = error.rejection::<Taken>().unwrap();
        assert_eq!((taken.value.as_str(), &taken.owner), ("a@x.org", winner));
    }
    let owner = store.lookup(Emails).find("a@x.org").await.unwrap().unwrap();
    assert_eq!(owner.to_string(), winner.key());
}

pub async fn a_command_tells_that_a_value_is_taken<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    let bus = CommandBus::new(&store)
        .with_options(patient())
        .with_lookup(Emails);
    bus.dispatch(Register::new(user(1), "a@x.org"))
        .await
        .unwrap();
    let command = Register::new(user(2), "a@x.org");
    let error = bus.dispatch(command.clone()).await.unwrap_err();
    assert_eq!(error.code(), Some("user.email.taken"));
    assert_eq!(error.to_string(), "\"a@x.org\" is taken already");
    assert!(error.is_rejected() && !error.is_conflict() && !error.is_transient());
    let taken = error.rejection::<Taken>().unwrap();
    assert_eq!(
        (taken.scope.as_str(), taken.value.as_str(), &taken.owner),
        ("user.email", "a@x.org", &stream(1))
    );
    assert_eq!(command.decisions.load(Ordering::SeqCst), 1);

    // A race for the aggregate is decided again, and then the value is looked at.
    let faults = ["b@x.org", "a@x.org"].map(|_| Fault::Overtake(unseen(3, [UserEvent::Renamed])));
    let faulty = CommandBus::new(&Faulty::new(store.clone(), faults))
        .with_options(patient())
        .with_lookup(Emails);
    let command = Register::new(user(3), "a@x.org");
    let error = faulty.dispatch(command.clone()).await.unwrap_err();
    assert_eq!(error.code(), Some("user.email.taken"));
    assert_eq!(command.decisions.load(Ordering::SeqCst), 3);
    faulty
        .dispatch(Register::new(user(3), "b@x.org"))
        .await
        .unwrap();
    let expected = pairs([("a@x.org", 1), ("b@x.org", 3)]);
    assert_eq!(found(&store).await.0, expected);
}

pub async fn two_streams_swap_values_in_one_append<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    let users = users(&store);
    save(&users, 1, [registered("a@x.org")]).await.unwrap();
    save(&users, 2, [registered("b@x.org")]).await.unwrap();
    let scope = "user.email";
    let both = || {
        unseen(1, [moved("b@x.org")]).and(
            stream(2),
            ExpectedVersion::Any,
            unseen(2, [moved("a@x.org")]).parts.remove(0).events,
        )
    };
    // One after another: the first would take what the second still has.
    let blunt = both()
        .clear(scope, stream(1))
        .claim(scope, "b@x.org", stream(1))
        .clear(scope, stream(2))
        .claim(scope, "a@x.org", stream(2));
    assert_eq!(refused(&store, blunt).await, held("b@x.org", 2).into());
    let swap = both()
        .clear(scope, stream(1))
        .clear(scope, stream(2))
        .claim(scope, "b@x.org", stream(1))
        .claim(scope, "a@x.org", stream(2));
    within(store.append(swap)).await.unwrap();
    let expected = pairs([("b@x.org", 1), ("a@x.org", 2)]);
    assert_eq!(found(&store).await.0, expected);
}

pub async fn the_same_append_sent_again_leaves_lookups_alone<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    let users = users(&store);
    let first = unseen(1, [registered("a@x.org")])
        .clear("user.email", stream(1))
        .claim("user.email", "a@x.org", stream(1))
        .enter("user.group", "choir", stream(1));
    let receipt = within(store.append(first.clone())).await.unwrap();
    save(&users, 1, [moved("b@x.org"), quit("choir")])
        .await
        .unwrap();
    save(&users, 2, [registered("a@x.org")]).await.unwrap();
    let before = found(&store).await;
    assert_eq!(within(store.append(first)).await.unwrap(), receipt);
    assert_eq!(found(&store).await, before);
    assert_eq!(before.0, pairs([("b@x.org", 1), ("a@x.org", 2)]));
    assert_eq!(before.1, BTreeSet::new());
}

pub async fn a_lost_answer_leaves_lookups_right<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    let faults = [Fault::Forget, Fault::Forget];
    let users = users(&Faulty::new(store.clone(), faults));
    save(&users, 1, [registered("a@x.org"), joined("choir")])
        .await
        .unwrap();
    save(&users, 1, [moved("b@x.org")]).await.unwrap();
    let expected = (pairs([("b@x.org", 1)]), pairs([("choir", 1)]));
    assert_eq!(found(&store).await, expected);
}

pub async fn a_refused_save_leaves_lookups_alone<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    let users = users(&store);
    save(&users, 1, [registered("a@x.org"), joined("choir")])
        .await
        .unwrap();
    save(&users, 2, [registered("b@x.org"), joined("band")])
        .await
        .unwrap();
    let before = found(&store).await;
    // The address is taken: the group is not left either.
    let error = save(&users, 2, [quit("band"), joined("choir"), moved("a@x.org")]).await;
    assert_eq!(error.unwrap_err().conflict(), Some(&held("a@x.org", 1)));
    assert_eq!(found(&store).await, before);
    // Somebody else was first.
    let mut loaded = users.load(&user(2)).await.unwrap();
    save(&users, 2, [UserEvent::Renamed]).await.unwrap();
    loaded.record(moved("c@x.org"));
    loaded.record(UserEvent::Left);
    let error = users.save(&mut loaded).await.unwrap_err();
    assert!(matches!(error.conflict(), Some(Conflict::Version { .. })));
    assert_eq!(found(&store).await, before);
}

pub async fn only_the_end_of_a_save_counts<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    let users = users(&store);
    save(&users, 1, [registered("a@x.org")]).await.unwrap();
    // In between it would be taken.
    let events = [
        registered("a@x.org"),
        joined("choir"),
        joined("band"),
        moved("b@x.org"),
        quit("choir"),
    ];
    save(&users, 2, events).await.unwrap();
    let expected = (
        pairs([("a@x.org", 1), ("b@x.org", 2)]),
        pairs([("band", 2)]),
    );
    assert_eq!(found(&store).await, expected);
    // What hooks add counts, too.
    let users = users.before_save(|_, save| {
        save.record(joined("all"));
        Ok(())
    });
    save(&users, 2, [UserEvent::Left]).await.unwrap();
    let expected = (pairs([("a@x.org", 1)]), pairs([("all", 2)]));
    assert_eq!(found(&store).await, expected);
}

pub async fn one_aggregate_has_many_values<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    let users = users(&store);
    let groups: Vec<_> = (0..1_200)
        .map(|number| format!("group {number:04}"))
        .collect();
    for some in groups.chunks(400) {
        let events = some.iter().map(|group| joined(group));
        save(&users, 1, events).await.unwrap();
    }
    let reader = store.lookup(Groups);
    assert_eq!(reader.values_of(&user(1)).await.unwrap(), groups);
    assert_eq!(
        reader.value_of(&user(1)).await.unwrap().as_deref(),
        Some("group 0000")
    );
    save(
        &users,
        1,
        [quit("group 0000"), quit("nowhere"), joined("group 0001")],
    )
    .await
    .unwrap();
    assert_eq!(reader.values_of(&user(1)).await.unwrap(), groups[1..]);
    assert_eq!(reader.find("group 0000").await.unwrap(), None);
    save(&users, 1, [UserEvent::Left, joined("last")])
        .await
        .unwrap();
    assert_eq!(reader.values_of(&user(1)).await.unwrap(), ["last"]);
}

pub async fn many_aggregates_have_one_value<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    let users = users(&store);
    for number in [5, 3, 1, 4, 2] {
        let name = format!("only {number}");
        save(&users, number, [joined("choir"), joined(&name)])
            .await
            .unwrap();
    }
    save(&users, 4, [quit("choir")]).await.unwrap();
    let groups = store.lookup(Groups);
    assert_eq!(groups.find("choir").await.unwrap(), Some(user(1)));
    let mut list = LookupList::new().limit(2);
    let mut members = Vec::new();
    loop {
        let page = groups.find_all("choir", list.clone()).await.unwrap();
        assert!(page.items.len() <= 2);
        members.extend(page.items.into_iter().map(|(_, id)| id));
        let Some(next) = page.next else { break };
        list = list.after(next);
    }
    assert_eq!(members, [1, 2, 3, 5].map(user));
}

pub async fn lists_come_in_byte_order_page_by_page<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    let users = users(&store);
    let longest = char::MAX.to_string().repeat(63) + "xyz";
    let mut values = vec![
        "a",
        "aa",
        "a%",
        "a_",
        "aB",
        "ab",
        "b",
        "A",
        "'",
        "\"",
        "{a,b}",
        "\\",
        "\u{e9}",
        "e\u{301}",
        "\u{d7ff}",
        "\u{e000}",
        "\u{10ffff}",
        "a\u{10ffff}",
        "zz",
        &longest,
    ];
    for (number, value) in (1..).zip(&values) {
        save(&users, number, [registered(value), joined(value)])
            .await
            .unwrap();
    }
    let numbered: Vec<_> = (1..).zip(values.clone()).collect();
    values.sort_unstable();
    let emails = store.lookup(Emails);
    for (number, value) in numbered {
        assert_eq!(emails.find(value).await.unwrap(), Some(user(number)));
        let groups = store.lookup(Groups);
        let page = groups.find_all(value, LookupList::new()).await.unwrap();
        assert_eq!(page.items, [(value.to_owned(), user(number))]);
    }
    for prefix in ["", "a", "a%", "\u{10ffff}", "e", "nothing"] {
        let expected: Vec<_> = values
            .iter()
            .filter(|value| value.starts_with(prefix))
            .collect();
        for limit in [1, 3, 1_000] {
            let mut list = LookupList::new().prefix(prefix).limit(limit);
            let mut found = Vec::new();
            loop {
                let page = emails.list(list.clone()).await.unwrap();
                assert!(page.items.len() <= limit);
                found.extend(page.items.into_iter().map(|(value, _)| value));
                let Some(next) = page.next else { break };
                // As a browser gives it back.
                list = list.after(next.to_string().parse::<LookupCursor>().unwrap());
            }
            assert!(
                found.iter().eq(expected.iter().copied()),
                "{prefix:?}: {found:?}"
            );
        }
    }
    assert_eq!(all(&store, Groups).await.len(), values.len());
}

pub async fn deletion_keeps_values_and_erasure_takes_them<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    let users = users(&store);
    for number in [1, 2] {
        let email = format!("{number}@x.org");
        save(&users, number, [registered(&email), joined("choir")])
            .await
            .unwrap();
    }
    let before = found(&store).await;
    users.delete(&user(1)).await.unwrap();
    assert_eq!(found(&store).await, before);
    let error = save(&users, 3, [registered("1@x.org")]).await;
    assert_eq!(error.unwrap_err().conflict(), Some(&held("1@x.org", 1)));
    users.erase(&user(1)).await.unwrap();
    let left = (pairs([("2@x.org", 2)]), pairs([("choir", 2)]));
    assert_eq!(found(&store).await, left);
    save(&users, 3, [registered("1@x.org")]).await.unwrap();
    // Who comes back begins anew.
    users.revive(&user(1)).await.unwrap();
    save(&users, 1, [registered("3@x.org")]).await.unwrap();
    let expected = pairs([("1@x.org", 3), ("2@x.org", 2), ("3@x.org", 1)]);
    assert_eq!(found(&store).await.0, expected);
}

pub async fn a_deletion_releases_values_if_the_lookup_says_so<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    let users = Repository::<User>::new(&store).with_lookup(LiveEmails);
    save(&users, 1, [registered("old@x.org")]).await.unwrap();
    save(&users, 1, [moved("a@x.org")]).await.unwrap();
    users.delete(&user(1)).await.unwrap();
    assert_eq!(found(&store).await.0, BTreeSet::new());
    let rebuild = || store.lookup(LiveEmails);
    assert_eq!(rebuild().rebuild().await.unwrap().changed, 0);
    users.restore(&user(1)).await.unwrap();
    assert_eq!(found(&store).await.0, pairs([("a@x.org", 1)]));

    users.delete(&user(1)).await.unwrap();
    save(&users, 2, [registered("a@x.org")]).await.unwrap();
    let error = users.restore(&user(1)).await.unwrap_err();
    assert_eq!(error.conflict(), Some(&held("a@x.org", 2)));
    assert!(users.load(&user(1)).await.unwrap_err().is_deleted());
    save(&users, 2, [UserEvent::Left]).await.unwrap();
    users.restore(&user(1)).await.unwrap();
    assert_eq!(found(&store).await.0, pairs([("a@x.org", 1)]));
    assert_eq!(rebuild().rebuild().await.unwrap().changed, 0);
}

pub async fn odd_values_are_refused_and_found_nowhere<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    let users = users(&store);
    let long = "x".repeat(256);
    for odd in ["", " a", "a ", "a\0", "a\nb", "\u{7f}", &long] {
        for event in [registered(odd), joined(odd), quit(odd)] {
            let error = save(&users, 1, [event]).await.unwrap_err();
            assert!(error.is_invalid(), "{odd:?}: {error}");
        }
        assert_eq!(store.lookup(Emails).find(odd).await.unwrap(), None);
        let page = store
            .lookup(Groups)
            .list(LookupList::new().prefix(odd))
            .await;
        assert_eq!(page.unwrap().items, []);
    }
    assert_eq!(log(&store).await, []);
    let longest = "x".repeat(255);
    save(&users, 1, [registered(&longest)]).await.unwrap();
    let owner = store.lookup(Emails).find(&longest).await.unwrap();
    assert_eq!(owner, Some(user(1)));
    // A value without events is no fact.
    let empty = Append::new().enter("user.group", "choir", stream(1));
    refused(&store, empty).await;
}
