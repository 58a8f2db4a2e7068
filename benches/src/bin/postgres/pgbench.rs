//! The same statement by pgbench, so that the raw limit is one.

use std::{path::Path, process::Stdio, time::Duration};

use backstory::BoxError;
use tokio::{io::AsyncWriteExt, process::Command};

use crate::raw::Content;

/// Transactions per second of a statement with the parameters number, payload and metadata, on an
/// empty table.
pub async fn run(
    programs: &Path,
    url: &str,
    statement: &str,
    connections: usize,
    duration: Duration,
    content: &Content,
) -> Result<f64, BoxError> {
    let program = programs.join("pgbench");
    if !program.is_file() {
        let program = program.display();
        return Err(format!(
            "{program} is missing: install pgbench (Debian: postgresql-contrib), or say --no-pgbench"
        )
        .into());
    }
    // Each client counts by itself; together their numbers grow as one sequence.
    let statement = statement
        .replace("$1", ":number")
        .replace("$2", ":payload")
        .replace("$3", ":metadata");
    let script = format!(
        "\\set turn :turn + 1\n\\set number :turn * {connections} + :client_id + 1\n{statement};\n"
    );
    let mut child = Command::new(program)
        .args([
            "--no-vacuum",
            "--protocol=prepared",
            "--file=-",
            "--define=turn=-1",
        ])
        .arg(format!("--define=payload={}", content.payload))
        .arg(format!("--define=metadata={}", content.metadata))
        .arg(format!("--client={connections}"))
        .arg(format!("--jobs={}", connections.min(2)))
        .arg(format!("--time={}", duration.as_secs().max(1)))
        .arg(url)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()?;
    let mut stdin = child.stdin.take().ok_or("pgbench has no stdin")?;
    stdin.write_all(script.as_bytes()).await?;
    drop(stdin);
    let output = child.wait_with_output().await?;
    let text = String::from_utf8_lossy(&output.stdout);
    let rate = text.lines().find_map(|line| line.strip_prefix("tps = "));
    let rate = rate.and_then(|rest| rest.split_whitespace().next()?.parse().ok());
    match rate.filter(|_| output.status.success()) {
        Some(rate) => Ok(rate),
        None => {
            let errors = String::from_utf8_lossy(&output.stderr);
            Err(format!("pgbench failed: {text}{errors}").into())
        }
    }
}
