//! What every store of documents must do.

use backstory_event::{
    Append, Checkpoint, EventId, EventStore, ExpectedVersion, Lifecycle, NewEvent, Payload,
    Position, StreamId,
};
use backstory_projection::{
    Checkpoints, Collection, CommitError, DocumentKey, DocumentList, DocumentPage, DocumentReader,
    DocumentStore, DocumentWrite, Documents, List, Progress, Step, Target,
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::{Fixture, kit::within};

/// One test per case of the suite of document stores.
#[macro_export]
macro_rules! documents_suite {
    ($make:expr) => {
        $crate::cases!($make, $crate::documents, [
            what_is_put_comes_back
            what_is_not_there_is_none
            a_put_replaces_and_a_delete_removes
            many_keys_are_answered_in_their_order
            collections_do_not_mix
            keys_are_listed_in_byte_order
            a_prefix_is_text_and_no_pattern
            an_index_orders_by_value_and_then_by_key
            an_index_holds_all_kinds_of_values_in_order
            equals_finds_exactly_one_value
            an_index_follows_its_documents
            documents_without_the_field_are_left_out
            pages_hold_everything_once
            a_cursor_stays_right_while_others_write
            a_commit_moves_the_checkpoint_also_without_documents
            a_fenced_commit_writes_nothing
            a_commit_from_before_a_reset_is_fenced
            of_many_commits_at_once_one_wins
            projections_do_not_fence_each_other
            a_reset_empties_only_its_own_collections
            the_progress_of_all_is_listed_by_name
            another_handle_sees_what_was_committed
            five_thousand_documents_go_into_one_commit
            an_erased_stream_takes_its_documents_along
        ]);
    };
}

const NOTES: Collection = Collection::named("notes").indexed("rank").indexed("list");

/// Keys in byte order: letters of any language, and what means something to SQL and JSON.
const ODD_KEYS: [&str; 19] = [
    " ",
    "\"",
    "\"quoted\"",
    "%",
    "'",
    "(",
    "--",
    "/",
    "10",
    "9",
    "B",
    "\\",
    "_",
    "a",
    "aa",
    "b",
    "ä",
    "日本",
    "😀",
];

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Note {
    rank: i64,
    list: String,
}

fn note(rank: i64, list: &str) -> Note {
    let list = list.to_owned();
    Note { rank, list }
}

/// The progress after the next step of a projection, with what it writes.
async fn commit<S: DocumentStore + Checkpoints>(
    store: &S,
    projection: &str,
    writes: Vec<DocumentWrite>,
) -> Progress {
    let from = store.load_progress(projection).await.unwrap();
    let to = Target::Advance(further(&from));
    let step = Step { from, to };
    within(store.commit_documents(writes, &step)).await.unwrap();
    step.result()
}

fn further(from: &Progress) -> Checkpoint {
    Checkpoint {
        position: from.checkpoint.position.next(),
        event_id: EventId::new(),
    }
}

fn documents<S: DocumentStore + Clone>(store: &S) -> Documents {
    Documents::new(std::sync::Arc::new(store.clone()))
}

/// Puts these documents into a collection.
async fn put<S: DocumentStore + Checkpoints + Clone>(
    store: &S,
    collection: Collection,
    entries: impl IntoIterator<Item = (impl ToString, impl Serialize + Sync)>,
) {
    let mut docs = documents(store);
    for (key, document) in entries {
        docs.put(collection, &key.to_string(), &document)
            .await
            .unwrap();
    }
    commit(store, "notes", docs.into_writes()).await;
}

async fn get<S: DocumentStore + Clone>(
    store: &S,
    collection: &'static str,
    key: &str,
) -> Option<Value> {
    let reader = DocumentReader::from(store);
    within(reader.get(collection, key)).await.unwrap()
}

/// All keys of a list, page by page.
async fn keys<S: DocumentStore + Clone>(store: &S, list: List) -> Vec<String> {
    let reader = DocumentReader::from(store);
    let mut keys = Vec::new();
    let mut next = None;
    loop {
        let page: DocumentPage<Value> =
            within(reader.list(list.clone().after(next))).await.unwrap();
        keys.extend(page.items.into_iter().map(|(key, _)| key));
        next = page.next;
        if next.is_none() {
            return keys;
        }
    }
}

#[track_caller]
fn assert_fenced(outcome: Result<(), CommitError>, name: &str) {
    match outcome {
        Err(CommitError::Fenced { projection }) => assert_eq!(projection, name),
        other => panic!("it was not fenced: {other:?}"),
    }
}

fn one(collection: &str, key: &str, body: impl Serialize) -> DocumentWrite {
    DocumentWrite::Put {
        key: place(collection, key),
        body: Payload::encode(&body).unwrap(),
        indexed: Vec::new(),
        owner: None,
    }
}

fn place(collection: &str, key: &str) -> DocumentKey {
    DocumentKey {
        collection: collection.to_owned(),
        key: key.to_owned(),
    }
}

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

pub async fn keys_are_listed_in_byte_order<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    let backwards = ODD_KEYS.iter().rev().map(|key| (*key, key.len()));
    put(&store, Collection::named("odd"), backwards).await;
    assert_eq!(keys(&store, List::of("odd")).await, ODD_KEYS);
    for limit in [1, 2, 7] {
        assert_eq!(keys(&store, List::of("odd").limit(limit)).await, ODD_KEYS);
    }
    for key in ODD_KEYS {
        assert_eq!(get(&store, "odd", key).await, Some(json!(key.len())));
    }
}

pub async fn a_prefix_is_text_and_no_pattern<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    let all = [
        "%",
        "%a",
        "A",
        "\\",
        "\\%",
        "_",
        "__",
        "a",
        "a%",
        "a%b",
        "a_",
        "ab",
        "b",
        "ä",
        "äb",
        "\u{10ffff}",
        "\u{10ffff}a",
    ];
    put(&store, Collection::named("odd"), all.map(|key| (key, 1))).await;
    for (prefix, expected) in [
        ("a", vec!["a", "a%", "a%b", "a_", "ab"]),
        ("%", vec!["%", "%a"]),
        ("_", vec!["_", "__"]),
        ("a%", vec!["a%", "a%b"]),
        ("a_", vec!["a_"]),
        ("\\", vec!["\\", "\\%"]),
        ("ä", vec!["ä", "äb"]),
        ("A", vec!["A"]),
        ("\u{10ffff}", vec!["\u{10ffff}", "\u{10ffff}a"]),
        ("c", vec![]),
    ] {
        let list = List::of("odd").prefix(prefix);
        assert_eq!(keys(&store, list.clone()).await, expected, "{prefix}");
        assert_eq!(keys(&store, list.limit(1)).await, expected, "{prefix}");
    }
}

pub async fn an_index_orders_by_value_and_then_by_key<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    let notes = [
        ("a", note(10, "y")),
        ("b", note(-5, "x")),
        ("c", note(9, "x")),
        ("Z", note(10, "")),
        ("ä", note(9, "%")),
    ];
    put(&store, NOTES, notes).await;
    let by_rank = ["b", "c", "ä", "Z", "a"];
    let by_list = ["Z", "ä", "b", "c", "a"];
    for limit in [1, 2, 100] {
        let list = |field| List::of(NOTES).ordered_by(field).limit(limit);
        assert_eq!(keys(&store, list("rank")).await, by_rank);
        assert_eq!(keys(&store, list("list")).await, by_list);
    }
    // A prefix of the key goes together with an index.
    let list = List::of(NOTES).ordered_by("rank").prefix("a");
    assert_eq!(keys(&store, list).await, ["a"]);
}

pub async fn an_index_holds_all_kinds_of_values_in_order<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    let ascending = [
        json!(null),
        json!(false),
        json!(true),
        json!(i64::MIN),
        json!(-1.5),
        json!(-1),
        json!(0),
        json!(0.5),
        json!(2),
        json!(10),
        json!(u64::MAX),
        json!(1e300),
        json!(""),
        json!("\""),
        json!("10"),
        json!("9"),
        json!("B"),
        json!("_"),
        json!("a"),
        json!("ä"),
        json!("😀"),
    ];
    const KINDS: Collection = Collection::named("kinds").indexed("at");
    let documents = ascending.iter().enumerate().rev();
    let documents =
        documents.map(|(number, value)| (format!("{:02}", 99 - number), json!({ "at": value })));
    put(&store, KINDS, documents).await;
    let expected: Vec<_> = (0..ascending.len())
        .map(|n| format!("{:02}", 99 - n))
        .collect();
    for limit in [1, 4, 100] {
        let list = List::of(KINDS).ordered_by("at").limit(limit);
        assert_eq!(keys(&store, list).await, expected);
    }
    for (number, value) in ascending.iter().enumerate() {
        let list = List::of(KINDS).field("at", value);
        assert_eq!(
            keys(&store, list).await,
            [format!("{:02}", 99 - number)],
            "{value}"
        );
    }
}

pub async fn equals_finds_exactly_one_value<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    let notes = [
        ("a", note(1, "x")),
        ("b", note(2, "x%")),
        ("c", note(3, "x")),
        ("d", note(4, "X")),
        ("e", note(5, "xx")),
        ("f", note(6, "")),
    ];
    put(&store, NOTES, notes).await;
    for limit in [1, 100] {
        let list = |value| List::of(NOTES).field("list", value).limit(limit);
        assert_eq!(keys(&store, list("x")).await, ["a", "c"]);
        assert_eq!(keys(&store, list("X")).await, ["d"]);
        assert_eq!(keys(&store, list("x%")).await, ["b"]);
        assert_eq!(keys(&store, list("")).await, ["f"]);
        assert!(keys(&store, list("y")).await.is_empty());
        assert_eq!(keys(&store, list("x").prefix("c")).await, ["c"]);
    }
    assert_eq!(keys(&store, List::of(NOTES).field("rank", &2)).await, ["b"]);
    assert!(
        keys(&store, List::of(NOTES).field("rank", "2"))
            .await
            .is_empty()
    );
}

pub async fn an_index_follows_its_documents<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    put(&store, NOTES, [("a", note(1, "x")), ("b", note(2, "x"))]).await;
    put(&store, NOTES, [("a", note(3, "y"))]).await;
    let by_rank = || List::of(NOTES).ordered_by("rank");
    assert_eq!(keys(&store, by_rank()).await, ["b", "a"]);
    assert_eq!(
        keys(&store, List::of(NOTES).field("list", "x")).await,
        ["b"]
    );
    let mut docs = documents(&store);
    docs.delete(NOTES, "b").await.unwrap();
    docs.put(NOTES, "a", &json!({ "list": "y" })).await.unwrap();
    commit(&store, "notes", docs.into_writes()).await;
    assert!(keys(&store, by_rank()).await.is_empty());
    assert_eq!(
        keys(&store, List::of(NOTES).field("list", "y")).await,
        ["a"]
    );
}

pub async fn documents_without_the_field_are_left_out<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    let bodies = [
        ("a", json!({ "rank": 1 })),
        ("b", json!({})),
        ("c", json!({ "rank": null })),
    ];
    put(&store, NOTES, bodies).await;
    assert_eq!(
        keys(&store, List::of(NOTES).ordered_by("rank")).await,
        ["c", "a"]
    );
    assert_eq!(keys(&store, List::of(NOTES)).await, ["a", "b", "c"]);
}

pub async fn pages_hold_everything_once<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    let expected: Vec<_> = (0..250).map(|number| format!("k{number:03}")).collect();
    let notes = expected
        .iter()
        .zip(0..)
        .map(|(key, n)| (key, note(n % 7, "x")));
    put(&store, NOTES, notes).await;
    for limit in [1, 49, 50, 249, 250, 251] {
        assert_eq!(keys(&store, List::of(NOTES).limit(limit)).await, expected);
        let of_x = List::of(NOTES).field("list", "x").limit(limit);
        assert_eq!(keys(&store, of_x).await, expected);
        let mut by_rank = keys(&store, List::of(NOTES).ordered_by("rank").limit(limit)).await;
        assert_eq!(by_rank[..2], ["k000", "k007"]);
        by_rank.sort();
        assert_eq!(by_rank, expected);
    }
    // The port itself: never more than asked for.
    let list = DocumentList {
        collection: "notes".to_owned(),
        prefix: String::new(),
        index: None,
        equals: None,
        after: Some((String::new(), "k009".to_owned())),
        limit: 3,
    };
    let rows = store.list_documents(&list).await.unwrap();
    let rows: Vec<_> = rows.into_iter().map(|row| row.key).collect();
    assert_eq!(rows, ["k010", "k011", "k012"]);
}

pub async fn a_cursor_stays_right_while_others_write<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    let reader = DocumentReader::from(&store);
    let first = (10..20).map(|number| (format!("k{number}"), note(number, "x")));
    put(&store, NOTES, first).await;
    for list in [List::of(NOTES), List::of(NOTES).ordered_by("rank")] {
        let list = list.limit(5);
        let page: DocumentPage<Note> = reader.list(list.clone()).await.unwrap();
        // The text of a cursor is what travels to the reader and back.
        let cursor = page.next.unwrap().to_string().parse().unwrap();
        // Before, at and behind the cursor: come and go.
        let come = [
            ("k00", note(0, "x")),
            ("k145", note(14, "y")),
            ("k99", note(99, "x")),
        ];
        put(&store, NOTES, come).await;
        let mut docs = documents(&store);
        for gone in ["k10", "k14", "k17"] {
            docs.delete(NOTES, gone).await.unwrap();
        }
        commit(&store, "notes", docs.into_writes()).await;
        let rest = keys(&store, list.clone().limit(100)).await;
        let page: DocumentPage<Note> = reader
            .list(list.limit(100).after(Some(cursor)))
            .await
            .unwrap();
        let found: Vec<_> = page.items.iter().map(|(key, _)| key.as_str()).collect();
        assert_eq!(found, ["k145", "k15", "k16", "k18", "k19", "k99"]);
        assert_eq!(rest[rest.len() - 6..], found);
        let back = [10, 14, 17].map(|number| (format!("k{number}"), note(number, "x")));
        put(&store, NOTES, back).await;
        let mut docs = documents(&store);
        for gone in ["k00", "k145", "k99"] {
            docs.delete(NOTES, gone).await.unwrap();
        }
        commit(&store, "notes", docs.into_writes()).await;
    }
}

pub async fn a_commit_moves_the_checkpoint_also_without_documents<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    let name = "odd name % \" ä";
    assert_eq!(
        store.load_progress(name).await.unwrap(),
        Progress::start(name)
    );
    let first = commit(&store, name, Vec::new()).await;
    assert_eq!(store.load_progress(name).await.unwrap(), first);
    let second = commit(&store, name, vec![one("a", "b", 1)]).await;
    assert_eq!(second.checkpoint.position, Position::new(2));
    assert_eq!(store.load_progress(name).await.unwrap(), second);
    assert_eq!(second.epoch, 0);
}

pub async fn a_fenced_commit_writes_nothing<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    let before = commit(&store, "notes", vec![one("a", "kept", 1)]).await;
    let now = commit(&store, "notes", vec![one("a", "kept", 2)]).await;
    let changed = |change: &dyn Fn(&mut Progress)| {
        let mut progress = now.clone();
        change(&mut progress);
        progress
    };
    let wrong = [
        before,
        Progress::start("notes"),
        changed(&|progress| progress.epoch += 1),
        changed(&|progress| progress.checkpoint.event_id = EventId::new()),
        changed(&|progress| progress.checkpoint.position = Position::new(9)),
    ];
    for from in wrong {
        for to in [Target::Advance(further(&now)), Target::Reset] {
            let writes = vec![
                one("a", "new", 1),
                one("b", "new", 1),
                DocumentWrite::Delete {
                    key: place("a", "kept"),
                },
            ];
            let step = Step {
                from: from.clone(),
                to,
            };
            assert_fenced(within(store.commit_documents(writes, &step)).await, "notes");
        }
    }
    assert_eq!(store.load_progress("notes").await.unwrap(), now);
    assert_eq!(get(&store, "a", "kept").await, Some(json!(2)));
    assert_eq!(get(&store, "a", "new").await, None);
    assert_eq!(get(&store, "b", "new").await, None);
    // The first step of a projection can be fenced too.
    let from = Progress {
        epoch: 3,
        ..Progress::start("another")
    };
    let step = Step {
        to: Target::Advance(further(&from)),
        from,
    };
    assert_fenced(store.commit_documents(Vec::new(), &step).await, "another");
    assert_eq!(
        store.load_progress("another").await.unwrap(),
        Progress::start("another")
    );
}

pub async fn a_commit_from_before_a_reset_is_fenced<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    let start = store.load_progress("notes").await.unwrap();
    let step = Step {
        from: start.clone(),
        to: Target::Reset,
    };
    store.commit_documents(Vec::new(), &step).await.unwrap();
    let progress = store.load_progress("notes").await.unwrap();
    assert_eq!(
        (progress.checkpoint, progress.epoch),
        (Checkpoint::START, 1)
    );
    // At the same place, but of another time.
    let step = Step {
        to: Target::Advance(further(&start)),
        from: start,
    };
    let late = store
        .commit_documents(vec![one("a", "late", 1)], &step)
        .await;
    assert_fenced(late, "notes");
    assert_eq!(get(&store, "a", "late").await, None);
}

pub async fn of_many_commits_at_once_one_wins<F: Fixture>(fixture: &F) {
    let (here, there) = (fixture.store(), fixture.elsewhere().await);
    for round in 0..10 {
        let from = here.load_progress("notes").await.unwrap();
        let attempts = (0..8).map(|number| {
            let store = if number % 2 == 0 {
                here.clone()
            } else {
                there.clone()
            };
            let to = Target::Advance(further(&from));
            let step = Step {
                from: from.clone(),
                to,
            };
            let key = format!("{round}-{number}");
            let writes = vec![one("a", "winner", number), one("a", &key, number)];
            async move { (number, store.commit_documents(writes, &step).await, step) }
        });
        let outcomes = within(futures::future::join_all(attempts)).await;
        let mut winners = Vec::new();
        for (number, outcome, step) in outcomes {
            match outcome {
                Ok(()) => winners.push((number, step.result())),
                outcome => assert_fenced(outcome, "notes"),
            }
        }
        let [(winner, progress)] = &winners[..] else {
            panic!("{} commits won", winners.len());
        };
        assert_eq!(here.load_progress("notes").await.unwrap(), *progress);
        assert_eq!(get(&here, "a", "winner").await, Some(json!(winner)));
    }
    let kept = keys(&here, List::of("a")).await;
    assert_eq!(kept.len(), 11, "the losers wrote nothing: {kept:?}");
}

pub async fn projections_do_not_fence_each_other<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    let attempts = (0..10).map(|number| {
        let store = store.clone();
        async move {
            let name = format!("projection-{number}");
            for round in 0..5 {
                let write = one(&name, &round.to_string(), round);
                commit(&store, &name, vec![write]).await;
            }
        }
    });
    within(futures::future::join_all(attempts)).await;
    for number in 0..10 {
        let progress = store
            .load_progress(&format!("projection-{number}"))
            .await
            .unwrap();
        assert_eq!(progress.checkpoint.position, Position::new(5));
    }
}

pub async fn a_reset_empties_only_its_own_collections<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    commit(&store, "mine", vec![one("a", "1", 1), one("b", "1", 1)]).await;
    commit(&store, "other", vec![one("c", "1", 1)]).await;
    let from = store.load_progress("mine").await.unwrap();
    let step = Step {
        from,
        to: Target::Reset,
    };
    // What is written with a reset is there after it.
    within(store.commit_documents(vec![one("a", "2", 2)], &step))
        .await
        .unwrap();
    assert_eq!(store.load_progress("mine").await.unwrap(), step.result());
    assert_eq!(step.result().epoch, 1);
    assert_eq!(keys(&store, List::of("a")).await, ["2"]);
    assert_eq!(get(&store, "a", "1").await, None);
    assert!(keys(&store, List::of("b")).await.is_empty());
    assert_eq!(get(&store, "b", "1").await, None);
    assert_eq!(keys(&store, List::of("c")).await, ["1"]);
    // And again, with an index.
    put(&store, NOTES, [("n", note(1, "x"))]).await;
    let from = store.load_progress("notes").await.unwrap();
    let step = Step {
        from,
        to: Target::Reset,
    };
    within(store.commit_documents(Vec::new(), &step))
        .await
        .unwrap();
    assert!(
        keys(&store, List::of(NOTES).ordered_by("rank"))
            .await
            .is_empty()
    );
    put(&store, NOTES, [("n", note(2, "x"))]).await;
    assert_eq!(keys(&store, List::of(NOTES).field("rank", &2)).await, ["n"]);
    assert!(
        keys(&store, List::of(NOTES).field("rank", &1))
            .await
            .is_empty()
    );
}

pub async fn the_progress_of_all_is_listed_by_name<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    assert!(store.list_progress().await.unwrap().is_empty());
    let mut expected = Vec::new();
    for name in ["b", "a", "B", "ä", "_"] {
        expected.push(commit(&store, name, Vec::new()).await);
    }
    expected.sort_by(|one, two| one.projection.cmp(&two.projection));
    assert_eq!(store.list_progress().await.unwrap(), expected);
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
