//! What SQLite's result codes mean for a caller. Message texts decide nothing.

use std::path::Path;

use backstory_event::{StoreError, StoreErrorKind};

// Primary result codes of SQLite.
const PERM: i32 = 3;
const BUSY: i32 = 5;
const LOCKED: i32 = 6;
const NOMEM: i32 = 7;
const READONLY: i32 = 8;
const IOERR: i32 = 10;
const CORRUPT: i32 = 11;
const FULL: i32 = 13;
const CANTOPEN: i32 = 14;
const PROTOCOL: i32 = 15;
const AUTH: i32 = 23;
const NOTADB: i32 = 26;

/// The extended result code, if SQLite answered.
fn code(error: &sqlx::Error) -> Option<i32> {
    error.as_database_error()?.code()?.parse().ok()
}

fn primary(error: &sqlx::Error) -> Option<i32> {
    code(error).map(|code| code & 0xff)
}

/// True when another connection holds the lock.
pub(crate) fn is_busy(error: &sqlx::Error) -> bool {
    matches!(primary(error), Some(BUSY | LOCKED | PROTOCOL))
}

/// True when an error is or holds one that says that the file cannot be used now, whatever is done
/// with it: it is locked, its disk fails or is full.
pub(crate) fn is_outage(error: &(dyn std::error::Error + 'static)) -> bool {
    let causes = std::iter::successors(Some(error), |error| error.source());
    let mut failures = causes.filter_map(|error| error.downcast_ref::<sqlx::Error>());
    failures.any(|error| match error {
        sqlx::Error::Io(_) | sqlx::Error::WorkerCrashed | sqlx::Error::PoolTimedOut => true,
        error => matches!(
            primary(error),
            Some(BUSY | LOCKED | PROTOCOL | NOMEM | READONLY | IOERR | FULL | CANTOPEN)
        ),
    })
}

/// True when a COMMIT that failed so may have reached the disk all the same: its last page was
/// written and only the confirmation is missing.
pub(crate) fn is_uncertain(error: &sqlx::Error) -> bool {
    matches!(primary(error), Some(IOERR) | None)
}

/// An error on its way to a place that knows the file.
#[derive(Debug)]
pub(crate) enum Failure {
    /// SQLite or sqlx failed.
    Sqlite(sqlx::Error),
    /// It is clear already what it means.
    Known(StoreError),
}

impl Failure {
    /// What it means for the caller.
    pub(crate) fn at(self, path: &Path) -> StoreError {
        match self {
            Self::Sqlite(error) => store_error(path, error),
            Self::Known(error) => error,
        }
    }
}

impl From<sqlx::Error> for Failure {
    fn from(error: sqlx::Error) -> Self {
        Self::Sqlite(error)
    }
}

impl From<StoreErrorKind> for Failure {
    fn from(kind: StoreErrorKind) -> Self {
        Self::Known(StoreError::new(kind))
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        Self::Known(error)
    }
}

/// A stored value that is not what this crate writes there.
pub(crate) fn corrupt(what: impl std::fmt::Display) -> Failure {
    let reason = format!("{what}: restore a backup");
    StoreErrorKind::Corrupt { reason }.into()
}

/// Says what happened to a database file and what to do.
pub(crate) fn store_error(path: &Path, error: sqlx::Error) -> StoreError {
    StoreError::new(kind(path, &error)).with_source(error)
}

fn kind(path: &Path, error: &sqlx::Error) -> StoreErrorKind {
    let file = path.display();
    match error {
        sqlx::Error::PoolClosed => return StoreErrorKind::Closed,
        sqlx::Error::PoolTimedOut => {
            return StoreErrorKind::Unavailable {
                reason: format!("all reading connections to {file} were busy until the deadline"),
            };
        }
        sqlx::Error::WorkerCrashed | sqlx::Error::Io(_) => {
            return StoreErrorKind::Unavailable {
                reason: format!("the connection to {file} broke: try again"),
            };
        }
        sqlx::Error::ColumnDecode { .. } | sqlx::Error::Decode(_) => {
            return StoreErrorKind::Corrupt {
                reason: format!("a row of {file} holds a value of another type"),
            };
        }
        _ => {}
    }
    let Some(code) = code(error) else {
        return StoreErrorKind::Database {
            reason: format!("a statement for {file} failed without a result code"),
        };
    };
    match code & 0xff {
        BUSY | LOCKED | PROTOCOL => busy(path),
        NOMEM => StoreErrorKind::Unavailable {
            reason: format!("not enough memory to work with {file}"),
        },
        IOERR => StoreErrorKind::Unavailable {
            reason: format!("the disk failed at {file} (SQLite code {code}): check it"),
        },
        READONLY => StoreErrorKind::NotWritable {
            reason: format!(
                "{file}, a file beside it (-wal, -shm) or their directory is read-only: give this \
                 user the right to write to all of them (SQLite code {code})"
            ),
        },
        FULL => StoreErrorKind::NotWritable {
            reason: format!("no room is left for {file}: free some and try again"),
        },
        CANTOPEN => cannot_open(path, code),
        PERM | AUTH => StoreErrorKind::Denied {
            reason: format!("access to {file} is denied: check its owner and rights"),
        },
        CORRUPT => StoreErrorKind::Corrupt {
            reason: format!("{file} is damaged (SQLite code {code}): restore a backup"),
        },
        NOTADB => StoreErrorKind::Corrupt {
            reason: format!(
                "{file} is no SQLite database, or it is encrypted or damaged: \
                 name another file or restore a backup"
            ),
        },
        _ => StoreErrorKind::Database {
            reason: format!("a statement for {file} failed with SQLite code {code}"),
        },
    }
}

/// Another connection holds the write lock.
pub(crate) fn busy(path: &Path) -> StoreErrorKind {
    StoreErrorKind::Unavailable {
        reason: format!(
            "another transaction holds the write lock of {}: end it or try again",
            path.display()
        ),
    }
}

/// SQLite has one code for a file that cannot be opened, whatever the reason.
fn cannot_open(path: &Path, code: i32) -> StoreErrorKind {
    let file = path.display();
    let directory = path
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty());
    match directory {
        Some(directory) if !directory.is_dir() => StoreErrorKind::Config {
            reason: format!(
                "{file} cannot be created, there is no directory {}: create it or name another file",
                directory.display()
            ),
        },
        _ if path.is_dir() => StoreErrorKind::Config {
            reason: format!("{file} is a directory: name a file"),
        },
        _ => StoreErrorKind::NotWritable {
            reason: format!(
                "{file} cannot be opened or created: give this user the right to write to it and \
                 to its directory (SQLite code {code})"
            ),
        },
    }
}
