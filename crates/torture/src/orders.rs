//! How the coordinator talks to its children: lines on stdin and stdout.

use std::io::{Write, stdin, stdout};

use tokio::sync::mpsc;

use crate::Result;

/// The lines on stdin. When it ends, the coordinator is gone, and this process ends too.
pub(crate) fn orders() -> mpsc::Receiver<String> {
    let (sender, receiver) = mpsc::channel(16);
    std::thread::spawn(move || {
        for line in stdin().lines().map_while(Result::ok) {
            if sender.blocking_send(line).is_err() {
                break;
            }
        }
        std::process::exit(0);
    });
    receiver
}

/// A line for the coordinator.
pub(crate) fn answer(line: &str) -> Result {
    let mut out = stdout().lock();
    writeln!(out, "{line}")?;
    Ok(out.flush()?)
}
