//! What fits into a batch, what waits, and what one bad append costs the others.

use std::time::Duration;

use backstory_event::{
    AppendCondition, EventFilter, Lifecycle, NewEvent, Payload, Position, StoreErrorKind,
};
use backstory_store_kit::WriterOptions;

use crate::{
    append, append_of,
    writer::{Act, Database, database, with_options},
};

/// Sends appends of so many events each while the database is busy, and says how many events
/// each batch then has.
async fn batches(options: WriterOptions, appends: &[usize]) -> Vec<usize> {
    let mut database = with_options([], options);
    let (_, first) = database.block().await;
    let mut tasks = vec![first];
    for (number, events) in appends.iter().enumerate() {
        tasks.push(database.send(append_of(2, *events)));
        database.until_queued(number + 1).await;
    }
    database.gate.add_permits(100);
    for task in tasks {
        task.await.unwrap().unwrap();
    }
    database.writer.close().await;
    let mut sizes = Vec::new();
    while let Ok(ids) = database.seen.try_recv() {
        sizes.push(ids.len());
    }
    sizes
}

#[tokio::test]
async fn a_batch_has_at_most_so_many_appends() {
    let mut options = WriterOptions::default();
    options.batch_appends = 3;
    assert_eq!(batches(options, &[1; 7]).await, [3, 3, 1]);
}

#[tokio::test]
async fn a_batch_has_at_most_so_many_events_unless_one_append_has_more() {
    let mut options = WriterOptions::default();
    options.batch_events = 5;
    let sizes = batches(options, &[2, 3, 1, 9, 5, 4, 2]).await;
    assert_eq!(sizes, [5, 1, 9, 5, 4, 2]);
}

#[tokio::test]
async fn a_batch_has_at_most_so_many_bytes_unless_one_append_has_more() {
    let mut options = WriterOptions::default();
    options.batch_bytes = append_of(2, 3).size();
    let sizes = batches(options, &[2, 1, 1, 4, 3, 2]).await;
    assert_eq!(sizes, [3, 1, 4, 3, 2]);
}

#[tokio::test]
async fn a_condition_does_not_share_a_batch_with_an_erasure_before_it() {
    let mut database = database([]);
    let (_, first) = database.block().await;
    let condition = || AppendCondition::new(EventFilter::all(), Position::START);
    let mut erasure = append(2);
    erasure.parts[0].events = vec![NewEvent::raw(Lifecycle::Erased.name(), Payload::empty())];
    let appends = [
        append(3).fail_if(condition()),
        erasure,
        append(4),
        append(5).fail_if(condition()),
        append(6),
    ];
    let ids: Vec<_> = appends.iter().flat_map(|one| one.event_ids()).collect();
    let mut tasks = vec![first];
    for (number, append) in appends.into_iter().enumerate() {
        tasks.push(database.send(append));
        database.until_queued(number + 1).await;
    }
    database.gate.add_permits(100);
    for task in tasks {
        task.await.unwrap().unwrap();
    }
    assert_eq!(database.seen.recv().await.unwrap(), ids[..3]);
    assert_eq!(database.seen.recv().await.unwrap(), ids[3..]);
}

#[tokio::test]
async fn a_queue_that_stays_full_refuses_at_the_deadline() {
    let mut options = WriterOptions::default();
    options.queue = 2;
    let mut database = with_options([], options);
    let (mut expected, first) = database.block().await;
    let mut tasks = vec![first];
    for key in 2..=3 {
        let append = append(key);
        expected.extend(append.event_ids());
        tasks.push(database.send(append));
        database.until_queued(tasks.len() - 1).await;
    }
    let late = append(4).with_deadline(Duration::from_millis(20));
    let error = database.writer.append(late).await.unwrap_err();
    assert!(
        matches!(error.kind(), StoreErrorKind::NotStored { .. }),
        "{error:?}"
    );
    database.gate.add_permits(100);
    for task in tasks {
        task.await.unwrap().unwrap();
    }
    database.writer.close().await;
    assert_eq!(*database.stored.lock().unwrap(), expected);
}

/// Sends 500 appends as one batch of which one is guilty: the outcomes, and how often the
/// database was asked.
async fn one_guilty(place: usize) -> usize {
    let appends: Vec<_> = (0..500).map(|_| append(2)).collect();
    let ids: Vec<_> = appends.iter().flat_map(|one| one.event_ids()).collect();
    let mut database: Database = database([Act::Store, Act::RefuseWith(ids[place])]);
    let (sent, first) = database.block().await;
    let mut tasks = Vec::new();
    for (number, append) in appends.into_iter().enumerate() {
        tasks.push(database.send(append));
        database.until_queued(number + 1).await;
    }
    database.gate.add_permits(1_000);
    first.await.unwrap().unwrap();
    for (number, task) in tasks.into_iter().enumerate() {
        let outcome = task.await.unwrap();
        assert_eq!(outcome.is_err(), number == place, "append {number}");
    }
    let mut stored = sent;
    stored.extend(ids.iter().filter(|id| **id != ids[place]));
    assert_eq!(
        *database.stored.lock().unwrap(),
        stored,
        "in order of arrival"
    );
    let mut attempts = 0;
    while database.seen.try_recv().is_ok() {
        attempts += 1;
    }
    assert_eq!(
        u64::try_from(attempts).unwrap(),
        database.writer.stats().bisections * 2 + 1
    );
    attempts
}

#[tokio::test]
async fn one_guilty_append_among_500_fails_alone_and_costs_few_attempts() {
    for place in [0, 1, 249, 250, 333, 499] {
        // The whole batch, and two halves on each of at most 9 levels.
        let attempts = one_guilty(place).await;
        assert!(attempts <= 19, "{attempts} for place {place}");
    }
}

#[tokio::test]
async fn what_was_withdrawn_is_left_out_when_a_batch_is_tried_again() {
    let mut database = database([Act::Store, Act::Retry]);
    let (_, first) = database.block().await;
    let (kept, gone) = (append(2), append(3));
    let ids = [kept.event_ids()[0], gone.event_ids()[0]];
    let kept = database.send(kept);
    database.until_queued(1).await;
    let gone = database.send(gone);
    database.until_queued(2).await;
    database.gate.add_permits(1);
    first.await.unwrap().unwrap();
    assert_eq!(database.seen.recv().await.unwrap(), ids);
    gone.abort();
    assert!(gone.await.unwrap_err().is_cancelled());
    database.gate.add_permits(2);
    assert_eq!(database.seen.recv().await.unwrap(), ids[..1]);
    kept.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_batch_with_an_open_outcome_is_sent_whole_although_a_caller_gave_up() {
    let mut database = database([Act::Store, Act::StoreAndLose, Act::StoreAndLose]);
    let (_, first) = database.block().await;
    let (patient, hasty) = (
        append(2),
        append(3).with_deadline(Duration::from_millis(300)),
    );
    let ids = [patient.event_ids()[0], hasty.event_ids()[0]];
    let patient = database.send(patient);
    database.until_queued(1).await;
    let hasty = database.send(hasty);
    database.until_queued(2).await;
    database.gate.add_permits(2);
    first.await.unwrap().unwrap();
    // Stored and lost; the second attempt waits until the hasty caller has gone.
    assert_eq!(database.seen.recv().await.unwrap(), ids);
    assert_eq!(database.seen.recv().await.unwrap(), ids);
    let error = hasty.await.unwrap().unwrap_err();
    assert!(error.is_outcome_unknown(), "{error:?}");
    database.gate.add_permits(2);
    assert_eq!(database.seen.recv().await.unwrap(), ids);
    patient.await.unwrap().unwrap();
    assert_eq!(database.stored.lock().unwrap()[1..], ids);
}
