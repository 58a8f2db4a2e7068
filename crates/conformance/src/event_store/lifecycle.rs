//! Deleting, restoring, erasing, reviving and tagging streams.

use backstory_event::{
    Append, Conflict, EventFilter, EventQuery, EventStore, EventStoreExt, ExpectedVersion,
    FilterItem, Lifecycle, Metadata, NewEvent, Payload, RecordedEvent, StoreErrorKind, StreamId,
    StreamState, StreamVersion, Tag, TagChange,
};

use crate::{
    Fixture,
    kit::{
        any, event, events, exact, find, info, log, names, position, put, refused, stream, tag,
        within,
    },
    seats::SeatEvent,
};

async fn change(store: &impl EventStore, stream: &StreamId, lifecycle: Lifecycle) {
    within(store.append(any(stream, [lifecycle.event()])))
        .await
        .unwrap();
}

fn tagged(add: &[&str], remove: &[&str]) -> NewEvent {
    let tags = |texts: &[&str]| -> Vec<Tag> { texts.iter().map(|text| tag(text)).collect() };
    TagChange {
        add: tags(add),
        remove: tags(remove),
    }
    .event()
}

fn every_expectation(version: i64) -> [ExpectedVersion; 3] {
    [
        ExpectedVersion::Any,
        ExpectedVersion::StreamExists,
        exact(version),
    ]
}

pub async fn a_deleted_stream_refuses_all_but_restore_and_erase<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    let other = within(fixture.elsewhere()).await;
    let todo = stream("todo", "1");
    put(&store, &todo, &["added", "done"]).await;
    change(&store, &todo, Lifecycle::Deleted).await;
    assert_eq!(info(&store, &todo).await.state, StreamState::Deleted);
    let deleted = StoreErrorKind::StreamDeleted {
        stream: todo.clone(),
    };
    for expected in every_expectation(3) {
        for event in [
            event("done"),
            tagged(&["red"], &[]),
            Lifecycle::Deleted.event(),
        ] {
            let append = Append::to(todo.clone(), expected, [event]);
            assert_eq!(refused(&store, append.clone()).await, deleted);
            assert_eq!(refused(&other, append).await, deleted);
        }
    }
    // Not even beside others, and not behind its own restoration's back.
    let beside = any(&stream("todo", "2"), [event("added")]).and(
        todo.clone(),
        ExpectedVersion::Any,
        [event("done")],
    );
    assert_eq!(refused(&store, beside).await, deleted);
    // Its history can still be read.
    assert_eq!(
        find(&store, EventFilter::stream(todo.clone())).await.len(),
        3
    );
    change(&store, &todo, Lifecycle::Restored).await;
    assert_eq!(info(&store, &todo).await.state, StreamState::Live);
    let append = Append::to(todo.clone(), exact(4), [event("done")]);
    within(other.append(append)).await.unwrap();
}

pub async fn lifecycle_events_are_versioned_events<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    let todo = stream("todo", "1");
    put(&store, &todo, &["added"]).await;
    let stale = Append::to(todo.clone(), exact(0), [Lifecycle::Deleted.event()]);
    let kind = refused(&store, stale).await;
    let actual = StreamVersion::new(1);
    assert_eq!(
        kind,
        StoreErrorKind::Conflict(Conflict::Version {
            stream: todo.clone(),
            expected: exact(0),
            actual
        })
    );
    assert_eq!(info(&store, &todo).await.state, StreamState::Live);
    for (version, lifecycle) in [
        Lifecycle::Deleted,
        Lifecycle::Restored,
        Lifecycle::Deleted,
        Lifecycle::Erased,
        Lifecycle::Restored,
    ]
    .into_iter()
    .enumerate()
    {
        let append = Append::to(
            todo.clone(),
            exact(i64::try_from(version).unwrap() + 1),
            [lifecycle.event()],
        );
        within(store.append(append)).await.unwrap();
    }
    let stored = find(&store, EventFilter::stream(todo.clone())).await;
    let expected = [
        "added",
        "backstory.deleted",
        "backstory.restored",
        "backstory.deleted",
        "backstory.erased",
        "backstory.restored",
    ];
    assert_eq!(names(&stored), expected);
    assert_eq!(stored[1].lifecycle(), Some(Lifecycle::Deleted));
    assert_eq!(info(&store, &todo).await.version, StreamVersion::new(6));
}

pub async fn the_order_within_an_append_counts<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    let (one, two) = (stream("todo", "1"), stream("todo", "2"));
    let last = any(
        &one,
        [event("added"), event("done"), Lifecycle::Deleted.event()],
    );
    within(store.append(last)).await.unwrap();
    assert_eq!(info(&store, &one).await.state, StreamState::Deleted);
    let behind = any(
        &two,
        [event("added"), Lifecycle::Deleted.event(), event("done")],
    );
    let kind = refused(&store, behind).await;
    assert_eq!(
        kind,
        StoreErrorKind::StreamDeleted {
            stream: two.clone()
        }
    );
    let between = any(
        &two,
        [
            Lifecycle::Deleted.event(),
            Lifecycle::Restored.event(),
            event("done"),
        ],
    );
    within(store.append(between)).await.unwrap();
    assert_eq!(info(&store, &two).await.state, StreamState::Live);
    let back = any(&one, [Lifecycle::Restored.event(), event("done")]);
    within(store.append(back)).await.unwrap();
    assert_eq!(info(&store, &one).await.state, StreamState::Live);
}

/// A stream with content worth erasing: payloads, metadata, tags, stream tags.
async fn person(store: &impl EventStore, stream: &StreamId) {
    let secret = |name: &str| {
        event(name)
            .with_metadata(Metadata::new().with_actor("ann").with("ip", "10.0.0.1"))
            .with_tag(tag("ann"))
    };
    let seat = NewEvent::of(&SeatEvent::taken(1)).unwrap();
    let append = any(
        stream,
        [
            secret("joined"),
            seat,
            secret("moved"),
            tagged(&["vip"], &[]),
        ],
    );
    within(store.append(append)).await.unwrap();
}

fn assert_skeleton(before: &RecordedEvent, after: &RecordedEvent) {
    let skeleton = |event: &RecordedEvent| {
        let recorded = event.recorded().clone();
        (
            (
                recorded.position,
                recorded.stream,
                recorded.version,
                recorded.id,
            ),
            (recorded.name, recorded.schema_version, recorded.recorded_at),
        )
    };
    assert_eq!(skeleton(before), skeleton(after), "the skeleton stays");
    assert!(after.is_erased());
    assert!(after.erased_at().unwrap() >= before.recorded_at());
    assert_eq!(after.payload(), &Payload::empty());
    assert_eq!(after.metadata(), &Metadata::default());
    assert!(after.tags().is_empty());
}

pub async fn erasing_keeps_the_skeleton_and_nothing_else<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    let other = within(fixture.elsewhere()).await;
    let (ann, ben) = (stream("user", "ann"), stream("user", "ben"));
    person(&store, &ann).await;
    person(&store, &ben).await;
    let before = log(&store).await;
    let receipt = within(store.append(any(&ann, [Lifecycle::Erased.event()])))
        .await
        .unwrap();
    assert_eq!(receipt.position(), position(9));
    for handle in [&store, &other] {
        let after = log(handle).await;
        assert_eq!(after.len(), 9);
        for (before, after) in before.iter().zip(&after) {
            if before.stream() == &ann {
                assert_skeleton(before, after);
            } else {
                assert_eq!(before, after, "others keep everything");
            }
        }
        assert_eq!(
            (after[8].name(), after[8].is_erased()),
            ("backstory.erased", false)
        );
        let row = info(handle, &ann).await;
        assert_eq!((row.state, row.version.get()), (StreamState::Erased, 5));
        assert!(row.tags.is_empty());
    }
}

pub async fn readers_pass_over_erased_events<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    let (ann, ben) = (stream("user", "ann"), stream("user", "ben"));
    person(&store, &ann).await;
    person(&store, &ben).await;
    change(&store, &ann, Lifecycle::Erased).await;
    let query = EventQuery::new(EventFilter::of::<SeatEvent>());
    let envelopes = within(store.collect_as::<SeatEvent>(query.clone()))
        .await
        .unwrap();
    assert_eq!(envelopes.len(), 1);
    assert_eq!(envelopes[0].stream(), &ben);
    assert_eq!(
        within(store.collect(query)).await.unwrap().len(),
        2,
        "raw readers see them"
    );
    // What identified the person no longer finds anything; names and streams still do.
    let tagged = find(&store, EventFilter::tag(tag("ann"))).await;
    assert!(tagged.iter().all(|event| event.stream() == &ben));
    let moved = find(&store, FilterItem::new().name("moved").stream(ann)).await;
    assert!(moved.len() == 1 && moved[0].is_erased());
}

pub async fn an_erased_stream_refuses_all_but_a_revival<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    let ann = stream("user", "ann");
    person(&store, &ann).await;
    change(&store, &ann, Lifecycle::Erased).await;
    let erased = StoreErrorKind::StreamErased {
        stream: ann.clone(),
    };
    for expected in every_expectation(5) {
        for event in [
            event("joined"),
            tagged(&["red"], &[]),
            Lifecycle::Deleted.event(),
        ] {
            let append = Append::to(ann.clone(), expected, [event]);
            assert_eq!(refused(&store, append).await, erased);
        }
    }
    change(&store, &ann, Lifecycle::Restored).await;
    let append = Append::to(
        ann.clone(),
        exact(6),
        [event("joined").with_tag(tag("new"))],
    );
    within(store.append(append)).await.unwrap();
    let stored = find(&store, EventFilter::stream(ann.clone())).await;
    let erased: Vec<_> = stored.iter().map(RecordedEvent::is_erased).collect();
    assert_eq!(erased, [true, true, true, true, false, false, false]);
    assert_eq!(info(&store, &ann).await.state, StreamState::Live);
    // A second erasure takes what came after the revival too.
    change(&store, &ann, Lifecycle::Erased).await;
    let stored = find(&store, EventFilter::stream(ann)).await;
    assert!(stored[..7].iter().all(RecordedEvent::is_erased));
    assert!(!stored[7].is_erased());
}

pub async fn deleted_streams_can_be_erased<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    let ann = stream("user", "ann");
    person(&store, &ann).await;
    change(&store, &ann, Lifecycle::Deleted).await;
    change(&store, &ann, Lifecycle::Erased).await;
    assert_eq!(info(&store, &ann).await.state, StreamState::Erased);
    let stored = log(&store).await;
    assert_eq!(stored.len(), 6);
    assert!(stored[..5].iter().all(RecordedEvent::is_erased));
}

pub async fn a_refused_erasure_erases_nothing<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    let (ann, ben) = (stream("user", "ann"), stream("user", "ben"));
    person(&store, &ann).await;
    let append = any(&ann, [Lifecycle::Erased.event()]).and(
        ben.clone(),
        ExpectedVersion::StreamExists,
        [event("left")],
    );
    refused(&store, append).await; // compares log and stream rows
    person(&store, &ben).await;
    // With a right version both happen.
    let append = any(&ann, [Lifecycle::Erased.event()]).and(
        ben.clone(),
        ExpectedVersion::StreamExists,
        [event("left").with_tag(tag("ann"))],
    );
    within(store.append(append)).await.unwrap();
    let stored = find(&store, EventFilter::stream(ann)).await;
    assert!(stored[..4].iter().all(RecordedEvent::is_erased));
    let kept = find(&store, EventFilter::stream(ben)).await;
    assert!(kept.len() == 5 && kept.iter().all(|event| !event.is_erased()));
}

pub async fn streams_get_and_lose_tags<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    let todo = stream("todo", "1");
    within(store.append(any(&todo, [event("added").with_tag(tag("of the event"))])))
        .await
        .unwrap();
    assert!(
        info(&store, &todo).await.tags.is_empty(),
        "tags of events are not tags of streams"
    );
    let steps: [(NewEvent, &[&str]); 6] = [
        (tagged(&["red", "big", "red"], &[]), &["big", "red"]),
        (
            tagged(&["{a,\"b\"}", "big"], &["never"]),
            &["big", "red", "{a,\"b\"}"],
        ),
        (tagged(&[], &["red"]), &["big", "{a,\"b\"}"]),
        (
            tagged(&["Zoo", "\u{e9}"], &["big"]),
            &["Zoo", "{a,\"b\"}", "\u{e9}"],
        ),
        (tagged(&[], &[]), &["Zoo", "{a,\"b\"}", "\u{e9}"]),
        (tagged(&[], &["Zoo", "{a,\"b\"}", "\u{e9}"]), &[]),
    ];
    for (change, expected) in steps {
        within(store.append(any(&todo, [change]))).await.unwrap();
        let tags = info(&store, &todo).await.tags;
        let texts: Vec<_> = tags.iter().map(Tag::as_str).collect();
        assert_eq!(texts, expected, "in byte order");
    }
}

pub async fn stream_rows_follow_the_log<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    let (one, two) = (stream("todo", "1"), stream("todo", "2"));
    put(&store, &one, &["a", "b"]).await;
    put(&store, &two, &["a"]).await;
    let append =
        any(&two, events(&["b"])).and(one.clone(), ExpectedVersion::Any, events(&["c", "d"]));
    within(store.append(append)).await.unwrap();
    for (stream, version, first, last) in [(&one, 4, 1, 6), (&two, 2, 3, 4)] {
        let row = info(&store, stream).await;
        assert_eq!(&row.stream, stream);
        assert_eq!(row.version, StreamVersion::new(version));
        assert_eq!(
            (row.first_position, row.last_position),
            (position(first), position(last))
        );
        assert_eq!((row.state, row.tags), (StreamState::Live, Vec::new()));
    }
    change(&store, &one, Lifecycle::Deleted).await;
    let row = info(&store, &one).await;
    assert_eq!((row.version.get(), row.last_position), (5, position(7)));
    assert_eq!(row.first_position, position(1));
}

pub async fn a_pure_check_may_look_at_a_deleted_stream<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    let (one, two) = (stream("todo", "1"), stream("todo", "2"));
    put(&store, &one, &["added"]).await;
    change(&store, &one, Lifecycle::Deleted).await;
    let append = any(&two, [event("added")]).check(one.clone(), exact(2));
    within(store.append(append)).await.unwrap();
    let kind = refused(&store, any(&two, [event("done")]).check(one, exact(1))).await;
    assert!(matches!(kind, StoreErrorKind::Conflict(_)), "{kind:?}");
}
