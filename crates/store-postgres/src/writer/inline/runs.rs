//! What projections are given inside a batch of appends, and running their code on it.

use std::{collections::HashSet, sync::Arc};

use async_trait::async_trait;
use backstory_event::{
    Checkpoint, EventQuery, Page, Payload, Position, RecordedEvent, StoreError, StoreErrorKind,
};
use backstory_projection::{
    CommitError, DocumentKey, DocumentList, DocumentRow, DocumentStore, DocumentWrite, Documents,
    InlineError, InlinePlace, InlinePlan, LetterWrite, MISSING_POSITIONS, Progress, Step, Turn,
};
use backstory_store_kit::Scan;
use futures::TryStreamExt;
use sqlx::{AssertSqlSafe, Error, PgConnection, Row, raw_sql};
use tokio::time::timeout;

use super::{Failure, Held, Inline};
use crate::{
    decode::Decoder,
    documents::{get_documents, list_documents},
    error::store_error,
    projections::progress,
    read::PAGE_BYTES,
    ring::weight,
    schema::Schema,
    sql::Statements,
    statement::{Server, whole},
    writer::{ANSWER, PostgresWriter, answered},
};

/// One projection in a batch.
pub(super) struct Run<'a> {
    pub(super) inline: &'a Inline,
    pub(super) place: InlinePlace,
    /// The events that it is given: those that were missing, and those of the batch.
    pub(super) events: Vec<RecordedEvent>,
    parked: HashSet<String>,
    pub(super) letters: Vec<LetterWrite>,
    pub(super) writes: Vec<DocumentWrite>,
}

impl PostgresWriter {
    /// What each projection has to do.
    pub(super) async fn runs<'a>(
        &self,
        held: &Held,
        wanting: &'a [Inline],
        events: &[RecordedEvent],
        base: Position,
    ) -> Result<Vec<Run<'a>>, Failure> {
        let mut session = held.lock().await;
        let connection = &mut session.connection;
        let sql = &self.sql;
        let mut runs = Vec::new();
        let concerned = wanting.iter().filter_map(|inline| {
            let wanted = inline.as_ref().wanted(events);
            (!wanted.is_empty()).then_some((inline, wanted))
        });
        let concerned: Vec<_> = concerned.collect();
        if concerned.is_empty() {
            return Ok(runs);
        }
        let names: Vec<_> = concerned
            .iter()
            .map(|(one, _)| one.as_ref().name())
            .collect();
        let mut places = answered(ANSWER, places(connection, sql, &names)).await?;
        for (inline, wanted) in concerned {
            let terms = inline.as_ref();
            let place = places
                .iter()
                .position(|place| place.progress.projection == terms.name());
            let place = places.swap_remove(place.ok_or(Error::RowNotFound)?);
            let mut all = match terms.plan(&place, base).map_err(Failure::Guilty)? {
                InlinePlan::Skip => continue,
                InlinePlan::Project => Vec::new(),
                InlinePlan::CatchUp(query) => {
                    let page = read(connection, &self.schema, &query);
                    let page = answered(ANSWER, page)
                        .await?
                        .map_err(|error| Failure::Guilty(terms.failed(error.to_string())))?;
                    match terms.missing(&place, page, base).map_err(Failure::Guilty)? {
                        Some(missing) => missing,
                        None => continue,
                    }
                }
            };
            all.extend(wanted);
            let parked = match place.parks {
                true => {
                    let keys = inline.keys(&all);
                    let parked = parked(connection, sql, terms.name(), &keys);
                    answered(ANSWER, parked).await?
                }
                false => HashSet::new(),
            };
            runs.push(Run {
                inline,
                place,
                events: all,
                parked,
                letters: Vec::new(),
                writes: Vec::new(),
            });
        }
        Ok(runs)
    }
}

/// Runs the code of the projections: first that over documents, which only reads, then that with
/// SQL, whose statements are planned as in any session.
pub(super) async fn project(
    held: &Held,
    sql: &Arc<Statements>,
    schema: &Schema,
    runs: &mut [Run<'_>],
) -> Result<(), Failure> {
    let mut any_sql = false;
    for run in &mut *runs {
        let Inline::Documents(inline) = run.inline else {
            any_sql = true;
            continue;
        };
        let inside = Inside {
            held: held.clone(),
            sql: sql.clone(),
            schema: schema.clone(),
        };
        let mut documents = Documents::new(Arc::new(inside));
        let projected = inline.project(&run.events, &run.parked, &mut documents);
        let projected = projected.await;
        run.letters = projected.map_err(|error| Failure::of(error, inline.terms()))?;
        run.writes = documents.into_writes();
    }
    if !any_sql {
        return Ok(());
    }
    let mut session = held.lock().await;
    let settings = |text: &str| raw_sql(AssertSqlSafe(text.to_owned()));
    let unsettled = settings(sql.unsettle.as_str()).execute(&mut session.connection);
    answered(ANSWER, unsettled).await?;
    for run in &mut *runs {
        let Inline::Sql(inline) = run.inline else {
            continue;
        };
        let terms = inline.terms();
        let projected = inline.project(&run.events, &run.parked, &mut session.connection);
        let projected = projected.await;
        run.letters = projected.map_err(|error| Failure::of(error, terms))?;
        // What it broke shows here, and not when everything is committed.
        let check = raw_sql("SET CONSTRAINTS ALL IMMEDIATE").execute(&mut session.connection);
        match timeout(terms.limit().max(ANSWER), check).await {
            Ok(Ok(_)) if session.is_outermost() => {}
            Ok(Ok(_)) => {
                let reason = "it left a transaction open that it had begun: commit it";
                return Err(Failure::Guilty(terms.failed(reason)));
            }
            Ok(Err(error)) => {
                return Err(Failure::of(InlineError::Code(error.into()), terms));
            }
            Err(_) => return Err(Failure::of(InlineError::TooSlow, terms)),
        }
    }
    let settled = settings(sql.settle.as_str()).execute(&mut session.connection);
    answered(ANSWER, settled).await?;
    Ok(())
}

async fn places(
    connection: &mut PgConnection,
    sql: &Statements,
    names: &[&str],
) -> Result<Vec<InlinePlace>, Error> {
    let rows = sql.inline_places.query().bind(names.to_vec());
    let rows = rows.fetch_all(connection).await?;
    let place = |row| {
        Ok(InlinePlace {
            progress: progress(row)?,
            paused: row.try_get(4)?,
            parks: row.try_get(5)?,
        })
    };
    rows.iter().map(place).collect()
}

async fn parked(
    connection: &mut PgConnection,
    sql: &Statements,
    projection: &str,
    keys: &[String],
) -> Result<HashSet<String>, Error> {
    let rows = sql.parked_keys.query().bind(projection).bind(keys);
    let rows = rows.fetch_all(connection).await?;
    rows.iter().map(|row| row.try_get(0)).collect()
}

/// One page of the log as the transaction sees it. One that weighs too much ends early.
async fn read(
    connection: &mut PgConnection,
    schema: &Schema,
    query: &EventQuery,
) -> Result<Result<Page, StoreError>, Error> {
    let limit = query.limit.unwrap_or_default();
    let mut sql = whole(schema, query, MISSING_POSITIONS, limit, Server::Primary);
    let mut rows = sql.build().fetch(connection);
    let (mut head, mut bytes, mut events) = (Position::START, 0, Vec::new());
    let mut decoder = Decoder::default();
    while let Some(row) = rows.try_next().await? {
        head = Position::new(row.try_get(0)?);
        match decoder.decode(&row) {
            Ok(Some(event)) => {
                bytes += weight(&event);
                events.push(event);
            }
            Ok(None) => {}
            Err(error) => return Ok(Err(error)),
        }
        if bytes > PAGE_BYTES {
            return Ok(Ok(Page {
                events: Vec::new(),
                checkpoint: Checkpoint::START,
                head,
                next: None,
            }));
        }
    }
    events.sort_by_key(RecordedEvent::position);
    events.dedup_by_key(|event| event.position());
    let scan = Scan::plan(query, head, MISSING_POSITIONS, limit);
    Ok(scan.page(query, events))
}

/// Documents as the transaction of a batch sees them.
#[derive(Debug)]
struct Inside {
    held: Held,
    sql: Arc<Statements>,
    schema: Schema,
}

#[async_trait]
impl DocumentStore for Inside {
    async fn get_documents(
        &self,
        keys: &[DocumentKey],
    ) -> Result<Vec<Option<Payload>>, StoreError> {
        let mut session = self.held.lock().await;
        let found = get_documents(&mut session.connection, &self.sql, keys);
        found.await.map_err(store_error)
    }

    async fn list_documents(&self, list: &DocumentList) -> Result<Vec<DocumentRow>, StoreError> {
        let mut session = self.held.lock().await;
        let found = list_documents(&mut session.connection, &self.schema, list);
        found.await.map_err(store_error)
    }

    async fn commit_documents(&self, _: Vec<DocumentWrite>, _: &Step) -> Result<(), CommitError> {
        // Its append commits.
        Err(StoreError::new(StoreErrorKind::Closed).into())
    }

    async fn turn_documents(&self, _: &Turn) -> Result<Progress, CommitError> {
        Err(StoreError::new(StoreErrorKind::Closed).into())
    }
}
