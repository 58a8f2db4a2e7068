//! What one store would refuse, all refuse: typed, naming the thing, leaving nothing.

use backstory_event::{
    Append, AppendCondition, DecodeEvent, Event, EventFilter, EventId, EventStore, EventType,
    ExpectedVersion, FilterItem, Invalid, Metadata, NewEvent, Payload, Position, StoreErrorKind,
    StreamId, Tag,
};
use serde_json::json;
use uuid::Uuid;

use crate::{
    Fixture,
    kit::{any, event, events, log, payload, put, refused, stream, tag, within},
};

/// Texts that are no name of anything.
fn bad_texts() -> Vec<String> {
    let mut texts: Vec<_> = [
        "", " ", " a", "a ", "\ta", "a\n", "a\0b", "\0", "a\u{7}b", "a\u{85}b", "\u{a0}a",
    ]
    .map(str::to_owned)
    .into();
    texts.push("x".repeat(256));
    texts.push("ü".repeat(128));
    texts
}

async fn invalid(store: &impl EventStore, append: Append) -> Invalid {
    match refused(store, append).await {
        StoreErrorKind::Invalid(invalid) => {
            assert!(!invalid.reason().is_empty());
            invalid
        }
        other => panic!("{other:?} instead of Invalid"),
    }
}

pub async fn empty_appends_are_refused<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    let todo = stream("todo", "1");
    put(&store, &todo, &["added"]).await;
    for append in [
        Append::new(),
        any(&todo, []),
        Append::new().check(todo.clone(), ExpectedVersion::StreamExists),
        Append::new().claim("scope", "value", todo.clone()),
        Append::new().fail_if(AppendCondition::new(EventFilter::none(), Position::START)),
    ] {
        assert_eq!(invalid(&store, append).await.what(), "append");
    }
}

pub async fn odd_event_names_are_refused<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    let todo = stream("todo", "1");
    for name in bad_texts()
        .iter()
        .map(String::as_str)
        .chain(["*", "todo.*", "a*b"])
    {
        // Beside a good event: nothing of the append is stored.
        let append = any(&todo, [event("good"), event(name)]);
        let refused = invalid(&store, append).await;
        assert_eq!(refused.what(), "event name", "{name:?}");
        assert!(refused.to_string().len() < 1_000, "the message is bounded");
    }
}

pub async fn odd_categories_keys_and_tags_are_refused<F: Fixture>(fixture: &F) {
    for text in bad_texts() {
        assert_eq!(
            StreamId::new(&text, "1").unwrap_err().what(),
            "stream category"
        );
        assert_eq!(
            StreamId::new("todo", &text).unwrap_err().what(),
            "stream key"
        );
        assert_eq!(Tag::new(&text).unwrap_err().what(), "tag");
    }
    for key in [Uuid::nil().to_string(), Uuid::nil().simple().to_string()] {
        assert_eq!(StreamId::new("todo", key).unwrap_err().what(), "stream key");
    }
    assert_eq!(
        StreamId::new("backstory.x", "1").unwrap_err().what(),
        "stream category"
    );
    assert!(Tag::pair("long", "x".repeat(255)).is_err());
    let store = fixture.store();
    put(&store, &stream("todo", "1"), &["added"]).await;
}

pub async fn reserved_names_are_refused<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    let todo = stream("todo", "1");
    put(&store, &todo, &["added"]).await;
    for name in [
        "backstory.",
        "backstory.x",
        "backstory.deleted2",
        "backstory.Deleted",
    ] {
        assert_eq!(
            invalid(&store, any(&todo, [event(name)])).await.what(),
            "event name"
        );
    }
    let wrong = NewEvent::raw("backstory.tagged", payload(json!({ "add": [" bad "] })));
    assert_eq!(invalid(&store, any(&todo, [wrong])).await.what(), "tag");
    for wrong in [json!({ "add": "red" }), json!([1]), json!({ "add": [1] })] {
        let append = any(&todo, [NewEvent::raw("backstory.tagged", payload(wrong))]);
        assert_eq!(
            invalid(&store, append).await.what(),
            "payload of backstory.tagged"
        );
    }
    let erased = backstory_event::Lifecycle::Erased;
    let beside = any(&todo, [event("done"), erased.event()]);
    assert_eq!(invalid(&store, beside).await.what(), "stream part");
    put(&store, &todo, &["backstoryx", "todo.backstory."]).await;
}

pub async fn schema_versions_begin_at_one<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    for version in [0, u32::MAX, 1 << 31] {
        let mut event = event("added");
        event.version = version;
        let append = any(&stream("todo", "1"), [event]);
        assert_eq!(invalid(&store, append).await.what(), "schema version");
    }
}

pub async fn nil_and_repeated_ids_are_refused<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    let (one, two) = (stream("todo", "1"), stream("todo", "2"));
    let nil = event("added").with_id(EventId::NIL);
    assert_eq!(invalid(&store, any(&one, [nil])).await.what(), "event id");
    let first = event("added");
    let second = event("done").with_id(first.id);
    let append = any(&one, [first.clone(), event("between"), second.clone()]);
    let refused = invalid(&store, append).await;
    assert_eq!(refused.what(), "event id");
    assert!(
        refused.to_string().contains(&first.id.to_string()),
        "it names the id"
    );
    let append = any(&one, [first.clone()]).and(two, ExpectedVersion::Any, [second]);
    assert_eq!(invalid(&store, append).await.what(), "event id");
    // None of it used the id up.
    within(store.append(any(&one, [first]))).await.unwrap();
}

pub async fn one_stream_in_two_parts_is_refused<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    let todo = stream("todo", "1");
    for append in [
        any(&todo, [event("a")]).and(todo.clone(), ExpectedVersion::Any, [event("b")]),
        any(&todo, [event("a")]).check(todo.clone(), ExpectedVersion::NoStream),
    ] {
        let refused = invalid(&store, append).await;
        assert_eq!(refused.what(), "stream");
        assert!(
            refused.to_string().contains("todo/1"),
            "it names the stream"
        );
    }
}

pub async fn what_is_too_large_is_refused<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    let todo = stream("todo", "1");
    let text = |length: usize| Payload::parse(&format!("\"{}\"", "x".repeat(length - 2))).unwrap();
    let large = NewEvent::raw("too.large", text((1 << 20) + 1));
    let refused = invalid(&store, any(&todo, [event("good"), large])).await;
    assert_eq!(refused.what(), "payload");
    assert!(
        refused.to_string().contains("too.large"),
        "it names the event"
    );
    let metadata = Metadata::new().with("note", "x".repeat(64 << 10));
    let append = any(&todo, [event("added").with_metadata(metadata)]);
    assert_eq!(invalid(&store, append).await.what(), "metadata");
    let tags = (0..65).fold(event("added"), |event, number| {
        event.with_tag(tag(&number.to_string()))
    });
    assert_eq!(invalid(&store, any(&todo, [tags])).await.what(), "tags");
    let many = any(&todo, (0..10_001).map(|_| event("added")));
    assert_eq!(invalid(&store, many).await.what(), "append");
    let streams = (0..1_001).fold(any(&todo, [event("added")]), |append, number| {
        append.check(stream("other", &number.to_string()), ExpectedVersion::Any)
    });
    assert_eq!(invalid(&store, streams).await.what(), "append");
    assert!(
        log(&store)
            .await
            .iter()
            .all(|event| event.stream().category() == "probe")
    );
}

pub async fn metadata_that_cannot_be_kept_is_refused<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    let todo = stream("todo", "1");
    for metadata in [
        Metadata::new().with("note", "a\0b"),
        Metadata::new().with("a\0b", "note"),
        Metadata::new().with_actor("a\0b"),
        Metadata::new().with("nested", json!({ "deep": ["a\0"] })),
        // A free key that is also a field of its own would be stored twice.
        Metadata::new().with_actor("ann").with("actor", "ben"),
    ] {
        let append = any(
            &todo,
            [event("good"), event("added").with_metadata(metadata)],
        );
        assert_eq!(invalid(&store, append).await.what(), "metadata");
    }
}

pub async fn odd_claims_are_refused<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    let todo = stream("todo", "1");
    for text in bad_texts() {
        let append = || any(&todo, [event("added")]);
        let scope = append().claim(text.as_str(), "value", todo.clone());
        assert_eq!(invalid(&store, scope).await.what(), "claim scope");
        let value = append().release("scope", text.as_str(), todo.clone());
        assert_eq!(invalid(&store, value).await.what(), "claim value");
    }
}

pub async fn a_condition_beyond_the_newest_event_is_refused<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    let todo = stream("todo", "1");
    for ahead in [1, 1_000, i64::MAX] {
        let after = Position::new(log(&store).await.len() as i64)
            .get()
            .saturating_add(ahead);
        let condition = AppendCondition::new(EventFilter::all(), Position::new(after));
        let append = any(&todo, [event("added")]).fail_if(condition);
        assert_eq!(invalid(&store, append).await.what(), "condition");
    }
}

pub async fn odd_filters_find_nothing_and_break_nothing<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    let todo = stream("todo", "1");
    put(&store, &todo, &["added"]).await;
    let long = "x".repeat(10_000);
    for text in ["", "'", "\"", "{", "}", "%", "a\0b", "\\", long.as_str()] {
        for item in [
            FilterItem::new().name(text),
            FilterItem::new().category(text),
            FilterItem::new().stream(StreamId::stored(text, text)),
            FilterItem::new().tag(Tag::stored(text)),
        ] {
            let query = backstory_event::EventQuery::new(item.clone().into());
            let page = within(store.read(&query)).await;
            assert!(page.unwrap().events.is_empty(), "{text:?}");
            let condition = AppendCondition::new(item.into(), Position::START);
            let append = any(&todo, [event("guarded")]).fail_if(condition);
            within(store.append(append)).await.unwrap();
        }
        let query = backstory_event::StreamQuery::new().category(text);
        assert!(
            within(store.streams(&query))
                .await
                .unwrap()
                .streams
                .is_empty()
        );
        let query = backstory_event::StreamQuery::new()
            .key(text)
            .tag(Tag::stored(text));
        assert!(
            within(store.streams(&query))
                .await
                .unwrap()
                .streams
                .is_empty()
        );
    }
    log(&store).await;
}

struct Measured(f64);

impl DecodeEvent for Measured {
    fn types() -> Vec<EventType> {
        let (name, shape) = ("measured", "(f64)");
        vec![EventType {
            name,
            version: 1,
            shape,
            rust_type: "Measured",
        }]
    }

    fn decode(name: &str, payload: &Payload) -> Result<Option<Self>, serde_json::Error> {
        (name == "measured")
            .then(|| payload.decode().map(Self))
            .transpose()
    }
}

impl Event for Measured {
    fn name(&self) -> &'static str {
        "measured"
    }

    fn encode(&self) -> Result<Payload, Invalid> {
        Payload::encode(&self.0)
    }
}

pub async fn payloads_that_would_change_are_refused_at_the_edge<F: Fixture>(fixture: &F) {
    for json in [
        r#""a\u0000b""#,
        r#"{"a\u0000":1}"#,
        r#""\ud800""#,
        r#""\udc00\ud800""#,
        r#"{"a":1,"a":2}"#,
        r#"{"a":{"b":1,"b":1}}"#,
        "NaN",
        "Infinity",
        "1e999",
        "",
        "[1",
        "{} {}",
    ] {
        assert_eq!(
            Payload::parse(json).unwrap_err().what(),
            "payload",
            "{json}"
        );
    }
    for number in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
        assert_eq!(
            NewEvent::of(&Measured(number)).unwrap_err().what(),
            "payload"
        );
    }
    assert!(Payload::encode("a\0b").is_err());
    assert!(Payload::encode(&u128::MAX).is_err());
    // The largest that fits comes back.
    let store = fixture.store();
    let largest = [
        NewEvent::of(&Measured(f64::MAX)),
        NewEvent::of(&Measured(-0.0)),
    ];
    let todo = stream("todo", "1");
    within(store.append(any(&todo, largest.map(Result::unwrap))))
        .await
        .unwrap();
    let stored = log(&store).await;
    assert_eq!(stored[0].payload().decode::<f64>().unwrap(), f64::MAX);
    assert_eq!(stored[1].payload().decode::<f64>().unwrap(), 0.0);
}

pub async fn a_store_goes_on_after_bad_input<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    let todo = stream("todo", "1");
    let good = (0..8).map(|number| {
        let append = any(&stream("good", &number.to_string()), events(&["a", "b"]));
        store.append(append)
    });
    let bad = (0..8).map(|_| store.append(any(&todo, [event("good"), event("*")])));
    let mut attempts: Vec<_> = Vec::new();
    for (good, bad) in good.zip(bad) {
        attempts.extend([bad, good]);
    }
    let outcomes = within(futures::future::join_all(attempts)).await;
    for pair in outcomes.chunks(2) {
        assert!(
            pair[0]
                .as_ref()
                .is_err_and(backstory_event::StoreError::is_invalid)
        );
        assert!(pair[1].is_ok(), "{:?}", pair[1]);
    }
    assert_eq!(log(&store).await.len(), 16);
}
