//! Pages: bounded, without gap or repeat, proving the log before them.

use backstory_event::{
    Append, Checkpoint, Direction, EventFilter, EventId, EventQuery, EventStore, EventStoreExt,
    ExpectedVersion, FilterItem, Position, RecordedEvent, StoreErrorKind,
};
use futures::TryStreamExt;

use super::query::twelve;
use crate::{
    Fixture,
    kit::{any, event, find, head, ids, log, position, put, read, refusal, stream, tag, within},
};

/// More events than any page may hold.
const LARGEST_PAGE: usize = 5_000;

/// Reads page by page and checks what each page says of itself.
async fn pages(
    store: &impl EventStore,
    log: &[RecordedEvent],
    query: EventQuery,
) -> Vec<RecordedEvent> {
    let mut events = Vec::new();
    let mut next = Some(query);
    let mut rounds = 0;
    while let Some(query) = next {
        let page = within(store.read(&query)).await.unwrap();
        assert!(
            page.events.len() <= LARGEST_PAGE,
            "a page of {} events",
            page.events.len()
        );
        assert_eq!(page.head, position(log.len()));
        let (from, to) = (query.after.position, page.checkpoint.position);
        assert!(from <= to && to <= page.head.max(from));
        if to > from {
            let there = &log[usize::try_from(to.get()).unwrap() - 1];
            assert_eq!(
                page.checkpoint,
                there.checkpoint(),
                "the checkpoint names its event"
            );
        }
        if query.direction == Direction::Forward {
            let looked_at = log
                .iter()
                .filter(|event| event.position() <= to && query.matches(event));
            let looked_at: Vec<_> = looked_at.cloned().collect();
            assert_eq!(
                page.events, looked_at,
                "all up to the checkpoint was looked at"
            );
        }
        events.extend(page.events);
        next = page.next;
        rounds += 1;
        assert!(rounds < 10_000, "the pages do not end");
    }
    events
}

pub async fn pages_are_bounded_and_go_on_where_they_ended<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    let (todo, rare) = (stream("todo", "1"), stream("rare", "1"));
    for _ in 0..4 {
        let many = (0..1_999).map(|_| event("many"));
        let append = any(&todo, many).and(rare.clone(), ExpectedVersion::Any, [event("rare")]);
        within(store.append(append)).await.unwrap();
    }
    let stored = log(&store).await;
    assert_eq!(stored.len(), 8_000);
    let page = within(store.read(&EventQuery::new(EventFilter::all())))
        .await
        .unwrap();
    assert!(page.next.is_some() && page.events.len() <= LARGEST_PAGE);
    for filter in [
        EventFilter::all(),
        EventFilter::stream(rare.clone()),
        FilterItem::new().name("rare").into(),
        FilterItem::new().name("never").into(),
        EventFilter::category("many"),
    ] {
        for query in [
            EventQuery::new(filter.clone()),
            EventQuery::new(filter.clone()).backward(),
            EventQuery::new(filter.clone())
                .limit(5_500)
                .after(stored[1].checkpoint()),
            EventQuery::new(filter)
                .backward()
                .limit(5_500)
                .after(stored[1].checkpoint()),
        ] {
            let mut expected: Vec<_> = stored
                .iter()
                .filter(|event| query.matches(event))
                .cloned()
                .collect();
            if query.direction == Direction::Backward {
                expected.reverse();
            }
            expected.truncate(query.limit.unwrap_or(usize::MAX));
            let events = pages(&store, &stored, query.clone()).await;
            assert!(
                events == expected,
                "{query:?}: {} of {}",
                events.len(),
                expected.len()
            );
        }
    }
}

pub async fn small_pages_meet_without_gap_or_repeat<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    let stored = twelve(&store).await;
    for filter in [
        EventFilter::all(),
        EventFilter::category("list"),
        EventFilter::stream(stream("todo", "2")),
        EventFilter::tag(tag("big")),
    ] {
        for size in 1..5 {
            // As a reader does that keeps nothing but its checkpoint.
            let mut seen = Vec::new();
            let mut checkpoint = Checkpoint::START;
            while checkpoint.position < position(stored.len()) {
                let query = EventQuery::new(filter.clone())
                    .after(checkpoint)
                    .limit(size);
                let page = within(store.read(&query)).await.unwrap();
                assert!(page.checkpoint.position > checkpoint.position, "it gets on");
                seen.extend(page.events);
                checkpoint = page.checkpoint;
            }
            assert_eq!(seen, find(&store, filter.clone()).await);
        }
    }
}

pub async fn a_page_proves_the_log_before_it<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    let stored = twelve(&store).await;
    let foreign = EventId::new();
    for filter in [
        EventFilter::all(),
        EventFilter::stream(stream("todo", "1")),
        FilterItem::new().name("never").into(),
        EventFilter::tag(tag("big")),
        EventFilter::none(),
    ] {
        let after = |number: usize, event_id| {
            let query = EventQuery::new(filter.clone());
            query.after(Checkpoint {
                position: position(number),
                event_id,
            })
        };
        for number in [1, 3, 12] {
            let right = after(number, stored[number - 1].id());
            assert!(within(store.read(&right)).await.is_ok(), "{filter:?}");
            let wrong = after(number, foreign);
            let found = Some(stored[number - 1].id());
            let diverged = |found| StoreErrorKind::Diverged {
                position: position(number),
                expected: foreign,
                found,
            };
            assert_eq!(
                refusal(within(store.read(&wrong)).await),
                diverged(found),
                "{filter:?}"
            );
            assert_eq!(
                refusal(within(store.read(&wrong.limit(1))).await),
                diverged(found)
            );
        }
        // A log that lost its tail: the event was there once.
        for number in [13, 500] {
            let expected = StoreErrorKind::Diverged {
                position: position(number),
                expected: foreign,
                found: None,
            };
            assert_eq!(
                refusal(within(store.read(&after(number, foreign))).await),
                expected
            );
        }
    }
    // Backwards the proof is checked when the reader gets there.
    let wrong = Checkpoint {
        position: position(3),
        event_id: foreign,
    };
    let query = EventQuery::new(EventFilter::all()).backward().after(wrong);
    let kind = refusal(within(store.collect(query)).await);
    assert!(matches!(kind, StoreErrorKind::Diverged { .. }), "{kind:?}");
}

pub async fn an_unproved_position_is_just_a_bound<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    let stored = twelve(&store).await;
    let query = EventQuery::new(EventFilter::all()).after(Position::new(500));
    let page = within(store.read(&query)).await.unwrap();
    assert!(page.events.is_empty() && page.next.is_none());
    assert_eq!(page.checkpoint.position, Position::new(500));
    let query = EventQuery::new(EventFilter::none());
    let page = within(store.read(&query)).await.unwrap();
    assert!(page.events.is_empty());
    assert_eq!(head(&store).await, stored[11].checkpoint());
}

pub async fn events_are_streamed_page_by_page<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    let todo = stream("todo", "1");
    for _ in 0..3 {
        within(store.append(any(&todo, (0..1_000).map(|_| event("many")))))
            .await
            .unwrap();
    }
    let stored = log(&store).await;
    for query in [
        EventQuery::stream(todo.clone()),
        EventQuery::new(EventFilter::all()),
    ] {
        let streamed: Vec<_> = within(store.events(query.clone()).try_collect())
            .await
            .unwrap();
        assert_eq!(ids(&streamed), ids(&stored));
        let streamed: Vec<_> = within(store.events(query.backward().limit(2_500)).try_collect())
            .await
            .unwrap();
        let backward: Vec<_> = stored.iter().rev().take(2_500).cloned().collect();
        assert_eq!(ids(&streamed), ids(&backward));
    }
    // A stream that is left early leaves nothing behind that stops others.
    for _ in 0..12 {
        let mut events = Box::pin(store.events(EventQuery::stream(todo.clone())));
        assert!(within(events.try_next()).await.unwrap().is_some());
    }
    put(&store, &todo, &["after"]).await;
}

pub async fn what_is_stored_while_a_query_is_read_does_not_disturb_it<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    let stored = twelve(&store).await;
    let todo = stream("todo", "1");
    let mut seen = Vec::new();
    let mut next = Some(EventQuery::new(EventFilter::all()).backward().limit(2));
    // Newest first, while newer ones come.
    while let Some(mut query) = next {
        let page = within(store.read(&query)).await.unwrap();
        seen.extend(page.events.clone());
        put(&store, &todo, &["later"]).await;
        let Some(last) = page.events.last() else {
            break;
        };
        query.up_to = Some(Position::new(last.position().get() - 1));
        next = (last.position() > position(1)).then_some(query);
    }
    seen.reverse();
    assert_eq!(seen, stored);
    // Bounded: what comes later is not part of the answer.
    let query = EventQuery::new(EventFilter::all()).up_to(position(12));
    assert_eq!(read(&store, query).await, stored);
    let append = Append::to(todo.clone(), ExpectedVersion::StreamExists, [event("last")]);
    within(store.append(append)).await.unwrap();
}
