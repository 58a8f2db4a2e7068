//! Pages together give the whole answer, whatever their size.

use backstory_event::{
    Checkpoint, EventFilter, EventId, EventQuery, FilterItem, Metadata, Payload, Position,
    Recorded, RecordedEvent, StoreErrorKind, StreamVersion,
};
use backstory_store_kit::Scan;
use proptest::prelude::*;

use crate::stream;

fn log(length: i64) -> Vec<RecordedEvent> {
    (1..=length)
        .map(|number| {
            RecordedEvent::new(Recorded {
                position: Position::new(number),
                stream: stream(u32::try_from(number % 3).unwrap() + 1),
                version: StreamVersion::new(number / 3 + 1),
                id: EventId::new(),
                name: if number % 4 == 0 {
                    "rare".into()
                } else {
                    "common".into()
                },
                schema_version: 1,
                payload: Payload::empty(),
                metadata: Metadata::default(),
                tags: Vec::new(),
                recorded_at: Default::default(),
                erased_at: None,
            })
        })
        .collect()
}

/// What a store does: the rows of a scan, at most as many as it says.
fn rows(log: &[RecordedEvent], query: &EventQuery, scan: &Scan) -> Vec<RecordedEvent> {
    let mut rows: Vec<_> = log
        .iter()
        .filter(|row| row.position() >= scan.low && row.position() <= scan.high)
        .filter(|row| {
            query.matches(row) || row.position() == scan.low || row.position() == scan.high
        })
        .cloned()
        .collect();
    if query.direction == backstory_event::Direction::Backward {
        rows.reverse();
    }
    rows.truncate(scan.rows());
    rows
}

proptest! {
    #[test]
    fn pages_give_the_whole_answer(
        length in 0..60_i64,
        after in 0..60_i64,
        up_to in proptest::option::of(0..70_i64),
        limit in proptest::option::of(0..50_usize),
        backward: bool,
        kind in 0..3,
        window in 1..30_i64,
        page in 1..10_usize,
    ) {
        let log = log(length);
        let filter = match kind {
            0 => EventFilter::all(),
            1 => FilterItem::new().name("rare").into(),
            _ => EventFilter::stream(stream(2)),
        };
        let after = log.get(usize::try_from(after).unwrap()).map_or(Checkpoint::START, RecordedEvent::checkpoint);
        let mut query = EventQuery::new(filter).after(after);
        query.up_to = up_to.map(Position::new);
        query.limit = limit;
        if backward {
            query = query.backward();
        }
        let mut expected: Vec<_> = log.iter().filter(|event| query.matches(event)).cloned().collect();
        if backward {
            expected.reverse();
        }
        expected.truncate(limit.unwrap_or(usize::MAX));

        let mut found = Vec::new();
        let mut next = Some(query);
        let mut pages = 0;
        while let Some(query) = next {
            let scan = Scan::plan(&query, Position::new(length), window, page);
            let answer = scan.page(&query, rows(&log, &query, &scan)).unwrap();
            prop_assert!(answer.events.len() <= page);
            found.extend(answer.events);
            next = answer.next;
            pages += 1;
            prop_assert!(pages < 500, "never ends");
        }
        prop_assert_eq!(found, expected);
    }
}

#[test]
fn a_checkpoint_that_is_not_there_any_more_diverges() {
    let log = log(10);
    let mine = Checkpoint {
        position: Position::new(5),
        event_id: EventId::new(),
    };
    for head in [4, 5, 10] {
        let query = EventQuery::new(EventFilter::all()).after(mine);
        let scan = Scan::plan(&query, Position::new(head), 100, 100);
        let log = &log[..usize::try_from(head).unwrap()];
        let error = scan.page(&query, rows(log, &query, &scan)).unwrap_err();
        let StoreErrorKind::Diverged {
            position,
            expected,
            found,
        } = error.kind()
        else {
            panic!("{error:?}");
        };
        assert_eq!((*position, *expected), (mine.position, mine.event_id));
        assert_eq!(*found, log.get(4).map(RecordedEvent::id));
    }
}
