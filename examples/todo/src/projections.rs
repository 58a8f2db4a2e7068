//! `todo projections`: how the projections are doing, and telling them what to do.

use std::io::Write;

use backstory::{
    BoxError,
    projection::{Operator, ProjectionRow, RunningProjector},
};
use clap::{Args, Subcommand};
use indicatif::{HumanDuration, ProgressBar, ProgressStyle};

use crate::{app::Todos, read_model::BOARD, search::SEARCH};

/// What can be wanted of projections.
#[derive(Debug, Subcommand)]
pub enum Projections {
    /// Show what they are doing and how far they are (this is what happens without a word)
    List,
    /// Let one wait until it is resumed
    Pause(One),
    /// Let one go on
    Resume(One),
    /// Build one anew beside what is shown, which then takes its place
    Rebuild(One),
}

/// Which one.
#[derive(Debug, Args)]
pub struct One {
    #[arg(value_parser = [BOARD, SEARCH])]
    name: String,
}

/// Does what the command line says.
///
/// # Errors
/// When it is refused, or the store is away.
pub async fn run(wanted: Projections, todos: &Todos, out: &mut impl Write) -> Result<(), BoxError> {
    if let Projections::List = wanted {
        return list(todos, out).await;
    }
    // Beside a server this stands by, and the server answers; without one it does the work itself.
    let projector = todos.start_projector().await?;
    let done = tell(wanted, todos, &projector, out).await;
    projector.shutdown().await?;
    done
}

async fn list(todos: &Todos, out: &mut impl Write) -> Result<(), BoxError> {
    let rows = Operator::new(todos.store()).list().await?;
    for row in &rows {
        let (name, state) = (&row.projection, row.state.as_str());
        let paused = if row.paused { ", paused" } else { "" };
        let process = row.process.as_deref().unwrap_or("no process");
        let (reached, lag) = (row.reached, row.lag());
        writeln!(
            out,
            "{name}: {state}{paused}, at {reached}, {lag} behind, in {process}"
        )?;
        if let Some(reason) = &row.reason {
            writeln!(out, "  {reason}")?;
        }
        if let Some(rebuild) = &row.rebuild {
            writeln!(out, "  rebuild at {} of {}", rebuild.reached, row.head)?;
        }
    }
    if rows.is_empty() {
        writeln!(out, "no projections yet; begin with `todo`")?;
    }
    Ok(())
}

async fn tell(
    wanted: Projections,
    todos: &Todos,
    projector: &RunningProjector,
    out: &mut impl Write,
) -> Result<(), BoxError> {
    match wanted {
        Projections::List => {}
        Projections::Pause(One { name }) => {
            projector.pause(&name).await?;
            writeln!(out, "{name} is paused")?;
        }
        Projections::Resume(One { name }) => {
            projector.resume(&name).await?;
            writeln!(out, "{name} goes on")?;
        }
        Projections::Rebuild(One { name }) => {
            projector.rebuild(&name).await?;
            let bar = ProgressBar::new(0).with_style(ProgressStyle::with_template(
                "{prefix} [{bar:40}] {percent:>3} %  {human_pos} of {human_len}  {msg}",
            )?);
            bar.set_prefix(name.clone());
            let rebuilt = Operator::new(todos.store())
                .rebuilt(&name, |row| show(row, &bar))
                .await;
            bar.finish_and_clear();
            rebuilt?;
            writeln!(out, "{name} is rebuilt")?;
        }
    }
    Ok(())
}

fn show(row: &ProjectionRow, bar: &ProgressBar) {
    let Some(rebuild) = &row.rebuild else { return };
    bar.set_length(row.head.get().unsigned_abs());
    bar.set_position(rebuild.reached.get().unsigned_abs());
    bar.set_message(match (&rebuild.reason, rebuild.remaining(row.head)) {
        (Some(reason), _) => reason.clone(),
        (None, Some(left)) => format!("{} left", HumanDuration(left)),
        (None, None) => String::new(),
    });
}
