use super::*;
use crate::{Continuous, Periodic};

const fn millis(millis: u64) -> Time {
    Duration::from_millis(millis)
}

const fn at(position: i64) -> Position {
    Position::new(position)
}

/// An engine in a world where every event matches and every batch succeeds at once.
struct World {
    engine: Engine,
    now: Time,
    log: i64,
    read: i64,
    /// When batches ran, and where they ended.
    batches: Vec<(Time, i64)>,
}

impl World {
    fn new(schedule: impl Into<Schedule>) -> Self {
        Self {
            engine: Engine::new(schedule.into(), millis(0), at(0), at(0), 7),
            now: millis(0),
            log: 0,
            read: 0,
            batches: Vec::new(),
        }
    }

    fn append(&mut self, events: i64) {
        self.log += events;
        self.settle();
    }

    /// Does what the engine wants until it only wants to wait; says until when.
    fn settle(&mut self) -> Option<Time> {
        for _ in 0..10_000 {
            match self.engine.next(self.now) {
                Action::Run => {
                    if self.engine.buffer.is_some() {
                        self.batches.push((self.now, self.read));
                    }
                    self.engine.committed(self.now, at(self.read), None);
                }
                Action::FindHead => self.engine.head_found(at(self.log)),
                Action::Reload => self.engine.reloaded(self.now, at(self.read)),
                Action::LeaveOut => panic!("nothing fails here: {:?}", self.engine),
                Action::Wait(until) => {
                    let take = (self.log - self.read).min(self.engine.room() as i64);
                    if take == 0 {
                        return until;
                    }
                    let first = at(self.read + 1);
                    self.read += take;
                    let events = take as usize;
                    self.engine
                        .filled(self.now, at(self.read), Some(first), events, false);
                }
                Action::Stop => return None,
            }
        }
        panic!("the engine does not come to rest: {:?}", self.engine);
    }

    /// Lets time pass, with the engine woken when it asked for it.
    fn pass(&mut self, time: Time) {
        let end = self.now + time;
        while let Some(until) = self.settle().filter(|until| *until <= end) {
            assert!(until > self.now, "a wait that is over: {:?}", self.engine);
            self.now = until;
        }
        self.now = end;
        self.settle();
    }

    fn ends(&self) -> Vec<i64> {
        self.batches.iter().map(|(_, end)| *end).collect()
    }
}

fn continuous() -> Continuous {
    Schedule::continuous()
}

fn every(interval: u64) -> Periodic {
    Schedule::every(millis(interval))
}

#[test]
fn without_a_debounce_events_run_at_once() {
    let mut world = World::new(continuous());
    world.append(1);
    world.append(2);
    assert_eq!(world.batches, [(millis(0), 1), (millis(0), 3)]);
}

#[test]
fn a_debounce_collects_until_it_is_quiet() {
    let mut world = World::new(continuous().debounce(millis(100)));
    for _ in 0..5 {
        world.append(3);
        world.pass(millis(60));
    }
    assert!(world.batches.is_empty());
    world.pass(millis(100));
    assert_eq!(world.batches, [(millis(340), 15)]);
}

#[test]
fn the_cap_fires_about_every_cap_under_steady_traffic() {
    let schedule = continuous().debounce(millis(200)).debounce_cap(millis(300));
    let mut world = World::new(schedule);
    for _ in 0..200 {
        world.append(1);
        world.pass(millis(50));
    }
    // 10 seconds; a batch begins with the event behind the one before.
    assert!(
        (28..=34).contains(&world.batches.len()),
        "{:?}",
        world.batches
    );
}

#[test]
fn a_full_batch_runs_at_once() {
    let mut world = World::new(continuous().debounce(millis(1_000)).max_batch(10));
    world.append(25);
    assert_eq!(world.ends(), [10, 20]);
    world.pass(millis(1_000));
    assert_eq!(world.ends(), [10, 20, 25]);
}

#[test]
fn a_buffer_full_of_large_events_runs_at_once() {
    let mut engine = World::new(continuous().debounce(millis(1_000))).engine;
    engine.filled(millis(0), at(1), Some(at(1)), 1, true);
    assert_eq!(engine.room(), 0);
    assert_eq!(engine.next(millis(0)), Action::Run);
}

#[test]
fn what_is_in_the_log_at_the_start_does_not_wait() {
    let schedule = continuous().debounce(millis(1_000)).into();
    let mut world = World::new(continuous());
    world.engine = Engine::new(schedule, millis(0), at(0), at(4), 7);
    world.append(4);
    assert_eq!(world.ends(), [4]);
    world.append(1);
    assert_eq!(world.ends(), [4], "what comes later does");
}

#[test]
fn a_waiter_ends_the_debounce() {
    let mut world = World::new(continuous().debounce(millis(1_000)));
    world.append(3);
    world.engine.awaited(at(2));
    world.settle();
    assert_eq!(world.ends(), [3]);
    // Somebody who waits for what is there already, or for nothing, ends nothing.
    world.append(1);
    world.engine.awaited(at(0));
    world.settle();
    assert_eq!(world.ends(), [3]);
    // Somebody who waits for what is not there yet gets it as soon as it comes.
    world.pass(millis(1_000));
    world.engine.awaited(at(6));
    world.append(2);
    assert_eq!(world.ends(), [3, 4, 6]);
}

#[test]
fn a_trigger_ends_the_debounce_once() {
    let mut world = World::new(continuous().debounce(millis(1_000)));
    world.append(3);
    world.engine.triggered(at(3));
    world.settle();
    world.append(1);
    assert_eq!(world.ends(), [3]);
}

#[test]
fn a_periodic_schedule_runs_once_in_each_interval() {
    let mut world = World::new(every(100));
    world.append(2);
    world.pass(millis(99));
    assert!(world.batches.is_empty());
    world.pass(millis(1));
    assert_eq!(world.batches, [(millis(100), 2)]);
    world.append(1);
    world.pass(millis(150));
    assert_eq!(world.batches, [(millis(100), 2), (millis(200), 3)]);
}

#[test]
fn a_periodic_run_takes_as_many_batches_as_it_needs() {
    let mut world = World::new(every(100).max_batch(2).immediately());
    world.append(5);
    assert_eq!(world.ends(), [2, 4, 5]);
}

#[test]
fn missed_ticks_are_not_made_up_for() {
    let mut world = World::new(every(100));
    world.now = millis(1_050);
    let mut looks = 0;
    while let Action::FindHead = world.engine.next(world.now) {
        looks += 1;
        world.engine.head_found(at(0));
    }
    assert_eq!(looks, 1);
    assert_eq!(world.settle(), Some(millis(1_100)));
}

#[test]
fn a_waiter_and_a_trigger_make_a_periodic_schedule_run() {
    let mut world = World::new(every(1_000));
    world.append(2);
    world.engine.awaited(at(1));
    world.settle();
    assert_eq!(world.ends(), [2]);
    world.engine.awaited(at(0));
    world.append(1);
    assert_eq!(world.ends(), [2]);
    world.engine.triggered(at(3));
    world.settle();
    assert_eq!(world.ends(), [2, 3]);
}

#[test]
fn a_paused_projection_neither_reads_nor_runs() {
    let mut world = World::new(continuous());
    world.engine.paused();
    world.append(3);
    world.engine.awaited(at(3));
    assert_eq!(world.settle(), None);
    assert_eq!((world.read, world.engine.room()), (0, 0));
    world.engine.resumed();
    world.settle();
    assert_eq!(world.ends(), [3]);
}

#[test]
fn a_store_that_is_away_is_asked_again_later_and_later_for_ever() {
    let mut engine = World::new(continuous()).engine;
    engine.filled(millis(0), at(3), Some(at(1)), 3, false);
    let mut now = millis(0);
    let mut pauses = Vec::new();
    for _ in 0..100 {
        assert_eq!(engine.next(now), Action::Run);
        assert_eq!(engine.portion(), 3, "no event is suspected");
        engine.failed(now);
        assert_eq!(engine.room(), 0, "nothing is read behind a failure");
        let Action::Wait(Some(until)) = engine.next(now) else {
            panic!("no pause");
        };
        pauses.push(until - now);
        now = until;
    }
    let doubled = (0..100).map(|n| millis(100) * 2_u32.pow(n.min(9)));
    for (pause, whole) in pauses.iter().zip(doubled) {
        let whole = whole.min(millis(30_000));
        assert!(
            (whole / 2..=whole).contains(pause),
            "{pause:?} of {whole:?}"
        );
    }
    let last: std::collections::BTreeSet<_> = pauses[20..].iter().collect();
    assert!(last.len() > 70, "chance spreads them: {last:?}");
    assert_eq!(engine.failures(), 100);
    // A success resets the pause.
    assert_eq!(engine.next(now), Action::Run);
    engine.committed(now, at(3), None);
    assert_eq!(engine.failures(), 0);
    engine.failed(now);
    let Action::Wait(Some(until)) = engine.next(now) else {
        panic!("no pause");
    };
    assert!(until - now <= millis(100));
}

#[test]
fn a_resume_or_trigger_ends_the_pause_after_a_failure() {
    for end in [Engine::resumed, |engine: &mut Engine| {
        engine.triggered(at(1))
    }] {
        let mut engine = World::new(continuous()).engine;
        engine.filled(millis(0), at(3), Some(at(1)), 3, false);
        engine.failed(millis(0));
        assert!(matches!(engine.next(millis(0)), Action::Wait(Some(_))));
        end(&mut engine);
        assert_eq!(engine.next(millis(0)), Action::Run);
    }
}

#[test]
fn a_fenced_projection_reloads_after_a_short_pause() {
    let mut engine = World::new(continuous()).engine;
    engine.filled(millis(0), at(3), Some(at(1)), 3, false);
    engine.fenced(millis(0));
    let Action::Wait(Some(until)) = engine.next(millis(0)) else {
        panic!("no pause");
    };
    assert!((millis(5)..millis(50)).contains(&until), "{until:?}");
    assert_eq!(engine.next(until), Action::Reload);
    engine.reloaded(until, at(2));
    assert_eq!(engine.reached(), at(2));
    assert!(engine.room() > 0);
    assert_eq!(engine.failures(), 0, "it is no failure");
}

#[test]
fn a_checkpoint_moves_past_events_of_others_now_and_then() {
    let mut engine = World::new(continuous()).engine;
    engine.filled(millis(10), at(5), None, 0, false);
    assert_eq!(
        engine.reached(),
        at(5),
        "nothing is missing in the read model"
    );
    assert_eq!(engine.next(millis(10)), Action::Wait(Some(millis(1_000))));
    engine.filled(millis(20), at(10_000), None, 0, false);
    assert_eq!(engine.next(millis(20)), Action::Run);
    engine.committed(millis(20), at(10_000), None);
    engine.filled(millis(30), at(10_001), None, 0, false);
    assert_eq!(engine.next(millis(30)), Action::Wait(Some(millis(1_020))));
    assert_eq!(engine.next(millis(1_020)), Action::Run);
}

#[test]
fn events_before_one_that_fails_count() {
    let mut engine = World::new(continuous().debounce(millis(1_000))).engine;
    engine.filled(millis(0), at(9), Some(at(2)), 5, false);
    assert_eq!(engine.reached(), at(1));
    engine.committed(millis(0), at(4), Some((3, at(6))));
    assert_eq!(engine.reached(), at(5));
    engine.committed(millis(0), at(9), None);
    assert_eq!(engine.reached(), at(9));
}

#[test]
fn a_shutdown_ends_the_debounce_and_stores_the_checkpoint() {
    let mut world = World::new(continuous().debounce(millis(60_000)));
    world.append(3);
    world.log += 2;
    world.engine.close(at(5));
    assert_eq!(world.settle(), None);
    assert_eq!(world.read, 5, "also what it has not read yet");
    assert_eq!(world.engine.stored, at(5));
    assert_eq!(world.engine.next(world.now), Action::Stop);
}

#[test]
fn a_shutdown_does_not_wait_for_a_long_rebuild() {
    let mut world = World::new(continuous().max_batch(10));
    world.append(10);
    world.log = 1_000_000;
    world.engine.close(at(1_000_000));
    world.settle();
    assert_eq!(world.read, 10);
}

#[test]
fn a_shutdown_leaves_what_is_paused_or_fails() {
    let mut engine = World::new(continuous()).engine;
    engine.filled(millis(0), at(3), Some(at(1)), 3, false);
    engine.failed(millis(0));
    engine.close(at(3));
    assert_eq!(engine.next(millis(0)), Action::Stop);

    let mut engine = World::new(continuous()).engine;
    engine.paused();
    engine.close(at(3));
    assert_eq!(engine.next(millis(0)), Action::Stop);
}

#[test]
fn a_reset_builds_again_at_once() {
    let mut world = World::new(continuous().debounce(millis(1_000)));
    world.append(3);
    world.pass(millis(1_000));
    world.engine.stopped();
    world.read = 0;
    world.engine.moved(world.now, Position::START, at(3));
    world.settle();
    assert_eq!(world.ends(), [3, 3]);
}

#[test]
fn a_schedule_that_runs_once_takes_what_is_there_and_rests() {
    let mut world = World::new(Schedule::once().max_batch(2));
    world.engine = Engine::new(
        Schedule::once().max_batch(2).into(),
        millis(0),
        at(0),
        at(5),
        7,
    );
    assert!(!world.engine.is_finished());
    world.append(5);
    assert_eq!(world.ends(), [2, 4, 5]);
    assert!(world.engine.is_finished());
    world.append(3);
    world.engine.awaited(at(8));
    world.pass(millis(100_000));
    assert_eq!(
        world.ends(),
        [2, 4, 5],
        "neither events nor waiters move it"
    );
    assert!(world.engine.is_finished());
    world.engine.triggered(at(8));
    assert!(!world.engine.is_finished());
    world.settle();
    assert_eq!(world.ends(), [2, 4, 5, 7, 8]);
    assert!(world.engine.is_finished());
}

#[test]
fn what_runs_once_has_finished_when_its_checkpoint_is_stored() {
    let once = || Engine::new(Schedule::once().into(), millis(0), at(0), at(5), 7);
    // Nothing in the log is for it.
    let mut engine = once();
    engine.filled(millis(1), at(5), None, 0, false);
    assert!(!engine.is_finished());
    assert_eq!(engine.next(millis(1)), Action::Run, "it does not wait");
    engine.committed(millis(1), at(5), None);
    assert!(engine.is_finished());
    assert_eq!(engine.next(millis(1)), Action::Wait(None));
    engine.close(at(9));
    assert_eq!(engine.next(millis(1)), Action::Stop);

    let mut engine = once();
    engine.filled(millis(1), at(5), Some(at(2)), 3, false);
    engine.failed(millis(1));
    assert!(!engine.is_finished());
    engine.fenced(millis(2));
    engine.reloaded(millis(60), at(3));
    assert!(
        !engine.is_finished(),
        "the others have not got there either"
    );
    engine.reloaded(millis(60), at(5));
    assert!(engine.is_finished());
    // An empty log has nothing to wait for.
    assert!(Engine::new(Schedule::once().into(), millis(0), at(0), at(0), 7).is_finished());
}

#[test]
fn a_cron_schedule_runs_at_its_times() {
    let mut schedule = Schedule::from(Schedule::cron("*/10 * * * * *").unwrap());
    schedule.count_from("2020-01-01T00:00:03Z".parse().unwrap());
    let mut world = World::new(schedule);
    world.append(2);
    world.pass(millis(6_999));
    assert!(world.batches.is_empty());
    world.pass(millis(1));
    assert_eq!(world.batches, [(millis(7_000), 2)]);
    world.append(1);
    // Half a minute is missed: one run, and then the next time that comes.
    world.now += millis(31_000);
    let mut looks = 0;
    while let Action::FindHead = world.engine.next(world.now) {
        looks += 1;
        world.engine.head_found(at(3));
    }
    assert_eq!(looks, 1);
    world.settle();
    assert_eq!(world.batches[1..], [(millis(38_000), 3)]);
    world.append(1);
    world.pass(millis(8_999));
    assert_eq!(world.ends(), [2, 3]);
    world.pass(millis(1));
    assert_eq!(world.batches[2..], [(millis(47_000), 4)]);
}

#[test]
fn a_cron_schedule_runs_immediately_if_it_shall() {
    let mut world = World::new(Schedule::cron("0 3 * * *").unwrap().immediately());
    world.append(2);
    assert_eq!(world.ends(), [2]);
    world.append(1);
    assert_eq!(world.ends(), [2]);
}

mod failures;
mod inline;
