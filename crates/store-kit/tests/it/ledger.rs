//! A batch equals its appends one after another.

use backstory_event::{
    Append, AppendCondition, Clock as _, Conflict, EventFilter, ExpectedVersion, Lifecycle,
    ManualClock, Position, StoreErrorKind, StreamVersion,
};
use backstory_store_kit::{Decision, Facts, decide};

use crate::{append, event, stream};

fn batch(appends: &[Append]) -> Decision {
    decide(appends, Facts::default(), ManualClock::default().now())
}

fn refusal(decision: &Decision, index: usize) -> &StoreErrorKind {
    decision.outcomes[index].as_ref().unwrap_err()
}

#[test]
fn an_append_sees_those_before_it_in_its_batch() {
    let first = Append::to(
        stream(1),
        ExpectedVersion::NoStream,
        [event("a"), event("b")],
    );
    let second = Append::to(
        stream(1),
        ExpectedVersion::Exact(StreamVersion::new(2)),
        [event("c")],
    );
    let third = Append::to(stream(1), ExpectedVersion::NoStream, [event("d")]);
    let decision = batch(&[first, second, third]);
    assert_eq!(decision.outcomes[1].as_ref().unwrap().position().get(), 3);
    assert!(matches!(
        refusal(&decision, 2),
        StoreErrorKind::Conflict(Conflict::Version { actual, .. }) if actual.get() == 3
    ));
    let positions: Vec<_> = decision
        .events
        .iter()
        .map(|row| row.recorded.position.get())
        .collect();
    assert_eq!(positions, [1, 2, 3]);
}

#[test]
fn a_refused_append_burns_no_position_and_leaves_nothing() {
    let claimed = append(1).claim("name", "x", stream(1));
    let loser = append(2)
        .claim("other", "y", stream(2))
        .claim("name", "x", stream(2));
    let decision = batch(&[claimed, loser, append(3)]);
    assert!(matches!(
        refusal(&decision, 1),
        StoreErrorKind::Conflict(Conflict::Claim { owner, .. }) if *owner == stream(1)
    ));
    assert_eq!(decision.outcomes[2].as_ref().unwrap().position().get(), 2);
    assert_eq!(decision.values.claims.len(), 1);
    assert!(!decision.streams.contains_key(&stream(2)));
}

#[test]
fn the_same_append_twice_in_a_batch_is_stored_once() {
    let append = append(1);
    let decision = batch(&[append.clone(), append]);
    assert_eq!(decision.outcomes[0], decision.outcomes[1]);
    assert_eq!(decision.events.len(), 1);
}

#[test]
fn a_condition_sees_the_events_before_it_in_its_batch() {
    let condition = AppendCondition::new(EventFilter::category("todo"), Position::START);
    let decision = batch(&[append(1), append(2).fail_if(condition)]);
    assert!(matches!(
        refusal(&decision, 1),
        StoreErrorKind::Conflict(Conflict::Condition { index: 0, position, .. })
            if position.get() == 1
    ));
}

#[test]
fn an_erasure_in_a_batch_reaches_the_events_before_it() {
    let erase = Append::to(stream(1), ExpectedVersion::Any, [Lifecycle::Erased.event()]);
    let decision = batch(&[append(1).claim("name", "x", stream(1)), erase, append(1)]);
    assert!(decision.events[0].recorded.erased_at.is_some());
    assert_eq!(decision.erased, [stream(1)]);
    assert!(decision.values.is_empty());
    assert!(matches!(
        refusal(&decision, 2),
        StoreErrorKind::StreamErased { .. }
    ));
}

#[test]
fn values_that_come_and_go_in_a_batch_leave_what_is_needed() {
    let clear = |key| append(key).clear("name", stream(key));
    let decision = batch(&[
        append(1)
            .claim("name", "x", stream(1))
            .enter("name", "e", stream(1)),
        clear(1),
        append(2)
            .claim("name", "x", stream(2))
            .enter("name", "e", stream(2)),
        append(2).enter("other", "e", stream(2)),
        append(3).claim("name", "x", stream(3)),
    ]);
    assert!(matches!(
        refusal(&decision, 4),
        StoreErrorKind::Conflict(Conflict::Claim { owner, .. }) if *owner == stream(2)
    ));
    let key = ("name".to_owned(), "x".to_owned());
    assert_eq!(decision.values.claims, [(key, stream(2))].into());
    let entries: Vec<_> = decision.values.entries.iter().collect();
    assert!(entries.iter().all(|entry| entry.owner == stream(2)));
    assert_eq!(entries.len(), 2);
    // What stream 1 had before the batch still has to go.
    assert_eq!(decision.values.removed.len(), 1);
    assert_eq!(decision.values.removed[0].owner, stream(1));
}

#[test]
fn values_of_others_are_taken_only_if_they_were_cleared_before() {
    let key = |value: &str| ("name".to_owned(), value.to_owned());
    let facts = Facts {
        claims: [(key("x"), stream(1)), (key("y"), stream(2))].into(),
        ..Facts::default()
    };
    let swap = append(1)
        .clear("name", stream(1))
        .clear("name", stream(2))
        .claim("name", "x", stream(2))
        .claim("name", "y", stream(1));
    let mut early = swap.clone();
    early.companions.swap(1, 3);
    let mut elsewhere = swap.clone();
    elsewhere.companions[1] = append(2).clear("other", stream(2)).companions.remove(0);
    for refused in [early, elsewhere] {
        let decision = decide(&[refused], facts.clone(), ManualClock::default().now());
        assert!(matches!(
            refusal(&decision, 0),
            StoreErrorKind::Conflict(Conflict::Claim { value, .. }) if value == "y"
        ));
        assert!(decision.values.is_empty());
    }
    let decision = decide(&[swap], facts, ManualClock::default().now());
    let expected = [(key("x"), stream(2)), (key("y"), stream(1))].into();
    assert_eq!(decision.values.claims, expected);
}

#[test]
fn time_never_goes_back_along_the_log() {
    let clock = ManualClock::default();
    let late = clock.now() + std::time::Duration::from_secs(9);
    let facts = Facts {
        recorded_at: Some(late),
        ..Facts::default()
    };
    assert_eq!(decide(&[append(1)], facts, clock.now()).recorded_at, late);
}
