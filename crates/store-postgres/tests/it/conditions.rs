//! Conditions are checked in two steps: up to the head before they wait, the rest under the lock.

use std::time::Duration;

use backstory_event::{
    Append, AppendCondition, Checkpoint, Conflict, EventFilter, EventStore, EventStoreExt,
    ExpectedVersion, FilterItem, StoreErrorKind, Tag,
};
use backstory_store_postgres::PostgresStore;
use futures::future::try_join_all;

use crate::kit::{
    LOCK_WAITERS, TAKE_LOCK, event, fresh, one, raw, run, scalar, stream, until_count, within,
};

/// From now on each look for hits of tags is written down: from where, and by whom.
const WATCH_LOOKS: &str = "CREATE TABLE public.look (after bigint, pid int);
    ALTER FUNCTION backstory.tag_hits_v1 RENAME TO tag_hits_real;
    CREATE FUNCTION backstory.tag_hits_v1(looks_ jsonb)
      RETURNS TABLE (append int, hit_position bigint, hit_name text, hit_id uuid) LANGUAGE plpgsql STRICT AS $$
      BEGIN
        INSERT INTO public.look SELECT q.after, pg_backend_pid() FROM jsonb_to_recordset(looks_) AS q(after bigint);
        RETURN QUERY SELECT * FROM backstory.tag_hits_real(looks_);
      END $$";

fn tagged(tag: &str) -> EventFilter {
    FilterItem::new().tag(Tag::new(tag).unwrap()).into()
}

pub(crate) fn guarded(key: &str, tag: &str, after: Checkpoint) -> Append {
    let mut event = event("seat.taken");
    event.tags = vec![Tag::new(tag).unwrap()];
    Append::to(stream("seat", key), ExpectedVersion::NoStream, [event])
        .fail_if(AppendCondition::new(tagged(tag), after))
}

async fn filled(store: &PostgresStore, events: usize) {
    let appends = (0..events).map(|number| store.append(one(&stream("todo", number))));
    try_join_all(appends).await.unwrap();
}

#[tokio::test]
async fn under_the_lock_only_the_newest_events_are_looked_through() {
    let (database, store) = fresh().await;
    filled(&store, 300).await;
    let mut admin = raw(database.url()).await;
    run(&mut admin, WATCH_LOOKS).await;
    let receipt = store
        .append(guarded("1", "a", Checkpoint::START))
        .await
        .unwrap();
    assert_eq!(receipt.position().get(), 301);
    let text = "SELECT coalesce(string_agg(after::text, ' ' ORDER BY after), '') FROM look";
    let looks: String = scalar(&mut admin, text).await;
    assert_eq!(looks, "0");
    let text = "SELECT count(*) FROM look l JOIN pg_stat_activity a ON a.pid = l.pid \
        WHERE a.query LIKE '%append_v1%'";
    let by_the_writer: i64 = scalar(&mut admin, text).await;
    assert_eq!(by_the_writer, 0);
}

#[tokio::test]
async fn what_is_appended_between_the_two_steps_is_seen() {
    let (database, store) = fresh().await;
    filled(&store, 300).await;
    let mut admin = raw(database.url()).await;
    run(&mut admin, WATCH_LOOKS).await;
    let mut holder = raw(database.url()).await;
    run(&mut holder, "BEGIN").await;
    run(&mut holder, TAKE_LOCK).await;
    let waiting = tokio::spawn({
        let store = store.clone();
        async move { store.append(guarded("mine", "a", Checkpoint::START)).await }
    });
    until_count(&mut admin, "SELECT count(*) FROM look WHERE after = 0", 1).await;
    until_count(&mut admin, LOCK_WAITERS, 1).await;
    // Another program takes the seat meanwhile.
    run(
        &mut holder,
        "INSERT INTO backstory.event (position, category, key, version, id, name, schema_version, \
           payload, metadata, tags, recorded_at) \
         VALUES (301, 'seat', 'other', 1, gen_random_uuid(), 'seat.taken', 1, '{}', '{}', '{a}', now()); COMMIT",
    )
    .await;
    let error = within(waiting).await.unwrap().unwrap_err();
    match error.kind() {
        StoreErrorKind::Conflict(Conflict::Condition { position, name, .. }) => {
            assert_eq!((position.get(), name.as_str()), (301, "seat.taken"));
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_hit_of_long_ago_is_named_and_its_own_append_still_gets_its_receipt() {
    let (_database, store) = fresh().await;
    let first = guarded("1", "a", Checkpoint::START);
    let receipt = store.append(first.clone()).await.unwrap();
    filled(&store, 300).await;
    assert_eq!(store.append(first).await.unwrap(), receipt);
    let error = store
        .append(guarded("2", "a", Checkpoint::START))
        .await
        .unwrap_err();
    match error.kind() {
        StoreErrorKind::Conflict(Conflict::Condition { position, .. }) => {
            assert_eq!(*position, receipt.position());
        }
        other => panic!("{other:?}"),
    }
    let behind = guarded("3", "a", receipt.checkpoint);
    store.append(behind).await.unwrap();
}

#[tokio::test]
async fn a_proof_of_long_ago_that_is_wrong_is_still_noticed() {
    let (_database, store) = fresh().await;
    let other = store.append(one(&stream("todo", "x"))).await.unwrap();
    filled(&store, 300).await;
    let wrong = Checkpoint {
        position: other.position().next(),
        ..other.checkpoint
    };
    let error = store.append(guarded("1", "a", wrong)).await.unwrap_err();
    assert!(
        matches!(error.kind(), StoreErrorKind::Diverged { .. }),
        "{error:?}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn conditions_on_different_tags_never_conflict() {
    let (database, store) = fresh().await;
    let other = PostgresStore::connect(database.url()).await.unwrap();
    let callers = (0..16).map(|caller| {
        let store = if caller % 2 == 0 {
            store.clone()
        } else {
            other.clone()
        };
        tokio::spawn(async move {
            let tag = format!("caller:{caller}");
            let mut after = Checkpoint::START;
            for number in 0..40 {
                let append = guarded(&format!("{caller}-{number}"), &tag, after)
                    .with_deadline(Duration::from_secs(60));
                after = store.append(append).await.unwrap().checkpoint;
            }
        })
    });
    for caller in callers.collect::<Vec<_>>() {
        within(caller).await.unwrap();
    }
    assert_eq!(store.head().await.unwrap().position.get(), 640);
}

#[tokio::test]
async fn a_check_that_takes_longer_than_the_deadline_stores_nothing() {
    let (database, store) = fresh().await;
    filled(&store, 300).await;
    let mut admin = raw(database.url()).await;
    run(
        &mut admin,
        "BEGIN; LOCK TABLE backstory.event IN ACCESS EXCLUSIVE MODE",
    )
    .await;
    let append = guarded("1", "a", Checkpoint::START).with_deadline(Duration::from_millis(300));
    let error = within(store.append(append)).await.unwrap_err();
    assert!(
        matches!(error.kind(), StoreErrorKind::NotStored { .. }),
        "{error:?}"
    );
    run(&mut admin, "ROLLBACK").await;
    assert_eq!(store.head().await.unwrap().position.get(), 300);
}
