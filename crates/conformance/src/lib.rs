//! One suite that every Backstory store and bus must pass, and saboteurs that must fail it.
//!
//! A store's test binary names a function that makes a [`Fixture`] and calls the suites:
//!
//! ```text
//! mod event_store {
//!     backstory_conformance::event_store_suite!(super::fixture());
//! }
//! ```

#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "test code: each case's name says what it asserts"
)]

pub mod commands;
pub mod bus;
pub mod documents;
pub mod event_store;
mod fixture;
pub mod kit;
pub mod properties;
pub mod projector;
pub mod repository;
pub mod saboteur;
pub mod seats;
pub mod subscription;
pub mod snapshots;

pub use fixture::{CompleteStore, Dyn, Fixture};
