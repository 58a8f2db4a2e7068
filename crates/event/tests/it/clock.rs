//! Time that a test moves.

use std::time::Duration;

use backstory_event::{Clock, ManualClock, SystemClock};
use chrono::Timelike;
use futures::FutureExt;

use crate::soon;

const MINUTE: Duration = Duration::from_secs(60);

#[test]
fn a_manual_clock_stands_until_it_is_moved() {
    let clock = ManualClock::default();
    let start = clock.now();
    assert_eq!(start.to_rfc3339(), "2020-01-01T00:00:00+00:00");
    assert_eq!(clock.now(), start);
    let same = clock.clone();
    same.advance(MINUTE);
    assert_eq!(clock.now() - start, chrono::Duration::minutes(1));
}

#[test]
fn a_sleeper_wakes_when_its_time_has_come_and_not_before() {
    let clock = ManualClock::default();
    let mut sleep = clock.sleep(MINUTE);
    assert_eq!(clock.sleepers(), 0, "nobody waits before the first poll");
    assert_eq!((&mut sleep).now_or_never(), None);
    clock.advance(MINUTE - Duration::from_millis(1));
    assert_eq!((&mut sleep).now_or_never(), None);
    clock.advance(Duration::from_millis(1));
    assert_eq!(sleep.now_or_never(), Some(()));
    assert_eq!(clock.sleep(Duration::ZERO).now_or_never(), Some(()));
}

#[tokio::test]
async fn a_waiting_task_is_counted_and_woken() {
    let clock = ManualClock::default();
    let task = tokio::spawn(clock.sleep(MINUTE));
    while clock.sleepers() == 0 {
        tokio::task::yield_now().await;
    }
    clock.advance(MINUTE);
    soon(task).await.unwrap();
    assert_eq!(clock.sleepers(), 0);
}

#[tokio::test]
async fn the_real_clock_counts_microseconds_and_sleeps() {
    let before = SystemClock.now();
    assert_eq!(before.nanosecond() % 1_000, 0);
    SystemClock.sleep(Duration::from_millis(2)).await;
    assert!(SystemClock.now() - before >= chrono::Duration::milliseconds(2));
}
