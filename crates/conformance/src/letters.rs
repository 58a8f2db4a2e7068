//! What every store must do for the events that projections left out.

use backstory_event::{
    Append, Checkpoint, EventStore, ExpectedVersion, Lifecycle, NewEvent, Payload, Position,
    RecordedEvent, StreamId,
};
use backstory_projection::{
    Checkpoints, CommitError, DeadLetter, DeadLetters, DocumentStore, LetterCount, LetterQuery,
    LetterWrite, Progress, Step, Target,
};
use chrono::DateTime;

use crate::{
    Fixture,
    kit::{log, stream, within},
};

/// One test per case of the suite of dead letters.
#[macro_export]
macro_rules! letters_suite {
    ($make:expr) => {
        $crate::cases!($make, $crate::letters, [
            letters_are_kept_with_their_step
            a_fenced_step_changes_no_letters
            letters_are_listed_page_by_page
            parked_keys_are_told_from_others
            a_reset_removes_only_its_own_letters
            an_amendment_moves_nothing_and_fences_others
            an_erased_stream_takes_its_letters_along
            thousands_of_letters_go_into_one_step
        ]);
    };
}

const NAME: &str = "odd name % \" ä";

/// Appends events of one stream, and gives them back as stored.
async fn append<S: EventStore>(store: &S, own: &StreamId, events: usize) -> Vec<RecordedEvent> {
    let new = (0..events).map(|_| NewEvent::raw("letter.written", Payload::empty()));
    let append = Append::to(own.clone(), ExpectedVersion::Any, new);
    let receipt = within(store.append(append)).await.unwrap();
    let first = receipt.positions.unwrap().0;
    let mut log = log(store).await;
    log.retain(|event| event.position() >= first);
    log
}

fn letter(event: &RecordedEvent, key: &str) -> DeadLetter {
    let at = DateTime::from_timestamp_micros(1_700_000_000_123_456).unwrap();
    DeadLetter::new(NAME, event, key, at)
}

async fn commit<S: DocumentStore + Checkpoints>(
    store: &S,
    projection: &str,
    to: impl FnOnce(&Progress) -> Target,
    letters: Vec<LetterWrite>,
) -> Result<Progress, CommitError> {
    let from = store.load_progress(projection).await.unwrap();
    let to = to(&from);
    let step = Step::new(from, to).with_letters(letters);
    within(store.commit_documents(Vec::new(), &step)).await?;
    Ok(step.result())
}

fn further(from: &Progress) -> Target {
    Target::Advance(Checkpoint::at(from.checkpoint.position.next()))
}

async fn put<S: DocumentStore + Checkpoints>(store: &S, letters: Vec<DeadLetter>) {
    let letters = letters.into_iter().map(LetterWrite::Put).collect();
    commit(store, NAME, further, letters).await.unwrap();
}

async fn list<S: DeadLetters>(store: &S, query: LetterQuery) -> Vec<DeadLetter> {
    within(store.list_letters(&query)).await.unwrap()
}

async fn count<S: DeadLetters>(store: &S, projection: &str) -> (u64, u64) {
    let LetterCount {
        letters,
        parked_keys,
    } = within(store.count_letters(projection)).await.unwrap();
    (letters, parked_keys)
}

pub async fn letters_are_kept_with_their_step<F: Fixture>(fixture: &F) {
    let (store, there) = (fixture.store(), fixture.elsewhere().await);
    assert_eq!(count(&store, NAME).await, (0, 0));
    assert_eq!(list(&store, LetterQuery::of(NAME)).await, []);
    let events = append(&store, &stream("post", "odd % \" key"), 3).await;
    let skipped = letter(&events[0], "k").because("it is ä, \" and \n", 3);
    let parked = letter(&events[2], &"ß".repeat(300)).because("", 0).parked();
    put(&store, vec![parked.clone(), skipped.clone()]).await;
    for store in [&store, &there] {
        let all = list(store, LetterQuery::of(NAME)).await;
        assert_eq!(all, [skipped.clone(), parked.clone()]);
        assert_eq!(count(store, NAME).await, (2, 1));
        let one = within(store.letter(NAME, events[2].position())).await;
        assert_eq!(one.unwrap(), Some(parked.clone()));
        let none = within(store.letter(NAME, events[1].position())).await;
        assert_eq!(none.unwrap(), None);
        assert_eq!(count(store, "another").await, (0, 0));
    }
    // A later one of the same event takes its place.
    let again = skipped.because("and again", 4);
    let removed = LetterWrite::Remove(parked.position);
    let nothing = LetterWrite::Remove(Position::new(77));
    let changes = vec![LetterWrite::Put(again.clone()), removed, nothing];
    let progress = commit(&there, NAME, further, changes).await.unwrap();
    assert_eq!(list(&store, LetterQuery::of(NAME)).await, [again]);
    assert_eq!(count(&store, NAME).await, (1, 0));
    assert_eq!(store.load_progress(NAME).await.unwrap(), progress);
}

pub async fn a_fenced_step_changes_no_letters<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    let events = append(&store, &stream("post", "1"), 2).await;
    let kept = letter(&events[0], "k").because("kept", 1);
    put(&store, vec![kept.clone()]).await;
    for to in [
        Target::Advance(Checkpoint::at(Position::new(2))),
        Target::Amend,
        Target::Reset,
    ] {
        let letters = vec![
            LetterWrite::Remove(kept.position),
            LetterWrite::Put(letter(&events[1], "k")),
        ];
        let step = Step::new(Progress::start(NAME), to).with_letters(letters);
        let outcome = within(store.commit_documents(Vec::new(), &step)).await;
        assert!(
            matches!(outcome, Err(CommitError::Fenced { .. })),
            "{outcome:?}"
        );
    }
    assert_eq!(list(&store, LetterQuery::of(NAME)).await, [kept]);
}

pub async fn letters_are_listed_page_by_page<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    let events = append(&store, &stream("post", "1"), 25).await;
    let keys = ["a", "A", "a%"];
    let letters = events.iter().zip(0..);
    let letters: Vec<_> = letters
        .map(|(event, number)| letter(event, keys[number % 3]))
        .collect();
    put(&store, letters.iter().rev().cloned().collect()).await;
    let mut mixed = letter(&events[3], "a");
    mixed.projection = "another".into();
    commit(&store, "another", further, vec![LetterWrite::Put(mixed)])
        .await
        .unwrap();
    for (query, expected) in [
        (LetterQuery::of(NAME), letters.clone()),
        (
            LetterQuery::of(NAME).key("A"),
            letters.iter().skip(1).step_by(3).cloned().collect(),
        ),
        (LetterQuery::of(NAME).key("b"), Vec::new()),
    ] {
        let mut found = Vec::new();
        let mut query = query.limit(4);
        loop {
            let page = list(&store, query.clone()).await;
            let Some(last) = page.last() else { break };
            query = query.after(last.position);
            assert!(page.len() <= 4 && found.len() < 26);
            found.extend(page);
        }
        assert_eq!(found, expected);
    }
    assert_eq!(count(&store, "another").await, (1, 0));
}

pub async fn parked_keys_are_told_from_others<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    let events = append(&store, &stream("post", "1"), 6).await;
    let long = "ä".repeat(300);
    let letters = vec![
        letter(&events[0], "a").parked(),
        letter(&events[1], "a").parked(),
        letter(&events[2], "a"),
        letter(&events[3], "b"),
        letter(&events[4], &long).parked(),
        letter(&events[5], "%").parked(),
    ];
    put(&store, letters).await;
    assert_eq!(count(&store, NAME).await, (6, 3));
    let asked = ["a", "b", "c", "A", "", "%", "a%", &long].map(str::to_owned);
    let mut parked = within(store.parked_keys(NAME, &asked)).await.unwrap();
    parked.sort();
    assert_eq!(parked, ["%", "a", &long]);
    for (projection, keys) in [("another", &asked[..]), (NAME, &[])] {
        let none = within(store.parked_keys(projection, keys)).await.unwrap();
        assert!(none.is_empty(), "{none:?}");
    }
    // As long as one of its letters is.
    let remove = |event: &RecordedEvent| LetterWrite::Remove(event.position());
    for (removed, left) in [(0, 3), (1, 2)] {
        let letters = vec![remove(&events[removed])];
        commit(&store, NAME, |_| Target::Amend, letters)
            .await
            .unwrap();
        assert_eq!(count(&store, NAME).await.1, left);
    }
}

pub async fn a_reset_removes_only_its_own_letters<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    let events = append(&store, &stream("post", "1"), 2).await;
    put(&store, vec![letter(&events[0], "k").parked()]).await;
    let mut other = letter(&events[0], "k").parked();
    other.projection = "another".into();
    commit(&store, "another", further, vec![LetterWrite::Put(other)])
        .await
        .unwrap();
    commit(&store, NAME, |_| Target::Reset, Vec::new())
        .await
        .unwrap();
    assert_eq!(count(&store, NAME).await, (0, 0));
    assert_eq!(count(&store, "another").await, (1, 1));
}

pub async fn an_amendment_moves_nothing_and_fences_others<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    put(&store, Vec::new()).await;
    let before = store.load_progress(NAME).await.unwrap();
    let amended = commit(&store, NAME, |_| Target::Amend, Vec::new())
        .await
        .unwrap();
    assert_eq!(store.load_progress(NAME).await.unwrap(), amended);
    assert_eq!(amended.checkpoint, before.checkpoint);
    assert_eq!(amended.epoch, before.epoch + 1);
    let to = further(&before);
    let step = Step::new(before, to);
    let late = store.commit_documents(Vec::new(), &step);
    assert!(matches!(
        within(late).await,
        Err(CommitError::Fenced { .. })
    ));
}

pub async fn an_erased_stream_takes_its_letters_along<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    let [gone, kept] = ["gone", "kept"].map(|key| stream("person", key));
    let gone_events = append(&store, &gone, 2).await;
    let kept_events = append(&store, &kept, 1).await;
    let quoting = |event| letter(event, "k").because("it quotes what is secret", 1);
    let (early, late) = (quoting(&gone_events[0]), quoting(&gone_events[1]));
    let other = quoting(&kept_events[0]);
    put(&store, vec![early, other.clone()]).await;
    let erase = Append::to(gone, ExpectedVersion::Any, [Lifecycle::Erased.event()]);
    within(store.append(erase)).await.unwrap();
    assert_eq!(
        list(&store, LetterQuery::of(NAME)).await,
        std::slice::from_ref(&other)
    );
    // What began before the erasure does not bring it back.
    put(&store, vec![late]).await;
    assert_eq!(list(&store, LetterQuery::of(NAME)).await, [other]);
}

pub async fn thousands_of_letters_go_into_one_step<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    let mut events = Vec::new();
    for key in 0..3 {
        events.extend(append(&store, &stream("post", &key.to_string()), 1_000).await);
    }
    let key = |event: &RecordedEvent| event.stream().to_string();
    let letters = events
        .iter()
        .map(|event| letter(event, &key(event)).parked());
    let begin = std::time::Instant::now();
    put(&store, letters.collect()).await;
    assert_eq!(count(&store, NAME).await, (3_000, 3));
    let removed = events
        .iter()
        .map(|event| LetterWrite::Remove(event.position()));
    commit(&store, NAME, |_| Target::Amend, removed.collect())
        .await
        .unwrap();
    assert_eq!(count(&store, NAME).await, (0, 0));
    assert!(begin.elapsed() < crate::kit::PATIENCE);
}
