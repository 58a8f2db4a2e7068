//! Many writers and readers at once.

use std::{collections::BTreeSet, sync::Arc};

use backstory_event::{
    Append, Checkpoint, EventFilter, EventQuery, EventStore, ExpectedVersion, RecordedEvent,
};
use futures::future::join_all;
use tokio::sync::Barrier;

use crate::{
    Fixture,
    kit::{
        Background, Dice, any, check_log, event, events, exact, ids, log, position, positions, put,
        read, stream, within,
    },
};

pub async fn positions_are_dense_under_many_writers<F: Fixture>(fixture: &F) {
    let handles = [fixture.store(), within(fixture.elsewhere()).await];
    let start = Arc::new(Barrier::new(32));
    let writers: Vec<_> = (0..32)
        .map(|writer| {
            let (store, start) = (handles[writer % 2].clone(), start.clone());
            Background::spawn(async move {
                let own = stream("writer", &writer.to_string());
                let shared = stream("writer", "shared");
                start.wait().await;
                let mut last = 0;
                for round in 0..6 {
                    let append = Append::to(own.clone(), exact(round * 2), events(&["a", "b"]))
                        .and(shared.clone(), ExpectedVersion::Any, events(&["c"]));
                    let receipt = store.append(append).await.unwrap();
                    let (first, end) = receipt.positions.unwrap();
                    assert_eq!(end.get() - first.get(), 2, "an append is contiguous");
                    assert!(first.get() > last, "later appends have higher positions");
                    last = end.get();
                }
            })
        })
        .collect();
    for writer in writers {
        writer.join().await;
    }
    let stored = log(&handles[0]).await;
    assert_eq!(stored.len(), 32 * 6 * 3);
    assert_eq!(stored, log(&handles[1]).await);
}

pub async fn a_reader_of_a_growing_log_misses_nothing<F: Fixture>(fixture: &F) {
    let handles = [fixture.store(), within(fixture.elsewhere()).await];
    let total: usize = 16 * 12 * 2;
    let writers: Vec<_> = (0..16)
        .map(|writer| {
            let store = handles[writer % 2].clone();
            Background::spawn(async move {
                let own = stream("writer", &writer.to_string());
                for round in 0..12 {
                    put(&store, &own, &["a", "b"]).await;
                    // Refusals in between must not show.
                    let stale = Append::to(own.clone(), exact(round), [event("stale")]);
                    assert!(store.append(stale).await.is_err());
                }
            })
        })
        .collect();
    let readers: Vec<_> = (0..4)
        .map(|reader| {
            let store = handles[reader % 2].clone();
            Background::spawn(async move {
                let mut seen: Vec<RecordedEvent> = Vec::new();
                let mut checkpoint = Checkpoint::START;
                while seen.len() < total {
                    let mut query = EventQuery::new(EventFilter::all()).after(checkpoint);
                    query.limit = (reader > 1).then_some(5);
                    let page = store.read(&query).await.unwrap();
                    assert!(page.head >= page.checkpoint.position);
                    checkpoint = page.checkpoint;
                    if page.events.is_empty() {
                        store.changed(checkpoint.position).await.unwrap();
                    }
                    seen.extend(page.events);
                    let expected: Vec<_> = (1..=seen.len()).map(position).collect();
                    let found: Vec<_> = seen.iter().map(RecordedEvent::position).collect();
                    assert_eq!(found, expected, "what is behind a reader is complete");
                }
                seen
            })
        })
        .collect();
    for writer in writers {
        writer.join().await;
    }
    let stored = log(&handles[0]).await;
    assert_eq!(stored.len(), total);
    for reader in readers {
        assert_eq!(
            ids(&reader.join().await),
            ids(&stored),
            "and stays as it was seen"
        );
    }
}

pub async fn of_many_writers_with_one_version_one_wins<F: Fixture>(fixture: &F) {
    let handles = [fixture.store(), within(fixture.elsewhere()).await];
    let todo = stream("todo", "1");
    for round in 0..5 {
        let attempts = (0..16).map(|writer| {
            let append = Append::to(todo.clone(), exact(round), [event("done")]);
            let store = handles[writer % 2].clone();
            async move { store.append(append).await }
        });
        let outcomes = within(join_all(attempts)).await;
        let (won, lost): (Vec<_>, Vec<_>) = outcomes.into_iter().partition(Result::is_ok);
        assert_eq!((won.len(), lost.len()), (1, 15));
        for error in lost.into_iter().filter_map(Result::err) {
            assert!(error.is_conflict(), "{error}");
        }
    }
    assert_eq!(log(&handles[0]).await.len(), 5);
}

pub async fn appends_sent_in_order_are_decided_in_order<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    let todo = stream("todo", "1");
    let appends = (0..60)
        .map(|version| store.append(Append::to(todo.clone(), exact(version), [event("done")])));
    for (version, outcome) in within(join_all(appends)).await.into_iter().enumerate() {
        let receipt = outcome.unwrap();
        assert_eq!(receipt.position(), position(version + 1));
    }
    assert_eq!(positions(&log(&store).await), (1..=60).collect::<Vec<_>>());
}

pub async fn a_refused_append_disturbs_no_other<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    let todo = stream("todo", "1");
    put(&store, &todo, &["added"]).await;
    let attempts = (0..60).map(|number| {
        let own = stream("own", &number.to_string());
        let append = match number % 6 {
            1 => Append::to(todo.clone(), exact(9), [event("stale")]),
            3 => any(&own, [event("*")]),
            5 => any(&own, [event("late")]).check(todo.clone(), ExpectedVersion::NoStream),
            _ => Append::to(own, ExpectedVersion::NoStream, events(&["a", "b"])),
        };
        store.append(append)
    });
    let outcomes = within(join_all(attempts)).await;
    for (number, outcome) in outcomes.into_iter().enumerate() {
        let refused = number % 2 == 1;
        assert_eq!(outcome.is_err(), refused, "append {number}: {outcome:?}");
    }
    let stored = log(&store).await;
    assert_eq!(stored.len(), 1 + 30 * 2);
}

pub async fn appends_to_overlapping_streams_do_not_lock_each_other_out<F: Fixture>(fixture: &F) {
    let handles = [fixture.store(), within(fixture.elsewhere()).await];
    let streams: Vec<_> = (0..6)
        .map(|key| stream("account", &key.to_string()))
        .collect();
    let writers: Vec<_> = (0..8)
        .map(|writer| {
            let (store, streams) = (handles[writer % 2].clone(), streams.clone());
            Background::spawn(async move {
                let mut dice = Dice::new(u64::try_from(writer).unwrap());
                for _ in 0..10 {
                    let (one, two) = (dice.below(6), dice.below(5));
                    let two = if two >= one { two + 1 } else { two };
                    let append = any(&streams[one], [event("debited")])
                        .and(
                            streams[two].clone(),
                            ExpectedVersion::Any,
                            [event("credited")],
                        )
                        .claim("owner", one.to_string(), streams[one].clone());
                    store.append(append).await.unwrap();
                }
            })
        })
        .collect();
    for writer in writers {
        writer.join().await;
    }
    let stored = log(&handles[1]).await;
    assert_eq!(stored.len(), 160);
    for pair in stored.chunks(2) {
        assert_eq!((pair[0].name(), pair[1].name()), ("debited", "credited"));
    }
}

pub async fn many_readers_see_the_same<F: Fixture>(fixture: &F) {
    let handles = [fixture.store(), within(fixture.elsewhere()).await];
    let todo = stream("todo", "1");
    for _ in 0..5 {
        put(&handles[0], &todo, &["a", "b", "c", "d"]).await;
    }
    let stored = log(&handles[0]).await;
    let readers: Vec<_> = (0..30)
        .map(|reader| {
            let store = handles[reader % 2].clone();
            let query = EventQuery::stream(todo.clone());
            Background::spawn(async move { read(&store, query).await })
        })
        .collect();
    for reader in readers {
        let seen = reader.join().await;
        check_log(&seen);
        assert_eq!(seen, stored);
    }
    let unique: BTreeSet<_> = ids(&stored).into_iter().collect();
    assert_eq!(unique.len(), 20);
}
