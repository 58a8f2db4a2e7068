//! Given events, when a command comes, then these events: tests without store and runtime.

#![allow(
    clippy::panic,
    reason = "a failed expectation of a test is a panic at the test's line"
)]

use std::fmt::Debug;

use backstory_event::{Aggregate, Decoded, Event, NewEvent};

use crate::{Command, Handle, Reject};

/// Begins with an aggregate to which these events have happened.
///
/// Each event, given or decided, goes through its stored form; one that comes back changed fails
/// the test.
///
/// ```
/// # use backstory_command::{Aggregate, Command, Handle, Reject, given};
/// # use backstory_event::Event;
/// # use serde::{Deserialize, Serialize};
/// # #[derive(Debug, PartialEq, Serialize, Deserialize, Event)]
/// # #[event(prefix = "todo", crate = "backstory_event")]
/// # enum TodoEvent { Added }
/// # #[derive(Default)] struct Todo(bool);
/// # impl Aggregate for Todo {
/// #     const CATEGORY: &'static str = "todo";
/// #     type Id = u64;
/// #     type Event = TodoEvent;
/// #     fn apply(&mut self, _: &TodoEvent) { self.0 = true; }
/// # }
/// # #[derive(Command)]
/// # #[command(name = "todo.add", aggregate = Todo, crate = "backstory_command")]
/// # struct AddTodo { id: u64 }
/// # #[derive(Debug, PartialEq, thiserror::Error, Reject)]
/// # #[reject(prefix = "todo", crate = "backstory_command")]
/// # enum TodoError { #[error("added before")] AlreadyAdded }
/// # impl Handle<AddTodo> for Todo {
/// #     type Error = TodoError;
/// #     fn handle(&self, _: &AddTodo) -> Result<Vec<TodoEvent>, TodoError> {
/// #         if self.0 { Err(TodoError::AlreadyAdded) } else { Ok(vec![TodoEvent::Added]) }
/// #     }
/// # }
/// given::<Todo>([])
///     .when(AddTodo { id: 7 })
///     .then([TodoEvent::Added])
///     .when(AddTodo { id: 7 })
///     .then_error(TodoError::AlreadyAdded);
/// ```
///
/// # Panics
/// When an event does not come back equal from its stored form.
#[track_caller]
pub fn given<A: Aggregate>(events: impl IntoIterator<Item = A::Event>) -> Given<A>
where
    A::Event: Debug + PartialEq,
{
    let mut state = A::default();
    for event in events {
        state.apply(&stored(event));
    }
    Given { state }
}

/// An aggregate before a command.
#[derive(Debug)]
pub struct Given<A> {
    state: A,
}

impl<A: Aggregate> Given<A> {
    /// The state.
    pub fn state(&self) -> &A {
        &self.state
    }

    /// Lets the aggregate decide.
    pub fn when<C>(self, command: C) -> Then<A, <A as Handle<C>>::Error>
    where
        C: Command,
        A: Handle<C>,
    {
        let decision = self.state.handle(&command);
        Then {
            state: self.state,
            decision,
        }
    }
}

/// An aggregate and what it decided.
#[derive(Debug)]
#[must_use = "say what is expected: `then`, `then_nothing` or `then_error`"]
pub struct Then<A: Aggregate, R> {
    state: A,
    decision: Result<Vec<A::Event>, R>,
}

impl<A: Aggregate, R: Reject> Then<A, R>
where
    A::Event: Debug + PartialEq,
{
    /// Expects exactly these events, in this order. The story may go on from there.
    ///
    /// # Panics
    /// With the differences, when the decision was another one, or when an event does not come
    /// back equal from its stored form.
    #[track_caller]
    pub fn then(mut self, expected: impl IntoIterator<Item = A::Event>) -> Given<A> {
        let expected: Vec<A::Event> = expected.into_iter().collect();
        match self.decision {
            Err(rejection) => panic!(
                "these events were expected:\n{expected:#?}\nbut the command was rejected with `{}`: {rejection}",
                rejection.code()
            ),
            Ok(events) => {
                if events != expected {
                    panic!(
                        "other events than expected (- expected, + decided):\n{}",
                        diff(&format!("{expected:#?}"), &format!("{events:#?}"))
                    );
                }
                for event in events {
                    self.state.apply(&stored(event));
                }
            }
        }
        Given { state: self.state }
    }

    /// Expects that there is nothing to do.
    ///
    /// # Panics
    /// When there were events or a rejection.
    #[track_caller]
    pub fn then_nothing(self) -> Given<A> {
        self.then([])
    }

    /// Expects this rejection.
    ///
    /// # Panics
    /// With the differences, when the decision was another one.
    #[track_caller]
    pub fn then_error(self, expected: R) -> Given<A>
    where
        R: PartialEq,
    {
        match self.decision {
            Ok(events) => panic!(
                "the rejection `{}` was expected:\n{expected:#?}\nbut these events were decided:\n{events:#?}",
                expected.code()
            ),
            Err(rejection) => {
                if rejection != expected {
                    panic!(
                        "another rejection than expected (- expected, + decided):\n{}",
                        diff(&format!("{expected:#?}"), &format!("{rejection:#?}"))
                    );
                }
            }
        }
        Given { state: self.state }
    }
}

/// The event as it comes back from a store.
#[track_caller]
fn stored<E: Event + Debug + PartialEq>(event: E) -> E {
    let new = match NewEvent::of(&event) {
        Ok(new) => new,
        Err(invalid) => panic!("the event cannot be stored: {invalid}\n{event:#?}"),
    };
    let form = format!("`{}` v{} {}", new.name, new.version, new.payload.as_str());
    match E::decode_stored(&new.name, new.version, &new.payload) {
        Ok(Decoded::One(back)) if back == event => back,
        Ok(Decoded::One(back)) => panic!(
            "the event changes when it is stored as {form} (- before, + after):\n{}",
            diff(&format!("{event:#?}"), &format!("{back:#?}"))
        ),
        Ok(Decoded::Unknown) => {
            panic!("the event's own type does not know what it is stored as: {form}\n{event:#?}")
        }
        Ok(Decoded::Parts(parts)) => panic!(
            "an upcaster turns the event, stored as {form}, into {} events",
            parts.len()
        ),
        Err(reason) => panic!("the event does not decode from {form}: {reason}\n{event:#?}"),
    }
}

/// Both texts line by line: common lines once, the others marked.
fn diff(expected: &str, actual: &str) -> String {
    let (old, new): (Vec<_>, Vec<_>) = (expected.lines().collect(), actual.lines().collect());
    // common[i][j]: how many lines the rests from i and j have in common at most, in order.
    let mut common = vec![vec![0_usize; new.len() + 1]; old.len() + 1];
    for i in (0..old.len()).rev() {
        for j in (0..new.len()).rev() {
            common[i][j] = if old[i] == new[j] {
                common[i + 1][j + 1] + 1
            } else {
                common[i + 1][j].max(common[i][j + 1])
            };
        }
    }
    let (mut i, mut j, mut lines) = (0, 0, Vec::new());
    while i < old.len() || j < new.len() {
        if i < old.len() && j < new.len() && old[i] == new[j] {
            lines.push(format!("  {}", old[i]));
            i += 1;
            j += 1;
        } else if j == new.len() || (i < old.len() && common[i + 1][j] >= common[i][j + 1]) {
            lines.push(format!("- {}", old[i]));
            i += 1;
        } else {
            lines.push(format!("+ {}", new[j]));
            j += 1;
        }
    }
    lines.join("\n")
}
