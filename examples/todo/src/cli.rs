//! The command line.

use std::{
    io::{self, Write},
    path::{Path, PathBuf},
};

use backstory::{BoxError, EventFilter, EventQuery, EventStoreExt, RecordedEvent, Store};
use clap::{Args, Parser, Subcommand};
use futures::TryStreamExt;
use serde_json::json;
use uuid::Uuid;

use crate::{
    app::Todos,
    demo,
    read_model::{self, TaskState, TaskView},
    serve,
};

const PORT: u16 = 3000;
const FILE: &str = "todo.db";

/// To-do lists that keep everything that ever happened. Without a command it serves the page.
#[derive(Debug, Parser)]
#[command(name = "todo", version, max_term_width = 100)]
pub struct Cli {
    #[command(flatten)]
    place: Place,
    #[command(flatten)]
    server: Server,
    #[command(subcommand)]
    command: Option<Command>,
}

/// Where the lists are kept.
#[derive(Debug, Args)]
struct Place {
    /// The folder of the SQLite file `todo.db`; it is made if there is none
    ///
    /// By default the platform's folder for the data of programs.
    #[arg(long, global = true, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Another database: `postgres://…`, `sqlite:FILE`, or `memory:` for this run only
    ///
    /// Without --data and --database, the environment's DATABASE_URL counts.
    #[arg(long, global = true, value_name = "URL", conflicts_with = "data")]
    database: Option<String>,
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
        /// What is to be done
        title: String,
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
    let (command, place) = match (cli.command, cli.server.port) {
        (None, port) => (Command::Serve(Server { port }), cli.place),
        (Some(Command::Serve(server)), port) => {
            (Command::Serve(Server { port: server.port.or(port) }), cli.place)
        }
        (Some(command), None) => (command, cli.place),
        (Some(_), Some(_)) => return Err("--port is for `todo serve` only".into()),
    };
    // Before the store: whoever has the wrong port need not wait for a database.
    if let Command::Serve(Server { port }) = command {
        let listener = serve::listen(port.unwrap_or(PORT)).await?;
        let address = listener.local_addr()?;
        let todos = place.open().await?;
        writeln!(out, "todo: http://{address}\nlists are kept {}; Ctrl-C ends", place.describe()?)?;
        out.flush()?;
        return Ok(serve::serve(listener, todos).await?);
    }
    let todos = place.open().await?;
    let outcome = one_shot(command, &todos, out).await;
    // What a closed pipe does not want to read is not an error.
    let outcome = match outcome {
        Err(error) if is_broken_pipe(&*error) => Ok(()),
        outcome => outcome,
    };
    todos.store().close().await;
    outcome
}

async fn one_shot(
    command: Command,
    todos: &Todos,
    out: &mut impl Write,
) -> Result<(), BoxError> {
    match command {
        Command::Serve(_) => {}
        Command::Add { title, list } => {
            let list = todos.list_called(&list).await?;
            let (id, _) = todos.add_task(list, &title).await?;
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
        Command::Events { json } => events(todos, json, out).await?,
    }
    Ok(())
}

async fn list(todos: &Todos, all: bool, out: &mut impl Write) -> Result<(), BoxError> {
    todos.catch_up().await?;
    let board = read_model::board(todos.store(), None).await?;
    for list in &board.lists {
        let counters = list.counters;
        writeln!(out, "{} ({} active, {} done)", list.name, counters.active, counters.done)?;
        let shown = |task: &&TaskView| all || task.state == TaskState::Active;
        for task in board.tasks.iter().filter(|task| task.list == list.id).filter(shown) {
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
    let mut found = tasks.iter().filter(|task| task.id.simple().to_string().ends_with(&typed));
    match (found.next(), found.next()) {
        (Some(task), None) => Ok(task.id),
        (None, _) => Err(format!("no task's id ends with {typed:?}: see `todo list --all`").into()),
        (Some(_), Some(_)) => {
            Err(format!("several tasks' ids end with {typed:?}: type more of it").into())
        }
    }
}

impl Place {
    async fn open(&self) -> Result<Todos, BoxError> {
        let url = match self.url() {
            Some(url) => url,
            None => {
                let folder = self.folder()?;
                std::fs::create_dir_all(&folder).map_err(|error| {
                    format!("cannot make the folder {}: {error}; see --data", folder.display())
                })?;
                format!("sqlite:{}", file(&folder)?)
            }
        };
        Ok(Todos::new(&Store::connect(&url).await?))
    }

    /// The URL, when it is not the file in the folder.
    fn url(&self) -> Option<String> {
        match (&self.database, &self.data) {
            (Some(url), _) => Some(url.clone()),
            (None, Some(_)) => None,
            (None, None) => std::env::var("DATABASE_URL").ok().filter(|url| !url.is_empty()),
        }
    }

    fn folder(&self) -> Result<PathBuf, BoxError> {
        match &self.data {
            Some(folder) => Ok(folder.clone()),
            None => directories::ProjectDirs::from("", "", "backstory-todo")
                .map(|folders| folders.data_dir().to_owned())
                .ok_or_else(|| "there is no home folder to keep the lists in: use --data".into()),
        }
    }

    /// Where the lists are, without what a URL may hold: a password.
    fn describe(&self) -> Result<String, BoxError> {
        Ok(match self.url() {
            None => format!("in {}", self.folder()?.join(FILE).display()),
            Some(url) => match url.split(':').next() {
                Some("memory") => "in memory and forgotten at the end".to_owned(),
                Some("sqlite") => "in the SQLite file of the URL".to_owned(),
                _ => "in the Postgres database of the URL".to_owned(),
            },
        })
    }
}

fn file(folder: &Path) -> Result<String, BoxError> {
    let file = folder.join(FILE);
    let text = file.to_str().ok_or("the folder's name is not UTF-8: choose another one with --data")?;
    Ok(text.to_owned())
}

fn is_broken_pipe(error: &(dyn std::error::Error + 'static)) -> bool {
    let mut next = Some(error);
    while let Some(error) = next {
        if error.downcast_ref::<io::Error>().is_some_and(|e| e.kind() == io::ErrorKind::BrokenPipe) {
            return true;
        }
        next = error.source();
    }
    false
}
