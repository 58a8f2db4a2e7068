//! Events that the projection's code fails on.

use super::*;

/// A buffer of events 1 to n, some of which fail.
struct Batches {
    engine: Engine,
    now: Time,
    /// Positions that fail, and how often; what fails more often than that succeeds.
    bad: std::collections::BTreeMap<i64, u32>,
    next: i64,
    last: i64,
    done: Vec<i64>,
    left_out: Vec<i64>,
    runs: usize,
}

impl Batches {
    fn new(policy: OnFailure, events: i64, bad: &[(i64, u32)]) -> Self {
        let mut engine = World::new(continuous()).engine.with_policy(policy);
        engine.filled(millis(0), at(events), Some(at(1)), events as usize, false);
        Self {
            engine,
            now: millis(0),
            bad: bad.iter().copied().collect(),
            next: 1,
            last: events,
            done: Vec::new(),
            left_out: Vec::new(),
            runs: 0,
        }
    }

    fn commit(&mut self, events: i64) {
        self.next += events;
        let left = self.last - self.next + 1;
        let left = (left > 0).then_some((left as usize, at(self.next)));
        self.engine.committed(self.now, at(self.next - 1), left);
    }

    /// Until it waits for nothing, or stops.
    fn settle(&mut self) {
        for _ in 0..100_000 {
            match self.engine.next(self.now) {
                Action::Run => {
                    self.runs += 1;
                    let portion = self.engine.portion() as i64;
                    assert!(portion > 0);
                    let batch = self.next..self.next + portion;
                    match self.bad.range_mut(batch.clone()).next() {
                        Some((_, fails)) => {
                            if portion == 1 {
                                *fails = fails.saturating_sub(1);
                            }
                            self.engine.batch_failed(
                                self.now,
                                portion as usize,
                                at(self.next),
                                false,
                            );
                        }
                        None => {
                            self.done.extend(batch);
                            self.commit(portion);
                        }
                    }
                    self.bad.retain(|_, fails| *fails > 0);
                }
                Action::LeaveOut => {
                    self.left_out.push(self.next);
                    self.commit(1);
                }
                Action::Wait(Some(until)) => {
                    assert!(until > self.now);
                    assert_eq!(self.engine.room() > 0, self.next > self.last);
                    self.now = until;
                }
                Action::Wait(None) | Action::Stop => return,
                other => panic!("{other:?}"),
            }
        }
        panic!("it does not come to rest: {:?}", self.engine);
    }
}

#[test]
fn a_failing_batch_is_halved_until_one_event_fails_alone() {
    for bad in [1, 2, 500, 511, 512, 777, 1_000] {
        let mut batches = Batches::new(OnFailure::skip().after(1), 1_000, &[(bad, 1)]);
        batches.settle();
        assert_eq!(batches.left_out, [bad]);
        let others: Vec<_> = (1..=1_000).filter(|n| *n != bad).collect();
        assert_eq!(batches.done, others);
        assert!(batches.runs < 25, "{} runs for {bad}", batches.runs);
        assert_eq!(batches.now, millis(0), "nothing waited");
    }
}

#[test]
fn what_is_before_an_event_that_fails_is_stored() {
    let policy = OnFailure::stop().after(3);
    let mut batches = Batches::new(policy, 100, &[(70, 3)]);
    batches.settle();
    assert!(batches.engine.is_stopped());
    assert_eq!(batches.done, (1..70).collect::<Vec<_>>());
    assert_eq!(batches.engine.attempts(), 3);
    assert_eq!(batches.engine.reached(), at(69));
    // Somebody mended it: all attempts are there again, and the rest follows.
    batches.engine.resumed();
    batches.settle();
    assert_eq!(batches.done, (1..=100).collect::<Vec<_>>());
}

#[test]
fn attempts_are_used_up_before_an_event_is_left_out() {
    let first = millis(10);
    let policy = OnFailure::park().after(4).backoff(first, millis(15));
    let mut batches = Batches::new(policy, 9, &[(3, 4), (5, 3), (6, 9)]);
    batches.settle();
    assert_eq!(batches.left_out, [3, 6]);
    assert_eq!(batches.done, [1, 2, 4, 5, 7, 8, 9]);
    // Three pauses each: 10, 15 and 15 milliseconds or down to the half.
    assert!(
        (millis(60)..=millis(120)).contains(&batches.now),
        "{:?}",
        batches.now
    );
}

#[test]
fn a_store_that_is_away_uses_up_no_attempt() {
    let mut engine = World::new(continuous()).engine;
    engine = engine.with_policy(OnFailure::skip().after(2));
    engine.filled(millis(0), at(1), Some(at(1)), 1, false);
    let mut now = millis(0);
    for round in 0..50 {
        if round == 20 {
            engine.batch_failed(now, 1, at(1), false);
        } else {
            engine.failed(now);
        }
        let Action::Wait(Some(until)) = engine.next(now) else {
            panic!("no pause");
        };
        now = until;
        assert_eq!(engine.next(now), Action::Run);
    }
    assert_eq!(engine.attempts(), 1);
    engine.batch_failed(now, 1, at(1), false);
    assert_eq!(engine.next(now), Action::LeaveOut);
    // Nor does it forget what was decided.
    engine.failed(now);
    let Action::Wait(Some(until)) = engine.next(now) else {
        panic!("no pause");
    };
    assert_eq!(engine.next(until), Action::LeaveOut);
}

#[test]
fn what_fails_for_good_wastes_no_attempt() {
    let mut engine = World::new(continuous()).engine;
    engine.filled(millis(0), at(5), Some(at(1)), 5, false);
    engine.batch_failed(millis(0), 5, at(1), true);
    assert!(engine.is_stopped());
    assert_eq!(
        (engine.attempts(), engine.next(millis(0))),
        (1, Action::Wait(None))
    );
}

#[test]
fn whoever_is_fenced_forgets_whom_it_suspected() {
    let mut engine = World::new(continuous()).engine;
    engine = engine.with_policy(OnFailure::skip().after(2));
    engine.filled(millis(0), at(8), Some(at(1)), 8, false);
    engine.batch_failed(millis(0), 8, at(1), false);
    assert_eq!(engine.portion(), 4);
    engine.batch_failed(millis(0), 1, at(1), false);
    engine.batch_failed(millis(0), 1, at(1), false);
    assert_eq!(engine.next(millis(200)), Action::LeaveOut);
    engine.fenced(millis(200));
    assert_eq!(engine.next(millis(1_000)), Action::Reload);
    engine.reloaded(millis(1_000), at(3));
    engine.filled(millis(1_000), at(8), Some(at(4)), 5, false);
    assert_eq!(engine.next(millis(1_000)), Action::Run);
    assert_eq!(engine.portion(), 5);
}

#[test]
fn a_shutdown_leaves_an_event_that_fails() {
    let mut engine = World::new(continuous()).engine;
    engine.filled(millis(0), at(2), Some(at(1)), 2, false);
    engine.close(at(2));
    assert_eq!(engine.next(millis(0)), Action::Run);
    engine.batch_failed(millis(0), 2, at(1), false);
    assert_eq!((engine.next(millis(0)), engine.portion()), (Action::Run, 1));
    engine.batch_failed(millis(0), 1, at(1), false);
    assert_eq!(engine.next(millis(0)), Action::Stop);
}
