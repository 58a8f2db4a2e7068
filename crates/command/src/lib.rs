//! Commands, pure handlers and the bus that runs them.
//!
//! A [`Command`] names its aggregate; the aggregate decides in [`Handle`]; a [`CommandBus`] loads
//! it, stores what it decided, and decides again when another writer was first. There is nothing
//! to register: a missing handler does not compile.

mod bus;
mod command;
mod context;
mod error;
#[cfg(feature = "test-util")]
mod given;
mod streak;
mod taken;

pub use backstory_aggregate::{Aggregate, RepositoryOptions};
#[cfg(feature = "macros")]
pub use backstory_macros::{Command, Reject};
pub use bus::CommandBus;
pub use command::{Command, Handle, Reject};
pub use context::CommandContext;
pub use error::{CommandError, CommandErrorKind};
#[cfg(feature = "test-util")]
pub use given::{Given, Then, given};
pub use taken::Taken;
