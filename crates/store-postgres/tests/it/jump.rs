//! Pages jump over what cannot match: few of them lead through a long log, and nothing is skipped.

use backstory_conformance::{
    Fixture,
    properties::{self, Generator},
};
use backstory_event::{
    Append, Checkpoint, EventFilter, EventId, EventQuery, EventStore, EventStoreExt,
    ExpectedVersion, FilterItem, Lifecycle, NewEvent, Payload, Position, RecordedEvent, StreamId,
    Tag,
};
use backstory_store_postgres::{PostgresOptions, PostgresStore};
use backstory_test_postgres::TestDatabase;
use futures::stream::iter;

use crate::kit::{fresh, log, raw, run, stream};

/// What is at a position of an imported log.
struct At {
    name: &'static str,
    tags: Vec<&'static str>,
}

async fn fill(store: &PostgresStore, events: i64, at: impl Fn(i64) -> At) {
    let events = (1..=events).map(|position| {
        let At { name, tags } = at(position);
        let mut event = NewEvent::raw(name, Payload::empty());
        event.tags = tags.into_iter().map(tag).collect();
        (stream("todo", position % 100), event)
    });
    let events: Vec<(StreamId, NewEvent)> = events.collect();
    store.import(iter(events)).await.unwrap();
}

fn tag(text: &str) -> Tag {
    Tag::new(text).unwrap()
}

fn tagged(text: &str) -> EventFilter {
    FilterItem::new().tag(tag(text)).into()
}

/// All positions that a query finds, how many pages it takes, and where the last one ends.
async fn pages(store: &PostgresStore, query: EventQuery) -> (Vec<i64>, usize, Checkpoint) {
    let (mut positions, mut count, mut next) = (Vec::new(), 0, query);
    loop {
        let page = store.read(&next).await.unwrap();
        positions.extend(page.events.iter().map(|event| event.position().get()));
        count += 1;
        match page.next {
            Some(more) => next = more,
            None => return (positions, count, page.checkpoint),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn few_pages_lead_through_a_long_log() {
    const EVENTS: i64 = 300_000;
    const RARE: [i64; 4] = [30_000, 30_001, 170_000, EVENTS - 10];
    const LATE: i64 = 250_001;
    let (database, store) = fresh().await;
    // Knows nothing of its tables.
    let off =
        "ALTER TABLE backstory.event SET (autovacuum_enabled = false); ANALYZE backstory.event";
    run(&mut raw(database.url()).await, off).await;
    fill(&store, EVENTS, |position| At {
        name: match RARE.contains(&position) {
            true => "todo.rare",
            false => "todo.added",
        },
        tags: match position {
            _ if RARE.contains(&position) => vec!["rare", "both"],
            LATE.. => vec!["late", "both"],
            _ => Vec::new(),
        },
    })
    .await;
    let end = store.head().await.unwrap();
    let named = EventFilter::from(FilterItem::new().name("todo.rare"));
    let both = EventFilter::from(FilterItem::new().name("todo.rare").tag(tag("both")));
    for filter in [tagged("rare"), named, both] {
        let query = EventQuery::new(filter);
        let (found, count, checkpoint) = pages(&store, query.clone()).await;
        assert_eq!(found, RARE);
        assert_eq!(checkpoint, end);
        // Instead of sixteen. On a busy machine one seems dear, and the next goes without.
        assert!(count <= 9, "{count} pages: {query:?}");
        let bound = Position::new(200_000);
        let (found, count, checkpoint) = pages(&store, query.clone().up_to(bound)).await;
        assert_eq!(found, RARE[..3]);
        assert_eq!(checkpoint.position, bound);
        assert!(count <= 8, "{count} pages: {query:?}");
        let (found, ..) = pages(&store, query.limit(3)).await;
        assert_eq!(found, RARE[..3]);
    }
    // None, anywhere.
    for filter in [tagged("none"), FilterItem::new().name("none").into()] {
        let (found, count, checkpoint) = pages(&store, EventQuery::new(filter)).await;
        assert_eq!((found, count, checkpoint), (Vec::new(), 1, end));
    }
    // Common, but not here.
    let query = EventQuery::new(tagged("late")).limit(10);
    let (found, count, _) = pages(&store, query).await;
    let expected: Vec<i64> = (LATE..LATE + 10).collect();
    assert_eq!(found, expected);
    assert!(count <= 9, "{count} pages");
    // Nothing is known of categories.
    let query = EventQuery::new(EventFilter::category("none"));
    let (found, count, checkpoint) = pages(&store, query).await;
    assert_eq!((found, count, checkpoint), (Vec::new(), 15, end));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_page_that_jumped_proves_its_past() {
    let database = TestDatabase::create().await;
    let options = PostgresOptions::default().with_window(10);
    let store = PostgresStore::connect_with(database.url(), options)
        .await
        .unwrap();
    fill(&store, 300, |position| At {
        name: "todo.added",
        tags: if position == 200 {
            vec!["rare"]
        } else {
            vec![]
        },
    })
    .await;
    let events = log(&store).await;
    let page = store.read(&EventQuery::new(tagged("rare"))).await.unwrap();
    assert!(page.events.is_empty());
    assert_eq!(page.checkpoint, events[198].checkpoint());
    let next = page.next.unwrap();
    assert_eq!(next.after, page.checkpoint);
    let foreign = Checkpoint {
        event_id: EventId::new(),
        ..page.checkpoint
    };
    let error = store.read(&next.clone().after(foreign)).await.unwrap_err();
    assert!(error.is_diverged(), "{error:?}");
    let page = store.read(&next).await.unwrap();
    assert_eq!(page.events, [events[199].clone()]);
}

struct Narrow {
    store: PostgresStore,
    database: TestDatabase,
}

impl Narrow {
    async fn new(window: i64) -> Self {
        let database = TestDatabase::create().await;
        let options = PostgresOptions::default().with_window(window);
        let store = PostgresStore::connect_with(database.url(), options);
        let store = store.await.unwrap();
        Self { store, database }
    }
}

impl Fixture for Narrow {
    type Store = PostgresStore;

    fn store(&self) -> PostgresStore {
        self.store.clone()
    }

    async fn elsewhere(&self) -> PostgresStore {
        PostgresStore::connect(self.database.url()).await.unwrap()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn through_narrow_windows_queries_give_what_their_filter_means() {
    let narrow = Narrow::new(60).await;
    properties::random_queries_give_what_their_filter_means(&narrow).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn jumps_skip_nothing_whatever_is_rare_or_common() {
    const EVENTS: i64 = 9_000;
    let Narrow { store, .. } = &Narrow::new(40).await;
    fill(store, EVENTS, |position| At {
        name: match position {
            _ if position % 1_000 == 7 => "todo.rare",
            3_000..3_050 => "todo.burst",
            _ => "todo.added",
        },
        tags: match position {
            _ if position % 700 == 3 => vec!["rare", "all"],
            1..2_500 => vec!["early", "all"],
            2_500..2_600 => vec!["burst"],
            6_000.. => vec!["late", "all"],
            _ => vec![],
        },
    })
    .await;
    // An erased event has no tags, but its name.
    let erased = Append::to(
        stream("todo", 3),
        ExpectedVersion::Any,
        [Lifecycle::Erased.event()],
    );
    store.append(erased).await.unwrap();
    let log = log(store).await;
    let mut dice = Generator::new(7, 6).dice;
    let names = ["todo.rare", "todo.burst", "todo.added", "todo.none", "a\0b"];
    let tags = ["rare", "early", "burst", "late", "all", "none"];
    for number in 0..150 {
        let items = (0..1 + dice.below(3)).map(|_| {
            let mut item = FilterItem::new();
            let kind = dice.below(4);
            if kind != 0 {
                item = item.tag(tag(dice.pick::<&str>(&tags)));
            }
            if kind == 3 {
                item = item.tag(tag(dice.pick::<&str>(&tags)));
            }
            if kind != 1 {
                item = item.name(*dice.pick(&names));
            }
            match dice.below(12) {
                0 => item.category("todo"),
                1 => item.stream(stream("todo", dice.below(100))),
                _ => item,
            }
        });
        let items: Vec<FilterItem> = items.collect();
        let filter = items.into_iter().fold(EventFilter::none(), |filter, item| {
            filter.merge(&item.into())
        });
        let mut query = EventQuery::new(filter);
        let some = &log[dice.below(log.len())];
        query = match dice.below(4) {
            0 => query.after(some.checkpoint()),
            1 => query.after(some.position()),
            2 => query.up_to(some.position()),
            _ => query,
        };
        if dice.once_in(3) {
            query = query.limit(1 + dice.below(200));
        }
        if dice.once_in(8) {
            query = query.until(log[dice.below(log.len())].recorded_at());
        }
        let matching = log.iter().filter(|event| query.matches(event));
        let expected: Vec<&RecordedEvent> =
            matching.take(query.limit.unwrap_or(usize::MAX)).collect();
        let mut found = Vec::new();
        let mut next = Some(query.clone());
        while let Some(query) = next {
            let page = store.read(&query).await.unwrap();
            if page.next.is_some() {
                let index = usize::try_from(page.checkpoint.position.get()).unwrap() - 1;
                assert_eq!(page.checkpoint, log[index].checkpoint(), "{query:?}");
            }
            found.extend(page.events);
            next = page.next;
        }
        let found: Vec<&RecordedEvent> = found.iter().collect();
        assert!(found == expected, "query {number}: {query:#?}");
    }
}
