//! What every store must let a command bus do.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use backstory_aggregate::Repository;
use backstory_command::{CommandBus, CommandContext, CommandErrorKind, RepositoryOptions};
use backstory_event::EventStore;
use backstory_event::{
    Aggregate, Appended, Conflict, EventQuery, EventStoreExt, ExpectedVersion, Metadata, NewEvent,
    Payload, RecordedEvent, StoreErrorKind, StreamVersion,
};
use futures::{future::join_all, poll};
use uuid::Uuid;

use crate::{
    Fixture,
    kit::within,
    repository::{
        account,
        domain::{Account, AccountEvent, Deposit, DepositError, Open, OpenError, added, raw},
        faulty::{Fault, Faulty},
        id, patient, stored,
    },
};

mod spans;

/// One test per case of the suite of commands.
#[macro_export]
macro_rules! commands_suite {
    ($make:expr) => {
        $crate::cases!($make, $crate::commands, [
            a_command_stores_what_was_decided
            a_rejection_has_code_and_value
            a_conflict_is_decided_again
            a_lasting_conflict_is_told
            an_empty_decision_names_what_it_saw
            events_know_their_correlation_and_cause
            a_command_can_follow_from_an_event
            an_expected_version_is_checked_once
            an_answer_that_was_lost_changes_nothing
            an_outcome_that_stays_unknown_names_the_events
            a_deadline_ends_a_dispatch
            a_deleted_or_erased_aggregate_says_so
            a_refused_id_is_told
            a_store_that_is_away_is_told
            an_unknown_event_fails_the_command
            a_bus_uses_the_repository_that_it_got
            all_concurrent_commands_count
            commands_to_one_aggregate_take_turns
            a_dispatch_is_traced
            a_command_that_creates_needs_no_load
            a_command_that_creates_is_decided_by_what_is_there
            a_bus_learns_which_commands_create
            what_many_create_at_once_is_there_once
        ]);
    };
}

async fn events<S: EventStore>(store: &S, id: Uuid) -> Vec<RecordedEvent> {
    store
        .collect(EventQuery::stream(Account::stream(&id).unwrap()))
        .await
        .unwrap()
}

pub async fn a_command_stores_what_was_decided<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    let bus = CommandBus::new(&store);
    let id = id();
    bus.dispatch(Deposit::new(id, 3)).await.unwrap();
    let receipt = bus.dispatch(Deposit::new(id, 4)).await.unwrap();
    let stream = Account::stream(&id).unwrap();
    assert_eq!(receipt.version(&stream), Some(StreamVersion::new(2)));
    assert_eq!(receipt.checkpoint, store.head().await.unwrap());
    let elsewhere = Repository::<Account>::new(&fixture.elsewhere().await);
    assert_eq!(elsewhere.load(&id).await.unwrap().balance, 7);
}

pub async fn a_rejection_has_code_and_value<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    let id = account(&store, &[1]).await;
    let error = CommandBus::new(&store)
        .dispatch(Deposit::new(id, -5))
        .await
        .unwrap_err();
    assert!(error.is_rejected());
    assert_eq!(error.code(), Some("account.not_positive"));
    assert_eq!(error.rejection(), Some(&DepositError::NotPositive(-5)));
    assert_eq!(error.to_string(), "an account takes no -5");
    assert!(matches!(
        error.kind(),
        CommandErrorKind::Rejected { message, .. } if message == "an account takes no -5"
    ));
    assert_eq!(stored(&store, id).await.len(), 1);
}

pub async fn a_conflict_is_decided_again<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    let id = account(&store, &[1]).await;
    let other = Fault::Overtake(raw(id, [added(1)]));
    let bus = CommandBus::new(&Faulty::new(store.clone(), [other]));
    let command = Deposit::new(id, 5);
    bus.dispatch(command.clone()).await.unwrap();
    assert_eq!(command.decisions(), 2);

    // The second decision is about the new state.
    let other = Fault::Overtake(raw(id, [AccountEvent::Closed]));
    let bus = CommandBus::new(&Faulty::new(store.clone(), [other]));
    let error = bus.dispatch(Deposit::new(id, 5)).await.unwrap_err();
    assert_eq!(error.rejection(), Some(&DepositError::Closed));
    let account = Repository::<Account>::new(&store).load(&id).await.unwrap();
    assert_eq!(account.balance, 7);
}

pub async fn a_lasting_conflict_is_told<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    let id = account(&store, &[1]).await;
    let others = (0..9).map(|_| Fault::Overtake(raw(id, [added(1)])));
    let bus = CommandBus::new(&Faulty::new(store.clone(), others))
        .with_options(patient().with_max_attempts(3));
    let command = Deposit::new(id, 500);
    let error = bus.dispatch(command.clone()).await.unwrap_err();
    assert_eq!(command.decisions(), 3);
    assert!(error.is_conflict());
    let expected = Conflict::Version {
        stream: Account::stream(&id).unwrap(),
        expected: ExpectedVersion::Exact(StreamVersion::new(3)),
        actual: StreamVersion::new(4),
    };
    assert_eq!(error.conflict(), Some(&expected));
}

pub async fn an_empty_decision_names_what_it_saw<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    let id = account(&store, &[1]).await;
    account(&store, &[2]).await;
    let head = store.head().await.unwrap();
    let bus = CommandBus::new(&store);
    let receipt = bus.dispatch(Deposit::new(id, 0)).await.unwrap();
    assert_eq!(receipt, Appended::nothing(head));
    assert_eq!(store.head().await.unwrap(), head);
}

pub async fn events_know_their_correlation_and_cause<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    let id = id();
    let bus = CommandBus::new(&store);
    bus.dispatch(Deposit::new(id, 1)).await.unwrap();
    bus.dispatch(Deposit::new(id, 1)).await.unwrap();
    let correlation = Uuid::now_v7();
    let context = CommandContext::new()
        .with_metadata(Metadata::new().with("ip", "::1"))
        .with_correlation_id(correlation)
        .with_actor("ann");
    bus.dispatch_with(Deposit::new(id, 1), context)
        .await
        .unwrap();

    let events = events(&store, id).await;
    let [first, second, third] = [0, 1, 2].map(|at| events[at].metadata().clone());
    assert!(first.correlation_id.is_some() && first.causation_id.is_some());
    assert_ne!(first.correlation_id, second.correlation_id);
    assert_ne!(first.causation_id, second.causation_id);
    assert_eq!(third.correlation_id, Some(correlation));
    assert!(third.causation_id.is_some_and(|cause| cause != correlation));
    assert_eq!(third.actor.as_deref(), Some("ann"));
    assert_eq!(third.extra["ip"], "::1");
}

pub async fn a_command_can_follow_from_an_event<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    let bus = CommandBus::new(&store);
    let (first, second) = (id(), id());
    bus.dispatch(Deposit::new(first, 1)).await.unwrap();
    let cause = events(&store, first).await.remove(0);
    let context = CommandContext::new().caused_by(&cause);
    bus.dispatch_with(Deposit::new(second, 1), context)
        .await
        .unwrap();
    let effect = events(&store, second).await.remove(0);
    assert_eq!(effect.metadata().causation_id, Some(cause.id().as_uuid()));
    assert_eq!(
        effect.metadata().correlation_id,
        cause.metadata().correlation_id
    );
}

pub async fn an_expected_version_is_checked_once<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    let id = account(&store, &[1, 1]).await;
    let bus = CommandBus::new(&store);
    let expect = |expected| CommandContext::new().with_expected(expected);
    let command = Deposit::new(id, 1);
    let stale = ExpectedVersion::Exact(StreamVersion::new(1));
    for expected in [stale, ExpectedVersion::NoStream] {
        let outcome = bus.dispatch_with(command.clone(), expect(expected)).await;
        let conflict = Conflict::Version {
            stream: Account::stream(&id).unwrap(),
            expected,
            actual: StreamVersion::new(2),
        };
        assert_eq!(outcome.unwrap_err().conflict(), Some(&conflict));
    }
    assert_eq!(command.decisions(), 0);
    let exact = ExpectedVersion::Exact(StreamVersion::new(2));
    bus.dispatch_with(command.clone(), expect(exact))
        .await
        .unwrap();

    // Also when the other writer comes between the decision and the append.
    let other = Fault::Overtake(raw(id, [added(1)]));
    let bus = CommandBus::new(&Faulty::new(store.clone(), [other]));
    let exact = ExpectedVersion::Exact(StreamVersion::new(3));
    let outcome = bus.dispatch_with(command.clone(), expect(exact)).await;
    assert!(outcome.unwrap_err().is_conflict());
    assert_eq!(stored(&store, id).await.len(), 4);
}

pub async fn an_answer_that_was_lost_changes_nothing<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    let id = id();
    let bus = CommandBus::new(&Faulty::new(store.clone(), [Fault::Forget]));
    let command = Deposit::new(id, 5);
    let receipt = bus.dispatch(command.clone()).await.unwrap();
    assert_eq!(command.decisions(), 1);
    assert_eq!(stored(&store, id).await.len(), 1);
    assert_eq!(receipt.checkpoint, store.head().await.unwrap());
}

pub async fn an_outcome_that_stays_unknown_names_the_events<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    let id = id();
    let faulty = Faulty::new(store.clone(), [Fault::Forget, Fault::Forget]);
    let bus = CommandBus::new(&faulty).with_options(patient().with_max_attempts(2));
    let command = Deposit::new(id, 5);
    let error = bus.dispatch(command.clone()).await.unwrap_err();
    assert!(error.is_outcome_unknown());
    let event_ids = vec![events(&store, id).await[0].id()];
    assert_eq!(
        error.kind(),
        &CommandErrorKind::OutcomeUnknown { event_ids }
    );
    assert_eq!((command.decisions(), faulty.appends()), (1, 2));
}

pub async fn a_deadline_ends_a_dispatch<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    let id = id();
    let faulty = Faulty::new(store.clone(), [Fault::Hang]);
    let bus = CommandBus::new(&faulty);
    // Long enough for a slow database to load, and to store before the answer hangs.
    let within = |seconds| CommandContext::new().with_deadline(Duration::from_secs_f32(seconds));
    let outcome = bus.dispatch_with(Deposit::new(id, 5), within(2.0)).await;
    assert!(outcome.unwrap_err().is_outcome_unknown());
    assert_eq!(stored(&store, id).await.len(), 1);

    faulty.hang_reads();
    let outcome = bus.dispatch_with(Deposit::new(id, 5), within(0.1)).await;
    let error = outcome.unwrap_err();
    assert_eq!(error.kind(), &CommandErrorKind::TimedOut);
    let options = RepositoryOptions::default().with_deadline(Duration::from_millis(50));
    let error = bus
        .with_options(options)
        .dispatch(Deposit::new(id, 5))
        .await;
    assert!(error.unwrap_err().is_transient());
    assert_eq!(stored(&store, id).await.len(), 1);
}

pub async fn a_deleted_or_erased_aggregate_says_so<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    let id = account(&store, &[1]).await;
    let repository = Repository::<Account>::new(&store);
    let bus = CommandBus::new(&store);
    repository.delete(&id).await.unwrap();
    let error = bus.dispatch(Deposit::new(id, 5)).await.unwrap_err();
    assert!(matches!(error.kind(), CommandErrorKind::Deleted { .. }));
    repository.erase(&id).await.unwrap();
    let error = bus.dispatch(Deposit::new(id, 5)).await.unwrap_err();
    assert!(matches!(error.kind(), CommandErrorKind::Erased { .. }));
}

pub async fn a_refused_id_is_told<F: Fixture>(fixture: &F) {
    let bus = CommandBus::new(&fixture.store());
    let error = bus
        .dispatch(Deposit::new(Uuid::nil(), 5))
        .await
        .unwrap_err();
    assert!(error.is_invalid());
    assert!(!error.is_transient());
}

pub async fn a_store_that_is_away_is_told<F: Fixture>(fixture: &F) {
    let reason = "no route".to_owned();
    let away = StoreErrorKind::Unavailable { reason };
    let faults = [away, StoreErrorKind::Closed].map(Fault::Refuse);
    let bus = CommandBus::new(&Faulty::new(fixture.store(), faults));
    for _ in 0..2 {
        let error = bus.dispatch(Deposit::new(id(), 5)).await.unwrap_err();
        assert!(matches!(error.kind(), CommandErrorKind::Unavailable { .. }));
        assert!(error.is_transient());
        assert!(std::error::Error::source(&error).is_some());
    }
}

pub async fn an_unknown_event_fails_the_command<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    let id = account(&store, &[1]).await;
    let mut append = raw(id, []);
    append.parts[0]
        .events
        .push(NewEvent::raw("account.audited", Payload::empty()));
    store.append(append).await.unwrap();
    let command = Deposit::new(id, 5);
    let bus = CommandBus::new(&store);
    let error = bus.dispatch(command.clone()).await.unwrap_err();
    assert!(matches!(
        error.kind(),
        CommandErrorKind::Failed { reason } if reason.contains("account.audited")
    ));
    assert_eq!(command.decisions(), 0);
}

pub async fn a_bus_uses_the_repository_that_it_got<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    let saves = Arc::new(AtomicUsize::new(0));
    let counted = saves.clone();
    let repository = Repository::<Account>::new(&store)
        .with_metadata(Metadata::new().with("host", "one"))
        .before_save(move |account, _| {
            counted.fetch_add(1, Ordering::SeqCst);
            match account.balance > 10 {
                true => Err("too rich".into()),
                false => Ok(()),
            }
        });
    let bus = CommandBus::new(&store).with_repository(repository);
    let id = id();
    let context = CommandContext::new().with_actor("ann");
    bus.dispatch_with(Deposit::new(id, 10), context)
        .await
        .unwrap();
    let error = bus.dispatch(Deposit::new(id, 1)).await.unwrap_err();
    assert!(matches!(
        error.kind(),
        CommandErrorKind::Vetoed { reason } if reason == "too rich"
    ));
    assert_eq!(saves.load(Ordering::SeqCst), 2);
    let metadata = events(&store, id).await[0].metadata().clone();
    assert_eq!(metadata.extra["host"], "one");
    assert_eq!(metadata.actor.as_deref(), Some("ann"));
}

pub async fn all_concurrent_commands_count<F: Fixture>(fixture: &F) {
    let id = id();
    let bus = CommandBus::new(&fixture.store()).with_options(patient());
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..24 {
        let bus = bus.clone();
        tasks.spawn(async move {
            for _ in 0..4 {
                bus.dispatch(Deposit::new(id, 1)).await.unwrap();
            }
        });
    }
    while let Some(task) = tasks.join_next().await {
        task.unwrap();
    }
    let repository = Repository::<Account>::new(&fixture.store());
    assert_eq!(repository.load(&id).await.unwrap().balance, 96);
}

pub async fn a_dispatch_is_traced<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    let id = account(&store, &[1]).await;
    let other = Fault::Overtake(raw(id, [added(1)]));
    let bus = CommandBus::new(&Faulty::new(store, [other]));
    let spans = spans::Spans::of_the_process();
    bus.dispatch(Deposit::new(id, 5)).await.unwrap();
    let fields = spans.find("backstory.command.dispatch", "id", &id.to_string());
    assert_eq!(fields["command"], "account.deposit");
    assert_eq!(fields["aggregate"], "account");
    assert_eq!(fields["id"], id.to_string());
    assert_eq!(fields["attempts"], "2");
    assert!(fields["dispatch_id"].parse::<Uuid>().is_ok());
}

pub async fn commands_to_one_aggregate_take_turns<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    let id = account(&store, &[1]).await;
    let faults = [Fault::Overtake(raw(id, [added(20)])), Fault::Hang];
    let faulty = Faulty::new(store.clone(), faults);
    let bus = CommandBus::new(&faulty);
    let clone = bus.clone();
    let mut stuck = Box::pin(clone.dispatch(Deposit::new(id, 300)));
    tokio::select! {
        _ = &mut stuck => panic!("the append hangs"),
        () = within(faulty.hung()) => {}
    }
    let commands = [4_000, 50_000].map(|amount| Deposit::new(id, amount));
    let mut waiting = commands
        .clone()
        .map(|command| Box::pin(bus.dispatch(command)));
    for waiting in &mut waiting {
        assert!(poll!(waiting).is_pending(), "it takes its turn");
    }
    faulty.take_events_read();
    drop(stuck);
    for outcome in within(join_all(waiting)).await {
        outcome.unwrap();
    }
    assert_eq!(commands.map(|command| command.decisions()), [1, 1]);
    // All three at first, then the last one of them and no more.
    assert_eq!(faulty.take_events_read(), 4);
    let account = Repository::<Account>::new(&store).load(&id).await.unwrap();
    assert_eq!(account.balance, 54_321);
}

pub async fn a_command_that_creates_needs_no_load<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    let id = id();
    let faulty = Faulty::new(store.clone(), [Fault::Forget]);
    faulty.hang_reads();
    let open = Open::new(id, "ann");
    let receipt = within(CommandBus::new(&faulty).dispatch(open.clone())).await;
    assert_eq!(receipt.unwrap().checkpoint, store.head().await.unwrap());
    assert_eq!((open.decisions(), faulty.appends()), (1, 2));
    let account = Repository::<Account>::new(&store).load(&id).await.unwrap();
    assert_eq!((account.version().get(), &*account.owner), (1, "ann"));
}

pub async fn a_command_that_creates_is_decided_by_what_is_there<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    let bus = CommandBus::new(&store);
    let ann = account(&store, &[5]).await;
    let open = Open::new(ann, "ann");
    let receipt = bus.dispatch(open.clone()).await.unwrap();
    let stream = Account::stream(&ann).unwrap();
    assert_eq!(receipt.version(&stream), Some(StreamVersion::new(2)));
    assert_eq!(open.decisions(), 2);

    let error = bus.dispatch(Open::new(ann, "bob")).await.unwrap_err();
    let belongs = OpenError::Belongs("ann".to_owned());
    assert_eq!(error.rejection(), Some(&belongs));
    let new = CommandContext::new().with_expected(ExpectedVersion::NoStream);
    let outcome = bus.dispatch_with(Open::new(ann, "bob"), new).await;
    assert!(outcome.unwrap_err().is_conflict());
    assert_eq!(stored(&store, ann).await.len(), 2);

    // A new account says no for itself, and what it saw is told when there is nothing to do.
    let error = bus.dispatch(Open::new(id(), "")).await.unwrap_err();
    assert_eq!(error.code(), Some("account.bad_owner"));
    let nothing = bus.dispatch(Open::new(id(), "nobody")).await.unwrap();
    assert_eq!(nothing.checkpoint, store.head().await.unwrap());

    let repository = Repository::<Account>::new(&store);
    repository.delete(&ann).await.unwrap();
    let error = bus.dispatch(Open::new(ann, "bob")).await.unwrap_err();
    assert!(matches!(error.kind(), CommandErrorKind::Deleted { .. }));
    repository.erase(&ann).await.unwrap();
    let error = bus.dispatch(Open::new(ann, "bob")).await.unwrap_err();
    assert!(matches!(error.kind(), CommandErrorKind::Erased { .. }));
}

pub async fn a_bus_learns_which_commands_create<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    let there = account(&store, &[5]).await;
    let faulty = Faulty::new(store.clone(), []);
    let bus = CommandBus::new(&faulty);
    for _ in 0..32 {
        bus.dispatch(Deposit::new(id(), 1)).await.unwrap();
    }
    faulty.hang_reads();
    let new = Deposit::new(id(), 2);
    within(bus.clone().dispatch(new.clone())).await.unwrap();
    assert_eq!((new.decisions(), faulty.appends()), (1, 33));
    faulty.answer_reads();

    // What is there decides, and from then on it is loaded first.
    let second = Deposit::new(there, 3);
    bus.dispatch(second.clone()).await.unwrap();
    assert_eq!(second.decisions(), 2);
    let third = Deposit::new(there, -1);
    let error = bus.dispatch(third.clone()).await.unwrap_err();
    assert_eq!(error.rejection(), Some(&DepositError::NotPositive(-1)));
    assert_eq!((third.decisions(), faulty.appends()), (1, 35));
    assert_eq!(stored(&store, there).await.len(), 2);
}

pub async fn what_many_create_at_once_is_there_once<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    let id = id();
    let bus = CommandBus::new(&store);
    let owners = ["ann", "bob", "cem", "dan", "eve", "fay", "gil", "hal"];
    let all = owners.map(|owner| bus.dispatch(Open::new(id, owner)));
    let (done, refused): (Vec<_>, Vec<_>) = within(join_all(all))
        .await
        .into_iter()
        .partition(Result::is_ok);
    assert_eq!(done.len(), 1);
    let account = Repository::<Account>::new(&store).load(&id).await.unwrap();
    let belongs = OpenError::Belongs(account.owner.clone());
    for error in refused {
        assert_eq!(error.unwrap_err().rejection(), Some(&belongs));
    }
    assert_eq!(stored(&store, id).await.len(), 1);
}
