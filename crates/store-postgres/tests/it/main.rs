//! The conformance suites on Postgres, and what only a server can show.

mod conformance;
mod crash;
mod kit;
mod plans;
mod projections;
mod schema;
mod tail;
mod within;
