//! What runs around a save.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicUsize, Ordering},
};

use async_trait::async_trait;
use backstory_aggregate::{Loaded, Repository, Save, SaveHook};
use backstory_event::{Appended, BoxError, EventQuery, EventStoreExt, Metadata, StoreErrorKind};

use super::{
    account,
    domain::{Account, AccountEvent, added, opened, tag},
    faulty::{Fault, Faulty},
    id, patient, stored, version,
};
use crate::Fixture;

pub async fn a_hook_can_veto<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    let id = account(&store, &[1]).await;
    let repository = Repository::<Account>::new(&store).before_save(|account, _| {
        if account.balance > 10 {
            return Err("too rich".into());
        }
        Ok(())
    });
    let mut account = repository.load(&id).await.unwrap();
    account.record(added(10));
    let error = repository.save(&mut account).await.unwrap_err();
    assert!(error.is_vetoed());
    assert!(error.to_string().contains("too rich"));
    assert_eq!(stored(&store, id).await.len(), 1);

    account.record(added(-5));
    repository.save(&mut account).await.unwrap();
    assert_eq!(repository.load(&id).await.unwrap().balance, 6);
}

struct Auditor;

#[async_trait]
impl SaveHook<Account> for Auditor {
    async fn before(
        &self,
        account: &Loaded<Account>,
        save: &mut Save<Account>,
    ) -> Result<(), BoxError> {
        tokio::task::yield_now().await;
        if account.changes().any(|event| *event == opened()) {
            save.record(added(100)); // a welcome present
        }
        save.metadata().actor = Some("auditor".into());
        save.metadata().extra.insert("reviewed".into(), true.into());
        save.tag(tag("audited"));
        Ok(())
    }
}

pub async fn a_hook_adds_events_metadata_and_tags<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    let repository = Repository::<Account>::new(&store).with_hook(Auditor);
    let mut account = repository.load(&id()).await.unwrap();
    account.record_with(opened(), Metadata::new().with_actor("ann"));
    repository.save(&mut account).await.unwrap();
    assert_eq!((account.balance, account.version()), (100, version(2)));
    account.record(AccountEvent::Closed);
    repository.save(&mut account).await.unwrap();

    let events = store
        .collect(EventQuery::stream(account.stream().clone()))
        .await
        .unwrap();
    let actors: Vec<_> = events
        .iter()
        .map(|event| event.metadata().actor.as_deref().unwrap_or_default())
        .collect();
    assert_eq!(actors, ["ann", "auditor", "auditor"]);
    for event in &events {
        assert_eq!(event.metadata().extra["reviewed"], true);
        assert_eq!(event.tags(), [tag("audited")]);
    }
    assert_eq!(
        repository.load(account.id()).await.unwrap().state(),
        account.state()
    );
}

pub async fn hooks_after_a_save_see_the_receipt_and_cannot_fail_it<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    let seen = Arc::new(Mutex::new(Vec::<(i64, Appended)>::new()));
    let (first, second) = (seen.clone(), seen.clone());
    let repository = Repository::<Account>::new(&store)
        .after_save(move |account, receipt| {
            assert_eq!(account.changes().count(), 0);
            first
                .lock()
                .unwrap()
                .push((account.balance, receipt.clone()));
            Err("the mail server is away".into())
        })
        .after_save(move |account, receipt| {
            second
                .lock()
                .unwrap()
                .push((-account.balance, receipt.clone()));
            Ok(())
        });
    let mut account = repository.load(&id()).await.unwrap();
    repository.save(&mut account).await.unwrap();
    assert!(seen.lock().unwrap().is_empty(), "nothing was saved");
    account.record(added(3));
    let receipt = repository.save(&mut account).await.unwrap();
    assert_eq!(*seen.lock().unwrap(), [(3, receipt.clone()), (-3, receipt)]);
}

pub async fn hooks_do_not_run_again_for_the_same_events<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    let runs = Arc::new(AtomicUsize::new(0));
    let counted = runs.clone();
    let faulty = Faulty::new(store.clone(), [Fault::Forget]);
    let repository = Repository::<Account>::new(&faulty)
        .with_options(patient().with_max_attempts(1))
        .before_save(move |_, save| {
            counted.fetch_add(1, Ordering::SeqCst);
            save.record(added(100));
            Ok(())
        });
    let mut account = repository.load(&id()).await.unwrap();
    account.record(added(1));
    assert!(
        repository
            .save(&mut account)
            .await
            .unwrap_err()
            .is_outcome_unknown()
    );
    repository.save(&mut account).await.unwrap();
    assert_eq!(runs.load(Ordering::SeqCst), 1);
    assert_eq!((account.balance, account.version()), (101, version(2)));
    assert_eq!(stored(&store, *account.id()).await.len(), 2);
}

pub async fn what_a_hook_added_does_not_leak<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    let reason = "busy".to_owned();
    let refusal = Fault::Refuse(StoreErrorKind::Unavailable { reason });
    let repository = Repository::<Account>::new(&Faulty::new(store.clone(), [refusal]))
        .before_save(|_, save| {
            save.record(added(100));
            Ok(())
        });
    let mut account = repository.load(&id()).await.unwrap();
    account.record(added(1));
    let error = repository.save(&mut account).await.unwrap_err();
    assert!(error.is_transient());
    assert_eq!((account.balance, account.changes().count()), (1, 1));
    repository.save(&mut account).await.unwrap();
    assert_eq!((account.balance, account.version()), (101, version(2)));
    assert_eq!(stored(&store, *account.id()).await.len(), 2);
}
