//! Does what was asked for.

use std::{
    error::Error,
    io::{self, Write},
};

use backstory_event::{StoreError, StoreErrorKind};
use backstory_store_postgres::{IndexChange, IndexInfo, Maintenance, PostgresStore, Verification};

use crate::{
    args::{Command, Database, Indexes},
    projections::projections,
};

pub(crate) type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// Gives the exit code.
pub(crate) async fn run(command: Command, out: &mut impl Write) -> Result<u8> {
    match command {
        Command::Verify { database, json } => {
            let mut maintenance = connect(&database).await?;
            let verification = maintenance.verify().await.map_err(|error| advise(&error))?;
            let _ = maintenance.close().await;
            report(&verification, json, out)?;
            Ok(u8::from(!verification.is_sound()))
        }
        Command::Ddl { schema } => print(out, &PostgresStore::ddl(&schema.schema)?),
        Command::Grants { role, schema } => {
            print(out, &PostgresStore::grants(&schema.schema, &role)?)
        }
        Command::Projections(command) => projections(command, out).await,
        Command::Indexes(command) => indexes(command, out).await,
    }
}

pub(crate) fn url(database: &Database) -> Result<&str> {
    let url = database.url.as_deref().filter(|url| !url.is_empty());
    url.ok_or_else(|| {
        "no database is named: give --url postgres://user:password@host:5432/name, or set \
         DATABASE_URL"
            .into()
    })
}

async fn connect(database: &Database) -> Result<Maintenance> {
    let connected = Maintenance::connect(url(database)?, &database.schema.schema).await;
    connected.map_err(|error| advise(&error).into())
}

fn report(verification: &Verification, json: bool, out: &mut impl Write) -> Result<()> {
    if !json {
        return Ok(writeln!(out, "{verification}")?);
    }
    let mut value = serde_json::to_value(verification)?;
    value["sound"] = verification.is_sound().into();
    for (index, finding) in verification.findings.iter().enumerate() {
        value["findings"][index]["meaning"] = finding.kind.meaning().into();
    }
    Ok(writeln!(out, "{value}")?)
}

async fn indexes(command: Indexes, out: &mut impl Write) -> Result<u8> {
    match command {
        Indexes::List { database } => {
            let mut maintenance = connect(&database).await?;
            let list = maintenance
                .indexes()
                .await
                .map_err(|error| advise(&error))?;
            for info in list {
                let IndexInfo {
                    index,
                    state,
                    bytes,
                    ..
                } = info;
                let (name, state, purpose) = (index.as_str(), state.to_string(), index.purpose());
                writeln!(out, "{name:<12} {state:<9} {bytes:>12} bytes  {purpose}")?;
            }
            Ok(0)
        }
        Indexes::Create { index, database } => {
            let mut maintenance = connect(&database).await?;
            let change = maintenance.create_index(index).await;
            let said = match change.map_err(|error| advise(&error))? {
                IndexChange::Created => "built",
                IndexChange::Rebuilt => "built; what an interrupted build had left was dropped",
                _ => "was there already",
            };
            print(out, &format!("{index}: {said}\n"))
        }
        Indexes::Drop { index, database } => {
            let mut maintenance = connect(&database).await?;
            let change = maintenance.drop_index(index).await;
            let said = match change.map_err(|error| advise(&error))? {
                IndexChange::Dropped => "dropped",
                _ => "was not there",
            };
            print(out, &format!("{index}: {said}\n"))
        }
    }
}

pub(crate) fn print(out: &mut impl Write, text: &str) -> Result<u8> {
    match out.write_all(text.as_bytes()) {
        // Whoever read it has read enough.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(0),
        written => Ok(written.map(|()| 0)?),
    }
}

/// The error, and what to do about it on a command line.
pub(crate) fn advise(error: &StoreError) -> String {
    let advice = match error.kind() {
        StoreErrorKind::Schema { .. } => {
            "name the schema with --schema, or make it with the statements of `backstory ddl`"
        }
        StoreErrorKind::Denied { .. } => {
            "check user and password; to read, a role needs USAGE on the schema and SELECT on its \
             tables; to build indexes, it owns them"
        }
        StoreErrorKind::Unavailable { .. } => {
            "check host and port, and that the server is running and accepts connections"
        }
        _ => return error.to_string(),
    };
    format!("{error}\nhint: {advice}")
}
