//! One suite that every Backstory store and bus must pass, and saboteurs that must fail it.
//!
//! A store's test binary names a function that makes a [`Fixture`] and calls the suites:
//!
//! ```text
//! mod event_store {
//!     backstory_conformance::event_store_suite!(crate::fixture());
//! }
//! ```
//!
//! Each case becomes one test with a fixture, and so a store, of its own. With a function that
//! makes [`Dyn`] fixtures the same cases run through `Arc<dyn …>`. `SABOTEURS.md` beside this
//! crate's manifest says which case notices which broken promise.

#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "test code: each case's name says what it asserts"
)]

pub mod bus;
pub mod commands;
pub mod documents;
pub mod event_store;
mod fixture;
pub mod kit;
pub mod letters;
pub mod live;
pub mod lookups;
pub mod projector;
pub mod properties;
pub mod repository;
pub mod saboteur;
pub mod seats;
pub mod snapshots;
pub mod subscription;

pub use fixture::{CompleteStore, Dyn, Fixture};
