//! What a subscriber was given: position and id of each event, appended to a file. Its last
//! complete record is the subscriber's checkpoint.

use std::{
    fs::File,
    io::{BufReader, ErrorKind, Read, Seek, SeekFrom, Write},
    path::Path,
};

use backstory_event::{Checkpoint, EventId, Position};
use uuid::Uuid;

use crate::Result;

const RECORD: usize = 24;

/// The file, open for more.
#[derive(Debug)]
pub(crate) struct Records {
    file: File,
    last: Checkpoint,
}

impl Records {
    /// Opens the file; a record torn by a kill is taken away.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let mut file = File::options()
            .create(true)
            .read(true)
            .append(true)
            .open(path)?;
        let length = file.metadata()?.len();
        let whole = length - length % RECORD as u64;
        file.set_len(whole)?;
        let mut last = Checkpoint::START;
        if whole > 0 {
            file.seek(SeekFrom::Start(whole - RECORD as u64))?;
            let mut record = [0; RECORD];
            file.read_exact(&mut record)?;
            last = decode(&record);
        }
        Ok(Self { file, last })
    }

    /// The last record.
    pub(crate) fn checkpoint(&self) -> Checkpoint {
        self.last
    }

    /// Adds records; they are on the disk when this returns.
    pub(crate) fn append(&mut self, events: impl IntoIterator<Item = Checkpoint>) -> Result {
        let mut bytes = Vec::new();
        for event in events {
            bytes.extend_from_slice(&event.position.get().to_be_bytes());
            bytes.extend_from_slice(event.event_id.as_uuid().as_bytes());
            self.last = event;
        }
        self.file.write_all(&bytes)?;
        Ok(self.file.sync_data()?)
    }
}

/// All complete records of a file, in its order.
pub(crate) fn read(path: &Path) -> Result<impl Iterator<Item = Result<Checkpoint>>> {
    let mut file = BufReader::with_capacity(1 << 20, File::open(path)?);
    Ok(std::iter::from_fn(move || {
        let mut record = [0; RECORD];
        match file.read_exact(&mut record) {
            Ok(()) => Some(Ok(decode(&record))),
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => None,
            Err(error) => Some(Err(error.into())),
        }
    }))
}

fn decode(record: &[u8; RECORD]) -> Checkpoint {
    let (position, id) = record.split_at(8);
    Checkpoint {
        position: Position::new(i64::from_be_bytes(position.try_into().unwrap_or_default())),
        event_id: EventId::from_uuid(Uuid::from_bytes(id.try_into().unwrap_or_default())),
    }
}
