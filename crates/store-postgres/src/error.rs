//! What the database says, as typed errors: decided by SQLSTATE, never by the text of a message.

use backstory_event::{StoreError, StoreErrorKind};
use sqlx::{
    Error,
    postgres::{PgDatabaseError, PgSeverity},
};

/// The SQLSTATE of a database error.
pub(crate) fn sqlstate(error: &Error) -> Option<&str> {
    postgres(error).map(PgDatabaseError::code)
}

fn postgres(error: &Error) -> Option<&PgDatabaseError> {
    error
        .as_database_error()?
        .try_downcast_ref::<PgDatabaseError>()
}

/// True when the server ended or never had the connection, so that it cannot be used again.
pub(crate) fn breaks_connection(error: &Error) -> bool {
    match error {
        // Poolers end connections by errors of class 08 without saying that they are fatal.
        Error::Database(_) => postgres(error).is_none_or(|error| {
            error.code().starts_with("08")
                || matches!(error.severity(), PgSeverity::Fatal | PgSeverity::Panic)
        }),
        Error::ColumnDecode { .. } | Error::Decode(_) | Error::RowNotFound => false,
        _ => true,
    }
}

/// What to do about a statement that failed with this SQLSTATE.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Class {
    /// It may pass later.
    Transient,
    /// One of the values is the cause.
    Data,
    /// Nothing will pass until somebody changes something.
    Lasting,
}

pub(crate) fn class(error: &Error) -> Class {
    let Some(code) = sqlstate(error) else {
        return match error {
            Error::Io(_) | Error::PoolTimedOut | Error::Protocol(_) => Class::Transient,
            _ => Class::Lasting,
        };
    };
    class_of(code)
}

fn class_of(code: &str) -> Class {
    match (code, &code[..code.len().min(2)]) {
        ("53100", _) => Class::Lasting,
        // The server has ended a transaction that was idle, or open, for too long: we were frozen.
        ("25P03" | "25P04", _) => Class::Transient,
        (_, "08" | "40" | "53" | "55" | "57" | "58") => Class::Transient,
        (_, "22" | "23" | "54") => Class::Data,
        _ => Class::Lasting,
    }
}

/// True when an error is or holds one that says that the server cannot be used now, whatever is
/// done with it. A statement that takes longer than it may is none of these.
pub(crate) fn is_outage(error: &(dyn std::error::Error + 'static)) -> bool {
    let causes = std::iter::successors(Some(error), |error| error.source());
    let mut failures = causes.filter_map(|error| error.downcast_ref::<Error>());
    failures.any(|error| match (error, sqlstate(error)) {
        (_, Some("57014")) => false,
        (Error::PoolClosed | Error::WorkerCrashed, _) | (_, Some("53100" | "25006")) => true,
        _ => class(error) == Class::Transient,
    })
}

/// The error that a caller gets.
pub(crate) fn store_error(error: Error) -> StoreError {
    StoreError::new(kind(&error)).with_source(error)
}

/// The same without its source, for several callers.
pub(crate) fn kind(error: &Error) -> StoreErrorKind {
    if let Some(error) = postgres(error) {
        return database_kind(error);
    }
    match error {
        Error::Configuration(_) | Error::InvalidArgument(_) => StoreErrorKind::Config {
            reason: "it is no Postgres URL; write postgres://user:password@host:5432/database"
                .to_owned(),
        },
        Error::Tls(_) => StoreErrorKind::Config {
            reason: "no encrypted connection: check `sslmode` and the server's certificate; the \
                     package needs its feature `tls`"
                .to_owned(),
        },
        Error::Io(error) => StoreErrorKind::Unavailable {
            reason: format!("the server cannot be reached ({})", error.kind()),
        },
        Error::PoolTimedOut => StoreErrorKind::Unavailable {
            reason: "no connection came free in time: the server is away, or the pool is too small"
                .to_owned(),
        },
        Error::PoolClosed | Error::WorkerCrashed => StoreErrorKind::Closed,
        Error::Protocol(_) => StoreErrorKind::Unavailable {
            reason: "the connection broke".to_owned(),
        },
        Error::ColumnDecode { index, .. } => StoreErrorKind::Corrupt {
            reason: format!("column {index} holds something else than expected"),
        },
        _ => StoreErrorKind::Database {
            reason: "an answer could not be read".to_owned(),
        },
    }
}

fn database_kind(error: &PgDatabaseError) -> StoreErrorKind {
    let code = error.code();
    // Messages of these classes quote values.
    let reason = match &code[..code.len().min(2)] {
        "22" | "23" | "54" => match error.constraint().or(error.table()) {
            Some(name) => format!("SQLSTATE {code} at `{name}`"),
            None => format!("SQLSTATE {code}"),
        },
        _ => format!("{} (SQLSTATE {code})", error.message()),
    };
    match (code, &code[..code.len().min(2)]) {
        ("23505", _) => StoreErrorKind::Corrupt {
            reason: format!("{reason}: a row stands where the log says that there is none"),
        },
        (_, "28") | ("42501", _) => StoreErrorKind::Denied { reason },
        ("3D000", _) => StoreErrorKind::Config { reason },
        ("25006", _) => StoreErrorKind::NotWritable {
            reason: format!("{reason}: connect to the primary"),
        },
        ("53100", _) => StoreErrorKind::NotWritable {
            reason: format!("{reason}: make room on the server's disk"),
        },
        ("3F000" | "42P01" | "42883" | "42703", _) => StoreErrorKind::Schema {
            reason: format!("{reason}: apply the migrations"),
        },
        _ if class_of(code) == Class::Transient => StoreErrorKind::Unavailable { reason },
        _ => StoreErrorKind::Database { reason },
    }
}

/// Something did not answer in time.
pub(crate) fn timed_out(what: &str) -> Error {
    Error::Io(std::io::Error::new(
        std::io::ErrorKind::TimedOut,
        what.to_owned(),
    ))
}
