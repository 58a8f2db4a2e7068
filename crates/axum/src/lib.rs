//! Reading one's own writes over HTTP, on any replica.
//!
//! A change is answered with a receipt. The next request brings it back, and [`ReceiptLayer`] lets
//! it wait until the read models of the replica that it happened to come to contain the change.
//!
//! ```no_run
//! use std::{sync::Arc, time::Duration};
//!
//! use axum::{Router, response::IntoResponse, routing::get};
//! use backstory_axum::{Receipt, ReceiptCookie, ReceiptLayer, Stale};
//! # use backstory_event::{Appended, Checkpoint};
//! # use backstory_projection::RunningProjector;
//! # async fn add_task() -> Appended { Appended::nothing(Checkpoint::START) }
//!
//! async fn add() -> impl IntoResponse {
//!     let receipt = add_task().await;
//!     (Receipt::from(&receipt), "added")
//! }
//!
//! async fn list() -> &'static str {
//!     "what includes the task"
//! }
//!
//! fn router(projector: Arc<RunningProjector>) -> Router {
//!     let receipts = ReceiptLayer::new(projector)
//!         .with_deadline(Duration::from_secs(1))
//!         .with_stale(Stale::Refuse)
//!         .with_cookie(ReceiptCookie::default());
//!     Router::new().route("/tasks", get(list).post(add)).layer(receipts)
//! }
//! ```
//!
//! The receipt travels in the header [`RECEIPT`], and with [`ReceiptLayer::with_cookie`] in a
//! cookie, so that browsers need no code. It holds a position and the id of the event there, which
//! is no secret, and whoever forges one can wait until the deadline, and end a debounce.
//!
//! | request | answer |
//! |---|---|
//! | reads with a receipt that the read models contain | the handler's |
//! | … that they do not contain in time | the handler's, with the header [`STALE`]; with [`Stale::Refuse`] 503 and `Retry-After`, or 409 for a receipt of another log |
//! | whose receipt is none | 400, and the cookie is taken back |
//!
//! The layer is one of tower: it works with every service whose bodies are made of text.
//!
//! # Tracing
//! | name | kind | fields |
//! |---|---|---|
//! | "a read model does not contain a receipt" | event, debug | `error` |

mod cookie;
mod layer;
mod problem;
mod receipt;
mod service;

pub use cookie::ReceiptCookie;
pub use layer::{ReceiptLayer, Stale};
pub use receipt::{RECEIPT, Receipt, STALE};
pub use service::ReceiptService;
