//! The task of a projection whose appends project.

use super::*;

const HEAD: Position = at(4);

/// An engine that has read four events and waits whether their appends have projected them.
fn waiting() -> Engine {
    let mut engine = Engine::new(Schedule::inline().into(), millis(0), at(0), at(0), 7);
    engine.filled(millis(0), HEAD, Some(at(1)), 4, false);
    assert_eq!(engine.next(millis(0)), Action::Wait(Some(LINGER)));
    engine
}

#[test]
fn what_appends_have_projected_is_not_run() {
    let mut engine = waiting();
    assert_eq!(engine.next(LINGER), Action::Reload);
    engine.reloaded(LINGER, HEAD);
    assert_eq!(engine.reached(), HEAD);
    assert_eq!(engine.next(LINGER), Action::Wait(None));
}

#[test]
fn what_is_missing_runs_as_soon_as_that_is_known() {
    let mut engine = waiting();
    assert_eq!(engine.next(LINGER), Action::Reload);
    engine.saw(at(9));
    engine.reloaded(LINGER, at(2));
    engine.filled(LINGER, at(9), Some(at(3)), 7, false);
    assert_eq!(engine.next(LINGER), Action::Run);
    engine.committed(LINGER, at(9), None);
    // Of what came later nothing is known.
    engine.filled(LINGER, at(10), Some(at(10)), 1, false);
    assert_eq!(engine.next(LINGER), Action::Wait(Some(2 * LINGER)));
    assert_eq!(engine.next(2 * LINGER), Action::Reload);
}

#[test]
fn somebody_who_waits_ends_the_wait_and_not_the_look() {
    let mut engine = waiting();
    engine.awaited(HEAD);
    assert_eq!(engine.next(millis(0)), Action::Reload);
}

#[test]
fn a_look_that_fails_is_tried_again() {
    let mut engine = waiting();
    assert_eq!(engine.next(LINGER), Action::Reload);
    engine.failed(LINGER);
    let Action::Wait(Some(until)) = engine.next(LINGER) else {
        panic!("{engine:?}");
    };
    assert_eq!(engine.next(until), Action::Reload);
}

#[test]
fn an_append_that_tells_what_it_projected_needs_no_look() {
    let mut engine = waiting();
    engine.advanced(millis(1), at(3), Some((1, HEAD)));
    assert_eq!((engine.reached(), engine.portion()), (at(3), 1));
    engine.advanced(millis(2), HEAD, None);
    assert_eq!(engine.reached(), HEAD);
    assert_eq!(engine.next(LINGER), Action::Wait(None));
}

#[test]
fn the_end_projects_what_is_missing() {
    let mut engine = waiting();
    engine.close(HEAD);
    assert_eq!(engine.next(millis(0)), Action::Reload);
    engine.reloaded(millis(0), at(0));
    engine.filled(millis(0), HEAD, Some(at(1)), 4, false);
    assert_eq!(engine.next(millis(0)), Action::Run);
    engine.committed(millis(0), HEAD, None);
    assert_eq!(engine.next(millis(0)), Action::Stop);
}
