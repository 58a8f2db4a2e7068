//! Events that are stored in one transaction, ready to be sent.

use std::{
    collections::{BTreeSet, HashMap},
    ops::Range,
};

use backstory_event::{
    Checkpoint, EventId, Lifecycle, Limits, NewEvent, Payload, Position, StoreError,
    StoreErrorKind, StreamId, Tag,
};
use backstory_store_kit::{StreamRow, refusal};
use chrono::{DateTime, Utc};
use uuid::Uuid;

/// The columns of `import_events`.
const COLUMN_COUNT: i16 = 11;

// Where the values are that only the log knows: behind the number of columns and the length of each.
const POSITION: Range<usize> = 6..14;
const VERSION: Range<usize> = 18..26;
const RECORDED_AT: Range<usize> = 30..38;

/// What a binary COPY begins and ends with.
pub(super) const HEADER: &[u8] = b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0";
pub(super) const TRAILER: &[u8] = &(-1_i16).to_be_bytes();

const TEXT_OID: u32 = 25;
const JSONB_VERSION: u8 = 1;
/// 2000-01-01, where the server's time begins, in microseconds of ours.
const EPOCH: i64 = 946_684_800_000_000;

struct Row {
    start: usize,
    stream: usize,
    id: EventId,
    name: String,
    // Of `backstory.*` events.
    payload: Option<Payload>,
    // The id stands in the chunk before.
    repeated: bool,
}

/// A piece of an import.
pub(super) struct Chunk {
    first: u64,
    bytes: Vec<u8>,
    rows: Vec<Row>,
    streams: Vec<StreamId>,
    numbers: HashMap<StreamId, usize>,
    ids: HashMap<EventId, usize>,
}

/// An event that is stored under an id of the chunk.
#[derive(Debug)]
pub(super) struct Stored {
    pub(super) position: Position,
    pub(super) stream: StreamId,
    pub(super) name: String,
}

/// What the log says about a chunk, read under its lock.
#[derive(Debug)]
pub(super) struct Facts {
    pub(super) head: Position,
    pub(super) recorded_at: DateTime<Utc>,
    // By the number of the stream in the chunk.
    pub(super) streams: Vec<StreamRow>,
    pub(super) events: HashMap<EventId, Stored>,
}

/// What is to be written for a part of a chunk.
#[derive(Debug, Default)]
pub(super) struct Plan {
    pub(super) events: u64,
    pub(super) skipped: u64,
    pub(super) head: Checkpoint,
    // Bytes of rows that follow each other.
    pub(super) runs: Vec<Range<usize>>,
    // All of the chunk, and which of them got lifecycle events.
    pub(super) streams: Vec<StreamRow>,
    pub(super) changed: BTreeSet<usize>,
    pub(super) erased: BTreeSet<usize>,
    // The event at which it ends, and why.
    pub(super) refused: Option<(u64, StoreErrorKind)>,
}

impl Chunk {
    /// An empty chunk that begins with this event of the import.
    pub(super) fn new(first: u64) -> Self {
        Self {
            first,
            bytes: Vec::new(),
            rows: Vec::new(),
            streams: Vec::new(),
            numbers: HashMap::new(),
            ids: HashMap::new(),
        }
    }

    pub(super) fn len(&self) -> usize {
        self.rows.len()
    }

    pub(super) fn size(&self) -> usize {
        self.bytes.len()
    }

    /// The number in the import of the event that comes next.
    pub(super) fn next(&self) -> u64 {
        self.number(self.rows.len())
    }

    /// The number in the import of one of its events.
    pub(super) fn number(&self, index: usize) -> u64 {
        self.first.saturating_add(index as u64)
    }

    pub(super) fn streams(&self) -> &[StreamId] {
        &self.streams
    }

    pub(super) fn ids(&self) -> impl Iterator<Item = EventId> {
        self.rows.iter().map(|row| row.id)
    }

    pub(super) fn bytes(&self, run: &Range<usize>) -> &[u8] {
        &self.bytes[run.clone()]
    }

    /// Adds an event, checked as an append checks it.
    pub(super) fn push(
        &mut self,
        stream: StreamId,
        event: NewEvent,
        limits: &Limits,
    ) -> Result<(), StoreError> {
        let metadata = event.validate(&stream, limits)?;
        let repeated = match self.ids.get(&event.id).and_then(|row| self.rows.get(*row)) {
            None => false,
            Some(row) if self.streams[row.stream] == stream && row.name == event.name => true,
            Some(_) => {
                let event_id = event.id;
                return Err(StoreError::new(StoreErrorKind::EventIdReused { event_id }));
            }
        };
        let start = self.bytes.len();
        encode(&mut self.bytes, &stream, &event, &metadata);
        self.ids.entry(event.id).or_insert(self.rows.len());
        let stream = self.stream_number(stream);
        self.rows.push(Row {
            start,
            stream,
            id: event.id,
            payload: Lifecycle::parse(&event.name).map(|_| event.payload),
            name: event.name,
            repeated,
        });
        Ok(())
    }

    fn stream_number(&mut self, stream: StreamId) -> usize {
        // Mostly that of the event before.
        if let Some(row) = self.rows.last()
            && self.streams[row.stream] == stream
        {
            return row.stream;
        }
        let streams = &mut self.streams;
        *self.numbers.entry(stream).or_insert_with_key(|stream| {
            streams.push(stream.clone());
            streams.len() - 1
        })
    }

    /// Decides some of its events one after another, by the rules of an append, and fills in what
    /// the log gives them.
    pub(super) fn plan(&mut self, part: Range<usize>, facts: Facts) -> Plan {
        let mut plan = Plan {
            streams: facts.streams,
            ..Plan::default()
        };
        let mut position = facts.head;
        let nothing = Payload::empty();
        let recorded_at = (facts.recorded_at.timestamp_micros() - EPOCH).to_be_bytes();
        for index in part {
            let row = &self.rows[index];
            if let Some(stored) = facts.events.get(&row.id) {
                if stored.stream != self.streams[row.stream] || stored.name != row.name {
                    let event_id = row.id;
                    let refused = StoreErrorKind::EventIdReused { event_id };
                    plan.refused = Some((self.number(index), refused));
                    break;
                }
                plan.skipped += 1;
                plan.seen(stored.position, row.id);
                continue;
            }
            if row.repeated {
                plan.skipped += 1;
                continue;
            }
            let stream = &mut plan.streams[row.stream];
            let payload = row.payload.as_ref().unwrap_or(&nothing);
            if let Err(state) = stream.record(position.next(), &row.name, payload) {
                let refused = refusal(state, self.streams[row.stream].clone());
                plan.refused = Some((self.number(index), refused));
                break;
            }
            position = position.next();
            if row.name == Lifecycle::Erased.name() {
                plan.erased.insert(row.stream);
            }
            let version = stream.version.get().to_be_bytes();
            if row.payload.is_some() {
                plan.changed.insert(row.stream);
            }
            plan.events += 1;
            plan.seen(position, row.id);
            let end = self
                .rows
                .get(index + 1)
                .map_or(self.bytes.len(), |next| next.start);
            match plan.runs.last_mut() {
                Some(run) if run.end == row.start => run.end = end,
                _ => plan.runs.push(row.start..end),
            }
            let bytes = &mut self.bytes[row.start..end];
            bytes[POSITION].copy_from_slice(&position.get().to_be_bytes());
            bytes[VERSION].copy_from_slice(&version);
            bytes[RECORDED_AT].copy_from_slice(&recorded_at);
        }
        plan
    }
}

impl Plan {
    fn seen(&mut self, position: Position, event_id: EventId) {
        if position > self.head.position {
            self.head = Checkpoint { position, event_id };
        }
    }
}

fn encode(bytes: &mut Vec<u8>, stream: &StreamId, event: &NewEvent, metadata: &Payload) {
    bytes.extend(COLUMN_COUNT.to_be_bytes());
    for _ in 0..3 {
        field(bytes, &[&[0; 8]]);
    }
    field(bytes, &[stream.category().as_bytes()]);
    field(bytes, &[stream.key().as_bytes()]);
    field(bytes, &[Uuid::as_bytes(&event.id.as_uuid())]);
    field(bytes, &[event.name.as_bytes()]);
    // Checked: it fits into the column.
    field(bytes, &[&event.version.to_be_bytes()]);
    field(
        bytes,
        &[&[JSONB_VERSION], event.payload.as_str().as_bytes()],
    );
    field(bytes, &[&[JSONB_VERSION], metadata.as_str().as_bytes()]);
    let mut tags: Vec<&str> = event.tags.iter().map(Tag::as_str).collect();
    tags.sort_unstable();
    tags.dedup();
    array(bytes, &tags);
}

/// The parts of one value behind their common length. The limits of an append keep it small.
fn field(bytes: &mut Vec<u8>, parts: &[&[u8]]) {
    let length: usize = parts.iter().map(|part| part.len()).sum();
    bytes.extend((length as u32).to_be_bytes());
    for part in parts {
        bytes.extend_from_slice(part);
    }
}

fn array(bytes: &mut Vec<u8>, texts: &[&str]) {
    let dimensions = u32::from(!texts.is_empty());
    let size: usize = texts.iter().map(|text| 4 + text.len()).sum();
    let length = 12 + 8 * dimensions + size as u32;
    let no_nulls = 0_u32;
    for number in [length, dimensions, no_nulls, TEXT_OID] {
        bytes.extend(number.to_be_bytes());
    }
    if !texts.is_empty() {
        let (count, lower_bound) = (texts.len() as u32, 1_u32);
        bytes.extend(count.to_be_bytes());
        bytes.extend(lower_bound.to_be_bytes());
    }
    for text in texts {
        field(bytes, &[text.as_bytes()]);
    }
}
