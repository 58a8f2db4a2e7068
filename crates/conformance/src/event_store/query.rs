//! Reading: filters, bounds, directions, limits, pages and their proof.

use backstory_event::{
    Append, Checkpoint, EventFilter, EventId, EventQuery, EventStore, EventStoreExt,
    ExpectedVersion, FilterItem, Position, RecordedEvent, StoreErrorKind, StreamVersion,
};
use chrono::Duration;
use futures::TryStreamExt;

use crate::{
    Fixture,
    kit::{
        any, event, find, head, ids, log, position, positions, put, read, refusal, stream, tag,
        within,
    },
};

/// More events than any page may hold.
const LARGEST_PAGE: usize = 5_000;

/// Twelve events: `a b c` in each of the streams todo/1, todo/2, list/1, list/2, with tags.
async fn twelve(store: &impl EventStore) -> Vec<RecordedEvent> {
    for (category, key) in [("todo", "1"), ("todo", "2"), ("list", "1"), ("list", "2")] {
        let events = [
            event("a").with_tag(tag("red")),
            event("b").with_tag(tag("red")).with_tag(tag("big")),
            event("c").with_tag(tag(&format!("key:{key}"))),
        ];
        within(store.append(any(&stream(category, key), events))).await.unwrap();
    }
    log(store).await
}

pub async fn filters_find_what_they_mean<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    twelve(&store).await;
    let item = FilterItem::new;
    let cases: [(EventFilter, &[i64]); 16] = [
        (EventFilter::none(), &[]),
        (EventFilter::all(), &[1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12]),
        (item().name("a").into(), &[1, 4, 7, 10]),
        (item().name("a").name("c").into(), &[1, 3, 4, 6, 7, 9, 10, 12]),
        (item().names(["never", "b"]).into(), &[2, 5, 8, 11]),
        (item().category("list").into(), &[7, 8, 9, 10, 11, 12]),
        (item().category("list").category("todo").name("b").into(), &[2, 5, 8, 11]),
        (item().stream(stream("todo", "2")).into(), &[4, 5, 6]),
        (item().stream(stream("todo", "2")).stream(stream("list", "1")).into(), &[4, 5, 6, 7, 8, 9]),
        (item().stream(stream("todo", "2")).category("list").name("a").into(), &[4, 7, 10]),
        (item().stream(stream("todo", "9")).into(), &[]),
        (item().tag(tag("red")).into(), &[1, 2, 4, 5, 7, 8, 10, 11]),
        (item().tag(tag("red")).tag(tag("big")).into(), &[2, 5, 8, 11]),
        (item().tag(tag("key:2")).category("todo").into(), &[6]),
        (item().tag(tag("red")).tag(tag("key:2")).into(), &[]),
        (
            EventFilter::from(item().name("c").category("todo"))
                .or(item().tag(tag("big")).stream(stream("list", "2")))
                .or(item().name("a").stream(stream("todo", "1"))),
            &[1, 3, 6, 11],
        ),
    ];
    for (filter, expected) in cases {
        assert_eq!(positions(&find(&store, filter.clone()).await), expected, "{filter:?}");
        let query = EventQuery::new(filter.clone()).backward();
        let mut backward = positions(&read(&store, query).await);
        backward.reverse();
        assert_eq!(backward, expected, "backward {filter:?}");
    }
}

pub async fn bounds_of_positions_hold<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    let stored = twelve(&store).await;
    let all = || EventQuery::new(EventFilter::all());
    let at = Position::new;
    let cases: [(EventQuery, &[i64]); 9] = [
        (all().after(at(9)), &[10, 11, 12]),
        (all().after(stored[8].checkpoint()), &[10, 11, 12]),
        (all().up_to(at(3)), &[1, 2, 3]),
        (all().after(at(4)).up_to(at(6)), &[5, 6]),
        (all().after(at(4)).up_to(at(4)), &[]),
        (all().after(at(6)).up_to(at(4)), &[]),
        (all().after(at(12)), &[]),
        (all().after(at(100)), &[]),
        (all().after(at(10)).up_to(Position::END), &[11, 12]),
    ];
    for (query, expected) in cases {
        assert_eq!(positions(&read(&store, query.clone()).await), expected, "{query:?}");
        let mut backward = positions(&read(&store, query.backward()).await);
        backward.reverse();
        assert_eq!(backward, expected);
    }
}

pub async fn bounds_of_versions_hold<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    let todo = stream("todo", "1");
    put(&store, &stream("list", "1"), &["x"; 40]).await;
    put(&store, &todo, &["done"; 32]).await;
    let one = || EventQuery::stream(todo.clone());
    let version = StreamVersion::new;
    let read_versions = async |query: EventQuery| -> Vec<i64> {
        let events = read(&store, query).await;
        events.iter().map(|event| event.version().get()).collect()
    };
    let middle = one().from_version(version(5)).to_version(version(16));
    assert_eq!(read_versions(middle.clone()).await, (5..=16).collect::<Vec<_>>());
    assert_eq!(read_versions(middle.backward().limit(2)).await, [16, 15]);
    assert_eq!(read_versions(one().from_version(version(31))).await, [31, 32]);
    assert_eq!(read_versions(one().to_version(version(2))).await, [1, 2]);
    assert!(read_versions(one().from_version(version(33))).await.is_empty());
    assert!(read_versions(one().from_version(version(3)).to_version(version(2))).await.is_empty());
    let every = EventQuery::new(EventFilter::all()).from_version(version(2)).to_version(version(2));
    assert_eq!(positions(&read(&store, every).await), [2, 42]);
}

/// Events with three different times, and the times.
async fn three_times(store: &impl EventStore) -> Vec<RecordedEvent> {
    let todo = stream("todo", "1");
    let mut stored: Vec<RecordedEvent> = Vec::new();
    // No time is waited for: the clock moves on while events are stored.
    for _ in 0..10_000 {
        let receipt = put(store, &todo, &["ticked"]).await;
        let query = EventQuery::new(EventFilter::all()).after(Position::new(receipt.position().get() - 1));
        stored.extend(read(store, query).await);
        let mut times: Vec<_> = stored.iter().map(RecordedEvent::recorded_at).collect();
        times.dedup();
        if times.len() == 3 {
            return stored;
        }
    }
    panic!("the clock stands still");
}

pub async fn bounds_of_times_hold<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    let stored = three_times(&store).await;
    let mut times: Vec<_> = stored.iter().map(RecordedEvent::recorded_at).collect();
    times.dedup();
    let tick = Duration::microseconds(1);
    let all = || EventQuery::new(EventFilter::all());
    for query in [
        all().since(times[1]),
        all().since(times[1] - tick),
        all().since(times[1] + tick),
        all().until(times[1]),
        all().until(times[1] + tick),
        all().since(times[0]).until(times[2]),
        all().since(times[1]).until(times[1]),
        all().since(times[1]).until(times[1] + tick),
        all().since(times[2] + tick),
        all().until(times[0]),
        all().since(times[0] - Duration::days(400_000)).until(times[2] + Duration::days(400_000)),
        all().since(times[1]).limit(1),
        all().since(times[1]).after(stored[0].checkpoint()),
    ] {
        for query in [query.clone(), query.backward()] {
            let mut expected: Vec<_> =
                stored.iter().filter(|event| query.matches(event)).cloned().collect();
            if query.direction == backstory_event::Direction::Backward {
                expected.reverse();
            }
            expected.truncate(query.limit.unwrap_or(usize::MAX));
            assert_eq!(read(&store, query.clone()).await, expected, "{query:?}");
        }
    }
}

pub async fn limits_and_directions_hold<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    twelve(&store).await;
    let all = || EventQuery::new(EventFilter::all());
    let named = || EventQuery::new(FilterItem::new().name("b").into());
    let at = Position::new;
    let cases: [(EventQuery, &[i64]); 14] = [
        (all().limit(0), &[]),
        (all().limit(1), &[1]),
        (all().limit(12), &[1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12]),
        (all().limit(usize::MAX).after(at(10)), &[11, 12]),
        (all().backward().limit(0), &[]),
        (all().backward().limit(1), &[12]),
        (all().backward().limit(3), &[12, 11, 10]),
        (all().backward().limit(3).up_to(at(5)), &[5, 4, 3]),
        (all().backward().limit(3).up_to(at(5)).after(at(3)), &[5, 4]),
        (named().limit(1), &[2]),
        (named().limit(2).after(at(2)), &[5, 8]),
        (named().backward().limit(2), &[11, 8]),
        (named().backward().limit(9).up_to(at(8)), &[8, 5, 2]),
        (named().backward().limit(2).up_to(at(7)).after(at(4)), &[5]),
    ];
    for (query, expected) in cases {
        assert_eq!(positions(&read(&store, query.clone()).await), expected, "{query:?}");
        let page = within(store.read(&query)).await.unwrap();
        assert!(page.events.len() <= query.limit.unwrap(), "a page is within the limit");
    }
}

/// Reads page by page and checks what each page says of itself.
async fn pages(store: &impl EventStore, log: &[RecordedEvent], query: EventQuery) -> Vec<RecordedEvent> {
    let mut events = Vec::new();
    let mut next = Some(query);
    let mut rounds = 0;
    while let Some(query) = next {
        let page = within(store.read(&query)).await.unwrap();
        assert!(page.events.len() <= LARGEST_PAGE, "a page of {} events", page.events.len());
        assert_eq!(page.head, position(log.len()));
        let (from, to) = (query.after.position, page.checkpoint.position);
        assert!(from <= to && to <= page.head.max(from));
        if to > from {
            let there = &log[usize::try_from(to.get()).unwrap() - 1];
            assert_eq!(page.checkpoint, there.checkpoint(), "the checkpoint names its event");
        }
        if query.direction == backstory_event::Direction::Forward {
            let looked_at = log.iter().filter(|event| event.position() <= to && query.matches(event));
            let looked_at: Vec<_> = looked_at.cloned().collect();
            assert_eq!(page.events, looked_at, "all up to the checkpoint was looked at");
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
    let page = within(store.read(&EventQuery::new(EventFilter::all()))).await.unwrap();
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
            EventQuery::new(filter.clone()).limit(5_500).after(stored[1].checkpoint()),
            EventQuery::new(filter).backward().limit(5_500).after(stored[1].checkpoint()),
        ] {
            let mut expected: Vec<_> =
                stored.iter().filter(|event| query.matches(event)).cloned().collect();
            if query.direction == backstory_event::Direction::Backward {
                expected.reverse();
            }
            expected.truncate(query.limit.unwrap_or(usize::MAX));
            let events = pages(&store, &stored, query.clone()).await;
            assert!(events == expected, "{query:?}: {} of {}", events.len(), expected.len());
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
                let query = EventQuery::new(filter.clone()).after(checkpoint).limit(size);
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
            query.after(Checkpoint { position: position(number), event_id })
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
            assert_eq!(refusal(within(store.read(&wrong)).await), diverged(found), "{filter:?}");
            assert_eq!(refusal(within(store.read(&wrong.limit(1))).await), diverged(found));
        }
        // A log that lost its tail: the event was there once.
        for number in [13, 500] {
            let expected = StoreErrorKind::Diverged {
                position: position(number),
                expected: foreign,
                found: None,
            };
            assert_eq!(refusal(within(store.read(&after(number, foreign))).await), expected);
        }
    }
    // Backwards the proof is checked when the reader gets there.
    let wrong = Checkpoint { position: position(3), event_id: foreign };
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
        within(store.append(any(&todo, (0..1_000).map(|_| event("many"))))).await.unwrap();
    }
    let stored = log(&store).await;
    for query in [EventQuery::stream(todo.clone()), EventQuery::new(EventFilter::all())] {
        let streamed: Vec<_> = within(store.events(query.clone()).try_collect()).await.unwrap();
        assert_eq!(ids(&streamed), ids(&stored));
        let streamed: Vec<_> =
            within(store.events(query.backward().limit(2_500)).try_collect()).await.unwrap();
        let backward: Vec<_> = stored.iter().rev().take(2_500).cloned().collect();
        assert_eq!(ids(&streamed), ids(&backward));
    }
    // A stream that is left early leaves nothing behind that stops others.
    for _ in 0..50 {
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
        let Some(last) = page.events.last() else { break };
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

pub async fn many_streams_and_names_in_one_filter_are_found<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    let streams: Vec<_> = (0..400).map(|number| stream("todo", &number.to_string())).collect();
    let append = streams.iter().fold(Append::new(), |append, stream| {
        let name = format!("name {}", stream.key());
        append.and(stream.clone(), ExpectedVersion::NoStream, [event(&name), event("same")])
    });
    within(store.append(append)).await.unwrap();
    let even = || streams.iter().step_by(2);
    let by_stream = even().cloned().fold(FilterItem::new(), FilterItem::stream);
    assert_eq!(find(&store, by_stream).await.len(), 400);
    let by_name = even().fold(FilterItem::new(), |item, stream| item.name(format!("name {}", stream.key())));
    assert_eq!(find(&store, by_name).await.len(), 200);
    let items: EventFilter = even()
        .map(|stream| FilterItem::new().stream(stream.clone()).name("same"))
        .collect();
    assert_eq!(find(&store, items).await.len(), 200);
}
