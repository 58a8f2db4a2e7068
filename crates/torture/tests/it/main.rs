//! The short form of the torture, and what a subscriber says when the log under it is another one.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "helpers of tests are not in a test function"
)]

mod backup;
mod run;
