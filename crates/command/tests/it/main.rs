//! Tests of the crate as users see it.

#![allow(
    clippy::unwrap_used,
    reason = "test code: what is unwrapped must be there"
)]

mod by_hand;
mod domain;
mod given;
mod messages;
