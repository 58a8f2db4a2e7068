use std::sync::Arc;

use backstory_event::{Checkpoint, EventId, Position};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::*;
use crate::{
    Checkpoints as _, Host, Target,
    test_util::{MemoryDocuments, block_on},
};

const TODOS: Collection = Collection::named("todos").indexed("list").indexed("rank");

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Todo {
    list: String,
    rank: u32,
}

fn todo(list: &str, rank: u32) -> Todo {
    let list = list.to_owned();
    Todo { list, rank }
}

/// Stores what a batch writes, with the next checkpoint.
async fn commit(store: &MemoryDocuments, documents: Documents) {
    let from = store.load_progress("test").await.unwrap();
    let to = Target::Advance(Checkpoint {
        position: from.checkpoint.position.next(),
        event_id: EventId::new(),
    });
    let step = crate::Step::new(from, to);
    let writes = documents.into_writes();
    store.commit_documents(writes, &step).await.unwrap();
}

async fn stored(documents: &[(&str, Todo)]) -> MemoryDocuments {
    let store = MemoryDocuments::default();
    let mut docs = Documents::new(Arc::new(store.clone()));
    for (key, todo) in documents {
        docs.put(TODOS, key, todo).await.unwrap();
    }
    commit(&store, docs).await;
    store
}

fn keys(page: &DocumentPage<Todo>) -> Vec<&str> {
    page.items.iter().map(|(key, _)| key.as_str()).collect()
}

#[test]
fn a_batch_reads_what_it_wrote() {
    block_on(async {
        let store = stored(&[("a", todo("x", 1))]).await;
        let mut docs = Documents::new(Arc::new(store.clone()));
        assert_eq!(docs.get(TODOS, "a").await.unwrap(), Some(todo("x", 1)));
        docs.put(TODOS, "a", &todo("x", 2)).await.unwrap();
        docs.put(TODOS, "b", &todo("y", 1)).await.unwrap();
        assert_eq!(docs.get(TODOS, "a").await.unwrap(), Some(todo("x", 2)));
        docs.delete(TODOS, "a").await.unwrap();
        assert_eq!(docs.get::<Todo>(TODOS, "a").await.unwrap(), None);
        let raise = |todo: Option<Todo>| todo.map(|todo| Todo { rank: 9, ..todo });
        docs.update(TODOS, "b", raise).await.unwrap();
        assert_eq!(docs.get(TODOS, "b").await.unwrap(), Some(todo("y", 9)));

        let reader = DocumentReader::from(&store);
        assert_eq!(
            reader.get(TODOS, "a").await.unwrap(),
            Some(todo("x", 1)),
            "not stored yet"
        );
        commit(&store, docs).await;
        assert_eq!(reader.get::<Todo>(TODOS, "a").await.unwrap(), None);
        assert_eq!(reader.get(TODOS, "b").await.unwrap(), Some(todo("y", 9)));
    });
}

#[test]
fn a_batch_asks_the_store_once_per_document() {
    block_on(async {
        let store = stored(&[("a", todo("x", 1))]).await;
        let mut docs = Documents::new(Arc::new(store.clone()));
        docs.prefetch(TODOS, ["a", "b", "a"]).await.unwrap();
        // Somebody changes it meanwhile: the batch goes on with what it saw, and is fenced then.
        let mut others = Documents::new(Arc::new(store.clone()));
        others.put(TODOS, "a", &todo("x", 2)).await.unwrap();
        others.put(TODOS, "b", &todo("x", 2)).await.unwrap();
        commit(&store, others).await;
        assert_eq!(docs.get(TODOS, "a").await.unwrap(), Some(todo("x", 1)));
        assert_eq!(docs.get::<Todo>(TODOS, "b").await.unwrap(), None);
        assert!(docs.into_writes().is_empty(), "reading writes nothing");
    });
}

#[test]
fn lists_include_what_the_batch_wrote() {
    block_on(async {
        let store = stored(&[
            ("a", todo("x", 5)),
            ("c", todo("x", 3)),
            ("e", todo("y", 4)),
            ("g", todo("x", 1)),
        ])
        .await;
        let mut docs = Documents::new(Arc::new(store));
        docs.delete(TODOS, "c").await.unwrap();
        docs.put(TODOS, "b", &todo("x", 2)).await.unwrap();
        docs.put(TODOS, "e", &todo("x", 9)).await.unwrap();
        docs.put(TODOS, "g", &todo("y", 1)).await.unwrap();
        docs.put("others", "d", &todo("x", 1)).await.unwrap();

        let all = docs.list(List::of(TODOS)).await.unwrap();
        assert_eq!(keys(&all), ["a", "b", "e", "g"]);
        let of_x = docs.list(List::of(TODOS).field("list", "x")).await.unwrap();
        assert_eq!(keys(&of_x), ["a", "b", "e"]);
        let by_rank = docs.list(List::of(TODOS).ordered_by("rank")).await.unwrap();
        assert_eq!(keys(&by_rank), ["g", "b", "a", "e"]);
    });
}

#[test]
fn pages_keep_limit_and_order_over_what_the_batch_wrote() {
    block_on(async {
        let names: Vec<_> = (0..30).map(|n| format!("k{n:02}")).collect();
        let documents: Vec<_> = names
            .iter()
            .zip(0..)
            .map(|(name, n)| (name.as_str(), todo("x", n)))
            .collect();
        let store = stored(&documents).await;
        let mut docs = Documents::new(Arc::new(store));
        // Everything up to k19 goes, and a few come back in other places.
        for name in &names[..20] {
            docs.delete(TODOS, name).await.unwrap();
        }
        for (key, rank) in [("k05", 100), ("k07x", 22), ("a", 23)] {
            docs.put(TODOS, key, &todo("x", rank)).await.unwrap();
        }
        for (list, expected) in [
            (
                List::of(TODOS),
                "a k05 k07x k20 k21 k22 k23 k24 k25 k26 k27 k28 k29",
            ),
            (
                List::of(TODOS).ordered_by("rank"),
                "k20 k21 k07x k22 a k23 k24 k25 k26 k27 k28 k29 k05",
            ),
            (List::of(TODOS).prefix("k0"), "k05 k07x"),
        ] {
            for limit in [1, 2, 3, 5, 100] {
                let mut found = Vec::new();
                let mut next = None;
                loop {
                    let list = list.clone().limit(limit).after(next);
                    let page = docs.list::<Todo>(list).await.unwrap();
                    assert!(page.items.len() <= limit);
                    found.extend(page.items.into_iter().map(|(key, _)| key));
                    next = page.next;
                    if next.is_none() {
                        break;
                    }
                }
                assert_eq!(found.join(" "), expected, "limit {limit}");
            }
        }
    });
}

#[test]
fn a_document_without_the_field_is_left_out_of_its_order() {
    block_on(async {
        let store = MemoryDocuments::default();
        let mut docs = Documents::new(Arc::new(store));
        docs.put(TODOS, "a", &json!({ "rank": null }))
            .await
            .unwrap();
        docs.put(TODOS, "b", &json!({ "rank": "high" }))
            .await
            .unwrap();
        docs.put(TODOS, "c", &json!({})).await.unwrap();
        docs.put(TODOS, "d", &json!({ "rank": -1.5 }))
            .await
            .unwrap();
        let list = List::of(TODOS).ordered_by("rank");
        let page: DocumentPage<serde_json::Value> = docs.list(list).await.unwrap();
        let keys: Vec<_> = page.items.into_iter().map(|(key, _)| key).collect();
        assert_eq!(keys, ["a", "d", "b"]);
    });
}

#[test]
fn errors_name_what_is_wrong() {
    block_on(async {
        let store = stored(&[("a", todo("x", 1))]).await;
        let mut docs = Documents::new(Arc::new(store.clone()));
        let error = docs.get::<u64>(TODOS, "a").await.unwrap_err();
        assert!(error.is_decode());
        assert!(error.to_string().contains("\"a\"") && error.to_string().contains("todos"));
        for error in [
            docs.put(TODOS, "", &todo("x", 1)).await.unwrap_err(),
            docs.put("a\0", "b", &1).await.unwrap_err(),
            docs.put("a", "b", &f64::NAN).await.unwrap_err(),
            docs.put("a", "b", "NUL \0").await.unwrap_err(),
            docs.put(TODOS, "b", &json!({ "list": [1] }))
                .await
                .unwrap_err(),
            docs.put(TODOS, "b", "no object").await.unwrap_err(),
            docs.delete("a", &"x".repeat(256)).await.unwrap_err(),
            docs.prefetch("a", [""]).await.unwrap_err(),
        ] {
            assert!(error.is_invalid(), "{error}");
        }
        assert!(
            docs.into_writes().is_empty(),
            "what was refused is not written"
        );
    });
}

#[test]
fn a_unit_commits_with_its_checkpoint_or_not_at_all() {
    block_on(async {
        let store = MemoryDocuments::default();
        let begin = store.load_progress("test").await.unwrap();
        let to = Target::Advance(Checkpoint::at(Position::new(3)));
        let mut first = Host::<Documents>::begin(&store, begin.clone())
            .await
            .unwrap();
        let mut second = Host::<Documents>::begin(&store, begin).await.unwrap();
        first.context().put("a", "1", &1).await.unwrap();
        second.context().put("a", "1", &2).await.unwrap();
        first.commit(to, Vec::new()).await.unwrap();
        assert!(second.commit(to, Vec::new()).await.is_err());
        let reader = DocumentReader::from(&store);
        assert_eq!(reader.get("a", "1").await.unwrap(), Some(1));
        let progress = store.load_progress("test").await.unwrap();
        assert_eq!(progress.checkpoint.position, Position::new(3));

        let reset = Host::<Documents>::begin(&store, progress).await.unwrap();
        assert!(reset.resets_itself());
        reset.commit(Target::Reset, Vec::new()).await.unwrap();
        assert_eq!(reader.get::<u64>("a", "1").await.unwrap(), None);
        assert_eq!(store.load_progress("test").await.unwrap().epoch, 1);
    });
}
