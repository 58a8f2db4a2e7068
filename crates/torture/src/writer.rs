//! The process of many writers: each makes its next append only after the journal has the outcome
//! of the one before.

use std::{sync::Arc, time::Duration};

use backstory_event::{Append, EventStore};
use backstory_store_postgres::PostgresStore;
use fastrand::Rng;
use sqlx::{PgPool, postgres::PgPoolOptions};
use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
};
use uuid::Uuid;

use crate::{
    Result,
    args::{Sabotage, WriterArgs},
    journal::{Journal, Outcome},
    now,
    orders::orders,
    plan::{Known, Plan, Planner, Way},
    sabotage,
    subscriber::connect,
    within,
};

/// How often an append is sent again after nobody knew its outcome.
const ATTEMPTS: usize = 5;

/// What the writers of a process share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) store: PostgresStore,
    /// For transactions of the application.
    pub(crate) pool: PgPool,
    known: Known,
    sabotage: Option<Sabotage>,
}

/// Writes until it is told to stop, or killed.
pub(crate) async fn run(args: &WriterArgs) -> Result {
    let mut orders = orders();
    let name = format!("torture-writer-{}", args.incarnation);
    let pool = PgPoolOptions::new()
        .max_connections(6)
        .acquire_timeout(Duration::from_secs(5))
        .connect_lazy_with(args.address.options(&name)?);
    let shared = Arc::new(Shared {
        store: connect(&args.address, &name).await?,
        pool,
        known: Known::default(),
        sabotage: args.sabotage,
    });
    let stop = watch::Sender::new(false);
    let mut seeds = Rng::with_seed(args.seed);
    let mut writers = JoinSet::new();
    for _ in 0..args.tasks {
        let writer = Writer::new(args, &shared, &mut seeds, &stop).await?;
        writers.spawn(writer.run());
    }
    let mut freezer = Writer::new(args, &shared, &mut seeds, &stop).await?;
    loop {
        tokio::select! {
            order = orders.recv() => follow(order, &mut orders, &mut freezer, &stop).await?,
            ended = writers.join_next() => match ended {
                Some(ended) => ended??,
                None => return Ok(()),
            },
        }
    }
}

async fn follow(
    order: Option<String>,
    orders: &mut mpsc::Receiver<String>,
    freezer: &mut Writer,
    stop: &watch::Sender<bool>,
) -> Result {
    match order.as_deref() {
        Some("freeze") => within::freeze(freezer, orders).await?,
        _ => drop(stop.send_replace(true)),
    }
    Ok(())
}

/// One writer.
#[derive(Debug)]
pub(crate) struct Writer {
    pub(crate) shared: Arc<Shared>,
    pub(crate) journal: Journal,
    pub(crate) planner: Planner,
    stop: watch::Receiver<bool>,
}

impl Writer {
    async fn new(
        args: &WriterArgs,
        shared: &Arc<Shared>,
        seeds: &mut Rng,
        stop: &watch::Sender<bool>,
    ) -> Result<Self> {
        let known = shared.known.clone();
        Ok(Self {
            shared: shared.clone(),
            journal: Journal::connect(&args.socket, args.incarnation).await?,
            planner: Planner::new(seeds.u64(..), known, args.incarnation),
            stop: stop.subscribe(),
        })
    }

    pub(crate) fn is_stopped(&self) -> bool {
        *self.stop.borrow()
    }

    async fn run(mut self) -> Result {
        while !self.is_stopped() {
            if self.shared.sabotage == Some(Sabotage::Identity) {
                sabotage::insert(&mut self).await?;
                continue;
            }
            let plan = self.planner.next()?;
            match plan.way {
                Way::Append => self.append(plan).await?,
                Way::Within(end) => within::append(&mut self, plan, end).await?,
            }
        }
        Ok(())
    }

    async fn append(&mut self, plan: Plan) -> Result {
        let Plan { id, append, .. } = plan;
        self.journal.intent(id, plan.kind, &append).await?;
        for _ in 0..ATTEMPTS {
            if self.attempt(id, append.clone()).await? != Outcome::Unknown {
                break;
            }
        }
        Ok(())
    }

    async fn attempt(&mut self, id: Uuid, append: Append) -> Result<Outcome> {
        let started = now();
        let outcome = match self.shared.store.append(append).await {
            Ok(receipt) => {
                self.shared.known.learn(&receipt);
                let (first, _) = receipt.positions.ok_or("a receipt has no positions")?;
                Outcome::Stored(first)
            }
            Err(error) => {
                if let Some(conflict) = error.conflict() {
                    self.shared.known.correct(conflict);
                }
                Outcome::of_error(&error)
            }
        };
        self.journal.outcome(id, started, outcome).await?;
        Ok(outcome)
    }
}
