//! What is kept comes back.

use super::*;

pub async fn what_is_put_comes_back<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    let bodies = [
        json!(null),
        json!(true),
        json!("text \"'\\ äöü 😀 \u{1}"),
        json!(-7.25),
        json!(u64::MAX),
        json!([1, [2, {}], []]),
        json!({ "b": { "a": null }, "": "empty name", "%": 1 }),
    ];
    put(
        &store,
        Collection::named("bodies"),
        bodies.iter().enumerate(),
    )
    .await;
    for (key, body) in bodies.into_iter().enumerate() {
        assert_eq!(get(&store, "bodies", &key.to_string()).await, Some(body));
    }
}

pub async fn what_is_not_there_is_none<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    assert_eq!(get(&store, "nowhere", "a").await, None);
    assert!(keys(&store, List::of("nowhere")).await.is_empty());
    assert!(
        keys(&store, List::of("nowhere").ordered_by("rank"))
            .await
            .is_empty()
    );
    assert_eq!(store.get_documents(&[]).await.unwrap(), []);
    put(&store, NOTES, [("a", note(1, "x"))]).await;
    assert_eq!(get(&store, "notes", "b").await, None);
}

pub async fn a_put_replaces_and_a_delete_removes<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    put(&store, NOTES, [("a", note(1, "x")), ("b", note(2, "x"))]).await;
    put(&store, NOTES, [("a", note(3, "y"))]).await;
    assert_eq!(get(&store, "notes", "a").await, Some(json!(note(3, "y"))));
    let mut docs = documents(&store);
    docs.delete(NOTES, "a").await.unwrap();
    docs.delete(NOTES, "never there").await.unwrap();
    docs.delete("nowhere", "a").await.unwrap();
    commit(&store, "notes", docs.into_writes()).await;
    assert_eq!(get(&store, "notes", "a").await, None);
    assert_eq!(keys(&store, List::of(NOTES)).await, ["b"]);
    put(&store, NOTES, [("a", note(4, "x"))]).await;
    assert_eq!(get(&store, "notes", "a").await, Some(json!(note(4, "x"))));
}

pub async fn many_keys_are_answered_in_their_order<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    put(&store, NOTES, [("a", note(1, "x")), ("b", note(2, "x"))]).await;
    put(&store, Collection::named("others"), [("a", 7)]).await;
    let wanted = [
        place("notes", "b"),
        place("notes", "missing"),
        place("others", "a"),
        place("notes", "a"),
        place("notes", "b"),
    ];
    let found = within(store.get_documents(&wanted)).await.unwrap();
    let found: Vec<_> = found
        .into_iter()
        .map(|body| body.map(|body| body.to_value().unwrap()))
        .collect();
    let (a, b) = (Some(json!(note(1, "x"))), Some(json!(note(2, "x"))));
    assert_eq!(found, [b.clone(), None, Some(json!(7)), a, b]);
}

pub async fn collections_do_not_mix<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    for (name, value) in [("one", 1), ("two", 2), ("ONE", 3), ("on", 4), ("one%", 5)] {
        put(&store, Collection::named(name), [("a", value)]).await;
    }
    assert_eq!(get(&store, "one", "a").await, Some(json!(1)));
    assert_eq!(get(&store, "ONE", "a").await, Some(json!(3)));
    assert_eq!(get(&store, "one%", "a").await, Some(json!(5)));
    for name in ["one", "two", "ONE", "on", "one%"] {
        assert_eq!(keys(&store, List::of(name)).await, ["a"]);
    }
}

pub async fn another_handle_sees_what_was_committed<F: Fixture>(fixture: &F) {
    let (here, there) = (fixture.store(), fixture.elsewhere().await);
    put(&here, NOTES, [("a", note(1, "x"))]).await;
    assert_eq!(get(&there, "notes", "a").await, Some(json!(note(1, "x"))));
    put(&there, NOTES, [("a", note(2, "x"))]).await;
    assert_eq!(get(&here, "notes", "a").await, Some(json!(note(2, "x"))));
    assert_eq!(keys(&here, List::of(NOTES).field("rank", &2)).await, ["a"]);
    let progress = here.load_progress("notes").await.unwrap();
    assert_eq!(there.load_progress("notes").await.unwrap(), progress);
}

pub async fn five_thousand_documents_go_into_one_commit<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    let entries = || (0..5_000).map(|number| (format!("{number:04}"), note(number, "x")));
    put(&store, NOTES, entries()).await;
    let wanted: Vec<_> = entries().map(|(key, _)| place("notes", &key)).collect();
    let found = within(store.get_documents(&wanted)).await.unwrap();
    for ((key, note), found) in entries().zip(found) {
        assert_eq!(found.unwrap().decode::<Note>().unwrap(), note, "{key}");
    }
    let by_rank = keys(&store, List::of(NOTES).ordered_by("rank").limit(1_000)).await;
    assert_eq!(by_rank.len(), 5_000);
    assert!(by_rank.is_sorted());
    // All of them again, half of them gone.
    let mut docs = documents(&store);
    docs.prefetch(NOTES, entries().map(|(key, _)| key))
        .await
        .unwrap();
    for (key, _) in entries() {
        let half = |note: Option<Note>| note.filter(|note| note.rank % 2 == 0);
        docs.update(NOTES, &key, half).await.unwrap();
    }
    commit(&store, "notes", docs.into_writes()).await;
    assert_eq!(
        keys(&store, List::of(NOTES).limit(1_000)).await.len(),
        2_500
    );
}

pub async fn an_erased_stream_takes_its_documents_along<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    let [gone, kept] = ["gone", "kept"].map(|key| StreamId::new("person", key).unwrap());
    for stream in [&gone, &kept] {
        let event = NewEvent::raw("person.moved", Payload::empty());
        let append = Append::to(stream.clone(), ExpectedVersion::NoStream, [event]);
        within(store.append(append)).await.unwrap();
    }
    let mut docs = documents(&store);
    docs.put_owned(NOTES, "a", &gone, &note(1, "x"))
        .await
        .unwrap();
    docs.put_owned(NOTES, "b", &kept, &note(2, "x"))
        .await
        .unwrap();
    docs.put(NOTES, "c", &note(3, "x")).await.unwrap();
    docs.put_owned("others", "d", &gone, &1).await.unwrap();
    docs.put_owned("others", "e", &gone, &1).await.unwrap();
    commit(&store, "notes", docs.into_writes()).await;
    // Who replaces a document says anew whose it is.
    let mut docs = documents(&store);
    docs.put("others", "e", &2).await.unwrap();
    commit(&store, "notes", docs.into_writes()).await;
    let before = store.load_progress("notes").await.unwrap();

    let erase = [Lifecycle::Erased.event()];
    let append = Append::to(gone, ExpectedVersion::Any, erase);
    within(store.append(append)).await.unwrap();
    assert_eq!(get(&store, "notes", "a").await, None);
    assert_eq!(get(&store, "others", "d").await, None);
    assert_eq!(get(&store, "others", "e").await, Some(json!(2)));
    assert_eq!(keys(&store, List::of(NOTES)).await, ["b", "c"]);
    assert_eq!(
        keys(&store, List::of(NOTES).ordered_by("rank")).await,
        ["b", "c"]
    );
    assert_eq!(store.load_progress("notes").await.unwrap(), before);
}

pub async fn what_was_read_before_an_erasure_does_not_come_back<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    let stream = StreamId::new("person", 1).unwrap();
    let event = || NewEvent::raw("person.moved", Payload::empty());
    let append = |event| Append::to(stream.clone(), ExpectedVersion::Any, [event]);
    within(store.append(append(event()))).await.unwrap();

    // A batch that has read the event and is slower than the erasure.
    let mut late = documents(&store);
    late.put_owned(NOTES, "a", &stream, &note(1, "x"))
        .await
        .unwrap();
    late.put(NOTES, "b", &note(2, "x")).await.unwrap();
    let erase = Lifecycle::Erased.event();
    within(store.append(append(erase))).await.unwrap();
    commit(&store, "notes", late.into_writes()).await;
    assert_eq!(get(&store, "notes", "a").await, None);
    let by_rank = List::of(NOTES).ordered_by("rank");
    assert_eq!(keys(&store, by_rank).await, ["b"]);

    // What comes after a revival is kept.
    let revive = Lifecycle::Restored.event();
    within(store.append(append(revive))).await.unwrap();
    let mut docs = documents(&store);
    docs.put_owned(NOTES, "a", &stream, &note(3, "x"))
        .await
        .unwrap();
    commit(&store, "notes", docs.into_writes()).await;
    assert_eq!(get(&store, "notes", "a").await, Some(json!(note(3, "x"))));
}
