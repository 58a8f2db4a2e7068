//! The command line.

use std::io::{self, Write};

use backstory::{BoxError, EventFilter, EventQuery, EventStoreExt, RecordedEvent};
use clap::{Args, Parser, Subcommand};
use futures::TryStreamExt;
use serde_json::json;
use uuid::Uuid;

use crate::{
    app::Todos,
    demo,
    place::PlaceArgs,
    projections::{self, Projections},
    read_model::{self, TaskState, TaskView},
    serve,
};

const PORT: u16 = 3000;

/// To-do lists that keep everything that ever happened. Without a command it serves the page.
#[derive(Debug, Parser)]
#[command(name = "todo", version, max_term_width = 100)]
pub struct Cli {
    #[command(flatten)]
    place: PlaceArgs,
    #[command(flatten)]
    server: Server,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Args)]
struct Server {
    /// The port of the page on this machine; 0 is any free one [default: 3000]
    #[arg(long)]
    port: Option<u16>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve the page and its API (this is what happens without a command)
    Serve(Server),
    /// Add a task, and the list if there is none of this name
    Add {
        /// What is to be done, with or without quotes
        #[arg(required = true)]
        title: Vec<String>,
        /// The list
        #[arg(long, value_name = "NAME", default_value = "Inbox")]
        list: String,
    },
    /// Say that a task is done
    Done {
        /// The task's id, or its last characters as `todo list` shows them
        id: String,
    },
    /// Remove a task; what happened to it stays in the log
    Remove {
        /// The task's id, or its last characters as `todo list` shows them
        id: String,
    },
    /// Show the lists and what is to be done
    List {
        /// Also what is done or removed
        #[arg(long)]
        all: bool,
    },
    /// Add tasks to a new list, remove and finish some, and count them
    ///
    /// Of its tasks the odd ones are removed; every fourth one from the sixth on is done: 6, 10,
    /// 14 … The last line says what the read model counts in this run's list.
    Demo {
        /// How many tasks
        #[arg(long, value_name = "N", default_value_t = 10)]
        tasks: u32,
    },
    /// Show how the projections are doing, pause, resume or rebuild them
    Projections {
        #[command(subcommand)]
        wanted: Option<Projections>,
    },
    /// Show all events, oldest first
    Events {
        /// One JSON object per line
        #[arg(long)]
        json: bool,
    },
}

/// Does what the command line says.
///
/// # Errors
/// Any; its text is for the person who typed.
pub async fn run(cli: Cli, out: &mut impl Write) -> Result<(), BoxError> {
    let place = cli.place.place()?;
    let (port, command) = match (cli.server.port, cli.command) {
        (port, None) => (port, None),
        (port, Some(Command::Serve(server))) => (server.port.or(port), None),
        (None, Some(command)) => (None, Some(command)),
        (Some(_), Some(_)) => return Err("--port is for `todo serve` only".into()),
    };
    let Some(command) = command else {
        // Before the store: whoever has the wrong port need not wait for a database.
        let listener = serve::listen(port.unwrap_or(PORT)).await?;
        let address = listener.local_addr()?;
        let todos = Todos::new(&place.open().await?);
        let asked_to_stop = serve::signals()?;
        writeln!(out, "todo: http://{address}")?;
        writeln!(out, "The lists are kept in {place}. Ctrl-C ends.")?;
        out.flush()?;
        return Ok(serve::serve(listener, todos, asked_to_stop).await?);
    };
    if place.is_private() && matches!(command, Command::Projections { .. }) {
        return Err("what is kept in `memory:` only its server sees: use the page".into());
    }
    let todos = Todos::new(&place.open().await?);
    let outcome = one_shot(command, &todos, out).await;
    todos.store().close().await;
    match outcome {
        // A reader that has seen enough, like `head`, is no error.
        Err(error) if is_broken_pipe(&*error) => Ok(()),
        outcome => outcome,
    }
}

async fn one_shot(command: Command, todos: &Todos, out: &mut impl Write) -> Result<(), BoxError> {
    match command {
        Command::Serve(_) => {}
        Command::Add { title, list } => {
            let list = todos.list_called(&list).await?;
            let (id, _) = todos.add_task(list, &title.join(" ")).await?;
            writeln!(out, "added {id}")?;
        }
        Command::Done { id } => {
            let id = task_id(todos, &id).await?;
            todos.complete_task(id).await?;
            writeln!(out, "done {id}")?;
        }
        Command::Remove { id } => {
            let id = task_id(todos, &id).await?;
            todos.remove_task(id).await?;
            writeln!(out, "removed {id}")?;
        }
        Command::List { all } => list(todos, all, out).await?,
        Command::Demo { tasks } => demo::demo(todos, tasks, out).await?,
        Command::Projections { wanted } => {
            projections::run(wanted.unwrap_or(Projections::List), todos, out).await?;
        }
        Command::Events { json } => events(todos, json, out).await?,
    }
    Ok(())
}

async fn list(todos: &Todos, all: bool, out: &mut impl Write) -> Result<(), BoxError> {
    todos.catch_up().await?;
    let board = read_model::board(todos.store(), None).await?;
    for list in &board.lists {
        let counters = list.counters;
        writeln!(
            out,
            "{} ({} active, {} done)",
            list.name, counters.active, counters.done
        )?;
        let shown = |task: &&TaskView| all || task.state == TaskState::Active;
        for task in board
            .tasks
            .iter()
            .filter(|task| task.list == list.id)
            .filter(shown)
        {
            let mark = match task.state {
                TaskState::Active => ' ',
                TaskState::Done => 'x',
                TaskState::Removed => '-',
            };
            writeln!(out, "  [{mark}] {}  {}", ending(task.id), task.title)?;
        }
    }
    if board.lists.is_empty() {
        writeln!(out, "no lists yet; begin with `todo add \"buy milk\"`")?;
    }
    Ok(())
}

async fn events(todos: &Todos, json: bool, out: &mut impl Write) -> Result<(), BoxError> {
    let events = todos.store().events(EventQuery::new(EventFilter::all()));
    let mut events = std::pin::pin!(events);
    while let Some(event) = events.try_next().await? {
        if json {
            writeln!(out, "{}", as_json(&event))?;
        } else {
            let time = event.recorded_at().format("%Y-%m-%d %H:%M:%S");
            let (position, name) = (event.position(), event.name());
            let (stream, payload) = (event.stream(), event.payload().as_str());
            writeln!(out, "{position:>6}  {time}  {name:<16}{stream}  {payload}")?;
        }
    }
    Ok(())
}

fn as_json(event: &RecordedEvent) -> serde_json::Value {
    let payload = event.payload();
    json!({
        "position": event.position(),
        "recorded_at": event.recorded_at(),
        "name": event.name(),
        "schema_version": event.schema_version(),
        "category": event.stream().category(),
        "key": event.stream().key(),
        "version": event.version(),
        "id": event.id(),
        "payload": payload.to_value().unwrap_or_else(|_| payload.as_str().into()),
        "metadata": event.metadata(),
        "tags": event.tags(),
    })
}

/// The last characters of an id, as a person would type them. The first ones are a time, and
/// equal for what was added at once.
fn ending(id: Uuid) -> String {
    let text = id.simple().to_string();
    text[text.len() - 8..].to_owned()
}

/// The id that somebody typed, whole or its last characters.
async fn task_id(todos: &Todos, typed: &str) -> Result<Uuid, BoxError> {
    if let Ok(id) = Uuid::try_parse(typed) {
        return Ok(id);
    }
    let typed = typed.to_lowercase();
    if typed.len() < 4 {
        return Err(format!("{typed:?} is too short for an id: type at least 4 characters").into());
    }
    todos.catch_up().await?;
    let tasks = read_model::board(todos.store(), None).await?.tasks;
    let mut found = tasks
        .iter()
        .filter(|task| task.id.simple().to_string().ends_with(&typed));
    match (found.next(), found.next()) {
        (Some(task), None) => Ok(task.id),
        (None, _) => Err(format!("no task's id ends with {typed:?}: see `todo list --all`").into()),
        (Some(_), Some(_)) => {
            Err(format!("several tasks' ids end with {typed:?}: type more of it").into())
        }
    }
}

fn is_broken_pipe(error: &(dyn std::error::Error + 'static)) -> bool {
    let mut next = Some(error);
    while let Some(error) = next {
        if error
            .downcast_ref::<io::Error>()
            .is_some_and(|e| e.kind() == io::ErrorKind::BrokenPipe)
        {
            return true;
        }
        next = error.source();
    }
    false
}
