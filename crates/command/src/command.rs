//! What is asked of an aggregate, and what it decides.

use backstory_event::Aggregate;

/// A request to one aggregate. Derive it, or write the same by hand:
///
/// ```
/// # use backstory_command::{Aggregate, Command};
/// # use backstory_event::Event;
/// # use serde::{Deserialize, Serialize};
/// # #[derive(Serialize, Deserialize, Event)]
/// # #[event(prefix = "todo", crate = "backstory_event")]
/// # enum TodoEvent { Added }
/// # #[derive(Default)] struct Todo;
/// # impl Aggregate for Todo {
/// #     const CATEGORY: &'static str = "todo";
/// #     type Id = u64;
/// #     type Event = TodoEvent;
/// #     fn apply(&mut self, _: &TodoEvent) {}
/// # }
/// #[derive(Command)]
/// #[command(name = "todo.add", aggregate = Todo, creates)]
/// # #[command(crate = "backstory_command")]
/// struct AddTodo {
///     id: u64,
///     title: String,
/// }
///
/// struct RemoveTodo(u64);
///
/// impl Command for RemoveTodo {
///     const NAME: &'static str = "todo.remove";
///     type Aggregate = Todo;
///     fn aggregate_id(&self) -> &u64 {
///         &self.0
///     }
/// }
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a command",
    label = "not a command",
    note = "add `#[derive(Command)]` and `#[command(name = \"…\", aggregate = …)]`"
)]
pub trait Command: Send + Sync + 'static {
    /// The stable name: `todo.add`.
    const NAME: &'static str;
    /// Who decides. It needs `impl Handle<Self>`.
    type Aggregate: Aggregate;
    /// Whether the aggregate is probably not there yet: `false`. A command that creates is first decided
    /// by a new aggregate, without loading one, which saves a round trip; only when that does not
    /// lead to stored events, the aggregate is loaded and decides. What comes out is the same. A bus
    /// finds out by itself which commands create, after some of them; this tells it beforehand.
    const CREATES: bool = false;

    /// The id of the aggregate that decides.
    fn aggregate_id(&self) -> &<Self::Aggregate as Aggregate>::Id;
}

/// An aggregate's decision about a command: pure, without store and clock.
///
/// It may run several times for one command, each time on a freshly loaded state, until what it
/// decided is stored.
#[diagnostic::on_unimplemented(
    message = "aggregate `{Self}` does not handle command `{C}`",
    label = "no handler for `{C}`",
    note = "add `impl Handle<{C}> for {Self}`"
)]
pub trait Handle<C: Command>: Aggregate {
    /// Why it says no.
    type Error: Reject;

    /// The events that the command causes; none when there is nothing to do, which is success.
    ///
    /// # Errors
    /// When the state does not allow it. Nothing is stored.
    fn handle(&self, command: &C) -> Result<Vec<Self::Event>, Self::Error>;
}

/// Why an aggregate says no: an error with a stable code for callers in other programs.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a rejection",
    label = "has no stable code",
    note = "add `#[derive(Reject)]` and `#[reject(prefix = \"…\")]` beside `thiserror::Error`"
)]
pub trait Reject: std::error::Error + Send + Sync + 'static {
    /// The stable code: `todo.already_added`. It must never change.
    fn code(&self) -> &str;
}
