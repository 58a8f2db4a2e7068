//! Throwaway Postgres databases for tests, from the server binaries installed on this machine.
//!
//! [`TestDatabase::create`] gives a test its own fresh database. All tests of a process share one throwaway cluster,
//! which is removed with the process, also when it is killed. A test that wants to stop or kill its server takes a
//! [`TestCluster`] of its own.
//!
//! With `TEST_DATABASE_URL` set, databases are made on that server instead; its user needs the right to create them.
//! Otherwise server binaries are taken from the first of: the folder `PG_BIN`, `pg_config --bindir`, the newest
//! `/usr/lib/postgresql/*/bin`, `PATH`. [`TestPooler`] is a PgBouncer in front of a cluster; its program is `PGBOUNCER`, or
//! the first in `PATH` and the usual folders. Nothing is ever skipped: whatever is missing panics with what to do about it.

#![allow(
    clippy::panic,
    reason = "a broken set-up must fail the test that asked for it"
)]

mod binaries;
mod cluster;
mod database;
mod pooler;
mod supervisor;

pub use cluster::TestCluster;
pub use database::TestDatabase;
pub use pooler::TestPooler;
