//! The shell process that holds a server, see `supervisor.sh`.

use std::ffi::OsString;
use std::fs;
use std::hash::{BuildHasher, RandomState};
use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

/// Below the ports that systems give to outgoing connections, so that a restart finds its port free again.
const PORTS: std::ops::Range<u16> = 20_000..32_000;
const DEADLINE: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(5);
const SHARED_MEMORY: &str = "/dev/shm";
const SHARED_MEMORY_KIB: u64 = 1024 * 1024;

/// A signal that ends the server.
#[derive(Clone, Copy)]
pub(crate) enum Signal {
    /// Fast shutdown of Postgres: aborts what runs, writes a checkpoint, exits.
    Interrupt,
    /// Fast shutdown of PgBouncer.
    Terminate,
    /// The server gets no chance to do anything.
    Kill,
}

/// What is to be held.
pub(crate) struct Program {
    pub(crate) name: &'static str,
    /// Shell text that fills the current directory.
    pub(crate) prepare: &'static str,
    /// Shell text that `exec`s the server on `$port`.
    pub(crate) serve: &'static str,
    /// The signal that ends it with the process.
    pub(crate) end: &'static str,
    /// What both find in `$@`.
    pub(crate) arguments: Vec<OsString>,
    /// True when the data must not lie in memory.
    pub(crate) on_disk: bool,
    /// Whether the server in a directory with this process id accepts connections.
    pub(crate) is_ready: fn(&Path, &str) -> bool,
}

/// Dropping it removes the server and its directory.
pub(crate) struct Supervisor {
    orders: ChildStdin,
    answers: Receiver<String>,
    directory: PathBuf,
    server: Option<u32>,
    name: &'static str,
    is_ready: fn(&Path, &str) -> bool,
}

impl Supervisor {
    /// Makes a new directory for a server that is not yet started.
    pub(crate) fn new(program: Program) -> Result<Self, String> {
        let name = format!(
            "backstory-{}-{}-{:016x}",
            program.name,
            std::process::id(),
            random()
        );
        let directory = parent_directory(program.on_disk).join(name);
        let mut command = Command::new("sh");
        command
            .arg("-c")
            .arg(include_str!("supervisor.sh"))
            .arg(format!("throwaway-{}", program.name))
            .arg(&directory)
            .arg(program.prepare)
            .arg(program.serve)
            .arg(program.end)
            .args(program.arguments);
        if let Some((user, group)) = unprivileged_user()? {
            command.uid(user).gid(group);
        }
        // Its own process group: Ctrl-C reaches the test process only, whose end then ends the server.
        command
            .current_dir("/")
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        let mut child = command
            .spawn()
            .map_err(|error| format!("cannot start sh to hold {}: {error}", program.name))?;
        let orders = child.stdin.take().ok_or("sh has no stdin")?;
        let supervisor = Self {
            orders,
            answers: read_answers(child)?,
            directory,
            server: None,
            name: program.name,
            is_ready: program.is_ready,
        };
        match supervisor.answer(Instant::now() + DEADLINE) {
            Ok(answer) if answer == "initialised" => Ok(supervisor),
            _ => Err(supervisor.failed("its directory could not be filled")),
        }
    }

    pub(crate) fn directory(&self) -> &Path {
        &self.directory
    }

    /// The process id of the running server.
    pub(crate) fn server(&self) -> Option<u32> {
        self.server
    }

    /// Starts the server on this port and waits until it accepts connections.
    pub(crate) fn start(&mut self, port: u16) -> Result<(), String> {
        let deadline = Instant::now() + DEADLINE;
        self.order(&format!("start {port}"))?;
        let answer = self.answer(deadline)?;
        let pid = answer
            .strip_prefix("started ")
            .ok_or_else(|| format!("unexpected answer {answer:?}"))?;
        while !(self.is_ready)(&self.directory, pid) {
            match self.answers.recv_timeout(POLL) {
                Err(RecvTimeoutError::Timeout) if Instant::now() < deadline => {}
                _ => return Err(self.failed(&format!("it did not start on port {port}"))),
            }
        }
        self.server = pid.parse().ok();
        Ok(())
    }

    /// Ends a running server and waits until its last process has ended.
    pub(crate) fn end(&mut self, signal: Signal) -> Result<(), String> {
        if self.server.take().is_none() {
            return Ok(());
        }
        self.order(match signal {
            Signal::Interrupt => "INT",
            Signal::Terminate => "TERM",
            Signal::Kill => "KILL",
        })?;
        match self.answer(Instant::now() + DEADLINE) {
            Ok(answer) if answer == "gone" => Ok(()),
            _ => Err(self.failed("it did not end")),
        }
    }

    fn order(&mut self, order: &str) -> Result<(), String> {
        writeln!(self.orders, "{order}")
            .map_err(|error| format!("the supervisor of {} is gone: {error}", self.name))
    }

    fn answer(&self, deadline: Instant) -> Result<String, String> {
        let wait = deadline.saturating_duration_since(Instant::now());
        self.answers
            .recv_timeout(wait)
            .map_err(|error| format!("no answer from the supervisor of {}: {error}", self.name))
    }

    fn failed(&self, what: &str) -> String {
        let path = self.directory.join("log");
        let log =
            fs::read_to_string(&path).unwrap_or_else(|error| format!("cannot read it: {error}"));
        let lines: Vec<&str> = log.lines().collect();
        let tail = lines[lines.len().saturating_sub(20)..].join("\n");
        format!(
            "{}: {what}; the end of {}:\n{tail}",
            self.name,
            path.display()
        )
    }
}

/// Hands on the supervisor's lines until it ends.
fn read_answers(mut child: Child) -> Result<Receiver<String>, String> {
    let stdout = child.stdout.take().ok_or("sh has no stdout")?;
    let (sender, receiver) = channel();
    thread::spawn(move || {
        for line in BufReader::new(stdout).lines().map_while(Result::ok) {
            let _ = sender.send(line); // nobody listens any more: keep reading, the end is to be seen
        }
        let _ = child.wait(); // leaves no zombie
    });
    Ok(receiver)
}

/// The servers refuse to run as root: the user and group they run as then.
fn unprivileged_user() -> Result<Option<(u32, u32)>, String> {
    if id(&["-u"]) != Some(0) {
        return Ok(None);
    }
    ["postgres", "nobody"]
        .iter()
        .find_map(|user| Some((id(&["-u", user])?, id(&["-g", user])?)))
        .map(Some)
        .ok_or_else(|| {
            "run as root, and there is neither a user `postgres` nor `nobody` for the server"
                .to_owned()
        })
}

fn id(arguments: &[&str]) -> Option<u32> {
    let output = Command::new("id")
        .args(arguments)
        .stderr(Stdio::null())
        .output()
        .ok()?;
    String::from_utf8(output.stdout).ok()?.trim().parse().ok()
}

/// Starts a server on a port that nobody uses.
pub(crate) fn start_on_free_port(supervisor: &mut Supervisor) -> Result<u16, String> {
    let mut result = Err("no free port on 127.0.0.1".to_owned());
    for _ in 0..20 {
        let port = PORTS.start + (random() % PORTS.len() as u64) as u16;
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_err() {
            continue;
        }
        // Another process may have taken it since.
        result = supervisor.start(port).map(|()| port);
        if result.is_ok() {
            break;
        }
    }
    result
}

/// Memory if there is enough of it.
fn parent_directory(on_disk: bool) -> PathBuf {
    if !on_disk && free_kib(SHARED_MEMORY).is_some_and(|free| free >= SHARED_MEMORY_KIB) {
        PathBuf::from(SHARED_MEMORY)
    } else {
        std::env::temp_dir()
    }
}

fn free_kib(path: &str) -> Option<u64> {
    let output = Command::new("df")
        .args(["-Pk", path])
        .stderr(Stdio::null())
        .output()
        .ok()?;
    String::from_utf8(output.stdout)
        .ok()?
        .lines()
        .nth(1)?
        .split_whitespace()
        .nth(3)?
        .parse()
        .ok()
}

fn random() -> u64 {
    RandomState::new().hash_one(())
}
