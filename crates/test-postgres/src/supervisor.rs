//! The shell process that holds a cluster, see `supervisor.sh`.

use std::fs;
use std::hash::{BuildHasher, RandomState};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use crate::binaries;

const DEADLINE: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(5);
const SHARED_MEMORY: &str = "/dev/shm";
const SHARED_MEMORY_KIB: u64 = 1024 * 1024;

/// A signal that ends the server.
#[derive(Clone, Copy)]
pub(crate) enum Signal {
    /// Fast shutdown: aborts what runs, writes a checkpoint, exits.
    Interrupt,
    /// The server gets no chance to do anything.
    Kill,
}

/// Dropping it removes the server and its directory.
pub(crate) struct Supervisor {
    orders: ChildStdin,
    answers: Receiver<String>,
    directory: PathBuf,
    server: Option<u32>,
}

impl Supervisor {
    /// Makes a new cluster, not yet started, with these server settings.
    pub(crate) fn new(settings: &[(String, String)], on_disk: bool) -> Result<Self, String> {
        let binaries = binaries::find()?;
        let name = format!(
            "backstory-postgres-{}-{:016x}",
            std::process::id(),
            random()
        );
        let directory = parent_directory(on_disk).join(name);
        let mut command = Command::new("sh");
        command
            .arg("-c")
            .arg(include_str!("supervisor.sh"))
            .arg("throwaway-postgres")
            .arg(&directory)
            .arg(binaries);
        for (name, value) in settings {
            command.arg("-c").arg(format!("{name}={value}"));
        }
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
            .map_err(|error| format!("cannot start sh to hold Postgres: {error}"))?;
        let orders = child.stdin.take().ok_or("sh has no stdin")?;
        let supervisor = Self {
            orders,
            answers: read_answers(child)?,
            directory,
            server: None,
        };
        match supervisor.answer(Instant::now() + DEADLINE) {
            Ok(answer) if answer == "initialised" => Ok(supervisor),
            _ => Err(supervisor.failed("initdb failed")),
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
        while !self.is_ready(pid) {
            match self.answers.recv_timeout(POLL) {
                Err(RecvTimeoutError::Timeout) if Instant::now() < deadline => {}
                _ => return Err(self.failed(&format!("Postgres did not start on port {port}"))),
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
            Signal::Kill => "KILL",
        })?;
        match self.answer(Instant::now() + DEADLINE) {
            Ok(answer) if answer == "gone" => Ok(()),
            _ => Err(self.failed("Postgres did not end")),
        }
    }

    fn order(&mut self, order: &str) -> Result<(), String> {
        writeln!(self.orders, "{order}")
            .map_err(|error| format!("the supervisor of Postgres is gone: {error}"))
    }

    fn answer(&self, deadline: Instant) -> Result<String, String> {
        let wait = deadline.saturating_duration_since(Instant::now());
        self.answers
            .recv_timeout(wait)
            .map_err(|error| format!("no answer from the supervisor of Postgres: {error}"))
    }

    /// The file of a killed server stays behind, so the process id has to be the right one too.
    fn is_ready(&self, pid: &str) -> bool {
        let file =
            fs::read_to_string(self.directory.join("data/postmaster.pid")).unwrap_or_default();
        let mut lines = file.lines().map(str::trim);
        lines.next() == Some(pid) && lines.nth(6) == Some("ready")
    }

    fn failed(&self, what: &str) -> String {
        let path = self.directory.join("log");
        let log =
            fs::read_to_string(&path).unwrap_or_else(|error| format!("cannot read it: {error}"));
        let lines: Vec<&str> = log.lines().collect();
        let tail = lines[lines.len().saturating_sub(20)..].join("\n");
        format!("{what}; the end of {}:\n{tail}", path.display())
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

/// Postgres refuses to run as root: the user and group it runs as then.
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

pub(crate) fn random() -> u64 {
    RandomState::new().hash_one(())
}
