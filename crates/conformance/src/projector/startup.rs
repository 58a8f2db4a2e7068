//! A start-up filter: only a part of what is there at first, and all that comes.

use std::sync::{Arc, Mutex};

use backstory_event::{Envelope, EventFilter, Fold, Folded};
use backstory_projection::{Checkpoints, Job, Projector, RunningProjector, Schedule};

use super::ledger::{HOUR, LEDGER, LedgerEvent, account, append, booked, noise, run, seen, status};
use crate::{CompleteStore, Fixture, kit::within};

/// Four events of two accounts, of which the filter takes two.
async fn history<S: CompleteStore>(store: &S) -> EventFilter {
    for key in ["a", "b"] {
        append(store, key, [booked(1)]).await;
        append(store, key, [booked(2)]).await;
    }
    noise(store, 1).await;
    EventFilter::stream(account("b"))
}

async fn catch_up(projector: &RunningProjector) {
    within(projector.catch_up()).await.unwrap();
}

pub async fn only_a_part_of_the_history_is_projected_at_first<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    let of_b = history(&store).await;
    let schedule = || Schedule::continuous().max_batch(1).startup(of_b.clone());
    let projector = run(&store, schedule()).await;
    append(&store, "a", [booked(3)]).await;
    catch_up(&projector).await;
    assert_eq!(seen(&store).await, [3, 4, 6]);
    within(projector.shutdown()).await.unwrap();
    // What comes while nobody runs it is no history.
    append(&store, "a", [booked(4)]).await;
    let projector = run(&store, schedule()).await;
    append(&store, "b", [booked(5)]).await;
    catch_up(&projector).await;
    assert_eq!(seen(&store).await, [3, 4, 6, 7, 8]);
    // Nor after a reset, or in a rebuild.
    within(projector.reset(LEDGER)).await.unwrap();
    catch_up(&projector).await;
    assert_eq!(seen(&store).await, [3, 4, 6, 7, 8]);
    within(projector.rebuild(LEDGER)).await.unwrap();
    within(projector.rebuilt(LEDGER)).await.unwrap();
    catch_up(&projector).await;
    assert_eq!(seen(&store).await, [3, 4, 6, 7, 8]);
}

pub async fn a_crash_does_not_move_the_end_of_the_history<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    let of_b = history(&store).await;
    let hourly = || Schedule::every(HOUR).startup(of_b.clone());
    // It dies before it has projected anything …
    drop(run(&store, hourly()).await);
    append(&store, "a", [booked(3)]).await;
    let other = within(fixture.elsewhere()).await;
    let projector = run(&other, hourly()).await;
    append(&store, "a", [booked(4)]).await;
    catch_up(&projector).await;
    assert_eq!(seen(&store).await, [3, 4, 6, 7]);
}

pub async fn an_empty_log_has_no_history<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    let nothing = || Schedule::every(HOUR).startup(EventFilter::none());
    drop(run(&store, nothing()).await);
    append(&store, "a", [booked(1)]).await;
    let projector = run(&store, nothing()).await;
    catch_up(&projector).await;
    assert_eq!(seen(&store).await, [1]);
    let mark = within(store.load_progress(&format!("{LEDGER}~startup"))).await;
    assert_eq!(mark.unwrap().epoch, 1);
}

pub async fn a_startup_filter_adds_nothing<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    history(&store).await;
    let all = Schedule::continuous().startup(EventFilter::all());
    let projector = run(&store, all).await;
    catch_up(&projector).await;
    assert_eq!(seen(&store).await, [1, 2, 3, 4]);
    assert_eq!(status(&projector).reached.get(), 5);
}

#[derive(Debug, Default)]
struct Positions(Vec<i64>);

impl Fold for Positions {
    type Event = LedgerEvent;
    fn fold(&mut self, envelope: &Envelope<LedgerEvent>) {
        self.0.push(envelope.position().get());
    }
}

pub async fn a_read_model_of_a_job_has_what_the_job_does_not_get<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    let of_b = history(&store).await;
    let told = Arc::new(Mutex::new((Vec::new(), Vec::new())));
    let tells = Arc::clone(&told);
    let filter = EventFilter::of::<LedgerEvent>();
    let job = Job::new(LEDGER, filter.clone(), move |mut job| {
        let (tells, filter) = (Arc::clone(&tells), filter.clone());
        async move {
            let mut positions = Folded::<Positions>::new(filter);
            job.apply(&mut positions).await?;
            let given = job.events().into_iter().map(|e| e.position().get());
            let mut told = tells.lock().unwrap();
            told.0.extend(given);
            told.1 = positions.state.0;
            Ok(())
        }
    });
    let projector = Projector::new(&store).with_job(job, Schedule::continuous().startup(of_b));
    let projector = within(projector.start()).await.unwrap();
    let receipt = append(&store, "a", [booked(3)]).await;
    within(projector.projection(LEDGER).caught_up(&receipt))
        .await
        .unwrap();
    let told = told.lock().unwrap().clone();
    assert_eq!(told, (vec![3, 4, 6], vec![1, 2, 3, 4, 6]));
}
