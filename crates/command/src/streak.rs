//! Which commands probably find no aggregate, learned from those that ran.

use std::{
    any::TypeId,
    collections::HashMap,
    sync::{
        Arc, PoisonError, RwLock,
        atomic::{AtomicU8, Ordering::Relaxed},
    },
};

use crate::Command;

/// How many aggregates in a row were new to the commands of one type.
#[derive(Debug, Default)]
pub(crate) struct Streak(AtomicU8);

impl Streak {
    /// So many in a row, and the next one is probably new, too. A wrong guess costs a round trip
    /// more, a right one saves one.
    const LONG: u8 = 32;

    pub(crate) fn is_long(&self) -> bool {
        self.0.load(Relaxed) >= Self::LONG
    }

    /// Takes in what a decision was made on. Of two at the same time one may be forgotten.
    pub(crate) fn saw(&self, is_new: bool) {
        let length = match is_new {
            true => self.0.load(Relaxed).saturating_add(1),
            false => 0,
        };
        self.0.store(length, Relaxed);
    }
}

/// One for each type of command, shared by the clones of a bus.
#[derive(Debug, Default, Clone)]
pub(crate) struct Streaks(Arc<RwLock<HashMap<TypeId, Arc<Streak>>>>);

impl Streaks {
    pub(crate) fn of<C: Command>(&self) -> Arc<Streak> {
        let id = TypeId::of::<C>();
        let known = self.0.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(streak) = known.get(&id) {
            return streak.clone();
        }
        drop(known);
        let mut known = self.0.write().unwrap_or_else(PoisonError::into_inner);
        known.entry(id).or_default().clone()
    }
}
