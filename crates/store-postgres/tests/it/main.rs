//! The conformance suites on Postgres, and what only a server can show.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a broken set-up fails the test"
)]

mod alone;
mod batches;
mod conditions;
mod conformance;
mod crash;
mod edge;
mod failures;
mod growth;
mod health;
#[cfg(target_os = "linux")]
mod idle;
mod import;
mod indexes;
mod inline;
mod jobs;
mod jump;
mod kit;
mod loads;
mod owners;
mod pages;
mod plans;
mod pooler;
mod projections;
mod rebuild;
mod recent;
mod replica;
mod schema;
mod tail;
mod takeover;
mod transient;
mod upgrade;
mod values;
mod verify;
mod within;
