//! A child process: this program again, in another role.

use std::{
    env::current_exe,
    process::{ExitStatus, Stdio},
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines},
    process::{Child, ChildStdin, ChildStdout, Command},
    time::timeout,
};

use crate::Result;

const DEADLINE: Duration = Duration::from_secs(120);

/// It is killed when this is dropped, and ends by itself when we are killed.
#[derive(Debug)]
pub(crate) struct Process {
    child: Child,
    orders: Option<ChildStdin>,
    answers: Lines<BufReader<ChildStdout>>,
}

impl Process {
    /// Starts it with these arguments.
    pub(crate) fn start(url: &str, arguments: &[String]) -> Result<Self> {
        let mut child = Command::new(current_exe()?)
            .args(arguments)
            .env("TORTURE_URL", url)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let orders = child.stdin.take();
        let answers = child.stdout.take().ok_or("a child has no stdout")?;
        let answers = BufReader::new(answers).lines();
        Ok(Self {
            child,
            orders,
            answers,
        })
    }

    /// Writes a line to its stdin.
    pub(crate) async fn order(&mut self, order: &str) -> Result {
        let orders = self.orders.as_mut().ok_or("its stdin is closed")?;
        orders.write_all(format!("{order}\n").as_bytes()).await?;
        Ok(())
    }

    /// Waits for a line that begins with this, and gives back the rest.
    pub(crate) async fn answer(&mut self, begin: &str) -> Result<String> {
        let line = match timeout(DEADLINE, self.answers.next_line()).await {
            Ok(line) => line?,
            Err(_) => return Err(format!("no answer {begin:?} within {DEADLINE:?}").into()),
        };
        match &line {
            Some(line) => match line.strip_prefix(begin) {
                Some(rest) => Ok(rest.trim().to_owned()),
                None => Err(format!("{line:?} instead of {begin:?}").into()),
            },
            None => Err(format!("a child ended instead of saying {begin:?}").into()),
        }
    }

    pub(crate) fn signal(&self, signal: Signal) -> Result {
        let id = self.child.id().and_then(|id| i32::try_from(id).ok());
        let pid = id.and_then(Pid::from_raw).ok_or("a child has ended")?;
        Ok(kill_process(pid, signal)?)
    }

    /// How it ended by itself, if it did.
    pub(crate) fn ended(&mut self) -> Result<Option<ExitStatus>> {
        Ok(self.child.try_wait()?)
    }

    /// Kills it with SIGKILL, and waits until it is gone.
    pub(crate) async fn kill(&mut self) -> Result {
        Ok(self.child.kill().await?)
    }

    /// Waits until it has ended by itself.
    pub(crate) async fn end(&mut self) -> Result {
        let status = match timeout(DEADLINE, self.child.wait()).await {
            Ok(status) => status?,
            Err(_) => return Err(format!("a child did not end within {DEADLINE:?}").into()),
        };
        match status.success() {
            true => Ok(()),
            false => Err(format!("a child ended with {status}").into()),
        }
    }
}
