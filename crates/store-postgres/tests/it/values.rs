//! Values go the fast way too, and repairs wait for the lock of the log.

use std::collections::BTreeSet;

use backstory_aggregate::{LookupFilter, LookupQuery, LookupRepair, LookupRow, LookupStore};
use backstory_event::{Append, EventStore, StoreErrorKind, StreamVersion};
use backstory_store_postgres::PostgresStore;
use sqlx::PgConnection;

use crate::kit::{
    LOCK_WAITERS, TAKE_LOCK, fresh, one, raw, run, scalar, stream, until_count, within,
};

/// The writer is idle, and the last that it did was the one call.
const ONE_CALL: &str = "SELECT count(*) FROM pg_stat_activity \
    WHERE datname = current_database() AND state = 'idle' AND query LIKE '%append_v1(%'";

async fn is_one_call(store: &PostgresStore, admin: &mut PgConnection, append: Append) -> bool {
    store.append(append).await.unwrap();
    // An answer comes before the server says that it is idle.
    let idle = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() \
        AND state <> 'idle' AND pid <> pg_backend_pid()";
    until_count(admin, idle, 0).await;
    scalar::<i64>(admin, ONE_CALL).await == 1
}

async fn rows(store: &PostgresStore, scope: &str) -> Vec<LookupRow> {
    let query = LookupQuery {
        scope: scope.to_owned(),
        filter: LookupFilter::Prefix(String::new()),
        after: None,
        limit: 100,
    };
    store.lookup_rows(&query).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn values_are_taken_moved_and_given_back_in_one_call() {
    let (database, store) = fresh().await;
    let mut admin = raw(database.url()).await;
    let (ann, ben) = (stream("user", "ann"), stream("user", "ben"));
    let set = |value: &str| {
        one(&ann)
            .clear("email", ann.clone())
            .claim("email", value, ann.clone())
    };
    for append in [
        set("a@x.org"),
        set("b@x.org"),
        set("b@x.org"),
        one(&ann).claim("email", "b@x.org", ann.clone()),
        one(&ann).enter("city", "Ulm", ann.clone()),
        one(&ann).enter("city", "Ulm", ann.clone()),
        one(&ben).claim("email", "a@x.org", ben.clone()),
        one(&ben).release("email", "a@x.org", ben.clone()),
        one(&ben).release("email", "nobody@x.org", ben.clone()),
        one(&ann).clear("city", ann.clone()),
    ] {
        let what = format!("{:?}", append.companions);
        assert!(is_one_call(&store, &mut admin, append).await, "{what}");
    }
    let row = LookupRow {
        value: "b@x.org".to_owned(),
        owner: ann.clone(),
        claimed: true,
    };
    assert_eq!(rows(&store, "email").await, [row]);
    assert_eq!(rows(&store, "city").await, []);
    // Who takes what another one gives up in the same append needs a look.
    let look = one(&ben)
        .clear("email", ann)
        .claim("email", "b@x.org", ben.clone());
    assert!(!is_one_call(&store, &mut admin, look).await);
    assert_eq!(rows(&store, "email").await[0].owner, ben);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_repair_waits_for_the_lock_and_sees_what_was_stored_meanwhile() {
    let (database, store) = fresh().await;
    let mut admin = raw(database.url()).await;
    let mut client = raw(database.url()).await;
    let ann = stream("user", "ann");
    store.append(one(&ann)).await.unwrap();
    let repair = LookupRepair {
        scope: "email".to_owned(),
        unique: true,
        owner: ann.clone(),
        version: StreamVersion::new(1),
        values: BTreeSet::from(["a@x.org".to_owned()]),
    };
    run(&mut client, "BEGIN").await;
    let pending = store.append_in(&mut client, one(&ann)).await.unwrap();
    let repairs = [repair.clone()];
    let waiting = store.repair_lookup(&repairs);
    let commit = async {
        until_count(&mut admin, LOCK_WAITERS, 1).await;
        run(&mut client, "COMMIT").await;
    };
    let (answers, ()) = within(futures::future::join(waiting, commit)).await;
    assert!(answers.unwrap()[0].is_err(), "it came too late");
    pending.committed(&store).await.unwrap();
    assert_eq!(rows(&store, "email").await, []);

    // Somebody holds the lock for long.
    run(&mut client, "BEGIN").await;
    run(&mut client, TAKE_LOCK).await;
    let error = within(store.repair_lookup(&repairs)).await.unwrap_err();
    assert!(
        matches!(error.kind(), StoreErrorKind::Unavailable { reason } if reason.contains("holds the lock")),
        "{error}"
    );
    run(&mut client, "ROLLBACK").await;
    let repair = LookupRepair {
        version: StreamVersion::new(2),
        ..repair
    };
    assert_eq!(store.repair_lookup(&[repair]).await.unwrap(), [Ok(())]);
    assert_eq!(rows(&store, "email").await.len(), 1);
    store.close().await;
    let closed = store.repair_lookup(&[]).await.unwrap_err();
    assert!(closed.is_closed());
}
