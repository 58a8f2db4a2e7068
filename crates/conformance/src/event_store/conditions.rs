//! Dynamic consistency boundaries: conditions on the whole log.

use backstory_event::{
    Append, AppendCondition, Checkpoint, Conflict, EventFilter, EventId, EventStore, EventStoreExt,
    ExpectedVersion, FilterItem, NewEvent, Position, RecordedEvent, StoreErrorKind,
};
use futures::future::join_all;
use serde_json::json;

use crate::{
    Fixture,
    kit::{
        any, event, events, exact, head, log, payload, position, put, refused, stream, tag, within,
    },
    seats::{BOOKED, Occupied, SeatEvent, TAKEN},
};

fn condition_conflict(index: usize, event: &RecordedEvent) -> StoreErrorKind {
    StoreErrorKind::Conflict(Conflict::Condition {
        index,
        position: event.position(),
        name: event.name().to_owned(),
        event_id: event.id(),
    })
}

fn guarded(fail_if: impl Into<EventFilter>, after: impl Into<Checkpoint>) -> Append {
    any(&stream("guarded", "1"), [event("guarded")])
        .fail_if(AppendCondition::new(fail_if.into(), after))
}

pub async fn a_condition_finds_names_tags_categories_and_streams<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    let (milk, list) = (stream("todo", "milk"), stream("list", "1"));
    let append = any(
        &milk,
        [event("added").with_tag(tag("red")).with_tag(tag("big"))],
    )
    .and(
        list.clone(),
        ExpectedVersion::Any,
        [event("opened").with_tag(tag("red"))],
    )
    .and(
        stream("todo", "bread"),
        ExpectedVersion::Any,
        [event("added").with_tag(tag("big"))],
    );
    within(store.append(append)).await.unwrap();
    let stored = log(&store).await;
    let item = FilterItem::new;
    for (filter, hit) in [
        (item().name("opened"), 1),
        (item().name("never").name("added"), 0),
        (item().category("list"), 1),
        (item().category("todo").name("added"), 0),
        (item().stream(stream("todo", "bread")), 2),
        (item().stream(list.clone()).stream(milk.clone()), 0),
        (item().tag(tag("red")), 0),
        (item().tag(tag("red")).tag(tag("big")), 0),
        (item().tag(tag("red")).category("list"), 1),
        (item().tag(tag("big")).stream(stream("todo", "bread")), 2),
        (item(), 0),
    ] {
        let kind = refused(&store, guarded(filter.clone(), Position::START)).await;
        assert_eq!(kind, condition_conflict(0, &stored[hit]), "{filter:?}");
    }
    let or = EventFilter::from(item().name("opened")).or(item().tag(tag("big")).category("todo"));
    let kind = refused(&store, guarded(or, Position::START)).await;
    assert_eq!(
        kind,
        condition_conflict(0, &stored[0]),
        "the first event counts"
    );
}

pub async fn a_condition_passes_over_what_it_does_not_mean<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    let append = any(&stream("todo", "1"), [event("added").with_tag(tag("red"))]).and(
        stream("todo", "2"),
        ExpectedVersion::Any,
        [event("added").with_tag(tag("big"))],
    );
    within(store.append(append)).await.unwrap();
    let item = FilterItem::new;
    for filter in [
        EventFilter::none(),
        item().name("opened").into(),
        item().category("tod").into(),
        item().stream(stream("todo", "3")).into(),
        item().stream(stream("list", "1")).name("added").into(),
        item().tag(tag("red")).tag(tag("big")).into(),
        item().tag(tag("red")).stream(stream("todo", "2")).into(),
        item().name("guarded").tag(tag("red")).into(),
    ] {
        let outcome = within(store.append(guarded(filter.clone(), Position::START))).await;
        assert!(outcome.is_ok(), "{filter:?}: {outcome:?}");
    }
}

pub async fn a_condition_looks_only_behind_its_position<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    let todo = stream("todo", "1");
    put(&store, &todo, &["added", "done", "added"]).await;
    let stored = log(&store).await;
    let added = || FilterItem::new().name("added");
    for (after, hit) in [(0, 0), (1, 2), (2, 2)] {
        let kind = refused(&store, guarded(added(), Position::new(after))).await;
        assert_eq!(kind, condition_conflict(0, &stored[hit]));
        if after > 0 {
            let proved = stored[usize::try_from(after).unwrap() - 1].checkpoint();
            let kind = refused(&store, guarded(added(), proved)).await;
            assert_eq!(kind, condition_conflict(0, &stored[hit]));
        }
    }
    within(store.append(guarded(added(), Position::new(3))))
        .await
        .unwrap();
    within(store.append(guarded(added(), stored[2].checkpoint())))
        .await
        .unwrap();
    within(store.append(guarded(EventFilter::all(), head(&store).await)))
        .await
        .unwrap();
}

pub async fn a_condition_does_not_see_its_own_events<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    let todo = stream("todo", "1");
    let once = || {
        any(&todo, [event("opened").with_tag(tag("only"))]).fail_if(AppendCondition::new(
            EventFilter::tag(tag("only")),
            Position::START,
        ))
    };
    within(store.append(once())).await.unwrap();
    let kind = refused(&store, once()).await;
    assert_eq!(kind, condition_conflict(0, &log(&store).await[0]));
}

pub async fn each_of_several_conditions_must_hold<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    put(&store, &stream("todo", "1"), &["added", "done"]).await;
    let stored = log(&store).await;
    let on =
        |name: &str| AppendCondition::new(FilterItem::new().name(name).into(), Position::START);
    let append = || any(&stream("list", "1"), [event("opened")]);
    let kind = refused(&store, append().fail_if(on("other")).fail_if(on("done"))).await;
    assert_eq!(kind, condition_conflict(1, &stored[1]));
    let kind = refused(&store, append().fail_if(on("added")).fail_if(on("done"))).await;
    assert_eq!(kind, condition_conflict(0, &stored[0]));
    let holds = append().fail_if(on("other")).fail_if(on("another"));
    within(store.append(holds)).await.unwrap();
}

pub async fn conditions_stand_beside_expected_versions<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    let todo = stream("todo", "1");
    put(&store, &todo, &["added"]).await;
    let condition = || AppendCondition::new(EventFilter::category("list"), Position::START);
    let at =
        |version| Append::to(todo.clone(), exact(version), [event("done")]).fail_if(condition());
    let kind = refused(&store, at(0)).await;
    assert!(
        matches!(kind, StoreErrorKind::Conflict(Conflict::Version { .. })),
        "{kind:?}"
    );
    within(store.append(at(1))).await.unwrap();
    put(&store, &stream("list", "1"), &["opened"]).await;
    let kind = refused(&store, at(2)).await;
    assert!(
        matches!(kind, StoreErrorKind::Conflict(Conflict::Condition { .. })),
        "{kind:?}"
    );
}

pub async fn a_condition_proves_the_log_that_was_read<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    put(&store, &stream("todo", "1"), &["a", "b", "c"]).await;
    let stored = log(&store).await;
    let never = || FilterItem::new().name("never");
    within(store.append(guarded(never(), stored[1].checkpoint())))
        .await
        .unwrap();
    let foreign = EventId::new();
    let wrong = Checkpoint {
        position: position(2),
        event_id: foreign,
    };
    let kind = refused(&store, guarded(never(), wrong)).await;
    let found = Some(stored[1].id());
    assert_eq!(
        kind,
        StoreErrorKind::Diverged {
            position: position(2),
            expected: foreign,
            found
        }
    );
    let beyond = Checkpoint {
        position: position(500),
        event_id: foreign,
    };
    let kind = refused(&store, guarded(never(), beyond)).await;
    let expected = StoreErrorKind::Diverged {
        position: position(500),
        expected: foreign,
        found: None,
    };
    assert_eq!(kind, expected);
    // Only the second condition has a wrong proof.
    let append = guarded(never(), stored[1].checkpoint())
        .fail_if(AppendCondition::new(never().into(), wrong));
    let kind = refused(&store, append).await;
    assert!(matches!(kind, StoreErrorKind::Diverged { .. }), "{kind:?}");
}

pub async fn a_condition_on_an_event_finds_its_old_names<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    let old = NewEvent::raw(BOOKED, payload(json!({ "seat": 1, "by": "old" })));
    within(store.append(any(&stream("theatre", "1"), [old])))
        .await
        .unwrap();
    let stored = log(&store).await;
    for filter in [
        EventFilter::named::<SeatEvent>([TAKEN]),
        EventFilter::of::<SeatEvent>(),
    ] {
        let kind = refused(&store, guarded(filter, Position::START)).await;
        assert_eq!(kind, condition_conflict(0, &stored[0]));
    }
}

pub async fn a_fold_gives_a_state_and_its_boundary<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    let seat = |number| EventFilter::of::<SeatEvent>().and_tag(&tag(&format!("seat:{number}")));
    let fold = |filter| {
        let store = store.clone();
        async move {
            within(store.fold::<Occupied>(filter).into_future())
                .await
                .unwrap()
        }
    };
    let empty = fold(seat(1)).await;
    assert_eq!(
        (empty.state, empty.read_to),
        (Occupied(0), Checkpoint::START)
    );
    let theatre = stream("theatre", "1");
    let take = |number| NewEvent::of(&SeatEvent::taken(number)).unwrap();
    let leave = NewEvent::of(&SeatEvent::left(1)).unwrap();
    within(store.append(any(&theatre, [take(1), leave, take(1), take(2)])))
        .await
        .unwrap();
    put(&store, &stream("other", "1"), &["unrelated", "unrelated"]).await;

    let first = fold(seat(1)).await;
    assert_eq!(first.state, Occupied(1));
    assert_eq!(
        first.read_to,
        head(&store).await,
        "read to the end, not to the last match"
    );
    let free = fold(seat(7)).await;
    assert_eq!(free.state, Occupied(0));
    assert_eq!(
        free.read_to,
        head(&store).await,
        "also when nothing matched"
    );

    let decide = |condition| any(&theatre, [take(7)]).fail_if(condition);
    within(store.append(decide(free.condition())))
        .await
        .unwrap();
    let kind = refused(&store, decide(free.condition())).await;
    let taken = &log(&store).await[6];
    assert_eq!(kind, condition_conflict(0, taken));
    within(store.append(decide(first.condition())))
        .await
        .unwrap();
}

pub async fn a_fold_over_many_pages_reads_to_the_end<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    let theatre = stream("theatre", "1");
    let noise = stream("noise", "1");
    for round in 0..4 {
        let take = NewEvent::of(&SeatEvent::taken(round)).unwrap();
        let many = (0..1_200).map(|_| event("noise"));
        let append = any(&theatre, [take]).and(noise.clone(), ExpectedVersion::Any, many);
        within(store.append(append)).await.unwrap();
    }
    for (filter, state) in [
        (EventFilter::of::<SeatEvent>(), Occupied(4)),
        (EventFilter::stream(theatre), Occupied(4)),
        (EventFilter::category("never"), Occupied(0)),
        (EventFilter::all(), Occupied(4)),
    ] {
        let folded = within(store.fold::<Occupied>(filter).into_future())
            .await
            .unwrap();
        assert_eq!((folded.state, folded.read_to), (state, head(&store).await));
    }
}

pub async fn the_last_seat_is_reserved_once<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    let other = within(fixture.elsewhere()).await;
    let filter = || EventFilter::of::<SeatEvent>().and_tag(&tag("seat:1"));
    let folded = within(store.fold::<Occupied>(filter()).into_future())
        .await
        .unwrap();
    // All have seen the free seat, none the others; each writes to a stream of its own.
    let attempts = (0..16).map(|buyer| {
        let handle = if buyer % 2 == 0 {
            store.clone()
        } else {
            other.clone()
        };
        let take = NewEvent::of(&SeatEvent::taken(1)).unwrap();
        let append = any(&stream("buyer", &buyer.to_string()), [take]).fail_if(folded.condition());
        async move { handle.append(append).await }
    });
    let outcomes = within(join_all(attempts)).await;
    let stored = log(&store).await;
    assert_eq!(stored.len(), 1);
    assert_eq!(outcomes.iter().filter(|outcome| outcome.is_ok()).count(), 1);
    for error in outcomes.into_iter().filter_map(Result::err) {
        assert_eq!(error.into_kind(), condition_conflict(0, &stored[0]));
    }
    let events = events(&["after"]);
    put(&store, &stream("buyer", "1"), &["after"]).await;
    within(store.append(any(&stream("buyer", "2"), events)))
        .await
        .unwrap();
}
