//! Keeps the fields of spans, for tests of what operators see.

use std::{
    collections::BTreeMap,
    fmt::Debug,
    sync::{Arc, Mutex, OnceLock},
};

use tracing::{
    Event, Metadata, Subscriber,
    field::{Field, Visit},
    span::{Attributes, Id, Record},
};

type Fields = BTreeMap<&'static str, String>;

/// The spans of these names are kept.
const KEPT: [&str; 1] = ["backstory.command.dispatch"];

/// The subscriber of the whole process: one for each test would race with the others, because
/// interest in a span is a matter of the process. Clones share what they keep.
#[derive(Debug, Default, Clone)]
pub(crate) struct Spans(Arc<Mutex<Vec<(&'static str, Fields)>>>);

impl Spans {
    /// The subscriber, installed when it is first asked for.
    pub(crate) fn of_the_process() -> &'static Self {
        static SPANS: OnceLock<Spans> = OnceLock::new();
        SPANS.get_or_init(|| {
            let spans = Self::default();
            tracing::subscriber::set_global_default(spans.clone()).unwrap();
            spans
        })
    }

    /// The fields of the only span of this name with this field.
    pub(crate) fn find(&self, name: &str, field: &str, value: &str) -> Fields {
        let spans = self.0.lock().unwrap();
        let mut found = spans.iter().filter(|(kept, fields)| {
            *kept == name && fields.get(field).is_some_and(|text| text == value)
        });
        let (_, fields) = found.next().expect("the span is there");
        assert!(found.next().is_none(), "one span is called {name}");
        fields.clone()
    }
}

struct Texts<'a>(&'a mut Fields);

impl Visit for Texts<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.0.insert(field.name(), format!("{value:?}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.0.insert(field.name(), value.to_owned());
    }
}

impl Subscriber for Spans {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        KEPT.contains(&metadata.name())
    }

    fn new_span(&self, span: &Attributes<'_>) -> Id {
        let mut fields = Fields::new();
        span.record(&mut Texts(&mut fields));
        let mut spans = self.0.lock().unwrap();
        spans.push((span.metadata().name(), fields));
        Id::from_u64(spans.len() as u64)
    }

    fn record(&self, span: &Id, values: &Record<'_>) {
        let mut spans = self.0.lock().unwrap();
        let index = span.into_u64() as usize - 1;
        values.record(&mut Texts(&mut spans[index].1));
    }

    fn record_follows_from(&self, _: &Id, _: &Id) {}
    fn event(&self, _: &Event<'_>) {}
    fn enter(&self, _: &Id) {}
    fn exit(&self, _: &Id) {}
}
