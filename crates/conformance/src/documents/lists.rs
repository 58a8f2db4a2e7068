//! Lists: order, prefixes, indexes, pages.

use super::*;

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
