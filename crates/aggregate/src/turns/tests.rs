#![allow(clippy::unwrap_used, reason = "test code")]

use backstory_event::Event;
use futures::FutureExt;
use serde::{Deserialize, Serialize};

use super::*;

#[derive(Serialize, Deserialize, Event)]
#[event(prefix = "counter", crate = "backstory_event")]
enum Counted {
    Up,
}

#[derive(Default)]
struct Counter(u32);

impl Aggregate for Counter {
    const CATEGORY: &'static str = "counter";
    type Id = u64;
    type Event = Counted;
    fn apply(&mut self, _: &Counted) {
        self.0 += 1;
    }
}

fn stream() -> StreamId {
    Counter::stream(&7).unwrap()
}

/// What is there at once, or a line was joined.
fn at_once<T>(future: impl Future<Output = T> + Unpin) -> Option<T> {
    future.now_or_never()
}

fn is_empty(turns: &Turns<Counter>) -> bool {
    turns.lines().streams.is_empty()
}

fn counted() -> Loaded<Counter> {
    let mut loaded = Loaded::<Counter>::empty(7).unwrap();
    loaded.begin_from(
        Counter(5),
        backstory_event::StreamVersion::new(5),
        backstory_event::EventId::new(),
    );
    loaded
}

#[test]
fn nobody_waits_where_nobody_takes_turns() {
    let (turns, stream) = (Turns::<Counter>::default(), stream());
    assert!(at_once(Box::pin(turns.enter(&stream))).unwrap().is_none());
    let turn = at_once(Box::pin(turns.line_up(&stream))).unwrap();
    assert!(turn.is_on());
    let other = Counter::stream(&8).unwrap();
    assert!(at_once(Box::pin(turns.enter(&other))).unwrap().is_none());
    drop(turn);
    assert!(is_empty(&turns));
    assert!(at_once(Box::pin(turns.enter(&stream))).unwrap().is_none());
}

#[test]
fn the_next_one_is_called_at_once_in_the_order_of_the_line() {
    let (turns, stream) = (Turns::<Counter>::default(), stream());
    let turn = at_once(Box::pin(turns.line_up(&stream))).unwrap();
    let mut first = Box::pin(turns.enter(&stream));
    let mut second = Box::pin(turns.line_up(&stream));
    let mut third = Box::pin(turns.enter(&stream));
    assert!(at_once(&mut first).is_none());
    assert!(at_once(&mut second).is_none());
    assert!(at_once(&mut third).is_none());
    drop(turn);
    assert!(at_once(&mut third).is_none());
    assert!(at_once(&mut second).is_none());
    let first = at_once(&mut first).unwrap();
    drop(first);
    assert!(at_once(&mut third).is_none());
    let second = at_once(&mut second).unwrap();
    drop(second);
    let third = at_once(&mut third).unwrap();
    drop(third);
    assert!(is_empty(&turns));
}

#[test]
fn who_goes_away_is_passed_over() {
    let (turns, stream) = (Turns::<Counter>::default(), stream());
    let turn = at_once(Box::pin(turns.line_up(&stream))).unwrap();
    let mut waits = Box::pin(turns.enter(&stream));
    let mut called = Box::pin(turns.enter(&stream));
    let mut last = Box::pin(turns.enter(&stream));
    assert!(at_once(&mut waits).is_none());
    assert!(at_once(&mut called).is_none());
    assert!(at_once(&mut last).is_none());
    drop(waits);
    turn.leave(counted());
    // It has the turn and does not know it yet: what was left for it goes on, too.
    drop(called);
    let last = at_once(&mut last).unwrap().unwrap();
    assert_eq!(last.left().unwrap().state().0, 5);
    drop(last);
    assert!(is_empty(&turns));
}

#[test]
fn a_state_is_left_to_the_next_one_only() {
    let (turns, stream) = (Turns::<Counter>::default(), stream());
    let turn = at_once(Box::pin(turns.line_up(&stream))).unwrap();
    assert!(turn.left().is_none());
    let mut first = Box::pin(turns.enter(&stream));
    let mut second = Box::pin(turns.enter(&stream));
    assert!(at_once(&mut first).is_none());
    assert!(at_once(&mut second).is_none());
    turn.leave(counted());
    let first = at_once(&mut first).unwrap().unwrap();
    assert_eq!(first.left().unwrap().state().0, 5);
    assert!(first.left().is_none());
    let mut recorded = counted();
    recorded.record(Counted::Up);
    first.leave(recorded);
    let second = at_once(&mut second).unwrap().unwrap();
    assert!(
        second.left().is_none(),
        "what was only recorded is not left"
    );
    second.leave(counted());
    assert!(is_empty(&turns));
}

#[test]
fn a_turn_that_lasts_too_long_is_over() {
    let (turns, stream) = (Turns::<Counter>::default(), stream());
    let late = at_once(Box::pin(turns.line_up(&stream))).unwrap();
    let mut next = Box::pin(turns.enter(&stream));
    assert!(at_once(&mut next).is_none());
    assert!(turns.end_overlong(&stream) <= LONGEST);
    assert!(late.is_on() && at_once(&mut next).is_none());
    turns.lines().streams.get_mut(&stream).unwrap().since -= LONGEST;
    turns.end_overlong(&stream);
    let next = at_once(&mut next).unwrap().unwrap();
    assert!(next.is_on() && !late.is_on());
    late.leave(counted());
    assert!(next.is_on() && next.left().is_none());
    drop(next);
    assert!(is_empty(&turns));
}
