//! How projections are doing, and telling them what to do.

use std::{io::Write, time::Duration};

use backstory_event::{EventFilter, EventQuery, FilterItem, Position, StoreError, Tag};
use backstory_projection::{
    DeadLetter, DeadLetters, LetterQuery, Letters, Operator, OperatorError, OrderKind,
    ProjectionRow, RowState, Start,
};
use backstory_store_postgres::{Migrations, PostgresOptions, PostgresStore, Wake};
use chrono::SecondsFormat;
use indicatif::{HumanDuration, ProgressBar, ProgressStyle};
use serde_json::json;

use crate::{
    args::{Database, OneProjection, Passed, Place, Projections, Which},
    run::{Result, advise, print, url},
};

pub(crate) async fn projections(command: Projections, out: &mut impl Write) -> Result<u8> {
    let (one, order, said) = match command {
        Projections::List { database, json } => return list(&database, json, out).await,
        Projections::Letters { one, json } => return letters(&one, json, out).await,
        Projections::Rebuild { one, no_wait } => return rebuild(&one, no_wait, out).await,
        Projections::Pause(one) => (one, OrderKind::Pause, "paused"),
        Projections::Resume(one) => (one, OrderKind::Resume, "goes on"),
        Projections::Trigger(one) => (one, OrderKind::Trigger, "runs now"),
        Projections::Reset(one) => (one, OrderKind::Reset, "emptied; it is built again"),
        Projections::Rewind { one, place } => (one, OrderKind::Rewind(start(&place)), "rewound"),
        Projections::Rerun { one, which } => (one, OrderKind::Rerun(Box::new(query(which)?)), ""),
        Projections::AbortRebuild(one) => (one, OrderKind::AbortRebuild, "rebuild aborted"),
        Projections::RollBack(one) => (one, OrderKind::RollBack, "rolled back"),
        Projections::DropPrevious(one) => (one, OrderKind::DropPrevious, "previous one dropped"),
        Projections::Replay { one, which } => (one, OrderKind::Replay(these(which)), ""),
        Projections::Discard { one, which } => (one, OrderKind::Discard(these(which)), ""),
    };
    let store = open(&one.database).await?;
    let done = operator(&store, &one).tell(&one.name, &order).await;
    store.close().await;
    let done = done.map_err(advise_operator)?;
    let name = &one.name;
    match done {
        Some(done) => {
            let said = [said, &done.note.unwrap_or_default()];
            let said = said.into_iter().filter(|text| !text.is_empty());
            let said = said.collect::<Vec<_>>().join(": ");
            print(out, &format!("{name}: {said}, in {}\n", done.process))
        }
        None => print(out, &format!("{name}: {said}; no process runs it now\n")),
    }
}

fn operator(store: &PostgresStore, one: &OneProjection) -> Operator {
    Operator::new(store).with_patience(Duration::from_secs(one.patience))
}

fn advise_operator(error: OperatorError) -> String {
    match error {
        OperatorError::Store(error) => advise(&error),
        error => error.to_string(),
    }
}

fn start(place: &Place) -> Start {
    match (place.to_position, place.to_time) {
        (_, Some(time)) => Start::Time(time),
        (position, None) => Start::Position(Position::new(position.unwrap_or_default())),
    }
}

fn query(passed: Passed) -> Result<EventQuery> {
    let tags = passed.tags.into_iter().map(Tag::new);
    let tags = tags.collect::<std::result::Result<Vec<_>, _>>()?;
    let mut item = FilterItem::new().names(passed.names).tags(tags);
    for category in passed.categories {
        item = item.category(category);
    }
    let mut query =
        EventQuery::new(EventFilter::none().or(item)).after(Position::new(passed.after));
    query.up_to = passed.up_to.map(Position::new);
    query.since = passed.since;
    query.until = passed.until;
    Ok(query)
}

fn these(which: Which) -> Letters {
    match which {
        Which { key: Some(key), .. } => Letters::Key(key),
        Which {
            position: Some(position),
            ..
        } => Letters::At(Position::new(position)),
        _ => Letters::All,
    }
}

/// Begins a rebuild and shows it until it has ended: as a bar on a terminal.
async fn rebuild(one: &OneProjection, no_wait: bool, out: &mut impl Write) -> Result<u8> {
    let OneProjection { name, database, .. } = one;
    let store = open(database).await?;
    let operator = operator(&store, one);
    let bar = ProgressBar::new(0).with_style(ProgressStyle::with_template(
        "{prefix} [{bar:40}] {percent:>3} %  {human_pos} of {human_len}  {msg}",
    )?);
    bar.set_prefix(name.clone());
    let rebuilt = async {
        let done = operator.rebuild(name).await?;
        if !no_wait {
            operator.rebuilt(name, |row| show(row, &bar)).await?;
        }
        Ok(done)
    };
    let rebuilt = rebuilt.await;
    bar.finish_and_clear();
    store.close().await;
    let done = rebuilt.map_err(advise_operator)?;
    let said = match no_wait {
        true => "is being rebuilt",
        false => "rebuilt; what was read before is kept",
    };
    print(out, &format!("{name}: {said}, in {}\n", done.process))
}

fn show(row: &ProjectionRow, bar: &ProgressBar) {
    let Some(rebuild) = &row.rebuild else { return };
    bar.set_length(row.head.get().unsigned_abs());
    bar.set_position(rebuild.reached.get().unsigned_abs());
    let left = rebuild.remaining(row.head);
    let left = left.map_or_else(
        || "waiting".to_owned(),
        |left| format!("{} left", HumanDuration(left)),
    );
    bar.set_message(match &rebuild.reason {
        Some(reason) => format!("failing: {reason}"),
        None => format!("{:.0}/s, {left}", rebuild.rate),
    });
}

async fn letters(one: &OneProjection, json: bool, out: &mut impl Write) -> Result<u8> {
    let store = open(&one.database).await?;
    let mut query = LetterQuery::of(&*one.name);
    let mut found = Vec::new();
    let read = async {
        loop {
            let page = store.list_letters(&query).await?;
            let Some(last) = page.last() else {
                return Ok::<_, StoreError>(());
            };
            query = query.clone().after(last.position);
            found.extend(page);
        }
    };
    let read = read.await;
    store.close().await;
    read.map_err(|error| advise(&error))?;
    if json {
        let letters: serde_json::Value = found.iter().map(letter).collect();
        return print(out, &format!("{letters}\n"));
    }
    if found.is_empty() {
        return print(out, &format!("{}: nothing was left out\n", one.name));
    }
    for letter in &found {
        let parked = if letter.parked { ", parked" } else { "" };
        let said = format!(
            "{} {} of {}, key {}{parked}, {} attempts, {}\n  {}\n",
            letter.position,
            letter.name,
            letter.stream,
            letter.key,
            letter.attempts,
            letter.at.to_rfc3339_opts(SecondsFormat::Secs, true),
            letter.reason,
        );
        print(out, &said)?;
    }
    Ok(0)
}

fn letter(letter: &DeadLetter) -> serde_json::Value {
    json!({
        "position": letter.position.get(),
        "event_id": letter.event_id.as_uuid().to_string(),
        "name": letter.name,
        "category": letter.stream.category(),
        "stream_key": letter.stream.key(),
        "key": letter.key,
        "attempts": letter.attempts,
        "parked": letter.parked,
        "at": letter.at,
        "reason": letter.reason,
    })
}

/// A store that changes no tables, starts no listener and takes few connections.
async fn open(database: &Database) -> Result<PostgresStore> {
    let options = PostgresOptions::default()
        .with_schema(&database.schema.schema)
        .with_migrations(Migrations::Verify)
        .with_wake(Wake::Off)
        .with_readers(1);
    let store = PostgresStore::connect_with(url(database)?, options).await;
    Ok(store.map_err(|error| advise(&error))?)
}

async fn list(database: &Database, json: bool, out: &mut impl Write) -> Result<u8> {
    let store = open(database).await?;
    let rows = Operator::new(&store).list().await;
    store.close().await;
    let rows = rows.map_err(|error| advise(&error))?;
    if json {
        let rows: serde_json::Value = rows.iter().map(object).collect();
        return print(out, &format!("{rows}\n"));
    }
    if rows.is_empty() {
        return print(out, "no projection has ever run on this schema\n");
    }
    print(out, &table(&rows))
}

fn object(row: &ProjectionRow) -> serde_json::Value {
    json!({
        "projection": row.projection,
        "state": row.state.as_str(),
        "paused": row.paused,
        "position": row.progress.checkpoint.position.get(),
        "reached": row.reached.get(),
        "head": row.head.get(),
        "lag": row.lag(),
        "behind_since": row.behind_since,
        "events_per_second": row.rate,
        "process": row.process,
        "seen_at": row.seen_at,
        "reason": row.reason,
        "rebuild": row.rebuild.as_ref().map(|rebuild| json!({
            "state": rebuild.state.as_str(),
            "reached": rebuild.reached.get(),
            "positions_per_second": rebuild.rate,
            "seconds_left": rebuild.remaining(row.head).map(|left| left.as_secs_f64()),
            "reason": rebuild.reason,
        })),
        "previous": row.previous.as_ref().map(|one| one.checkpoint.position.get()),
    })
}

/// Columns as wide as they have to be.
fn table(rows: &[ProjectionRow]) -> String {
    let mut lines =
        vec![["PROJECTION", "STATE", "REACHED", "LAG", "RATE", "PROCESS"].map(String::from)];
    lines.extend(rows.iter().map(|row| {
        let state = match (row.state, row.paused) {
            (RowState::Idle, true) => "idle, paused",
            (state, _) => state.as_str(),
        };
        [
            row.projection.clone(),
            state.to_owned(),
            row.reached.to_string(),
            row.lag().to_string(),
            format!("{:.0}/s", row.rate),
            row.process.clone().unwrap_or_else(|| "-".to_owned()),
        ]
    }));
    let mut widths = [0; 6];
    for line in &lines {
        for (width, cell) in widths.iter_mut().zip(line) {
            *width = cell.chars().count().max(*width);
        }
    }
    let mut text = String::new();
    for (number, line) in lines.iter().enumerate() {
        for (at, (width, cell)) in widths.iter().zip(line).enumerate() {
            text += &match at {
                2..=4 => format!("{cell:>width$}  "),
                5 => cell.clone(),
                _ => format!("{cell:<width$}  "),
            };
        }
        text.push('\n');
        // The error, where it can be read.
        let row = number.checked_sub(1).and_then(|row| rows.get(row));
        if let Some(reason) = row.and_then(|row| row.reason.as_deref()) {
            text += &format!("  {reason}\n");
        }
        if let Some(rebuild) = row.and_then(|row| row.rebuild.as_ref()) {
            let state = rebuild.state.as_str();
            let reason = rebuild.reason.as_deref().unwrap_or_default();
            let said = format!("  rebuild {state} at {}: {reason}", rebuild.reached);
            text += said.trim_end_matches(": ");
            text.push('\n');
        }
    }
    text
}
