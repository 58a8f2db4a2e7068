//! What is simulated: projections, a job and a reactor that show what they were given.

use super::*;

#[derive(Debug, Serialize, Deserialize, Event)]
#[event(prefix = "money", crate = "backstory_event")]
pub(super) enum Money {
    Moved {
        amount: u8,
    },
    /// What no ledger takes, before it is healed.
    Cursed,
}

/// Writes down the position of each event that it sees: a repeated or lost one shows.
pub(super) struct Ledger<const N: usize>(pub(super) Store);

#[async_trait]
impl<const N: usize> Projection<Documents> for Ledger<N> {
    type Event = Money;
    const NAME: &'static str = LEDGERS[N];

    fn on_failure(&self) -> OnFailure {
        self.0.0.policy
    }

    async fn project(&self, batch: &[Envelope<Money>], docs: &mut Documents) -> projection::Result {
        for e in batch {
            docs.update(LEDGERS[N], e.stream(), |seen: Option<Vec<i64>>| {
                let mut seen = seen.unwrap_or_default();
                seen.push(e.position().get());
                Some(seen)
            })
            .await?;
        }
        self.0.step().await?;
        let cursed = |e: &Envelope<Money>| matches!(e.event, Money::Cursed);
        if batch.iter().any(cursed) && !self.0.0.healed.load(Ordering::Relaxed) {
            return Err("it is cursed".into());
        }
        Ok(())
    }
}

/// The second ledger as a job, which puts its writing off, and has a state in memory.
pub(super) fn job(store: Store) -> Job {
    let filter = EventFilter::of::<Money>();
    let policy = store.0.policy;
    let curses = EventFilter::named::<Money>(["money.cursed"]);
    let curses = Arc::new(AsyncMutex::new(Folded::<Curses>::new(curses)));
    let job = Job::new(LEDGERS[1], filter, move |mut job| {
        let (store, curses) = (store.clone(), Arc::clone(&curses));
        async move {
            let positions = job.events().into_iter().map(|e| e.position().get());
            let positions: Vec<_> = positions.collect();
            let told = (store.clone(), positions);
            job.after_commit("tell", async move {
                told.0.step().await?;
                told.0.0.told.lock().unwrap().extend(told.1);
                Ok(())
            });
            job.before_commit("write down", move |mut job| async move {
                for e in job.events() {
                    let position = e.position().get();
                    let write_down = |seen: Option<Vec<i64>>| {
                        Some(seen.into_iter().flatten().chain([position]).collect())
                    };
                    job.context()
                        .update(LEDGERS[1], e.stream(), write_down)
                        .await?;
                }
                Ok(())
            });
            let mut curses = curses.lock().await;
            job.apply(&mut *curses).await?;
            store.check_curses(&curses);
            store.step().await?;
            let cursed = job.envelopes::<Money>()?;
            let cursed = cursed.iter().any(|e| matches!(e.event, Money::Cursed));
            match cursed && !store.0.healed.load(Ordering::Relaxed) {
                true => Err("it is cursed".into()),
                false => Ok(()),
            }
        }
    });
    job.on_failure(policy)
}

/// Does something about each event.
pub(super) struct Mailer(pub(super) Store);

#[async_trait]
impl Reactor for Mailer {
    type Event = Money;
    const NAME: &'static str = MAILER;

    fn on_failure(&self) -> OnFailure {
        self.0.0.policy
    }

    fn concurrency(&self) -> usize {
        2
    }

    async fn react(&self, e: &Envelope<Money>, effect: &Effect) -> projection::Result {
        let key = format!("{MAILER}/{}", e.event_id());
        assert_eq!(effect.idempotency_key(), key);
        self.0.step().await?;
        let cursed = matches!(e.event, Money::Cursed);
        if cursed && !self.0.0.healed.load(Ordering::Relaxed) {
            return Err("it is cursed".into());
        }
        self.0.0.effects.lock().unwrap().push(e.position().get());
        self.0.step().await?;
        Ok(())
    }
}

/// The positions of what was cursed.
#[derive(Default)]
pub(super) struct Curses(pub(super) Vec<i64>);

impl Fold for Curses {
    type Event = Money;

    fn fold(&mut self, envelope: &Envelope<Money>) {
        self.0.push(envelope.position().get());
    }
}
