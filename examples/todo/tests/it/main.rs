//! The example from outside: real processes, real files, real databases. Only the domain and the
//! projection are tested inside.

#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test that fails panics, also in its helpers"
)]

mod api;
mod command_line;
mod crash;
mod demo;
mod domain;
mod live;
mod outage;
mod projection;
mod projections;
mod search;
mod servers;
mod support;
