use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use backstory_event::{Checkpoint, StoreError, SystemClock};
use tokio::sync::Semaphore;

use super::*;
use crate::{OrderKind, OrderOutcome, ProjectionRow};

/// A store at which a beat goes on when nobody waits for it any more, as at a server.
#[derive(Debug, Clone, Default)]
struct Server(Arc<State>);

#[derive(Debug)]
struct State {
    /// So many beats may end.
    gate: Semaphore,
    begun: Semaphore,
    ended: Semaphore,
    led: AtomicBool,
}

impl Default for State {
    fn default() -> Self {
        Self {
            gate: Semaphore::new(0),
            begun: Semaphore::new(0),
            ended: Semaphore::new(0),
            led: AtomicBool::new(false),
        }
    }
}

async fn take(semaphore: &Semaphore) {
    semaphore.acquire().await.unwrap().forget();
}

#[async_trait]
impl Control for Server {
    async fn beat(&self, _: &Beat) -> Result<Vec<Seat>, StoreError> {
        let state = self.0.clone();
        let beat = tokio::spawn(async move {
            state.begun.add_permits(1);
            take(&state.gate).await;
            state.led.store(true, Ordering::SeqCst);
            state.ended.add_permits(1);
        });
        beat.await.unwrap();
        Ok(Vec::new())
    }

    async fn leave(&self, _: Uuid) -> Result<(), StoreError> {
        self.0.led.store(false, Ordering::SeqCst);
        Ok(())
    }

    async fn list_projections(&self) -> Result<Vec<ProjectionRow>, StoreError> {
        unreachable!("beats do not list")
    }

    async fn order(&self, _: &str, _: &OrderKind) -> Result<Option<i64>, StoreError> {
        unreachable!("beats give no orders")
    }

    async fn order_outcome(&self, _: i64) -> Result<OrderOutcome, StoreError> {
        unreachable!("beats give no orders")
    }

    async fn withdraw_order(&self, _: i64) -> Result<OrderOutcome, StoreError> {
        unreachable!("beats give no orders")
    }
}

#[tokio::test]
async fn a_beat_that_is_on_its_way_takes_nothing_after_the_end() {
    let server = Server::default();
    let (leave, leaving) = watch::channel(false);
    server.0.gate.add_permits(1);
    let (beats, _) = Beats::begin(Start {
        control: Arc::new(server.clone()),
        owner: Uuid::now_v7(),
        process: "first".to_owned(),
        lease: Duration::from_secs(60),
        time: Timeline::new(Arc::new(SystemClock)),
        ring: Arc::new(Ring::new(1, Checkpoint::START)),
        pulse: Arc::default(),
        leaving,
        names: vec!["ledger"],
    })
    .await
    .unwrap();
    take(&server.0.begun).await;
    take(&server.0.ended).await;

    let running = tokio::spawn(beats.run());
    take(&server.0.begun).await;
    leave.send(true).unwrap();
    server.0.gate.add_permits(1);
    running.await.unwrap();
    take(&server.0.ended).await;
    assert!(
        !server.0.led.load(Ordering::SeqCst),
        "the lease was given back"
    );
}
