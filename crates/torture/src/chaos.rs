//! The faults of a run: two agents draw them from a shuffled deck.

use std::{
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use fastrand::Rng;
use rustix::process::Signal;
use tokio::{
    sync::{Mutex, RwLock},
    time::{Instant, sleep},
};

use crate::{
    LOOK, Result,
    fault::{Fault, Faults, Happened},
    now,
    stage::{Actor, SUBSCRIBERS, Stage},
};

const DEADLINE: Duration = Duration::from_secs(120);
/// After a fault its consequences are there for a while: pauses between attempts to connect.
const AFTERMATH: i64 = 3_000_000;

pub(crate) struct Chaos<'a> {
    stage: &'a Stage,
    faults: &'a Faults,
    deck: Mutex<(Rng, Vec<Fault>)>,
    /// What is measured is measured alone.
    alone: RwLock<()>,
    /// One delay ends another's.
    delaying: Mutex<()>,
    next_subscriber: AtomicUsize,
    until: Instant,
    minimum: usize,
}

impl<'a> Chaos<'a> {
    pub(crate) fn new(
        stage: &'a Stage,
        faults: &'a Faults,
        seed: u64,
        duration: Duration,
        minimum: usize,
    ) -> Self {
        Self {
            stage,
            faults,
            deck: Mutex::new((Rng::with_seed(seed), Vec::new())),
            alone: RwLock::default(),
            delaying: Mutex::default(),
            next_subscriber: AtomicUsize::new(0),
            until: Instant::now() + duration,
            minimum,
        }
    }

    /// Goes on until the time is over and each minimum is reached. Afterwards all is healed.
    pub(crate) async fn reign(&self) -> Result {
        tokio::try_join!(self.agent(), self.agent())?;
        Ok(())
    }

    async fn agent(&self) -> Result {
        // A broken run shall end, too.
        let patience = self.until + Duration::from_secs(300);
        while !self.is_over() {
            if Instant::now() > patience {
                return Err("the minimum of faults was not reached".into());
            }
            let (fault, pause) = self.draw().await;
            if fault == Fault::FreezeInside {
                let _alone = self.alone.write().await;
                self.freeze().await?;
            } else {
                let _together = self.alone.read().await;
                self.happen(fault).await?;
            }
            sleep(pause).await;
        }
        Ok(())
    }

    fn is_over(&self) -> bool {
        let mut possible = Fault::ALL
            .into_iter()
            .filter(|fault| self.stage.allows(*fault));
        Instant::now() >= self.until
            && possible.all(|fault| self.faults.count(fault) >= self.minimum)
            && (0..SUBSCRIBERS.len()).all(|number| self.faults.restarts(number) >= self.minimum)
    }

    async fn draw(&self) -> (Fault, Duration) {
        let (rng, deck) = &mut *self.deck.lock().await;
        let fault = loop {
            if let Some(fault) = deck.pop() {
                break fault;
            }
            for fault in Fault::ALL {
                if self.stage.allows(fault) {
                    deck.extend(std::iter::repeat_n(fault, fault.weight()));
                }
            }
            rng.shuffle(deck);
        };
        (fault, Duration::from_millis(rng.u64(..800)))
    }

    async fn random(&self, range: std::ops::Range<u64>) -> u64 {
        self.deck.lock().await.0.u64(range)
    }

    async fn happen(&self, fault: Fault) -> Result {
        let mut began = now();
        let target = match fault {
            Fault::KillWriter => {
                let mut writer = self.any_writer().await.lock().await;
                began = now();
                self.stage.replace_writer(&mut writer).await?;
                writer.incarnation
            }
            Fault::KillSubscriber => {
                let number =
                    self.next_subscriber.fetch_add(1, Ordering::SeqCst) % SUBSCRIBERS.len();
                let mut subscriber = self.stage.subscribers[number].lock().await;
                self.stage.replace_subscriber(&mut subscriber).await?;
                i32::try_from(number)?
            }
            Fault::KillServer => {
                self.stage.kill_server().await?;
                0
            }
            Fault::TerminateBackend => self.terminate().await?,
            Fault::StopWriter => {
                let pause = Duration::from_millis(self.random(50..2_500).await);
                let writer = self.any_writer().await.lock().await;
                began = now();
                writer.process.signal(Signal::STOP)?;
                sleep(pause).await;
                writer.process.signal(Signal::CONT)?;
                writer.incarnation
            }
            Fault::CutProxy => {
                self.stage
                    .proxy
                    .cut(usize::try_from(self.random(1..4).await)?);
                until(|| async { Ok(self.stage.proxy.uncut() == 0) }).await?;
                0
            }
            Fault::DelayProxy => {
                let _turn = self.delaying.lock().await;
                began = now();
                let before = self.stage.proxy.delayed();
                let (longest, time) = (self.random(5..150).await, self.random(300..1_500).await);
                self.stage.proxy.delay(Duration::from_millis(longest));
                sleep(Duration::from_millis(time)).await;
                until(|| async { Ok(self.stage.proxy.delayed() > before) }).await?;
                self.stage.proxy.delay(Duration::ZERO);
                0
            }
            Fault::FreezeInside => return Ok(()), // by `freeze`
        };
        self.faults.add(Happened {
            fault,
            target,
            began,
            ended: now() + AFTERMATH,
        });
        Ok(())
    }

    async fn any_writer(&self) -> &Mutex<Actor> {
        let count = u64::try_from(self.stage.writers.len()).unwrap_or(1);
        let number = usize::try_from(self.random(0..count).await).unwrap_or(0);
        &self.stage.writers[number]
    }

    /// Ends a backend of a writer or subscriber, from the server's side.
    async fn terminate(&self) -> Result<i32> {
        let deadline = Instant::now() + DEADLINE;
        while Instant::now() < deadline {
            // The server may just be away, by another fault.
            if let Ok(mut connection) = self.stage.connect().await {
                let ended: Result<Option<i32>, _> = sqlx::query_scalar(
                    "SELECT pid FROM (SELECT pid FROM pg_stat_activity \
                       WHERE datname = current_database() AND application_name LIKE 'torture-%' \
                       ORDER BY random() LIMIT 1) chosen WHERE pg_terminate_backend(pid)",
                )
                .fetch_optional(&mut connection)
                .await;
                if let Ok(Some(pid)) = ended {
                    return Ok(pid);
                }
            }
            sleep(LOOK).await;
        }
        Err("there was no backend to terminate".into())
    }

    /// Stops a writer process that holds the lock of the log inside `append_in`, until the server
    /// has ended its transaction. Meanwhile nothing else happens, so that the waits of all others
    /// are due to this.
    async fn freeze(&self) -> Result {
        self.calm(0).await?;
        let began = now();
        let mut writer = self.any_writer().await.lock().await;
        writer.process.order("freeze").await?;
        let pid: i32 = writer.process.answer("inside").await?.parse()?;
        writer.process.signal(Signal::STOP)?;
        let mut connection = self.stage.connect().await?;
        let mut gone = false;
        let deadline = Instant::now() + DEADLINE;
        while !gone && Instant::now() < deadline {
            sleep(LOOK).await;
            gone = sqlx::query_scalar(
                "SELECT NOT EXISTS (SELECT FROM pg_stat_activity WHERE pid = $1)",
            )
            .bind(pid)
            .fetch_one(&mut connection)
            .await?;
        }
        if !gone {
            return Err("the server did not end a client that froze inside append_in".into());
        }
        let ended = now();
        self.calm(writer.incarnation).await?;
        writer.process.signal(Signal::CONT)?;
        writer.process.order("go").await?;
        writer.process.answer("thawed").await?;
        self.faults.add(Happened {
            fault: Fault::FreezeInside,
            target: writer.incarnation,
            began,
            ended,
        });
        Ok(())
    }

    /// Waits until all writer processes but one get on: after some batches each append that was
    /// made before has its answer.
    async fn calm(&self, frozen: i32) -> Result {
        let mut connection = self.stage.connect().await?;
        let from: i64 =
            sqlx::query_scalar("SELECT coalesce(max(position), 0) FROM backstory.event")
                .fetch_one(&mut connection)
                .await?;
        let mut expected = self.stage.writers.len();
        if frozen != 0 {
            expected -= 1;
        }
        let deadline = Instant::now() + DEADLINE;
        while Instant::now() < deadline {
            let busy: i64 = sqlx::query_scalar(
                "SELECT count(*) FROM (SELECT payload->>'by' FROM backstory.event \
                   WHERE position > $1 AND payload->>'by' <> $2::text AND name <> 'torture.within' \
                   GROUP BY 1 HAVING count(DISTINCT recorded_at) >= 3) busy",
            )
            .bind(from)
            .bind(frozen)
            .fetch_one(&mut connection)
            .await?;
            if busy >= i64::try_from(expected)? {
                return Ok(());
            }
            sleep(LOOK).await;
        }
        Err(format!("after a fault not all writer processes got on within {DEADLINE:?}").into())
    }
}

/// Looks until a condition holds.
pub(crate) async fn until<F: Future<Output = Result<bool>>>(
    mut holds: impl FnMut() -> F,
) -> Result {
    let deadline = Instant::now() + DEADLINE;
    while !holds().await? {
        if Instant::now() > deadline {
            return Err(format!("a condition did not hold within {DEADLINE:?}").into());
        }
        sleep(LOOK).await;
    }
    Ok(())
}
