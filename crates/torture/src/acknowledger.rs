//! The process that keeps the journal: nobody goes on before his line is on the disk.

use std::{
    fs::File,
    io::{self, Write},
};

use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::{UnixListener, UnixStream},
    sync::{mpsc, oneshot},
    task::{JoinSet, spawn_blocking},
};

use crate::{
    Result,
    args::AcknowledgerArgs,
    orders::{answer, orders},
};

struct Entry {
    line: String,
    written: oneshot::Sender<()>,
}

/// Serves until stdin ends.
pub(crate) async fn run(args: &AcknowledgerArgs) -> Result {
    let mut orders = orders();
    let file = File::options()
        .create_new(true)
        .append(true)
        .open(&args.journal)?;
    let listener = UnixListener::bind(&args.socket)?;
    let (entries, receiver) = mpsc::channel(1_024);
    let mut disk = spawn_blocking(move || write(file, receiver));
    let mut writers = JoinSet::new();
    answer("ready")?;
    loop {
        tokio::select! {
            stream = listener.accept() => {
                writers.spawn(serve(stream?.0, entries.clone()));
            }
            // A writer that was killed breaks its connection.
            Some(_) = writers.join_next() => {}
            ended = &mut disk => return Ok(ended??),
            None = orders.recv() => return Ok(()),
        }
    }
}

async fn serve(mut stream: UnixStream, entries: mpsc::Sender<Entry>) -> Result {
    let (reader, mut writer) = stream.split();
    let mut reader = BufReader::new(reader);
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).await?;
        if !line.ends_with('\n') {
            return Ok(()); // its end, or torn by the kill of its writer
        }
        let (written, done) = oneshot::channel();
        entries.send(Entry { line, written }).await?;
        done.await?;
        writer.write_u8(b'\n').await?;
    }
}

/// Writes what waits and syncs once for all of it.
fn write(mut file: File, mut entries: mpsc::Receiver<Entry>) -> io::Result<()> {
    let (mut bytes, mut waiting) = (Vec::new(), Vec::new());
    while let Some(first) = entries.blocking_recv() {
        let mut next = Some(first);
        while let Some(entry) = next {
            bytes.extend_from_slice(entry.line.as_bytes());
            waiting.push(entry.written);
            next = entries.try_recv().ok();
        }
        file.write_all(&bytes)?;
        file.sync_data()?;
        bytes.clear();
        for written in waiting.drain(..) {
            let _ = written.send(()); // its writer may have been killed
        }
    }
    Ok(())
}
