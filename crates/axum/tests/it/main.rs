//! Real servers, asked over HTTP.

#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test may fail"
)]

mod cookies;
mod kit;
mod malformed;
mod replicas;
mod stale;
mod tower;
