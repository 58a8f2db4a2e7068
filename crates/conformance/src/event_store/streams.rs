//! Listing streams: filters, byte order, and a cursor that does not slip.

use std::collections::BTreeSet;

use backstory_event::{
    Append, EventStore, EventStoreExt, ExpectedVersion, Lifecycle, StreamCursor, StreamId,
    StreamInfo, StreamQuery, StreamState, TagChange,
};

use crate::{
    Fixture,
    kit::{any, event, every_state, list, put, stream, stream_rows, tag, within},
};

fn texts(rows: &[StreamInfo]) -> Vec<(&str, &str)> {
    rows.iter()
        .map(|row| (row.stream.category(), row.stream.key()))
        .collect()
}

async fn make(store: &impl EventStore, streams: &[StreamId]) {
    let append = streams.iter().fold(Append::new(), |append, stream| {
        append.and(stream.clone(), ExpectedVersion::NoStream, [event("made")])
    });
    within(store.append(append)).await.unwrap();
}

pub async fn streams_are_listed_in_byte_order<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    let keys = [
        "a", "B", "b", "A", "10", "9", "é", "z", "e", "a b", "a-b", "aa", "_", "~", "日",
    ];
    let categories = ["todo", "Todo", "to", "to do", "todo!", "ärger"];
    let mut streams = Vec::new();
    for category in categories {
        for key in keys {
            streams.push(stream(category, key));
        }
    }
    make(&store, &streams).await;
    streams.sort_by(|one, two| {
        (one.category().as_bytes(), one.key().as_bytes())
            .cmp(&(two.category().as_bytes(), two.key().as_bytes()))
    });
    for limit in [1_000, 7, 1] {
        let rows = list(&store, StreamQuery::new().limit(limit)).await;
        let listed: Vec<_> = rows.into_iter().map(|row| row.stream).collect();
        assert_eq!(listed, streams, "pages of {limit}");
    }
    let rows = list(&store, StreamQuery::new().category("todo").limit(4)).await;
    assert_eq!(rows.len(), keys.len());
    assert!(rows.iter().all(|row| row.stream.category() == "todo"));
}

pub async fn streams_are_filtered_by_category_key_tag_and_state<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    for category in ["list", "todo"] {
        for key in ["1", "2", "3", "4"] {
            put(&store, &stream(category, key), &["made"]).await;
        }
    }
    let change = |category: &str, key: &str, add: &[&str]| {
        let add = add.iter().map(|text| tag(text)).collect();
        any(
            &stream(category, key),
            [TagChange {
                add,
                remove: Vec::new(),
            }
            .event()],
        )
    };
    for append in [
        change("todo", "1", &["red", "big"]),
        change("todo", "2", &["red"]),
        change("todo", "3", &["big", "red"]),
        change("list", "1", &["red", "{red,big}"]),
        any(&stream("todo", "3"), [Lifecycle::Deleted.event()]),
        any(&stream("list", "4"), [Lifecycle::Deleted.event()]),
        any(&stream("todo", "4"), [Lifecycle::Erased.event()]),
    ] {
        within(store.append(append)).await.unwrap();
    }
    let new = StreamQuery::new;
    let cases: [(StreamQuery, &[(&str, &str)]); 12] = [
        (
            new(),
            &[
                ("list", "1"),
                ("list", "2"),
                ("list", "3"),
                ("todo", "1"),
                ("todo", "2"),
            ],
        ),
        (new().category("todo"), &[("todo", "1"), ("todo", "2")]),
        (new().category("never"), &[]),
        (new().key(2), &[("list", "2"), ("todo", "2")]),
        (
            new().category("list").key(3).key("1").key("x"),
            &[("list", "1"), ("list", "3")],
        ),
        (
            new().tag(tag("red")),
            &[("list", "1"), ("todo", "1"), ("todo", "2")],
        ),
        (new().tag(tag("red")).tag(tag("big")), &[("todo", "1")]),
        (new().tag(tag("{red,big}")), &[("list", "1")]),
        (
            new().state(StreamState::Deleted),
            &[("list", "4"), ("todo", "3")],
        ),
        (
            new().state(StreamState::Deleted).tag(tag("big")),
            &[("todo", "3")],
        ),
        (new().state(StreamState::Erased), &[("todo", "4")]),
        (
            every_state(new()).category("todo"),
            &[("todo", "1"), ("todo", "2"), ("todo", "3"), ("todo", "4")],
        ),
    ];
    for (query, expected) in cases {
        for limit in [100, 1] {
            let rows = list(&store, query.clone().limit(limit)).await;
            assert_eq!(texts(&rows), expected, "{query:?}");
            assert!(rows.iter().all(|row| query.matches(row)));
        }
    }
}

pub async fn every_stream_is_listed_once_while_others_write<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    let other = within(fixture.elsewhere()).await;
    let before: Vec<_> = (0..40)
        .map(|number| stream("todo", &format!("m{number:02}")))
        .collect();
    make(&store, &before).await;
    let mut query = StreamQuery::new().limit(3);
    let mut seen = Vec::new();
    let mut round = 0;
    loop {
        let page = within(store.streams(&query)).await.unwrap();
        assert!(page.streams.len() <= 3);
        seen.extend(page.streams.into_iter().map(|row| row.stream));
        let Some(next) = page.next else { break };
        // In front of the cursor, behind it, and into listed and unlisted streams.
        let front = stream("todo", &format!("a{round}"));
        let behind = stream("todo", &format!("z{round}"));
        put(&other, &front, &["made"]).await;
        put(&other, &behind, &["made"]).await;
        put(&other, &before[round % 40], &["touched"]).await;
        put(&other, &before[39 - round % 40], &["touched"]).await;
        // Through its text form, as it travels in a URL.
        query = query.after(next.to_string().parse::<StreamCursor>().unwrap());
        round += 1;
        assert!(round < 100, "the list does not end");
    }
    let unique: BTreeSet<_> = seen.iter().collect();
    assert_eq!(unique.len(), seen.len(), "no stream twice");
    assert!(seen.is_sorted());
    assert!(
        before.iter().all(|stream| unique.contains(stream)),
        "no stream is left out"
    );
}

pub async fn a_cursor_outlives_its_stream<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    let streams: Vec<_> = (1..=5)
        .map(|number| stream("todo", &number.to_string()))
        .collect();
    make(&store, &streams).await;
    let page = within(store.streams(&StreamQuery::new().limit(2)))
        .await
        .unwrap();
    let next = page.next.unwrap();
    within(store.append(any(&streams[1], [Lifecycle::Deleted.event()])))
        .await
        .unwrap();
    let rest = list(&store, StreamQuery::new().after(next)).await;
    assert_eq!(texts(&rest), [("todo", "3"), ("todo", "4"), ("todo", "5")]);
    let nowhere = StreamCursor::behind(stream("todo", "33"));
    let rest = list(&store, StreamQuery::new().after(nowhere)).await;
    assert_eq!(texts(&rest), [("todo", "4"), ("todo", "5")]);
    for wrong in ["", "x", "7", "00", "zz00zz", "6100", "ü"] {
        assert_eq!(wrong.parse::<StreamCursor>().unwrap_err().what(), "cursor");
    }
}

pub async fn lists_of_streams_are_bounded<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    let streams: Vec<_> = (0..1_050)
        .map(|number| stream("todo", &format!("{number:04}")))
        .collect();
    for part in streams.chunks(525) {
        make(&store, part).await;
    }
    for (limit, size) in [
        (None, 100),
        (Some(0), 1),
        (Some(1), 1),
        (Some(1_000), 1_000),
        (Some(usize::MAX), 1_000),
    ] {
        let mut query = StreamQuery::new();
        query.limit = limit;
        let page = within(store.streams(&query)).await.unwrap();
        assert_eq!(page.streams.len(), size);
        assert_eq!(page.next.unwrap().stream(), &streams[size - 1]);
    }
    let all = StreamQuery::new().limit(525);
    assert_eq!(list(&store, all.clone()).await.len(), 1_050);
    let last = StreamCursor::behind(streams[524].clone());
    let page = within(store.streams(&all.after(last))).await.unwrap();
    assert_eq!(
        (page.streams.len(), page.next),
        (525, None),
        "the last page says so"
    );
}

pub async fn an_unknown_stream_has_no_row<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    put(&store, &stream("todo", "1"), &["made"]).await;
    for unknown in [
        stream("todo", "2"),
        stream("list", "1"),
        stream("tod", "o1"),
    ] {
        assert_eq!(within(store.stream_info(&unknown)).await.unwrap(), None);
    }
    assert_eq!(stream_rows(&store).await.len(), 1);
}
