//! What was given is what comes back: payloads, metadata, tags, names.

use std::slice::from_ref;

use backstory_event::{
    Append, Decoded, EventFilter, EventQuery, EventStore, EventStoreExt, ExpectedVersion,
    FilterItem, Metadata, NewEvent, Payload, StoreErrorKind,
};
use chrono::{DateTime, Timelike, Utc};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::{
    Fixture,
    kit::{any, event, find, info, log, payload, put, read, stream, tag, within},
    seats::{BOOKED, LEFT, SeatEvent, TAKEN},
};

/// Text that some layer may take for syntax.
pub(super) const ODD_TEXTS: [&str; 18] = [
    "{",
    "}",
    ",",
    "\"",
    "'",
    "\\",
    "{a,b}",
    "{\"a\",\"b\"}",
    "NULL",
    "$1",
    "%s",
    "%_",
    "a:b",
    "ä ö ü ß",
    "日本語",
    "🦀👩‍👩‍👧‍👦",
    "e\u{301}",
    "'; DROP TABLE event; --",
];

pub async fn payloads_come_back_exactly<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    let mut deep = json!("bottom");
    for _ in 0..60 {
        deep = json!({ "down": [deep] });
    }
    let mut values = vec![
        json!({}),
        json!([]),
        json!(null),
        json!(true),
        json!("text"),
        json!(""),
        json!({ "": 1, " ": 2, "a.b": 3, "$": 4, "ключ": 5, "\"": 6 }),
        json!({ "z": 1, "a": { "z": [1, [2, [3]]], "a": null } }),
        json!([
            0,
            -1,
            1,
            i64::MIN,
            i64::MAX,
            u64::MAX,
            9_007_199_254_740_993_i64
        ]),
        json!([
            0.1,
            -0.5,
            1e-7,
            1.7976931348623157e308,
            5e-324,
            123_456.789,
            0.30000000000000004
        ]),
        json!("quote \" backslash \\ slash / newline \n tab \t return \r bell \u{7} delete \u{7f}"),
        json!("line\u{2028}paragraph\u{2029} bom \u{feff} max \u{10ffff}"),
        json!("x".repeat(100_000)),
        json!((0..2_000).collect::<Vec<_>>()),
        deep,
    ];
    values.extend(ODD_TEXTS.map(Value::from));
    let sent: Vec<_> = values
        .iter()
        .map(|value| NewEvent::raw("kept", payload(value.clone())))
        .collect();
    let append = any(&stream("todo", "1"), sent.clone());
    within(store.append(append)).await.unwrap();
    let stored = log(&store).await;
    assert_eq!(stored.len(), sent.len());
    for (stored, sent) in stored.iter().zip(&sent) {
        let (back, given) = (stored.payload().to_value(), sent.payload.to_value());
        assert_eq!(back.unwrap(), given.unwrap());
    }
    // Numbers keep their value when they are read as what they were.
    let floats: Vec<f64> = stored[9].payload().decode().unwrap();
    assert_eq!(floats[3..5], [f64::MAX, 5e-324]);
    assert_eq!(floats[6], 0.30000000000000004);
    let integers: Vec<i128> = stored[8].payload().decode().unwrap();
    assert_eq!(
        integers[3..6],
        [i64::MIN.into(), i64::MAX.into(), u64::MAX.into()]
    );
}

pub async fn metadata_comes_back_exactly<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    let occurred: DateTime<Utc> = "1999-12-31T23:59:59.123456Z".parse().unwrap();
    let mut full = Metadata::new()
        .with_correlation_id(Uuid::now_v7())
        .with_causation_id(Uuid::new_v4())
        .with_actor("user:ann \"quoted\" {x}")
        .with("tenant", "acme")
        .with("big", u64::MAX)
        .with("nested", json!({ "a": [1, null, { "b": false }] }));
    full.occurred_at = Some(occurred);
    for text in ODD_TEXTS {
        full = full.with(text, text);
    }
    let all = [Metadata::new(), full, Metadata::new().with_actor("ben")];
    for metadata in &all {
        let event = event("done").with_metadata(metadata.clone());
        within(store.append(any(&stream("todo", "1"), [event])))
            .await
            .unwrap();
    }
    let stored = log(&store).await;
    for (stored, metadata) in stored.iter().zip(&all) {
        assert_eq!(stored.metadata(), metadata);
    }
}

pub async fn tags_come_back_and_are_found<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    let todo = stream("todo", "1");
    for text in ODD_TEXTS {
        let event = event("done").with_tag(tag(text)).with_tag(tag("shared"));
        within(store.append(any(&todo, [event]))).await.unwrap();
    }
    let twice = event("done")
        .with_tag(tag("b"))
        .with_tag(tag("a"))
        .with_tag(tag("b"));
    within(store.append(any(&todo, [twice]))).await.unwrap();
    let stored = log(&store).await;
    assert_eq!(stored.len(), ODD_TEXTS.len() + 1);
    for (stored, text) in stored.iter().zip(ODD_TEXTS) {
        let mut expected = [tag(text), tag("shared")];
        expected.sort();
        assert_eq!(stored.tags(), expected);
        let found = find(&store, EventFilter::tag(tag(text))).await;
        assert_eq!(found, from_ref(stored), "by tag {text}");
        let both = FilterItem::new().tag(tag(text)).tag(tag("shared"));
        assert_eq!(find(&store, both).await, from_ref(stored));
    }
    assert_eq!(
        stored[ODD_TEXTS.len()].tags(),
        [tag("a"), tag("b")],
        "each tag once"
    );
    assert_eq!(
        find(&store, EventFilter::tag(tag("shared"))).await.len(),
        ODD_TEXTS.len()
    );
}

pub async fn odd_names_categories_and_keys_are_just_text<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    let long = "ü".repeat(127);
    for text in ODD_TEXTS
        .into_iter()
        .chain([long.as_str(), &"k".repeat(255)])
    {
        let odd = stream(text, text);
        let append = Append::to(odd.clone(), ExpectedVersion::NoStream, [event(text)]).claim(
            text,
            text,
            odd.clone(),
        );
        within(store.append(append)).await.unwrap();
        for filter in [
            EventFilter::stream(odd.clone()),
            EventFilter::category(text),
            FilterItem::new().name(text).into(),
        ] {
            let found = find(&store, filter).await;
            assert_eq!(found.len(), 1, "{text}");
            assert_eq!((found[0].name(), found[0].stream()), (text, &odd));
        }
        assert_eq!(info(&store, &odd).await.stream, odd);
    }
    log(&store).await;
}

pub async fn names_are_compared_byte_by_byte<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    // Case, composed and decomposed letters, and prefixes are different names.
    let texts = [
        "name",
        "Name",
        "NAME",
        "nam",
        "names",
        "n\u{e9}",
        "ne\u{301}",
        "stra\u{df}e",
        "strasse",
    ];
    for text in texts {
        let event = event(text).with_tag(tag(text));
        let append = Append::to(stream(text, text), ExpectedVersion::NoStream, [event]);
        within(store.append(append)).await.unwrap();
    }
    for text in texts {
        for item in [
            FilterItem::new().name(text),
            FilterItem::new().category(text),
            FilterItem::new().stream(stream(text, text)),
            FilterItem::new().tag(tag(text)),
        ] {
            let found = find(&store, item).await;
            assert_eq!(found.len(), 1, "{text}");
            assert_eq!(found[0].name(), text);
        }
    }
}

pub async fn schema_versions_come_back<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    let versions = [1, 2, 77, u32::try_from(i32::MAX).unwrap()];
    for version in versions {
        let mut event = event("done");
        event.version = version;
        within(store.append(any(&stream("todo", "1"), [event])))
            .await
            .unwrap();
    }
    let stored: Vec<_> = log(&store)
        .await
        .iter()
        .map(|event| event.schema_version())
        .collect();
    assert_eq!(stored, versions);
}

pub async fn recorded_at_is_in_microseconds_and_never_decreases<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    let other = within(fixture.elsewhere()).await;
    for round in 0..20 {
        let writer = if round % 2 == 0 { &store } else { &other };
        put(writer, &stream("todo", "1"), &["a", "b"]).await;
    }
    let stored = log(&store).await; // checks that it never decreases
    assert_eq!(stored.len(), 40);
    for event in &stored {
        assert_eq!(event.recorded_at().nanosecond() % 1_000, 0);
    }
    assert!(
        stored[0].recorded_at() < stored[39].recorded_at(),
        "time goes on"
    );
    assert_eq!(
        log(&other).await,
        stored,
        "and is the same for every reader"
    );
}

pub async fn events_that_nobody_knows_are_given_back_as_stored<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    let theatre = stream("theatre", "1");
    let broken = NewEvent::raw(LEFT, payload(json!({ "chair": "x" })));
    let sent = vec![
        NewEvent::of(&SeatEvent::taken(1)).unwrap(),
        event("future.event"),
        broken.clone(),
        NewEvent::raw(
            TAKEN,
            payload(json!({ "seat": 2, "by": "ben", "extra": true })),
        ),
        NewEvent::raw("future.shape", payload(json!([null]))),
    ];
    within(store.append(any(&theatre, sent.clone())))
        .await
        .unwrap();
    let stored = log(&store).await;
    assert_eq!(stored.len(), sent.len(), "nothing is dropped");
    for (stored, sent) in stored.iter().zip(&sent) {
        assert_eq!(
            (stored.name(), stored.payload()),
            (sent.name.as_str(), &sent.payload)
        );
    }
    assert_eq!(stored[1].decode::<SeatEvent>().unwrap(), Decoded::Unknown);
    // Known but unreadable is an error that names the event.
    let query = EventQuery::stream(theatre.clone());
    let error = within(store.collect_as::<SeatEvent>(query.clone()))
        .await
        .unwrap_err();
    let StoreErrorKind::Decode(error) = error.into_kind() else {
        panic!("not a decode error");
    };
    assert_eq!((error.position.get(), error.event_id), (3, broken.id));
    assert_eq!((error.name.as_str(), error.version), (LEFT, 1));
    // What is known and readable is decoded, what is unknown passed over.
    let taken = EventQuery::new(EventFilter::named::<SeatEvent>([TAKEN]));
    let envelopes = within(store.collect_as::<SeatEvent>(taken)).await.unwrap();
    let seats: Vec<_> = envelopes
        .iter()
        .map(|envelope| envelope.event.seat())
        .collect();
    assert_eq!(seats, [1, 2]);
    let query = query.up_to(backstory_event::Position::new(2));
    assert_eq!(
        within(store.collect_as::<SeatEvent>(query))
            .await
            .unwrap()
            .len(),
        1
    );
}

pub async fn a_renamed_event_is_found_under_its_old_name<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    let theatre = stream("theatre", "1");
    let old = NewEvent::raw(BOOKED, payload(json!({ "seat": 1, "by": "old" })));
    let new = NewEvent::of(&SeatEvent::taken(2)).unwrap();
    within(store.append(any(&theatre, [old, new])))
        .await
        .unwrap();
    for filter in [
        EventFilter::of::<SeatEvent>(),
        EventFilter::named::<SeatEvent>([TAKEN]),
    ] {
        let envelopes = within(store.collect_as::<SeatEvent>(EventQuery::new(filter))).await;
        let seats: Vec<_> = envelopes
            .unwrap()
            .iter()
            .map(|one| one.event.seat())
            .collect();
        assert_eq!(seats, [1, 2]);
    }
}

pub async fn payloads_of_the_largest_size_are_kept<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    let text = format!("\"{}\"", "x".repeat((1 << 20) - 2));
    let largest = Payload::parse(&text).unwrap();
    assert_eq!(largest.as_str().len(), 1 << 20);
    let event = NewEvent::raw("large", largest.clone());
    let tags = (0..64).map(|number| tag(&format!("tag:{number}")));
    let event = tags.fold(event, NewEvent::with_tag);
    within(store.append(any(&stream("todo", "1"), [event])))
        .await
        .unwrap();
    let stored = read(&store, EventQuery::new(EventFilter::tag(tag("tag:63")))).await;
    assert_eq!(stored[0].payload(), &largest);
    assert_eq!(stored[0].tags().len(), 64);
}
