//! Commits: all or nothing, and only from where the projection is.

use super::*;

pub async fn a_commit_moves_the_checkpoint_also_without_documents<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    let name = "odd name % \" ä";
    assert_eq!(
        store.load_progress(name).await.unwrap(),
        Progress::start(name)
    );
    let first = commit(&store, name, Vec::new()).await;
    assert_eq!(store.load_progress(name).await.unwrap(), first);
    let second = commit(&store, name, vec![one("a", "b", 1)]).await;
    assert_eq!(second.checkpoint.position, Position::new(2));
    assert_eq!(store.load_progress(name).await.unwrap(), second);
    assert_eq!(second.epoch, 0);
}

pub async fn a_fenced_commit_writes_nothing<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    let before = commit(&store, "notes", vec![one("a", "kept", 1)]).await;
    let now = commit(&store, "notes", vec![one("a", "kept", 2)]).await;
    let changed = |change: &dyn Fn(&mut Progress)| {
        let mut progress = now.clone();
        change(&mut progress);
        progress
    };
    let wrong = [
        before,
        Progress::start("notes"),
        changed(&|progress| progress.epoch += 1),
        changed(&|progress| progress.checkpoint.event_id = EventId::new()),
        changed(&|progress| progress.checkpoint.position = Position::new(9)),
    ];
    for from in wrong {
        for to in [Target::Advance(further(&now)), Target::Reset] {
            let writes = vec![
                one("a", "new", 1),
                one("b", "new", 1),
                DocumentWrite::Delete {
                    key: place("a", "kept"),
                },
            ];
            let step = Step::new(from.clone(), to);
            assert_fenced(within(store.commit_documents(writes, &step)).await, "notes");
        }
    }
    assert_eq!(store.load_progress("notes").await.unwrap(), now);
    assert_eq!(get(&store, "a", "kept").await, Some(json!(2)));
    assert_eq!(get(&store, "a", "new").await, None);
    assert_eq!(get(&store, "b", "new").await, None);
    // The first step of a projection can be fenced too.
    let from = Progress {
        epoch: 3,
        ..Progress::start("another")
    };
    let to = Target::Advance(further(&from));
    let step = Step::new(from, to);
    assert_fenced(store.commit_documents(Vec::new(), &step).await, "another");
    assert_eq!(
        store.load_progress("another").await.unwrap(),
        Progress::start("another")
    );
}

pub async fn a_commit_from_before_a_reset_is_fenced<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    let start = store.load_progress("notes").await.unwrap();
    let step = Step::new(start.clone(), Target::Reset);
    store.commit_documents(Vec::new(), &step).await.unwrap();
    let progress = store.load_progress("notes").await.unwrap();
    assert_eq!(
        (progress.checkpoint, progress.epoch),
        (Checkpoint::START, 1)
    );
    // At the same place, but of another time.
    let to = Target::Advance(further(&start));
    let step = Step::new(start, to);
    let late = store
        .commit_documents(vec![one("a", "late", 1)], &step)
        .await;
    assert_fenced(late, "notes");
    assert_eq!(get(&store, "a", "late").await, None);
}

pub async fn of_many_commits_at_once_one_wins<F: Fixture>(fixture: &F) {
    let (here, there) = (fixture.store(), fixture.elsewhere().await);
    for round in 0..10 {
        let from = here.load_progress("notes").await.unwrap();
        let attempts = (0..8).map(|number| {
            let store = if number % 2 == 0 {
                here.clone()
            } else {
                there.clone()
            };
            let to = Target::Advance(further(&from));
            let step = Step::new(from.clone(), to);
            let key = format!("{round}-{number}");
            let writes = vec![one("a", "winner", number), one("a", &key, number)];
            async move { (number, store.commit_documents(writes, &step).await, step) }
        });
        let outcomes = within(futures::future::join_all(attempts)).await;
        let mut winners = Vec::new();
        for (number, outcome, step) in outcomes {
            match outcome {
                Ok(()) => winners.push((number, step.result())),
                outcome => assert_fenced(outcome, "notes"),
            }
        }
        let [(winner, progress)] = &winners[..] else {
            panic!("{} commits won", winners.len());
        };
        assert_eq!(here.load_progress("notes").await.unwrap(), *progress);
        assert_eq!(get(&here, "a", "winner").await, Some(json!(winner)));
    }
    let kept = keys(&here, List::of("a")).await;
    assert_eq!(kept.len(), 11, "the losers wrote nothing: {kept:?}");
}

pub async fn projections_do_not_fence_each_other<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    let attempts = (0..10).map(|number| {
        let store = store.clone();
        async move {
            let name = format!("projection-{number}");
            for round in 0..5 {
                let write = one(&name, &round.to_string(), round);
                commit(&store, &name, vec![write]).await;
            }
        }
    });
    within(futures::future::join_all(attempts)).await;
    for number in 0..10 {
        let progress = store
            .load_progress(&format!("projection-{number}"))
            .await
            .unwrap();
        assert_eq!(progress.checkpoint.position, Position::new(5));
    }
}

pub async fn a_reset_empties_only_its_own_collections<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    commit(&store, "mine", vec![one("a", "1", 1), one("b", "1", 1)]).await;
    commit(&store, "other", vec![one("c", "1", 1)]).await;
    let from = store.load_progress("mine").await.unwrap();
    let step = Step::new(from, Target::Reset);
    // What is written with a reset is there after it.
    within(store.commit_documents(vec![one("a", "2", 2)], &step))
        .await
        .unwrap();
    assert_eq!(store.load_progress("mine").await.unwrap(), step.result());
    assert_eq!(step.result().epoch, 1);
    assert_eq!(keys(&store, List::of("a")).await, ["2"]);
    assert_eq!(get(&store, "a", "1").await, None);
    assert!(keys(&store, List::of("b")).await.is_empty());
    assert_eq!(get(&store, "b", "1").await, None);
    assert_eq!(keys(&store, List::of("c")).await, ["1"]);
    // And again, with an index.
    put(&store, NOTES, [("n", note(1, "x"))]).await;
    let from = store.load_progress("notes").await.unwrap();
    let step = Step::new(from, Target::Reset);
    within(store.commit_documents(Vec::new(), &step))
        .await
        .unwrap();
    assert!(
        keys(&store, List::of(NOTES).ordered_by("rank"))
            .await
            .is_empty()
    );
    put(&store, NOTES, [("n", note(2, "x"))]).await;
    assert_eq!(keys(&store, List::of(NOTES).field("rank", &2)).await, ["n"]);
    assert!(
        keys(&store, List::of(NOTES).field("rank", &1))
            .await
            .is_empty()
    );
}

pub async fn the_progress_of_all_is_listed_by_name<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    assert!(store.list_progress().await.unwrap().is_empty());
    let mut expected = Vec::new();
    for name in ["b", "a", "B", "ä", "_"] {
        expected.push(commit(&store, name, Vec::new()).await);
    }
    expected.sort_by(|one, two| one.projection.cmp(&two.projection));
    assert_eq!(store.list_progress().await.unwrap(), expected);
}
