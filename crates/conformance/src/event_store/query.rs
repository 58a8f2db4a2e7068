//! Reading: filters, bounds, directions, limits, pages and their proof.

use backstory_event::{
    Append, EventFilter, EventQuery, EventStore, ExpectedVersion, FilterItem, Position,
    RecordedEvent, StreamVersion,
};
use chrono::Duration;

use crate::{
    Fixture,
    kit::{any, event, find, log, positions, put, read, stream, tag, within},
};

/// Twelve events: `a b c` in each of the streams todo/1, todo/2, list/1, list/2, with tags.
pub(super) async fn twelve(store: &impl EventStore) -> Vec<RecordedEvent> {
    for (category, key) in [("todo", "1"), ("todo", "2"), ("list", "1"), ("list", "2")] {
        let events = [
            event("a").with_tag(tag("red")),
            event("b").with_tag(tag("red")).with_tag(tag("big")),
            event("c").with_tag(tag(&format!("key:{key}"))),
        ];
        within(store.append(any(&stream(category, key), events)))
            .await
            .unwrap();
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
        (
            item().name("a").name("c").into(),
            &[1, 3, 4, 6, 7, 9, 10, 12],
        ),
        (item().names(["never", "b"]).into(), &[2, 5, 8, 11]),
        (item().category("list").into(), &[7, 8, 9, 10, 11, 12]),
        (
            item().category("list").category("todo").name("b").into(),
            &[2, 5, 8, 11],
        ),
        (item().stream(stream("todo", "2")).into(), &[4, 5, 6]),
        (
            item()
                .stream(stream("todo", "2"))
                .stream(stream("list", "1"))
                .into(),
            &[4, 5, 6, 7, 8, 9],
        ),
        (
            item()
                .stream(stream("todo", "2"))
                .category("list")
                .name("a")
                .into(),
            &[4, 7, 10],
        ),
        (item().stream(stream("todo", "9")).into(), &[]),
        (item().tag(tag("red")).into(), &[1, 2, 4, 5, 7, 8, 10, 11]),
        (
            item().tag(tag("red")).tag(tag("big")).into(),
            &[2, 5, 8, 11],
        ),
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
        assert_eq!(
            positions(&find(&store, filter.clone()).await),
            expected,
            "{filter:?}"
        );
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
        assert_eq!(
            positions(&read(&store, query.clone()).await),
            expected,
            "{query:?}"
        );
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
    assert_eq!(
        read_versions(middle.clone()).await,
        (5..=16).collect::<Vec<_>>()
    );
    assert_eq!(read_versions(middle.backward().limit(2)).await, [16, 15]);
    assert_eq!(
        read_versions(one().from_version(version(31))).await,
        [31, 32]
    );
    assert_eq!(read_versions(one().to_version(version(2))).await, [1, 2]);
    assert!(
        read_versions(one().from_version(version(33)))
            .await
            .is_empty()
    );
    assert!(
        read_versions(one().from_version(version(3)).to_version(version(2)))
            .await
            .is_empty()
    );
    let every = EventQuery::new(EventFilter::all())
        .from_version(version(2))
        .to_version(version(2));
    assert_eq!(positions(&read(&store, every).await), [2, 42]);
}

/// Events with three different times, and the times.
pub(super) async fn three_times(store: &impl EventStore) -> Vec<RecordedEvent> {
    let todo = stream("todo", "1");
    let mut stored: Vec<RecordedEvent> = Vec::new();
    // No time is waited for: the clock moves on while events are stored.
    for _ in 0..10_000 {
        let receipt = put(store, &todo, &["ticked"]).await;
        let query =
            EventQuery::new(EventFilter::all()).after(Position::new(receipt.position().get() - 1));
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
        all()
            .since(times[0] - Duration::days(400_000))
            .until(times[2] + Duration::days(400_000)),
        all().since(times[1]).limit(1),
        all().since(times[1]).after(stored[0].checkpoint()),
    ] {
        for query in [query.clone(), query.backward()] {
            let mut expected: Vec<_> = stored
                .iter()
                .filter(|event| query.matches(event))
                .cloned()
                .collect();
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
        assert_eq!(
            positions(&read(&store, query.clone()).await),
            expected,
            "{query:?}"
        );
        let page = within(store.read(&query)).await.unwrap();
        assert!(
            page.events.len() <= query.limit.unwrap(),
            "a page is within the limit"
        );
    }
}

pub async fn many_streams_and_names_in_one_filter_are_found<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    let streams: Vec<_> = (0..400)
        .map(|number| stream("todo", &number.to_string()))
        .collect();
    let append = streams.iter().fold(Append::new(), |append, stream| {
        let name = format!("name {}", stream.key());
        append.and(
            stream.clone(),
            ExpectedVersion::NoStream,
            [event(&name), event("same")],
        )
    });
    within(store.append(append)).await.unwrap();
    let even = || streams.iter().step_by(2);
    let by_stream = even().cloned().fold(FilterItem::new(), FilterItem::stream);
    assert_eq!(find(&store, by_stream).await.len(), 400);
    let by_name = even().fold(FilterItem::new(), |item, stream| {
        item.name(format!("name {}", stream.key()))
    });
    assert_eq!(find(&store, by_name).await.len(), 200);
    let items: EventFilter = even()
        .map(|stream| FilterItem::new().stream(stream.clone()).name("same"))
        .collect();
    assert_eq!(find(&store, items).await.len(), 200);
}
