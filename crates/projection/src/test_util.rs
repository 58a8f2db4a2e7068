//! Given / when / then for projections over [`Documents`]: synchronous, without a store.
//!
//! ```
//! # use async_trait::async_trait;
//! # use backstory_event::{Aggregate, Envelope, Event};
//! # use backstory_projection::{self as projection, Documents, Projection};
//! # #[derive(serde::Serialize, serde::Deserialize, Event)]
//! # #[event(prefix = "todo", crate = "backstory_event")]
//! # enum TodoEvent { Added { title: String }, Completed }
//! # #[derive(Default)] struct Todo;
//! # impl Aggregate for Todo {
//! #     const CATEGORY: &'static str = "todo"; type Id = u64; type Event = TodoEvent;
//! #     fn apply(&mut self, _: &TodoEvent) {}
//! # }
//! # struct OpenTodos;
//! # #[async_trait]
//! # impl Projection<Documents> for OpenTodos {
//! #     type Event = TodoEvent;
//! #     const NAME: &'static str = "open_todos";
//! #     async fn project(&self, batch: &[Envelope<TodoEvent>], docs: &mut Documents) -> projection::Result {
//! #         for e in batch {
//! #             let id = e.id::<Todo>()?;
//! #             match &e.event {
//! #                 TodoEvent::Added { title } => docs.put("open_todos", &id, title).await?,
//! #                 TodoEvent::Completed => docs.delete("open_todos", &id).await?,
//! #             }
//! #         }
//! #         Ok(())
//! #     }
//! # }
//! use backstory_projection::test_util::given_events;
//!
//! let milk = || TodoEvent::Added { title: "buy milk".into() };
//! let bread = || TodoEvent::Added { title: "buy bread".into() };
//! given_events::<Todo>(OpenTodos, [(1, milk()), (2, bread()), (1, TodoEvent::Completed)])
//!     .then_document("open_todos", &2, "buy bread")
//!     .then_no_document("open_todos", &1)
//!     .then_collection("open_todos", [(2, "buy bread")]);
//! ```

#![allow(
    clippy::panic,
    clippy::expect_used,
    reason = "a test that fails panics; these are the words of tests"
)]

use std::{
    fmt::{Display, Write as _},
    pin::pin,
    sync::Arc,
    task::{Context, Poll, Wake, Waker},
    thread::{self, Thread},
};

use backstory_event::{
    Aggregate, BoxError, Decoded, Envelope, Event, NewEvent, Position, Recorded, RecordedEvent,
    StreamId, StreamVersion,
};
use serde::Serialize;
use serde_json::Value;

use crate::{
    Checkpoints as _, Collection, DocumentKey, DocumentReader, DocumentStore, Documents, Host,
    List, Progress, Projection, Target,
};

mod memory;

pub use memory::MemoryDocuments;

/// Events that a projection is given, each brought into its stored form and back.
///
/// # Panics
/// When an event cannot be stored: it would fail in production too.
#[must_use = "say what shall be there: `then_document`, `then_collection` …"]
pub fn given_events<A: Aggregate>(
    projection: impl Projection<Documents>,
    events: impl IntoIterator<Item = (A::Id, A::Event)>,
) -> Given<impl Projection<Documents>> {
    let given = Given {
        projection,
        log: Vec::new(),
    };
    given.and::<A>(events)
}

/// As [`given_events`], with streams instead of the ids of one aggregate.
///
/// # Panics
/// When an event cannot be stored.
#[must_use = "say what shall be there: `then_document`, `then_collection` …"]
pub fn given_streams<E: Event>(
    projection: impl Projection<Documents>,
    events: impl IntoIterator<Item = (StreamId, E)>,
) -> Given<impl Projection<Documents>> {
    let given = Given {
        projection,
        log: Vec::new(),
    };
    given.and_streams(events)
}

/// A projection and the events it is given.
#[derive(Debug)]
pub struct Given<P> {
    projection: P,
    log: Vec<RecordedEvent>,
}

impl<P: Projection<Documents>> Given<P> {
    /// Then also these events, of the same or another aggregate.
    ///
    /// # Panics
    /// When an event cannot be stored.
    #[must_use = "say what shall be there: `then_document`, `then_collection` …"]
    pub fn and<A: Aggregate>(self, events: impl IntoIterator<Item = (A::Id, A::Event)>) -> Self {
        let streams = events.into_iter().map(|(id, event)| {
            let stream = A::stream(&id).unwrap_or_else(|refused| panic!("{refused}"));
            (stream, event)
        });
        self.and_streams(streams)
    }

    /// Then also these events, each of a stream.
    ///
    /// # Panics
    /// When an event cannot be stored.
    #[must_use = "say what shall be there: `then_document`, `then_collection` …"]
    pub fn and_streams<E: Event>(
        mut self,
        events: impl IntoIterator<Item = (StreamId, E)>,
    ) -> Self {
        for (stream, event) in events {
            let recorded = record(&self.log, stream, &event);
            self.log.push(recorded);
        }
        self
    }

    /// The document with this key is there, and equal as JSON.
    ///
    /// # Panics
    /// When it is not, or the projection fails.
    pub fn then_document(
        self,
        collection: impl Into<Collection>,
        key: &(impl Display + ?Sized),
        expected: &(impl Serialize + ?Sized),
    ) -> Self {
        let collection = collection.into();
        let found = self.found(collection, &key.to_string());
        let expected = json(expected);
        if found.as_ref() != Some(&expected) {
            let found = found
                .as_ref()
                .map_or_else(|| "no document".to_owned(), pretty);
            panic!(
                "document `{key}` of `{}` differs\n{}",
                collection.name(),
                difference(&pretty(&expected), &found)
            );
        }
        self
    }

    /// There is no document with this key.
    ///
    /// # Panics
    /// When there is, or the projection fails.
    pub fn then_no_document(
        self,
        collection: impl Into<Collection>,
        key: &(impl Display + ?Sized),
    ) -> Self {
        let collection = collection.into();
        if let Some(found) = self.found(collection, &key.to_string()) {
            panic!(
                "there should be no document `{key}` in `{}`, but there is\n{}",
                collection.name(),
                pretty(&found)
            );
        }
        self
    }

    /// The collection holds these documents and no others, equal as JSON.
    ///
    /// # Panics
    /// When it does not, or the projection fails.
    pub fn then_collection(
        self,
        collection: impl Into<Collection>,
        expected: impl IntoIterator<Item = (impl Display, impl Serialize)>,
    ) -> Self {
        let collection = collection.into();
        let lines = |documents: Vec<(String, Value)>| {
            let mut text = String::new();
            for (key, document) in documents {
                // Writing to a String cannot fail.
                let _ = writeln!(text, "{key}: {}", pretty(&document));
            }
            text
        };
        let mut expected: Vec<_> = expected
            .into_iter()
            .map(|(key, document)| (key.to_string(), json(&document)))
            .collect();
        expected.sort_by(|one, two| one.0.cmp(&two.0));
        let found = self.all(collection);
        if found != expected {
            panic!(
                "collection `{}` differs\n{}",
                collection.name(),
                difference(&lines(expected), &lines(found))
            );
        }
        self
    }

    /// The projection fails, and the error is as the check wants it.
    ///
    /// # Panics
    /// When it does not fail, or the check panics.
    pub fn then_fails(self, check: impl FnOnce(&BoxError)) -> Self {
        match self.run(self.log.len()) {
            Ok(_) => panic!("the projection should fail, but it does not"),
            Err(error) => check(&error),
        }
        self
    }

    fn found(&self, collection: Collection, key: &str) -> Option<Value> {
        let place = DocumentKey {
            collection: collection.name().to_owned(),
            key: key.to_owned(),
        };
        let store = self.read_model();
        let found = block_on(store.get_documents(&[place])).expect("memory does not fail");
        found
            .into_iter()
            .flatten()
            .map(|body| body.to_value().expect("documents are JSON"))
            .next()
    }

    fn all(&self, collection: Collection) -> Vec<(String, Value)> {
        let reader = DocumentReader::from(&self.read_model());
        let mut documents = Vec::new();
        let mut next = None;
        loop {
            let list = List::of(collection).limit(List::MAX_LIMIT).after(next);
            let page = block_on(reader.list(list)).unwrap_or_else(|error| panic!("{error}"));
            documents.extend(page.items);
            next = page.next;
            if next.is_none() {
                return documents;
            }
        }
    }

    /// The read model, built twice: from one batch, and from a batch per event. How events are
    /// cut into batches must not matter.
    fn read_model(&self) -> MemoryDocuments {
        let name = P::NAME;
        let [together, one_by_one] = [self.log.len().max(1), 1].map(|size| {
            self.run(size)
                .unwrap_or_else(|error| panic!("projection `{name}` failed: {error}"))
        });
        let (together_text, one_by_one_text) = (together.dump(), one_by_one.dump());
        if together_text != one_by_one_text {
            panic!(
                "projection `{name}` gives another read model when its events come in one batch \
                 (expected) than when they come one by one (found)\n{}",
                difference(&together_text, &one_by_one_text)
            );
        }
        together
    }

    fn run(&self, batch_size: usize) -> Result<MemoryDocuments, BoxError> {
        let store = MemoryDocuments::default();
        let filter = self.projection.filter();
        for recorded in self.log.chunks(batch_size.max(1)) {
            let mut batch: Vec<Envelope<P::Event>> = Vec::new();
            for event in recorded.iter().filter(|event| filter.matches(event)) {
                match event.decode()? {
                    Decoded::Unknown => {}
                    Decoded::One(envelope) => batch.push(envelope),
                    Decoded::Parts(parts) => batch.extend(parts),
                }
            }
            let Some(last) = recorded.last() else { break };
            block_on(async {
                let progress: Progress = store.load_progress(P::NAME).await?;
                let mut unit = Host::<Documents>::begin(&store, progress).await?;
                if !batch.is_empty() {
                    self.projection.project(&batch, unit.context()).await?;
                }
                let to = Target::Advance(last.checkpoint());
                unit.commit(to, Vec::new()).await?;
                Ok::<_, BoxError>(())
            })?;
        }
        Ok(store)
    }
}

/// The event as a store would keep it, behind the log.
fn record<E: Event>(log: &[RecordedEvent], stream: StreamId, event: &E) -> RecordedEvent {
    let new = NewEvent::of(event).unwrap_or_else(|refused| panic!("{refused}"));
    let version = log.iter().filter(|event| *event.stream() == stream).count() as i64 + 1;
    let recorded = RecordedEvent::new(Recorded {
        position: Position::new(log.len() as i64 + 1),
        stream,
        version: StreamVersion::new(version),
        id: new.id,
        name: new.name.into(),
        schema_version: new.version,
        payload: new.payload,
        metadata: new.metadata,
        tags: new.tags,
        recorded_at: chrono::Utc::now(),
        erased_at: None,
    });
    match recorded.decode::<E>() {
        Ok(Decoded::Unknown) => panic!("event `{}` does not know itself", recorded.name()),
        Ok(_) => recorded,
        Err(error) => panic!("the event does not come back from its stored form: {error}"),
    }
}

fn json(value: &(impl Serialize + ?Sized)) -> Value {
    let payload = backstory_event::Payload::encode(value).unwrap_or_else(|error| panic!("{error}"));
    payload.to_value().expect("payloads are JSON")
}

fn pretty(value: &Value) -> String {
    format!("{value:#}")
}

/// Both texts, line by line: `-` only expected, `+` only found.
fn difference(expected: &str, found: &str) -> String {
    let (expected, found): (Vec<_>, Vec<_>) = (expected.lines().collect(), found.lines().collect());
    let mut text = String::from("  - expected\n  + found\n");
    let mut line = |sign, line: &str| text.push_str(&format!("  {sign} {line}\n"));
    let (mut left, mut right) = (expected.as_slice(), found.as_slice());
    while let ([one, more_left @ ..], [two, more_right @ ..]) = (left, right) {
        if one == two {
            line(' ', one);
            (left, right) = (more_left, more_right);
        } else if !right.contains(one) {
            line('-', one);
            left = more_left;
        } else if !left.contains(two) {
            line('+', two);
            right = more_right;
        } else {
            line('-', one);
            line('+', two);
            (left, right) = (more_left, more_right);
        }
    }
    left.iter().for_each(|one| line('-', one));
    right.iter().for_each(|two| line('+', two));
    text
}

/// Runs a future on this thread.
pub(crate) fn block_on<T>(future: impl Future<Output = T>) -> T {
    struct Unpark(Thread);

    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }

    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let mut context = Context::from_waker(&waker);
    let mut future = pin!(future);
    loop {
        match future.as_mut().poll(&mut context) {
            Poll::Ready(value) => return value,
            Poll::Pending => thread::park(),
        }
    }
}

#[cfg(test)]
mod tests;
