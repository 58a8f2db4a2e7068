//! Each number of a writer moves when its cause happens, and no other does.

use std::time::Duration;

use backstory_event::{
    Append, Conflict, EventId, ExpectedVersion, Invalid, Position, StoreErrorKind, StreamVersion,
};
use backstory_store_kit::{Conflicts, Refusals, WriterStats};

use crate::{
    append, append_of, stream,
    writer::{Act, database},
};

/// The numbers after each of some answers of the database.
async fn after(kinds: impl IntoIterator<Item = StoreErrorKind>) -> WriterStats {
    let database = database(kinds.into_iter().map(Act::Answer).collect::<Vec<_>>());
    while database.writer.append(append(1)).await.is_err() {}
    database.writer.stats()
}

#[tokio::test]
async fn conflicts_and_refusals_are_counted_by_kind() {
    let stream = stream(1);
    let version = Conflict::Version {
        stream: stream.clone(),
        expected: ExpectedVersion::NoStream,
        actual: StreamVersion::new(1),
    };
    let condition = Conflict::Condition {
        index: 0,
        position: Position::new(1),
        name: "todo.added".into(),
        event_id: EventId::NIL,
    };
    let claim = Conflict::Claim {
        scope: "scope".into(),
        value: "value".into(),
        owner: stream.clone(),
    };
    let (event_id, reason) = (EventId::NIL, String::new());
    let kinds = [
        (1, StoreErrorKind::from(version)),
        (2, StoreErrorKind::from(condition)),
        (3, StoreErrorKind::from(claim)),
        (4, Invalid::new("tag", "", "no").into()),
        (
            5,
            StoreErrorKind::StreamDeleted {
                stream: stream.clone(),
            },
        ),
        (6, StoreErrorKind::StreamErased { stream }),
        (7, StoreErrorKind::EventIdReused { event_id }),
        (
            8,
            StoreErrorKind::Diverged {
                position: Position::new(1),
                expected: event_id,
                found: None,
            },
        ),
        (
            9,
            StoreErrorKind::Unavailable {
                reason: reason.clone(),
            },
        ),
        (
            10,
            StoreErrorKind::NotWritable {
                reason: reason.clone(),
            },
        ),
        (11, StoreErrorKind::Database { reason }),
    ];
    let answers = kinds
        .iter()
        .flat_map(|(times, kind)| std::iter::repeat_n(kind.clone(), *times));
    let stats = after(answers).await;
    let Conflicts {
        version,
        condition,
        claim,
        ..
    } = stats.conflicts;
    assert_eq!((version, condition, claim), (1, 2, 3));
    assert_eq!(stats.conflicts.total(), 6);
    let Refusals {
        invalid,
        stream_deleted,
        stream_erased,
        event_id_reused,
        ..
    } = stats.refused;
    assert_eq!(
        (invalid, stream_deleted, stream_erased, event_id_reused),
        (4, 5, 6, 7)
    );
    let Refusals {
        diverged,
        unavailable,
        not_writable,
        database,
        ..
    } = stats.refused;
    assert_eq!(
        (diverged, unavailable, not_writable, database),
        (8, 9, 10, 11)
    );
    assert_eq!(stats.refused.total(), 60);
    assert_eq!(stats.stored, 1);
}

#[tokio::test]
async fn input_that_no_store_accepts_is_counted_though_it_is_never_queued() {
    let database = database([]);
    database.writer.append(Append::new()).await.unwrap_err();
    let stats = database.writer.stats();
    assert_eq!((stats.refused.invalid, stats.batch_appends.count), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn queue_and_batches_are_measured() {
    let mut database = database([]);
    let idle = database.writer.stats();
    assert_eq!(
        (idle.queued, idle.capacity, idle.writing_micros),
        (0, 1_024, None)
    );
    let (_, first) = database.block().await;
    let tasks: Vec<_> = (1..=4)
        .map(|events| database.send(append_of(2, events)))
        .collect();
    database.until_queued(4).await;
    tokio::time::advance(Duration::from_millis(21)).await;
    let busy = database.writer.stats();
    assert_eq!((busy.queued, busy.stored), (4, 0));
    assert!(busy.writing_micros.unwrap() >= 20_000, "{busy:?}");
    database.gate.add_permits(100);
    for task in tasks.into_iter().chain([first]) {
        task.await.unwrap().unwrap();
    }
    database.writer.close().await;
    let done = database.writer.stats();
    assert_eq!(
        (done.queued, done.writing_micros, done.stored),
        (0, None, 5)
    );
    let (appends, events) = (done.batch_appends, done.batch_events);
    assert_eq!((appends.count, appends.sum, appends.max), (2, 5, 4));
    assert_eq!((events.count, events.sum, events.max), (2, 11, 10));
    let bytes = append_of(2, 10).size() as u64;
    assert_eq!(done.batch_bytes.max, bytes);
    assert_eq!(done.queue_wait_micros.count, 5);
    assert!(done.queue_wait_micros.max >= 20_000, "{done:?}");
    assert_eq!(done.batch_micros.count, 2);
    assert!(done.batch_micros.max >= 20_000, "{done:?}");
}

#[tokio::test]
async fn retries_lost_answers_and_bisections_are_counted() {
    let database = database([Act::Retry, Act::Retry, Act::Retry, Act::StoreAndLose]);
    database.writer.append(append(1)).await.unwrap();
    let stats = database.writer.stats();
    assert_eq!((stats.retries, stats.resent, stats.bisections), (3, 1, 0));
    assert_eq!((stats.stored, stats.batch_micros.count), (1, 5));
    assert_eq!(stats.batch_appends.count, 1);
}

#[tokio::test]
async fn unknown_outcomes_and_withdrawals_are_counted() {
    let mut database = database([]);
    database
        .gate
        .forget_permits(tokio::sync::Semaphore::MAX_PERMITS);
    let soon = Duration::from_millis(20);
    let sent = database.send(append(1).with_deadline(soon));
    database.seen.recv().await.unwrap();
    let late = database.send(append(2).with_deadline(soon));
    let dropped = database.send(append(3));
    database.until_queued(2).await;
    dropped.abort();
    sent.await.unwrap().unwrap_err();
    late.await.unwrap().unwrap_err();
    assert!(dropped.await.unwrap_err().is_cancelled());
    let stats = database.writer.stats();
    assert_eq!((stats.unknown, stats.withdrawn), (1, 2));
}

#[tokio::test]
async fn numbers_are_json() {
    let json = serde_json::to_value(after([]).await).unwrap();
    assert_eq!(json["stored"], 1);
    assert_eq!(json["batch_events"]["max"], 1);
    assert_eq!(json["conflicts"]["claim"], 0);
    assert_eq!(json["refused"]["database"], 0);
}
