//! Appends by 16 callers under conditions on tags that nobody else uses: each must pass.

use backstory::{
    Append, AppendCondition, BoxError, Checkpoint, EventFilter, EventStore, ExpectedVersion,
    NewEvent, Payload, StreamId, Tag, postgres::PostgresStore,
};
use uuid::Uuid;

use super::append::insert;
use crate::{
    bench::{Bench, Ground},
    domain,
    load::Caller,
    raw::{Content, TAGGED},
    report::{EVENTS, Figure, Key, Sample, Series, Target},
};

const CASE: &str = "dcb";
const CALLERS: usize = 16;
const CONFLICTS: &str = "conflicts";

/// What a condition says.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Tags {
    /// No event with my tag behind my last one.
    Own,
    /// No event with this new tag in the whole log, as for a user name.
    New,
}

impl Tags {
    fn text(self) -> &'static str {
        match self {
            Self::Own => "own",
            Self::New => "new",
        }
    }
}

struct Decider {
    store: PostgresStore,
    payload: Payload,
    tags: Tags,
    tag: Tag,
    seen: Checkpoint,
    conflicts: u64,
}

fn tag() -> Result<Tag, BoxError> {
    Ok(Tag::pair("customer", Uuid::now_v7())?)
}

impl Caller for Decider {
    async fn call(&mut self) -> Result<u64, BoxError> {
        if self.tags == Tags::New {
            self.tag = tag()?;
            self.seen = Checkpoint::START;
        }
        let event = NewEvent::raw(domain::NAME, self.payload.clone()).with_tag(self.tag.clone());
        let stream = StreamId::new(domain::CATEGORY, Uuid::now_v7())?;
        let condition = AppendCondition::new(EventFilter::tag(self.tag.clone()), self.seen);
        let append = Append::to(stream, ExpectedVersion::NoStream, [event]).fail_if(condition);
        match self.store.append(append).await {
            Ok(receipt) => {
                self.seen = receipt.checkpoint;
                Ok(1)
            }
            Err(error) if error.is_conflict() => {
                self.conflicts += 1;
                Ok(0)
            }
            Err(error) => Err(error.into()),
        }
    }
}

pub async fn ours(bench: &Bench, ground: Ground) -> Result<Vec<Sample>, BoxError> {
    let mut all = Vec::new();
    for tags in [Tags::Own, Tags::New] {
        let database = bench.enter(ground).await?;
        let store = bench.store(&database).await?;
        let mut callers = Vec::new();
        for _ in 0..CALLERS {
            callers.push(Decider {
                store: store.clone(),
                payload: domain::payload()?,
                tags,
                tag: tag()?,
                seen: Checkpoint::START,
                conflicts: 0,
            });
        }
        let mut run = bench.drive(callers).await?;
        // The same conditions are no decoration: one that is broken is refused.
        for caller in run.callers.iter_mut().filter(|_| tags == Tags::Own) {
            let before = caller.conflicts;
            caller.seen = Checkpoint::START;
            caller.call().await?;
            if caller.conflicts != before + 1 {
                return Err(
                    format!("an append passed although {} was used before", caller.tag).into(),
                );
            }
            caller.conflicts = before;
        }
        store.close().await;
        bench.leave(ground, database).await?;
        let conflicts: u64 = run.callers.iter().map(|caller| caller.conflicts).sum();
        let what = format!("ours: {CALLERS} callers, {} tags", tags.text());
        bench.say_cpu(&what, &run);
        let key = |unit| {
            Key::new(CASE, unit)
                .with("callers", CALLERS)
                .with("tags", tags.text())
        };
        all.push((key(EVENTS), run.rate()));
        all.push((key(CONFLICTS), conflicts as f64));
    }
    Ok(all)
}

/// The same rows without any condition.
pub async fn raw(bench: &Bench, ground: Ground) -> Result<Vec<Sample>, BoxError> {
    let content = Content::plain()?;
    let mut all = Vec::new();
    for connections in [1, 8, 32] {
        all.extend(insert(bench, ground, "tagged event", TAGGED, connections, &content).await?);
    }
    Ok(all)
}

pub fn figures(ours: &Series, raw: &Series) -> Vec<Figure> {
    let figure = |(key, value): (&Key, f64)| {
        if key.unit == CONFLICTS {
            return Figure::new(key, value, None).target(Target::AtMost(0.0));
        }
        let log = key.number("log");
        let best = raw.best(EVENTS, |raw| raw.number("log") == log);
        Figure::new(key, value, best).target(Target::AtLeast(12_000.0))
    };
    ours.worst_counts(CONFLICTS).map(figure).collect()
}
