//! What every store must let a repository do: load, save, update.

pub mod domain;
pub mod faulty;
mod hooks;
mod kept;
mod lifecycle;
mod turns;

use std::time::Duration;

use backstory_aggregate::{Repository, RepositoryErrorKind, RepositoryOptions, UpdateError};
use backstory_event::{
    Aggregate, AppendCondition, Appended, Conflict, EventFilter, EventQuery, EventStore,
    EventStoreExt, ExpectedVersion, NewEvent, Payload, StreamVersion,
};
use uuid::Uuid;

use crate::Fixture;
use domain::{Account, AccountEvent, TolerantAccount, added, opened, raw};
use faulty::{Fault, Faulty};

pub use hooks::*;
pub use kept::*;
pub use lifecycle::*;
pub use turns::*;

/// One test per case of the repository's suite.
#[macro_export]
macro_rules! repository_suite {
    ($make:expr) => {
        $crate::cases!($make, $crate::repository, [
            what_is_saved_is_loaded
            an_unknown_one_is_none_or_new
            recorded_events_apply_at_once
            a_save_of_nothing_stores_nothing
            one_loads_at_each_version
            a_conflict_keeps_expected_and_actual
            nothing_leaks_from_a_failed_attempt
            all_200_concurrent_updates_count
            an_update_gives_up_with_the_last_conflict
            a_rejected_update_stores_nothing
            an_unknown_outcome_is_sent_again_and_stored_once
            an_outcome_that_stays_unknown_can_be_saved_again
            a_dropped_save_can_be_saved_again
            a_deadline_ends_a_hanging_append_as_unknown
            a_deadline_ends_a_hanging_load_with_nothing_stored
            refresh_takes_in_what_was_stored_since
            refresh_drops_what_was_not_saved
            an_unknown_event_stops_a_decision
            what_does_not_decode_stops_a_decision
            a_refused_id_is_invalid
            an_id_belongs_to_its_category
            a_claim_belongs_to_one_aggregate
            a_condition_is_checked_and_not_tried_again
            a_deleted_one_refuses_everything
            a_restored_one_works_on
            an_erased_one_is_gone_for_good
            a_deleted_one_can_be_erased
            a_revived_one_begins_anew
            what_is_not_there_cannot_be_deleted
            concurrent_deletions_agree
            lifecycle_events_carry_metadata
            tags_find_aggregates
            tags_go_with_events
            a_list_is_stable_while_others_write
            a_list_shows_the_wanted_states
            a_hook_can_veto
            a_hook_adds_events_metadata_and_tags
            hooks_after_a_save_see_the_receipt_and_cannot_fail_it
            hooks_do_not_run_again_for_the_same_events
            what_a_hook_added_does_not_leak
            snapshots_bound_what_a_load_reads
            a_snapshot_is_kept_every_n_events
            a_snapshot_never_hides_a_deletion
            a_version_is_loaded_from_the_snapshot_below_it
            a_snapshot_of_another_shape_is_passed_over
            a_snapshot_beside_the_log_is_not_believed
            a_snapshot_ahead_of_the_log_is_not_believed
            a_damaged_snapshot_is_passed_over
            an_outage_of_snapshots_costs_nothing_but_time
            erased_snapshots_never_come_back
            callers_of_one_aggregate_take_turns
            a_turn_ends_with_its_caller
            a_turn_ends_with_a_panic
            a_stuck_turn_ends_by_itself
            a_deadline_counts_while_a_turn_is_awaited
            what_a_turn_recorded_and_did_not_store_does_not_leak
            what_others_stored_between_two_turns_is_seen
            hooks_that_update_are_no_deadlock
        ]);
    };
}

pub(crate) fn id() -> Uuid {
    Uuid::now_v7()
}

/// Attempts that no contention of a test uses up.
pub(crate) fn patient() -> RepositoryOptions {
    RepositoryOptions::default()
        .with_max_attempts(10_000)
        .with_backoff(Duration::from_micros(200), Duration::from_millis(20))
}

/// An account with these amounts, one save per event.
pub(crate) async fn account<S: EventStore + Clone>(store: &S, amounts: &[i64]) -> Uuid {
    let id = id();
    let repository = Repository::<Account>::new(store);
    let mut account = repository.load(&id).await.unwrap();
    for amount in amounts {
        account.record(added(*amount));
        repository.save(&mut account).await.unwrap();
    }
    id
}

/// The stored names of an account's stream.
pub(crate) async fn stored<S: EventStore + ?Sized>(store: &S, id: Uuid) -> Vec<String> {
    let events = store
        .collect(EventQuery::stream(Account::stream(&id).unwrap()))
        .await
        .unwrap();
    events.iter().map(|event| event.name().to_owned()).collect()
}

fn version(number: i64) -> StreamVersion {
    StreamVersion::new(number)
}

pub async fn what_is_saved_is_loaded<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    let (repository, id) = (Repository::<Account>::new(&store), id());
    let mut account = repository.load(&id).await.unwrap();
    account.record(opened());
    account.record(added(5));
    account.record(added(-2));
    let receipt = repository.save(&mut account).await.unwrap();

    assert_eq!(account.version(), version(3));
    assert_eq!(account.changes().count(), 0);
    assert_eq!(account.checkpoint(), receipt.checkpoint);
    assert_eq!(receipt.version(account.stream()), Some(version(3)));
    assert_eq!(receipt.names, ["account.opened", "account.added"]);

    let elsewhere = Repository::<Account>::new(&fixture.elsewhere().await);
    let loaded = elsewhere.find(&id).await.unwrap().unwrap();
    assert_eq!(loaded.state(), account.state());
    assert_eq!((loaded.balance, loaded.owner.as_str()), (3, "ann"));
    assert_eq!((loaded.id(), loaded.version()), (&id, version(3)));
    assert_eq!(loaded.checkpoint(), receipt.checkpoint);
    assert_eq!(loaded.changes().count(), 0);

    let mut account = loaded;
    account.record(AccountEvent::Closed);
    elsewhere.save(&mut account).await.unwrap();
    assert!(repository.load(&id).await.unwrap().closed);
}

pub async fn an_unknown_one_is_none_or_new<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    account(&store, &[1]).await;
    let repository = Repository::<Account>::new(&store);
    assert!(repository.find(&id()).await.unwrap().is_none());
    let loaded = repository.load(&id()).await.unwrap();
    assert!(loaded.is_new());
    assert_eq!(loaded.version(), StreamVersion::EMPTY);
    assert_eq!(loaded.state(), &Account::default());
    assert!(repository.info(&id()).await.unwrap().is_none());
}

pub async fn recorded_events_apply_at_once<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    let repository = Repository::<Account>::new(&store);
    let mut account = repository.load(&id()).await.unwrap();
    account.record(added(5));
    account.record(added(6));
    assert_eq!(account.balance, 11);
    assert_eq!(account.version(), StreamVersion::EMPTY);
    assert_eq!(
        account.changes().collect::<Vec<_>>(),
        [&added(5), &added(6)]
    );
    assert!(stored(&store, *account.id()).await.is_empty());
}

pub async fn a_save_of_nothing_stores_nothing<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    let first = account(&store, &[1]).await;
    let second = account(&store, &[2]).await;
    let repository = Repository::<Account>::new(&store);
    let head = store.head().await.unwrap();
    for id in [first, second, id()] {
        let mut account = repository.load(&id).await.unwrap();
        let receipt = repository.save(&mut account).await.unwrap();
        assert_eq!(receipt, Appended::nothing(head));
    }
    assert_eq!(store.head().await.unwrap(), head);
}

pub async fn one_loads_at_each_version<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    let id = account(&store, &[1, 2, 3, 4, 5]).await;
    let repository = Repository::<Account>::new(&store);
    for (at, balance) in [(0, 0), (1, 1), (2, 3), (4, 10), (5, 15)] {
        let account = repository.load_at(&id, version(at)).await.unwrap();
        assert_eq!((account.version(), account.balance), (version(at), balance));
    }
    let error = repository.load_at(&id, version(6)).await.unwrap_err();
    assert!(matches!(
        error.kind(),
        RepositoryErrorKind::VersionNotReached { wanted, actual, .. }
            if (*wanted, *actual) == (version(6), version(5))
    ));

    let mut old = repository.load_at(&id, version(3)).await.unwrap();
    old.record(added(1));
    assert!(repository.save(&mut old).await.unwrap_err().is_conflict());
}

pub async fn a_conflict_keeps_expected_and_actual<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    let id = account(&store, &[1]).await;
    let repository = Repository::<Account>::new(&store);
    let mut first = repository.load(&id).await.unwrap();
    let mut second = repository.load(&id).await.unwrap();
    first.record(added(10));
    second.record(added(100));
    second.record(added(100));
    repository.save(&mut first).await.unwrap();

    let error = repository.save(&mut second).await.unwrap_err();
    let expected = Conflict::Version {
        stream: first.stream().clone(),
        expected: ExpectedVersion::Exact(version(1)),
        actual: version(2),
    };
    assert_eq!(error.conflict(), Some(&expected));
    assert_eq!(second.changes().count(), 2);
    assert_eq!(repository.load(&id).await.unwrap().balance, 11);
}

pub async fn nothing_leaks_from_a_failed_attempt<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    let id = account(&store, &[1]).await;
    let others = [20, 300].map(|amount| Fault::Overtake(raw(id, [added(amount)])));
    let repository = Repository::<Account>::new(&Faulty::new(store.clone(), others));
    let mut seen = Vec::new();
    let (balance, receipt) = repository
        .update(&id, |account| {
            seen.push(account.balance);
            account.record(added(account.balance));
            Ok::<_, &str>(account.balance)
        })
        .await
        .unwrap();
    assert_eq!(seen, [1, 21, 321]);
    assert_eq!(balance, 642);
    let account = Repository::<Account>::new(&store).load(&id).await.unwrap();
    assert_eq!((account.balance, account.version()), (642, version(4)));
    assert_eq!(receipt.version(account.stream()), Some(version(4)));
}

pub async fn all_200_concurrent_updates_count<F: Fixture>(fixture: &F) {
    let id = account(&fixture.store(), &[1]).await;
    let mut tasks = tokio::task::JoinSet::new();
    for writer in 0..8 {
        let store = match writer % 2 {
            0 => fixture.store(),
            _ => fixture.elsewhere().await,
        };
        tasks.spawn(async move {
            let repository = Repository::<Account>::new(&store).with_options(patient());
            let mut balances = Vec::new();
            for _ in 0..25 {
                let update = repository.update(&id, |account| {
                    account.record(added(1));
                    Ok::<_, &str>(account.balance)
                });
                balances.push(update.await.unwrap().0);
            }
            balances
        });
    }
    let mut balances: Vec<i64> = tasks.join_all().await.into_iter().flatten().collect();
    balances.sort_unstable();
    let all: Vec<i64> = (2..=201).collect();
    assert_eq!(balances, all, "each update was decided on the newest state");
    let repository = Repository::<Account>::new(&fixture.store());
    let account = repository.load(&id).await.unwrap();
    assert_eq!((account.balance, account.version()), (201, version(201)));
}

pub async fn an_update_gives_up_with_the_last_conflict<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    let id = account(&store, &[1]).await;
    let others = (0..9).map(|_| Fault::Overtake(raw(id, [added(10)])));
    let options = patient().with_max_attempts(3);
    let repository =
        Repository::<Account>::new(&Faulty::new(store.clone(), others)).with_options(options);
    let mut attempts = 0;
    let error = repository
        .update(&id, |account| {
            attempts += 1;
            account.record(added(1_000));
            Ok::<_, &str>(())
        })
        .await
        .unwrap_err();
    assert_eq!(attempts, 3);
    let expected = Conflict::Version {
        stream: Account::stream(&id).unwrap(),
        expected: ExpectedVersion::Exact(version(3)),
        actual: version(4),
    };
    assert!(error.is_conflict());
    assert_eq!(error.repository().unwrap().conflict(), Some(&expected));
    let account = Repository::<Account>::new(&store).load(&id).await.unwrap();
    assert_eq!(account.balance, 31);
}

pub async fn a_rejected_update_stores_nothing<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    let id = account(&store, &[1]).await;
    let repository = Repository::<Account>::new(&store);
    let outcome = repository.update(&id, |account| {
        account.record(added(1));
        Err::<(), _>("no")
    });
    assert_eq!(outcome.await.unwrap_err().rejection(), Some(&"no"));
    assert_eq!(stored(&store, id).await.len(), 1);
}

pub async fn an_unknown_outcome_is_sent_again_and_stored_once<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    let id = id();
    let faulty = Faulty::new(store.clone(), [Fault::Forget, Fault::Forget]);
    let repository = Repository::<Account>::new(&faulty).with_options(patient());
    let mut decisions = 0;
    let ((), receipt) = repository
        .update(&id, |account| {
            decisions += 1;
            account.record(added(7));
            Ok::<_, &str>(())
        })
        .await
        .unwrap();
    assert_eq!((decisions, faulty.appends()), (1, 3));
    assert_eq!(stored(&store, id).await, ["account.added"]);
    assert_eq!(receipt.checkpoint, store.head().await.unwrap());
}

pub async fn an_outcome_that_stays_unknown_can_be_saved_again<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    let faulty = Faulty::new(store.clone(), [Fault::Forget, Fault::Forget]);
    let options = RepositoryOptions::default().with_max_attempts(1);
    let repository = Repository::<Account>::new(&faulty).with_options(options);
    let mut account = repository.load(&id()).await.unwrap();
    account.record(added(7));

    let error = repository.save(&mut account).await.unwrap_err();
    let ids = error.unknown_ids().unwrap().to_vec();
    assert!(error.is_outcome_unknown() && ids.len() == 1);
    assert_eq!(account.changes().collect::<Vec<_>>(), [&added(7)]);
    account.record(added(1)); // goes behind what is in doubt
    assert!(repository.save(&mut account).await.is_err());
    repository.save(&mut account).await.unwrap();

    let events = store
        .collect(EventQuery::stream(account.stream().clone()))
        .await
        .unwrap();
    assert_eq!(events.len(), 2);
    assert_eq!(events[0].id(), ids[0]);
    assert_eq!((account.balance, account.version()), (8, version(2)));
}

pub async fn a_dropped_save_can_be_saved_again<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    let faulty = Faulty::new(store.clone(), [Fault::Hang]);
    let repository = Repository::<Account>::new(&faulty);
    let mut account = repository.load(&id()).await.unwrap();
    account.record(added(7));
    tokio::select! {
        _ = repository.save(&mut account) => panic!("the append hangs"),
        () = faulty.hung() => {}
    }
    let receipt = repository.save(&mut account).await.unwrap();
    assert_eq!(stored(&store, *account.id()).await, ["account.added"]);
    assert_eq!(receipt.version(account.stream()), Some(version(1)));
    assert_eq!((account.balance, account.version()), (7, version(1)));
}

pub async fn a_deadline_ends_a_hanging_append_as_unknown<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    let faulty = Faulty::new(store.clone(), [Fault::Hang]);
    let options = RepositoryOptions::default().with_deadline(Duration::from_millis(300));
    let repository = Repository::<Account>::new(&faulty).with_options(options);
    let mut account = repository.load(&id()).await.unwrap();
    account.record(added(7));
    let error = repository.save(&mut account).await.unwrap_err();
    assert_eq!(error.unknown_ids().map(<[_]>::len), Some(1));
    repository.save(&mut account).await.unwrap();
    assert_eq!(stored(&store, *account.id()).await.len(), 1);
}

pub async fn a_deadline_ends_a_hanging_load_with_nothing_stored<F: Fixture>(fixture: &F) {
    let faulty = Faulty::new(fixture.store(), []);
    faulty.hang_reads();
    let options = RepositoryOptions::default().with_deadline(Duration::from_millis(50));
    let repository = Repository::<Account>::new(&faulty).with_options(options);
    let id = id();
    let outcome = repository.update(&id, |account| {
        account.record(added(7));
        Ok::<_, &str>(())
    });
    let error = outcome.await.unwrap_err();
    assert!(error.repository().unwrap().is_timed_out());
    assert_eq!(faulty.appends(), 0);
}

pub async fn refresh_takes_in_what_was_stored_since<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    let id = account(&store, &[1, 2]).await;
    let faulty = Faulty::new(store.clone(), []);
    let repository = Repository::<Account>::new(&faulty);
    let mut account = repository.load(&id).await.unwrap();
    let receipt = store.append(raw(id, [added(40)])).await.unwrap();
    faulty.take_events_read();

    repository.refresh(&mut account).await.unwrap();
    assert_eq!((account.balance, account.version()), (43, version(3)));
    assert_eq!(account.checkpoint(), receipt.checkpoint);
    assert_eq!(
        faulty.take_events_read(),
        2,
        "the last known event and the new one"
    );
    account.record(added(1));
    repository.save(&mut account).await.unwrap();

    repository.delete(&id).await.unwrap();
    assert!(
        repository
            .refresh(&mut account)
            .await
            .unwrap_err()
            .is_deleted()
    );
}

pub async fn refresh_drops_what_was_not_saved<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    let id = account(&store, &[1]).await;
    let repository = Repository::<Account>::new(&store);
    let mut account = repository.load(&id).await.unwrap();
    account.record(added(500));
    store.append(raw(id, [added(40)])).await.unwrap();
    repository.refresh(&mut account).await.unwrap();
    assert_eq!((account.balance, account.changes().count()), (41, 0));
}

pub async fn an_unknown_event_stops_a_decision<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    let id = account(&store, &[1]).await;
    let mut append = raw(id, []);
    append.parts[0]
        .events
        .push(NewEvent::raw("account.audited", Payload::empty()));
    let receipt = store.append(append).await.unwrap();
    store.append(raw(id, [added(2)])).await.unwrap();

    let error = Repository::<Account>::new(&store)
        .load(&id)
        .await
        .unwrap_err();
    assert!(matches!(
        error.kind(),
        RepositoryErrorKind::UnknownEvent { name, position, .. }
            if name == "account.audited" && *position == receipt.position()
    ));
    let tolerant = Repository::<TolerantAccount>::new(&store);
    let account = tolerant.load(&id).await.unwrap();
    assert_eq!((account.balance, account.version()), (3, version(3)));
}

pub async fn what_does_not_decode_stops_a_decision<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    let id = account(&store, &[1]).await;
    let mut append = raw(id, []);
    let broken = NewEvent::raw("account.added", Payload::parse(r#"{"sum":1}"#).unwrap());
    append.parts[0].events.push(broken.clone());
    let receipt = store.append(append).await.unwrap();
    let error = Repository::<Account>::new(&store)
        .load(&id)
        .await
        .unwrap_err();
    assert!(matches!(
        error.kind(),
        RepositoryErrorKind::Decode(decode) if decode.name == "account.added"
            && decode.event_id == broken.id && decode.position == receipt.position()
    ));
}

pub async fn a_refused_id_is_invalid<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    let repository = Repository::<Account>::new(&store);
    let nil = Uuid::nil();
    assert!(repository.load(&nil).await.unwrap_err().is_invalid());
    assert!(repository.delete(&nil).await.unwrap_err().is_invalid());

    let mut account = repository.load(&id()).await.unwrap();
    account.record(AccountEvent::Opened {
        owner: "a\0b".into(),
    });
    assert!(
        repository
            .save(&mut account)
            .await
            .unwrap_err()
            .is_invalid()
    );
    assert!(stored(&store, *account.id()).await.is_empty());
}

pub async fn an_id_belongs_to_its_category<F: Fixture>(fixture: &F) {
    #[derive(Debug, Default)]
    struct Other;

    impl Aggregate for Other {
        const CATEGORY: &'static str = "other";
        type Id = Uuid;
        type Event = AccountEvent;
        fn apply(&mut self, _: &AccountEvent) {}
    }

    let store = fixture.store();
    let id = account(&store, &[1]).await;
    let others = Repository::<Other>::new(&store);
    assert!(others.find(&id).await.unwrap().is_none());
    assert!(others.delete(&id).await.unwrap_err().is_not_found());
}

pub async fn a_claim_belongs_to_one_aggregate<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    let repository = Repository::<Account>::new(&store).with_options(patient());
    let open = async |id: Uuid| {
        let outcome = repository.update(&id, |account| {
            account.record(opened());
            account.claim("account.owner", "ann");
            Ok::<_, &str>(())
        });
        outcome.await
    };
    let (first, second) = (id(), id());
    open(first).await.unwrap();
    let error = open(second).await.unwrap_err();
    assert!(matches!(
        error.repository().and_then(|error| error.conflict()),
        Some(Conflict::Claim { owner, .. }) if *owner == Account::stream(&first).unwrap()
    ));
    assert!(stored(&store, second).await.is_empty());

    let released = repository.update(&first, |account| {
        account.record(AccountEvent::Closed);
        account.release("account.owner", "ann");
        Ok::<_, &str>(())
    });
    released.await.unwrap();
    open(second).await.unwrap();

    // A claim goes with events.
    let mut account = repository.load(&id()).await.unwrap();
    account.claim("account.owner", "eve");
    assert!(
        repository
            .save(&mut account)
            .await
            .unwrap_err()
            .is_invalid()
    );
}

pub async fn a_condition_is_checked_and_not_tried_again<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    let id = account(&store, &[1]).await;
    let other = account(&store, &[1]).await;
    let repository = Repository::<Account>::new(&store).with_options(patient());
    let filter = EventFilter::stream(Account::stream(&other).unwrap());
    let after = store.head().await.unwrap();
    let mut decisions = 0;
    let mut update = async || {
        let outcome = repository.update(&id, |account| {
            decisions += 1;
            account.record(added(1));
            account.fail_if(AppendCondition::new(filter.clone(), after));
            Ok::<_, &str>(())
        });
        outcome.await
    };
    update().await.unwrap();
    let receipt = store.append(raw(other, [added(2)])).await.unwrap();
    let Err(UpdateError::Repository(error)) = update().await else {
        panic!("the condition is met")
    };
    assert!(matches!(
        error.conflict(),
        Some(Conflict::Condition { index: 0, position, .. }) if *position == receipt.position()
    ));
    assert_eq!(decisions, 2);
    assert_eq!(stored(&store, id).await.len(), 2);
}
