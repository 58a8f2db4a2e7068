//! Appending: versions, receipts, all or nothing.

use backstory_event::{
    Append, Appended, Checkpoint, Conflict, EventFilter, EventStore, EventStoreExt,
    ExpectedVersion, StoreErrorKind, StreamId, StreamVersion,
};

use crate::{
    Fixture,
    kit::{
        any, check_log, event, events, exact, find, head, ids, info, log, names, position,
        positions, put, refused, stream, stream_rows, within,
    },
};

pub async fn an_append_is_given_back_with_its_receipt<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    let todo = stream("todo", "1");
    let events = events(&["todo.added", "todo.renamed", "todo.added"]);
    let append = any(&todo, events.clone());
    let receipt = within(store.append(append)).await.unwrap();
    assert_eq!(receipt.positions, Some((position(1), position(3))));
    assert_eq!(receipt.position(), position(3));
    assert_eq!(receipt.checkpoint.event_id, events[2].id);
    assert_eq!(receipt.version(&todo), Some(StreamVersion::new(3)));
    assert_eq!(receipt.names, ["todo.added", "todo.renamed"]);
    let stored = log(&store).await;
    assert_eq!(stored.len(), 3);
    for (stored, new) in stored.iter().zip(&events) {
        assert_eq!(
            (stored.id(), stored.name(), stored.stream()),
            (new.id, new.name.as_str(), &todo)
        );
        assert_eq!(stored.payload(), &new.payload);
        assert!(!stored.is_erased());
    }
    assert_eq!(head(&store).await, receipt.checkpoint);
}

pub async fn an_empty_log_has_nothing<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    assert!(log(&store).await.is_empty());
    assert!(stream_rows(&store).await.is_empty());
    assert_eq!(head(&store).await, Checkpoint::START);
}

pub async fn a_receipt_survives_its_text_form<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    let receipt = put(&store, &stream("todo", "1"), &["added"]).await;
    let text = receipt.to_string();
    assert_eq!(text.parse::<Checkpoint>().unwrap(), receipt.checkpoint);
    for wrong in [
        "",
        "b1-",
        "b1-1-2",
        "7",
        "b1--1-00000000000000000000000000000000",
    ] {
        assert!(wrong.parse::<Checkpoint>().unwrap_err().what() == "receipt");
    }
}

pub async fn versions_of_each_stream_begin_at_one<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    let (one, two) = (stream("todo", "1"), stream("todo", "2"));
    for _ in 0..3 {
        put(&store, &one, &["a", "b"]).await;
        put(&store, &two, &["a"]).await;
    }
    let stored = log(&store).await; // checks versions and positions
    assert_eq!(stored.len(), 9);
    assert_eq!(info(&store, &one).await.version, StreamVersion::new(6));
    assert_eq!(info(&store, &two).await.version, StreamVersion::new(3));
}

pub async fn category_and_key_are_never_one_text<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    let streams = [
        stream("a", "b"),
        stream("b", "b"),
        stream("a", "b/c"),
        stream("a/b", "c"),
        stream("a-b", "c"),
        stream("a", "b-c"),
    ];
    for id in &streams {
        let append = Append::to(id.clone(), ExpectedVersion::NoStream, [event("made")]);
        let receipt = within(store.append(append)).await.unwrap();
        assert_eq!(receipt.version(id), Some(StreamVersion::new(1)));
    }
    for id in &streams {
        let found = find(&store, EventFilter::stream(id.clone())).await;
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].stream(), id);
    }
    assert_eq!(stream_rows(&store).await.len(), streams.len());
}

fn version_conflict(stream: &StreamId, expected: ExpectedVersion, actual: i64) -> StoreErrorKind {
    StoreErrorKind::Conflict(Conflict::Version {
        stream: stream.clone(),
        expected,
        actual: StreamVersion::new(actual),
    })
}

pub async fn any_version_is_never_refused<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    let todo = stream("todo", "1");
    for version in 1..=3 {
        let receipt = put(&store, &todo, &["done"]).await;
        assert_eq!(receipt.version(&todo), Some(StreamVersion::new(version)));
    }
}

pub async fn no_stream_refuses_an_existing_stream<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    let todo = stream("todo", "1");
    for expected in [ExpectedVersion::NoStream, exact(0)] {
        let fresh = stream("todo", &format!("fresh {expected}"));
        let append = Append::to(fresh.clone(), expected, [event("added")]);
        within(store.append(append)).await.unwrap();
    }
    put(&store, &todo, &["added", "done"]).await;
    for expected in [ExpectedVersion::NoStream, exact(0)] {
        let kind = refused(&store, Append::to(todo.clone(), expected, [event("added")])).await;
        assert_eq!(kind, version_conflict(&todo, expected, 2));
    }
}

pub async fn stream_exists_refuses_a_missing_stream<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    let todo = stream("todo", "1");
    let expected = ExpectedVersion::StreamExists;
    let kind = refused(&store, Append::to(todo.clone(), expected, [event("done")])).await;
    assert_eq!(kind, version_conflict(&todo, expected, 0));
    put(&store, &todo, &["added"]).await;
    let append = Append::to(todo.clone(), expected, [event("done")]);
    let receipt = within(store.append(append)).await.unwrap();
    assert_eq!(receipt.version(&todo), Some(StreamVersion::new(2)));
}

pub async fn exact_refuses_versions_that_are_too_low_or_too_high<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    let (todo, missing) = (stream("todo", "1"), stream("todo", "2"));
    put(&store, &todo, &["a", "b", "c"]).await;
    for wrong in [0, 1, 2, 4, 5, 1_000_000, i64::MAX] {
        let kind = refused(&store, Append::to(todo.clone(), exact(wrong), [event("d")])).await;
        assert_eq!(kind, version_conflict(&todo, exact(wrong), 3));
    }
    let kind = refused(&store, Append::to(missing.clone(), exact(1), [event("d")])).await;
    assert_eq!(kind, version_conflict(&missing, exact(1), 0));
    let right = Append::to(todo.clone(), exact(3), [event("d"), event("e")]);
    let receipt = within(store.append(right)).await.unwrap();
    assert_eq!(receipt.version(&todo), Some(StreamVersion::new(5)));
}

pub async fn a_part_without_events_only_checks_a_version<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    let (list, todo, missing) = (
        stream("list", "1"),
        stream("todo", "1"),
        stream("list", "2"),
    );
    put(&store, &list, &["opened"]).await;
    let add = || Append::to(todo.clone(), ExpectedVersion::Any, [event("added")]);
    for (checked, wrong, actual) in [
        (&list, exact(0), 1),
        (&list, exact(2), 1),
        (&list, ExpectedVersion::NoStream, 1),
        (&missing, ExpectedVersion::StreamExists, 0),
        (&missing, exact(1), 0),
    ] {
        let kind = refused(&store, add().check(checked.clone(), wrong)).await;
        assert_eq!(kind, version_conflict(checked, wrong, actual));
    }
    let append = add()
        .check(list.clone(), exact(1))
        .check(missing.clone(), ExpectedVersion::NoStream);
    let receipt = within(store.append(append)).await.unwrap();
    assert_eq!(receipt.version(&todo), Some(StreamVersion::new(1)));
    assert_eq!(receipt.version(&list), None, "it got no events");
    assert_eq!(info(&store, &list).await.version, StreamVersion::new(1));
    let row = within(store.stream_info(&missing)).await.unwrap();
    assert_eq!(row, None, "a check makes no stream");
}

pub async fn several_streams_are_stored_together<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    let (from, to, book) = (
        stream("account", "1"),
        stream("account", "2"),
        stream("book", "1"),
    );
    put(&store, &from, &["opened"]).await;
    let sent = events(&["debited", "credited", "credited", "noted"]);
    let append = Append::to(from.clone(), exact(1), [sent[0].clone()])
        .and(
            to.clone(),
            ExpectedVersion::NoStream,
            [sent[1].clone(), sent[2].clone()],
        )
        .and(book.clone(), ExpectedVersion::Any, [sent[3].clone()]);
    let receipt = within(store.append(append)).await.unwrap();
    assert_eq!(receipt.positions, Some((position(2), position(5))));
    let versions: Vec<_> = [&from, &to, &book].map(|id| receipt.version(id)).into();
    let expected = [2, 2, 1].map(|version| Some(StreamVersion::new(version)));
    assert_eq!(versions, expected);
    let stored = log(&store).await;
    assert_eq!(ids(&stored[1..]), [0, 1, 2, 3].map(|index| sent[index].id));
}

pub async fn one_refused_stream_stores_none_of_the_others<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    let (one, two) = (stream("todo", "1"), stream("todo", "2"));
    put(&store, &two, &["added"]).await;
    // The wrong part last, first and in between.
    for wrong in 0..3 {
        let mut append = Append::new();
        for index in 0..3 {
            append = if index == wrong {
                append.and(two.clone(), exact(9), [event("done")])
            } else {
                let fresh = stream("fresh", &format!("{wrong} {index}"));
                append.and(fresh, ExpectedVersion::NoStream, events(&["a", "b"]))
            };
        }
        let kind = refused(&store, append).await;
        assert_eq!(kind, version_conflict(&two, exact(9), 1));
    }
    let kind = refused(
        &store,
        Append::to(one, exact(0), [event("a")]).and(two.clone(), exact(0), [event("b")]),
    )
    .await;
    assert_eq!(kind, version_conflict(&two, exact(0), 1));
}

pub async fn failed_appends_burn_no_position<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    let todo = stream("todo", "1");
    for round in 0..10 {
        let receipt = put(&store, &todo, &["done"]).await;
        assert_eq!(receipt.position().get(), round + 1);
        let stale = Append::to(todo.clone(), exact(round), events(&["x", "y", "z"]));
        let error = within(store.append(stale)).await.unwrap_err();
        assert!(error.is_conflict());
    }
    assert_eq!(positions(&log(&store).await), (1..=10).collect::<Vec<_>>());
}

pub async fn a_large_append_is_stored_in_order<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    let todo = stream("import", "1");
    let sent: Vec<_> = (0..2_500).map(|_| event("imported")).collect();
    let receipt = within(store.append(any(&todo, sent.clone())))
        .await
        .unwrap();
    assert_eq!(receipt.positions, Some((position(1), position(2_500))));
    let stored = log(&store).await;
    assert_eq!(
        ids(&stored),
        sent.iter().map(|event| event.id).collect::<Vec<_>>()
    );
    assert_eq!(
        within(store.append(any(&todo, sent))).await.unwrap(),
        receipt
    );
}

pub async fn one_name_may_stand_in_many_categories<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    let mut receipts: Vec<Appended> = Vec::new();
    for category in ["todo", "list", "user"] {
        receipts.push(put(&store, &stream(category, "1"), &["renamed", "removed"]).await);
    }
    let item = backstory_event::FilterItem::new().name("renamed");
    let found = find(&store, item.clone()).await;
    let categories: Vec<_> = found
        .iter()
        .map(|event| event.stream().category())
        .collect();
    assert_eq!(categories, ["todo", "list", "user"]);
    let found = find(&store, item.category("list").category("user")).await;
    assert_eq!(positions(&found), [3, 5]);
    assert_eq!(names(&found), ["renamed", "renamed"]);
}

pub async fn another_handle_sees_what_was_stored<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    let other = within(fixture.elsewhere()).await;
    let todo = stream("todo", "1");
    for round in 0..5 {
        let (writer, reader): (&F::Store, &F::Store) = if round % 2 == 0 {
            (&store, &other)
        } else {
            (&other, &store)
        };
        let append = Append::to(todo.clone(), exact(round), [event("done")]);
        let receipt = within(writer.append(append)).await.unwrap();
        assert_eq!(head(reader).await, receipt.checkpoint);
        let stale = Append::to(todo.clone(), exact(round), [event("done")]);
        let kind = within(reader.append(stale)).await.unwrap_err().into_kind();
        assert_eq!(kind, version_conflict(&todo, exact(round), round + 1));
    }
    let stored = log(&other).await;
    assert_eq!(stored, log(&store).await);
    check_log(&stored);
}
