//! Taking turns at a stream that several callers of one repository change at once.
//!
//! Nobody waits at a stream until somebody was overtaken there: who was overtaken lines up, and
//! from then on all take turns, until nobody waits. It saves work and lets nobody starve; what
//! keeps a decision right is the version that it was made on. So a turn that lasts too long is
//! simply over.

use std::{
    collections::{BTreeMap, HashMap},
    fmt,
    pin::pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use backstory_event::{Aggregate, Clock, StreamId, SystemClock};
use futures::{
    channel::oneshot,
    future::{Either, select},
};

use crate::Loaded;

/// How long a turn lasts at most. Only a caller that is stuck needs it: one whose future is not
/// polled, or one that waits for another turn that waits for this one.
const LONGEST: Duration = Duration::from_secs(1);

/// Whose turn it is at each contended stream of a repository. Clones share it.
pub(crate) struct Turns<A: Aggregate>(Arc<Mutex<Lines<A>>>);

struct Lines<A: Aggregate> {
    streams: HashMap<StreamId, Line<A>>,
    tickets: u64,
}

/// The line at one stream; there is none where nobody has a turn.
struct Line<A: Aggregate> {
    turn: u64,
    since: Instant,
    /// By ticket: who came first is first.
    waiting: BTreeMap<u64, oneshot::Sender<()>>,
    /// What the turn before left, so that the next one reads only what is new.
    left: Option<Loaded<A>>,
}

impl<A: Aggregate> Line<A> {
    /// Gives the turn to who waits longest. It is called by the sender, out of the lock.
    fn next(&mut self) -> Option<oneshot::Sender<()>> {
        let (ticket, call) = self.waiting.pop_first()?;
        self.turn = ticket;
        self.since = Instant::now();
        Some(call)
    }
}

impl<A: Aggregate> Turns<A> {
    /// Waits for a turn if others take turns at the stream; `None` at once if they do not.
    pub(crate) async fn enter(&self, stream: &StreamId) -> Option<Turn<A>> {
        if !self.lines().streams.contains_key(stream) {
            return None;
        }
        Some(self.line_up(stream).await)
    }

    /// Waits for a turn at the stream, where all take turns from now on.
    pub(crate) async fn line_up(&self, stream: &StreamId) -> Turn<A> {
        let (call, called) = oneshot::channel();
        let turn = self.ticket(stream, call);
        if turn.is_on() {
            return turn;
        }
        let mut called = pin!(called);
        let mut patience = LONGEST;
        while let Either::Right(_) = select(&mut called, SystemClock.sleep(patience)).await {
            patience = self.end_overlong(stream);
        }
        turn
    }

    /// Joins the line; who is alone there has the turn at once.
    fn ticket(&self, stream: &StreamId, call: oneshot::Sender<()>) -> Turn<A> {
        let mut lines = self.lines();
        lines.tickets += 1;
        let ticket = lines.tickets;
        let turn = Turn {
            turns: self.clone(),
            stream: stream.clone(),
            ticket,
        };
        if let Some(line) = lines.streams.get_mut(stream) {
            line.waiting.insert(ticket, call);
            return turn;
        }
        let line = Line {
            turn: ticket,
            since: Instant::now(),
            waiting: BTreeMap::new(),
            left: None,
        };
        lines.streams.insert(stream.clone(), line);
        turn
    }

    /// Ends a turn that lasts too long. How long the one that is on may still last.
    fn end_overlong(&self, stream: &StreamId) -> Duration {
        let mut lines = self.lines();
        let Some(line) = lines.streams.get_mut(stream) else {
            return LONGEST;
        };
        let left = LONGEST.saturating_sub(line.since.elapsed());
        if !left.is_zero() {
            return left;
        }
        let (stale, next) = (line.left.take(), line.next());
        drop(lines);
        drop(stale);
        if let Some(call) = next {
            let _ = call.send(()); // who is gone leaves the line by itself
        }
        LONGEST
    }

    fn leave(&self, stream: &StreamId, ticket: u64, left: Option<Loaded<A>>) {
        let mut lines = self.lines();
        let Some(line) = lines.streams.get_mut(stream) else {
            return;
        };
        if line.turn != ticket {
            line.waiting.remove(&ticket);
            return;
        }
        match line.next() {
            Some(call) => {
                // What was left to a turn that did not take it is left to the next one.
                let stale = left.and_then(|left| line.left.replace(left));
                drop(lines);
                drop(stale);
                let _ = call.send(()); // who is gone leaves the line by itself
            }
            None => {
                let line = lines.streams.remove(stream);
                drop(lines);
                drop((line, left));
            }
        }
    }

    fn lines(&self) -> MutexGuard<'_, Lines<A>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<A: Aggregate> Default for Turns<A> {
    fn default() -> Self {
        Self(Arc::new(Mutex::new(Lines {
            streams: HashMap::new(),
            tickets: 0,
        })))
    }
}

impl<A: Aggregate> Clone for Turns<A> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<A: Aggregate> fmt::Debug for Turns<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.lines().streams.keys()).finish()
    }
}

/// A place in a line, then a turn. Dropped it is over, and the next one is called.
pub(crate) struct Turn<A: Aggregate> {
    turns: Turns<A>,
    stream: StreamId,
    ticket: u64,
}

impl<A: Aggregate> Turn<A> {
    /// What the turn before left. The log has to confirm it.
    pub(crate) fn left(&self) -> Option<Loaded<A>> {
        let mut lines = self.turns.lines();
        let line = lines.streams.get_mut(&self.stream)?;
        if line.turn != self.ticket {
            return None;
        }
        line.left.take()
    }

    /// False when it lasted too long: others go on without it.
    pub(crate) fn is_on(&self) -> bool {
        let lines = self.turns.lines();
        let line = lines.streams.get(&self.stream);
        line.is_some_and(|line| line.turn == self.ticket)
    }

    /// Ends the turn and leaves a state to the next one; nothing that was only recorded.
    pub(crate) fn leave(self, loaded: Loaded<A>) {
        if loaded.is_pure() {
            self.turns.leave(&self.stream, self.ticket, Some(loaded));
        }
    }
}

impl<A: Aggregate> Drop for Turn<A> {
    fn drop(&mut self) {
        self.turns.leave(&self.stream, self.ticket, None);
    }
}

#[cfg(test)]
mod tests;
