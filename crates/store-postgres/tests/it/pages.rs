//! Pages are bounded in bytes, too.

use backstory_event::{
    Append, EventFilter, EventQuery, EventStore, EventStoreExt, ExpectedVersion, FilterItem,
    NewEvent, Payload, RecordedEvent,
};

use crate::kit::{fresh, stream};

const EVENTS: i64 = 120;
const HEAVY: usize = 400_000;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_page_of_heavy_events_is_cut_and_nothing_is_skipped() {
    let (_database, store) = fresh().await;
    let heavy = Payload::encode(&"x".repeat(HEAVY)).unwrap();
    for number in 0..EVENTS {
        let (category, payload) = match number % 10 {
            0 => ("light", Payload::empty()),
            _ => ("heavy", heavy.clone()),
        };
        let event = NewEvent::raw("stored", payload);
        let append = Append::to(stream(category, 1), ExpectedVersion::Any, [event]);
        store.append(append).await.unwrap();
    }
    let head = store.head().await.unwrap();
    let third = EventQuery::new(EventFilter::all()).limit(3);
    let third = store.read(&third).await.unwrap().checkpoint;
    let filters = [
        EventFilter::all(),
        EventFilter::category("heavy"),
        EventFilter::category("light"),
        FilterItem::new().category("heavy").name("stored").into(),
        EventFilter::stream(stream("heavy", 1)),
    ];
    for filter in filters {
        let forward = EventQuery::new(filter.clone()).after(third);
        for query in [
            forward.clone(),
            forward.clone().limit(70),
            forward.backward(),
        ] {
            let expected: Vec<i64> = (4..=EVENTS)
                .filter(
                    |position| match filter.items()[0].get_categories().first() {
                        Some(category) => (category == "light") == (position % 10 == 1),
                        None => filter.is_all() || position % 10 != 1,
                    },
                )
                .collect();
            let mut positions = Vec::new();
            let mut next = Some(query.clone());
            while let Some(query) = next {
                let page = store.read(&query).await.unwrap();
                let bytes: usize = page.events.iter().map(size).sum();
                assert!(bytes <= (8 << 20) + 2 * HEAVY, "{bytes} bytes");
                assert_eq!(page.head, head.position);
                positions.extend(page.events.iter().map(|event| event.position().get()));
                next = page.next;
            }
            if query.direction == backstory_event::Direction::Backward {
                positions.reverse();
            }
            let limit = query.limit.unwrap_or(usize::MAX).min(expected.len());
            assert_eq!(positions, expected[..limit], "{query:?}");
        }
    }
    // A cut page has proved its past.
    let foreign = backstory_event::Checkpoint {
        event_id: backstory_event::EventId::new(),
        ..third
    };
    let query = EventQuery::new(EventFilter::all()).after(foreign);
    assert!(store.read(&query).await.unwrap_err().is_diverged());
    let all = store.collect(query.backward()).await;
    assert!(all.unwrap_err().is_diverged());
}

fn size(event: &RecordedEvent) -> usize {
    event.payload().as_str().len()
}
