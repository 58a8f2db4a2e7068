//! What the cases share: small builders, and checks that hold for every log.

use std::{
    collections::{HashMap, HashSet},
    fmt::Debug,
    time::Duration,
};

use backstory_event::{
    Append, Appended, Checkpoint, EventFilter, EventId, EventQuery, EventStore, EventStoreExt,
    ExpectedVersion, NewEvent, Payload, Position, RecordedEvent, StoreError, StoreErrorKind,
    StreamId, StreamInfo, StreamQuery, StreamState, StreamVersion, Tag,
};
use serde_json::json;

/// How long a case waits for what must come.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// Waits for what must come, but not for ever.
#[track_caller]
pub fn within<T>(future: impl Future<Output = T>) -> impl Future<Output = T> {
    let place = std::panic::Location::caller();
    async move {
        match tokio::time::timeout(PATIENCE, future).await {
            Ok(value) => value,
            Err(_) => panic!("nothing came within {PATIENCE:?} at {place}"),
        }
    }
}

pub fn stream(category: &str, key: &str) -> StreamId {
    StreamId::new(category, key).unwrap()
}

pub fn tag(text: &str) -> Tag {
    Tag::new(text).unwrap()
}

/// An event whose payload tells it from others.
pub fn event(name: &str) -> NewEvent {
    let id = EventId::new();
    NewEvent::raw(name, payload(json!({ "is": id.to_string() }))).with_id(id)
}

pub fn events(names: &[&str]) -> Vec<NewEvent> {
    names.iter().copied().map(event).collect()
}

pub fn payload(value: serde_json::Value) -> Payload {
    Payload::encode(&value).unwrap()
}

pub fn exact(version: i64) -> ExpectedVersion {
    ExpectedVersion::Exact(StreamVersion::new(version))
}

pub fn position(number: usize) -> Position {
    Position::new(i64::try_from(number).unwrap())
}

/// An append to one stream, whatever its version.
pub fn any(stream: &StreamId, events: impl IntoIterator<Item = NewEvent>) -> Append {
    Append::to(stream.clone(), ExpectedVersion::Any, events)
}

/// Appends events of these names to a stream.
pub async fn put(store: &impl EventStore, stream: &StreamId, names: &[&str]) -> Appended {
    within(store.append(any(stream, events(names))))
        .await
        .unwrap()
}

/// All events of a query.
pub async fn read(store: &impl EventStore, query: EventQuery) -> Vec<RecordedEvent> {
    within(store.collect(query)).await.unwrap()
}

/// All events of a filter.
pub async fn find(store: &impl EventStore, filter: impl Into<EventFilter>) -> Vec<RecordedEvent> {
    read(store, EventQuery::new(filter.into())).await
}

/// The whole log, checked for what holds for every log.
pub async fn log(store: &impl EventStore) -> Vec<RecordedEvent> {
    let events = find(store, EventFilter::all()).await;
    check_log(&events);
    events
}

/// Positions and versions without holes, no id twice, a time that never goes back.
#[track_caller]
pub fn check_log(events: &[RecordedEvent]) {
    let mut versions: HashMap<&StreamId, i64> = HashMap::new();
    let mut ids = HashSet::new();
    for (index, event) in events.iter().enumerate() {
        assert_eq!(event.position(), position(index + 1), "positions are dense");
        let version = versions.entry(event.stream()).or_default();
        *version += 1;
        assert_eq!(event.version().get(), *version, "versions are dense");
        assert!(ids.insert(event.id()), "{} is stored twice", event.id());
    }
    for pair in events.windows(2) {
        assert!(
            pair[0].recorded_at() <= pair[1].recorded_at(),
            "recorded_at never decreases"
        );
    }
}

pub fn ids(events: &[RecordedEvent]) -> Vec<EventId> {
    events.iter().map(RecordedEvent::id).collect()
}

pub fn names(events: &[RecordedEvent]) -> Vec<&str> {
    events.iter().map(RecordedEvent::name).collect()
}

pub fn positions(events: &[RecordedEvent]) -> Vec<i64> {
    events.iter().map(|event| event.position().get()).collect()
}

/// The rows of all streams, in any state.
pub async fn stream_rows(store: &impl EventStore) -> Vec<StreamInfo> {
    list(store, every_state(StreamQuery::new().limit(1_000))).await
}

pub fn every_state(query: StreamQuery) -> StreamQuery {
    [StreamState::Live, StreamState::Deleted, StreamState::Erased]
        .into_iter()
        .fold(query, StreamQuery::state)
}

/// All pages of a list of streams.
pub async fn list(store: &impl EventStore, mut query: StreamQuery) -> Vec<StreamInfo> {
    let mut rows = Vec::new();
    loop {
        let page = within(store.streams(&query)).await.unwrap();
        rows.extend(page.streams);
        let Some(next) = page.next else { return rows };
        query.after = Some(next);
    }
}

pub async fn info(store: &impl EventStore, stream: &StreamId) -> StreamInfo {
    let info = within(store.stream_info(stream)).await.unwrap();
    info.unwrap_or_else(|| panic!("no stream {stream}"))
}

pub async fn head(store: &impl EventStore) -> Checkpoint {
    within(store.head()).await.unwrap()
}

/// The reason of a refusal.
#[track_caller]
pub fn refusal<T: Debug>(outcome: Result<T, StoreError>) -> StoreErrorKind {
    match outcome {
        Ok(value) => panic!("it was not refused: {value:?}"),
        Err(error) => error.into_kind(),
    }
}

/// Makes an append that must be refused, and proves that it left nothing: the log and the streams
/// are unchanged, and the next append gets the next position.
pub async fn refused(store: &impl EventStore, append: Append) -> StoreErrorKind {
    let (log_before, rows_before) = (log(store).await, stream_rows(store).await);
    let what = format!("{append:.300?}");
    let kind = match within(store.append(append)).await {
        Ok(receipt) => panic!("it was not refused: {what:.600} gave {receipt:?}"),
        Err(error) => error.into_kind(),
    };
    assert_eq!(log(store).await, log_before, "a refused append left events");
    assert_eq!(
        stream_rows(store).await,
        rows_before,
        "a refused append changed a stream"
    );
    let probe = put(store, &stream("probe", "after-refusal"), &["probed"]).await;
    assert_eq!(
        probe.position(),
        position(log_before.len() + 1),
        "a refused append burnt a position"
    );
    kind
}

/// The next number of a reproducible sequence below `bound`.
#[derive(Debug, Clone)]
pub struct Dice(u64);

impl Dice {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// SplitMix64: small, and good enough to choose among alternatives.
    pub fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    pub fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.roll() % u64::try_from(bound.max(1)).unwrap()).unwrap()
    }

    /// True once in `times`.
    pub fn once_in(&mut self, times: usize) -> bool {
        self.below(times) == 0
    }

    pub fn pick<'a, T>(&mut self, items: &'a [T]) -> &'a T {
        &items[self.below(items.len())]
    }
}

/// A task that ends with the case.
#[derive(Debug)]
pub struct Background<T>(tokio::task::JoinHandle<T>);

impl<T: Send + 'static> Background<T> {
    pub fn spawn(future: impl Future<Output = T> + Send + 'static) -> Self {
        Self(tokio::spawn(future))
    }

    /// What it returns; its panic goes on here.
    pub async fn join(mut self) -> T {
        match within(&mut self.0).await {
            Ok(value) => value,
            Err(error) => match error.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                Err(error) => panic!("{error}"),
            },
        }
    }

    pub fn is_finished(&self) -> bool {
        self.0.is_finished()
    }
}

impl<T> Drop for Background<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}
