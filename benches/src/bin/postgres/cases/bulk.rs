//! Loading history: the store's import, beside one COPY of the same rows.

use std::{fmt::Write, time::Instant};

use backstory::{BoxError, NewEvent, StreamId};
use futures::stream;
use sqlx::{Connection, PgConnection};
use uuid::Uuid;

use crate::{
    bench::{Bench, Ground},
    domain,
    load::Run,
    raw::head,
    report::{EVENTS, Figure, Key, Sample, Series, Target},
};

const CASE: &str = "bulk";
const EVENTS_PER_STREAM: u64 = 10;

/// A source that ends when the time is over.
struct History {
    end: Instant,
    number: u64,
    key: Uuid,
}

impl History {
    fn new(bench: &Bench) -> Self {
        Self {
            end: Instant::now() + bench.args.duration(),
            number: 0,
            key: Uuid::nil(),
        }
    }
}

impl Iterator for History {
    /// The key of a stream, and the number of the next event within it.
    type Item = (Uuid, u64);

    fn next(&mut self) -> Option<(Uuid, u64)> {
        if Instant::now() >= self.end {
            return None;
        }
        let version = self.number % EVENTS_PER_STREAM + 1;
        if version == 1 {
            self.key = Uuid::now_v7();
        }
        self.number += 1;
        Some((self.key, version))
    }
}

async fn finish(
    bench: &Bench,
    ground: Ground,
    what: &str,
    run: impl AsyncFnOnce(&str) -> Result<u64, BoxError>,
) -> Result<Vec<Sample>, BoxError> {
    let database = bench.enter(ground).await?;
    let before = head(&database.url).await?;
    let used = bench.meter.read()?;
    let began = Instant::now();
    let done = run(&database.url).await?;
    let run = Run::<()>::single(done, began.elapsed(), bench.meter.read()? - used);
    bench.check(&database, before, &run).await?;
    bench.leave(ground, database).await?;
    bench.say_cpu(what, &run);
    Ok(vec![(Key::new(CASE, EVENTS), run.rate())])
}

pub async fn ours(bench: &Bench, ground: Ground) -> Result<Vec<Sample>, BoxError> {
    let payload = domain::payload()?;
    finish(bench, ground, "ours: import", async |url| {
        let store = backstory::postgres::PostgresStore::connect(url).await?;
        let events = History::new(bench).map(move |(key, _)| {
            let event = NewEvent::raw(domain::NAME, payload.clone());
            (StreamId::stored(domain::CATEGORY, key.to_string()), event)
        });
        let imported = store.import(stream::iter(events)).await?;
        store.close().await;
        Ok(imported.events)
    })
    .await
}

const COPY: &str = "COPY backstory.event (position, category, key, version, id, name, schema_version, \
    payload, metadata, tags, recorded_at) FROM STDIN";

/// One COPY in one transaction: no rows of streams, no check, no place to go on from.
pub async fn raw(bench: &Bench) -> Result<Vec<Sample>, BoxError> {
    let payload = domain::payload()?;
    finish(bench, Ground::Empty, "raw: one COPY", async |url| {
        let mut connection = PgConnection::connect(url).await?;
        let mut copy = connection.copy_in_raw(COPY).await?;
        let mut lines = String::new();
        let mut position = 0;
        for (key, version) in History::new(bench) {
            position += 1;
            let (id, payload) = (Uuid::now_v7(), payload.as_str());
            writeln!(
                lines,
                "{position}\torder\t{key}\t{version}\t{id}\torder.placed\t1\t{payload}\t{{}}\t{{}}\tnow"
            )?;
            if lines.len() > 1 << 16 {
                copy.send(lines.as_bytes()).await?;
                lines.clear();
            }
        }
        copy.send(lines.as_bytes()).await?;
        let done = copy.finish().await?;
        connection.close().await?;
        Ok(done)
    })
    .await
}

pub fn figures(ours: &Series, raw: &Series) -> Vec<Figure> {
    let figure = |(key, value): (&Key, f64)| {
        Figure::new(key, value, raw.median(key)).target(Target::AtLeast(150_000.0))
    };
    ours.medians().map(figure).collect()
}
