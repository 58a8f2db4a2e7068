//! The demo: tasks of a list of its own, through the command bus and back from the read model.

use std::io::{self, Write};

use uuid::Uuid;

use crate::{
    app::{TodoError, Todos},
    read_model::{self, Counters},
};

/// What the demo does to its task number `n`, counted from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Remove,
    Complete,
    Keep,
}

/// The odd ones are removed; of the others, every fourth task from the sixth on is done.
fn fate(n: u32) -> Fate {
    match n {
        n if n % 2 == 1 => Fate::Remove,
        n if n >= 6 && n % 4 == 2 => Fate::Complete,
        _ => Fate::Keep,
    }
}

/// Opens a list, adds so many tasks to it, removes and completes some, and says what has become of
/// them. May run any number of times on the same data.
///
/// # Errors
/// When the store is away or the read model fails.
pub async fn demo(todos: &Todos, tasks: u32, out: &mut impl Write) -> Result<(), DemoError> {
    let name = Uuid::new_v4().simple().to_string();
    let (list, _) = todos.open_list(&format!("Demo {}", &name[..12])).await?;
    for n in 1..=tasks {
        let (task, _) = todos.add_task(list, &format!("task {n}")).await?;
        let fate = fate(n);
        match fate {
            Fate::Remove => drop(todos.remove_task(task).await?),
            Fate::Complete => drop(todos.complete_task(task).await?),
            Fate::Keep => {}
        }
        let what = match fate {
            Fate::Remove => "added and removed",
            Fate::Complete => "added and done",
            Fate::Keep => "added",
        };
        writeln!(out, "task {n:>3} {what}")?;
    }
    todos.catch_up().await.map_err(TodoError::from)?;
    let list = read_model::list(todos.store(), list)
        .await
        .map_err(TodoError::from)?;
    let Counters {
        active,
        done,
        removed,
    } = list.map(|list| list.counters).unwrap_or_default();
    writeln!(out, "active {active}, removed {removed}, archived {done}")?;
    Ok(())
}

/// Why the demo did not end.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DemoError {
    /// The application failed.
    #[error(transparent)]
    Todo(#[from] TodoError),
    /// The output cannot be written.
    #[error(transparent)]
    Output(#[from] io::Error),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_ten_tasks_the_odd_ones_are_removed_and_two_are_done() {
        let of = |wanted| (1..=10).filter(|n| fate(*n) == wanted).collect::<Vec<_>>();
        assert_eq!(of(Fate::Remove), [1, 3, 5, 7, 9]);
        assert_eq!(of(Fate::Complete), [6, 10]);
        assert_eq!(of(Fate::Keep), [2, 4, 8]);
    }
}
