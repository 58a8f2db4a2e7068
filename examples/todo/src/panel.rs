//! How the projections are doing, for the page. One task per process asks the store, once a second
//! and only while a page listens; a page is told what has changed.

use std::{convert::Infallible, sync::Arc, time::Duration};

use backstory::{
    Store,
    projection::{Operator, ProjectionRow, Rebuild},
};
use serde_json::{Value, json};
use tokio::{
    sync::{Notify, watch},
    time::timeout,
};

use crate::read_model::BOARD;

const EVERY: Duration = Duration::from_secs(1);

/// What is known of the projections, whichever processes run them.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Known {
    /// For the page.
    pub rows: Value,
    /// Another number when the board may be another one, as after a rebuild.
    pub board: i64,
}

/// The projections of a store, for any number of pages. Clones share it.
#[derive(Debug, Clone)]
pub struct Panel {
    operator: Operator,
    known: watch::Sender<Known>,
    now: Arc<Notify>,
}

impl Panel {
    /// Without [`Self::run`] nothing is known.
    pub fn new(store: &Store) -> Self {
        Self {
            operator: Operator::new(store),
            known: watch::Sender::default(),
            now: Arc::default(),
        }
    }

    /// What is known, and then each change.
    pub fn watch(&self) -> watch::Receiver<Known> {
        let mut known = self.known.subscribe();
        if !known.borrow().rows.is_null() {
            known.mark_changed();
        }
        self.look();
        known
    }

    /// Asks now: something was changed.
    pub fn look(&self) {
        self.now.notify_one();
    }

    /// Asks for ever, also across outages of the store.
    pub async fn run(&self) -> Infallible {
        loop {
            match self.known.receiver_count() {
                0 => self.now.notified().await,
                // Early or not: it is time to ask.
                _ => drop(timeout(EVERY, self.now.notified()).await),
            }
            match self.operator.list().await {
                Ok(rows) => self.tell(&rows),
                Err(error) => tracing::debug!(%error, "projections cannot be listed"),
            }
        }
    }

    fn tell(&self, rows: &[ProjectionRow]) {
        let board = rows.iter().find(|row| row.projection == BOARD);
        let new = Known {
            rows: rows.iter().map(shown).collect(),
            board: board.map_or(0, |row| row.progress.epoch),
        };
        self.known.send_if_modified(|known| {
            let news = *known != new;
            *known = new;
            news
        });
    }
}

fn shown(row: &ProjectionRow) -> Value {
    let rebuild = |rebuild: &Rebuild| {
        json!({
            "state": rebuild.state.as_str(),
            "reason": rebuild.reason,
            "reached": rebuild.reached,
            "seconds_left": rebuild.remaining(row.head).map(|left| left.as_secs()),
        })
    };
    json!({
        "name": row.projection,
        "state": row.state.as_str(),
        "paused": row.paused,
        "reason": row.reason,
        "process": row.process,
        "head": row.head,
        "lag": row.lag(),
        "rate": row.rate.round(),
        "rebuild": row.rebuild.as_ref().map(rebuild),
    })
}
