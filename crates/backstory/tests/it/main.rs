//! What holds for the project as a whole.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "test code"
)]

mod arrows;
mod bus;
mod lookups;
mod readme;
mod runtime;
mod urls;
