use async_trait::async_trait;
use serde::Deserialize;

use super::*;
use crate as projection;

#[derive(Debug, PartialEq, Serialize, Deserialize, Event)]
#[event(prefix = "todo", crate = "backstory_event")]
enum TodoEvent {
    Added { title: String },
    Completed,
}

#[derive(Default)]
struct Todo;

impl Aggregate for Todo {
    const CATEGORY: &'static str = "todo";
    type Id = u64;
    type Event = TodoEvent;
    fn apply(&mut self, _: &TodoEvent) {}
}

/// Open to-dos, and how many there were.
struct OpenTodos;

#[async_trait]
impl Projection<Documents> for OpenTodos {
    type Event = TodoEvent;
    const NAME: &'static str = "open_todos";

    async fn project(
        &self,
        batch: &[Envelope<TodoEvent>],
        docs: &mut Documents,
    ) -> projection::Result {
        for e in batch {
            let id = e.id::<Todo>()?;
            match &e.event {
                TodoEvent::Added { title } => {
                    docs.put("open_todos", &id, title).await?;
                    let one_more = |count: Option<u64>| Some(count.unwrap_or(0) + 1);
                    docs.update("counters", "added", one_more).await?;
                }
                TodoEvent::Completed => docs.delete("open_todos", &id).await?,
            }
        }
        Ok(())
    }
}

fn added(title: &str) -> TodoEvent {
    TodoEvent::Added {
        title: title.to_owned(),
    }
}

fn message(test: impl FnOnce() + std::panic::UnwindSafe) -> String {
    let panic = std::panic::catch_unwind(test).unwrap_err();
    match panic.downcast::<String>() {
        Ok(text) => *text,
        Err(panic) => (*panic.downcast_ref::<&str>().unwrap()).to_owned(),
    }
}

#[test]
fn it_says_what_is_there() {
    given_events::<Todo>(OpenTodos, [(1, added("milk")), (2, added("bread"))])
        .and::<Todo>([(1, TodoEvent::Completed)])
        .then_document("open_todos", &2, "bread")
        .then_document("counters", "added", &2)
        .then_no_document("open_todos", &1)
        .then_collection("open_todos", [(2, "bread")]);
}

#[test]
fn it_shows_what_differs() {
    let given = || given_events::<Todo>(OpenTodos, [(1, added("milk"))]);
    let text = message(move || drop(given().then_document("open_todos", &1, "bread")));
    assert!(
        text.contains("- \"bread\"") && text.contains("+ \"milk\""),
        "{text}"
    );
    let text = message(move || drop(given().then_no_document("open_todos", &1)));
    assert!(text.contains("milk"), "{text}");
    let text = message(move || drop(given().then_collection("open_todos", [(2, "milk")])));
    assert!(
        text.contains("- 2: \"milk\"") && text.contains("+ 1: \"milk\""),
        "{text}"
    );
    let text = message(move || drop(given().then_document("open_todos", &7, "bread")));
    assert!(text.contains("no document"), "{text}");
}

/// Counts batches, which no projection should.
struct CountsBatches;

#[async_trait]
impl Projection<Documents> for CountsBatches {
    type Event = TodoEvent;
    const NAME: &'static str = "counts_batches";

    async fn project(&self, _: &[Envelope<TodoEvent>], docs: &mut Documents) -> projection::Result {
        let one_more = |count: Option<u64>| Some(count.unwrap_or(0) + 1);
        docs.update("counters", "batches", one_more).await?;
        Ok(())
    }
}

#[test]
fn it_finds_a_projection_that_depends_on_batches() {
    let text = message(|| {
        given_events::<Todo>(CountsBatches, [(1, added("milk")), (2, added("bread"))])
            .then_document("counters", "batches", &1);
    });
    assert!(text.contains("one by one"), "{text}");
}

/// Fails at bread.
struct NoBread;

#[async_trait]
impl Projection<Documents> for NoBread {
    type Event = TodoEvent;
    const NAME: &'static str = "no_bread";

    async fn project(
        &self,
        batch: &[Envelope<TodoEvent>],
        _: &mut Documents,
    ) -> projection::Result {
        match batch.iter().any(|e| e.event == added("bread")) {
            true => Err("no bread".into()),
            false => Ok(()),
        }
    }
}

#[test]
fn it_can_expect_a_failure() {
    given_events::<Todo>(NoBread, [(2, added("bread"))])
        .then_fails(|error| assert_eq!(error.to_string(), "no bread"));
    let text = message(|| {
        let milk = given_events::<Todo>(NoBread, [(2, added("milk"))]);
        drop(milk.then_fails(|_| {}));
    });
    assert!(text.contains("should fail"), "{text}");
}
