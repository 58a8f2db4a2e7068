//! A process that is polled by hand.

use super::*;

/// A process: what would have been spawned.
pub(super) struct Process {
    pub(super) store: Store,
    pub(super) appending: Option<Pin<Box<dyn Future<Output = ()>>>>,
    pub(super) tasks: Vec<Pin<Box<dyn Future<Output = ()>>>>,
    pub(super) running: RunningProjector,
    pub(super) waiting: Vec<Waiting>,
}

impl Process {
    /// Starts, unless the store fails meanwhile.
    pub(super) fn start(store: &Store, clock: &ManualClock) -> Option<Self> {
        let store = &store.elsewhere();
        let debounce = Duration::from_millis([0, 0, 50, 500][store.below(4) as usize]);
        let max_batch = [1, 2, 5, 1_000][store.below(4) as usize];
        let every = Duration::from_millis(1 + store.below(2_000));
        let second: Schedule = match store.0.rhythm {
            0 => Schedule::every(every)
                .max_batch(max_batch)
                .start_at(store.0.start)
                .into(),
            1 => Schedule::once()
                .max_batch(max_batch)
                .start_at(store.0.start)
                .into(),
            _ => Schedule::cron("*/2 * * * * *")
                .unwrap()
                .max_batch(max_batch)
                .start_at(store.0.start)
                .into(),
        };
        let continuous = Schedule::continuous()
            .debounce(debounce)
            .max_batch(max_batch)
            .partitions(store.0.partitions);
        let whole = store.0.partitions == 1 && !store.0.startup;
        // As it likes: several processes need not agree.
        let first: Schedule = match store.below(4) {
            0 if whole => Schedule::inline().max_batch(max_batch).into(),
            1 if whole => Schedule::inline()
                .max_batch(max_batch)
                .allow_behind()
                .into(),
            _ if store.0.startup => {
                continuous.startup(EventFilter::stream(StreamId::stored("money", "0")))
            }
            _ => continuous.into(),
        };
        let recent = [1, 4, 1_000][store.below(3) as usize];
        let projector = Projector::new(store).with(Ledger::<0>(store.clone()), first);
        let projector = match store.0.job {
            true => projector.with_job(job(store.clone()), second),
            false => projector.with(Ledger::<1>(store.clone()), second),
        };
        let schedule = Schedule::continuous().max_batch(max_batch);
        let projector = match store.0.mailer {
            true => projector.with_reactor(Mailer(store.clone()), schedule),
            false => projector,
        };
        let starting = projector
            .with_clock(Arc::new(clock.clone()))
            .with_lease_clock(Arc::new(clock.clone()))
            .with_options(ProjectorOptions::default().with_recent_events(recent))
            .assemble(
                Uuid::from_u64_pair(seed_of(store), seed_of(store)),
                seed_of(store),
            );
        let mut starting = Box::pin(starting);
        let assembled = loop {
            if let Poll::Ready(assembled) = poll(starting.as_mut()) {
                break assembled.ok()?;
            }
        };
        let head = store.head();
        store.0.started.lock().unwrap().get_or_insert(head);
        let mut tasks: Vec<Pin<Box<dyn Future<Output = ()>>>> =
            vec![Box::pin(assembled.reader), Box::pin(assembled.beats.run())];
        for task in assembled.tasks {
            tasks.push(Box::pin(task.run()));
        }
        Some(Self {
            store: store.clone(),
            appending: None,
            tasks,
            running: assembled.running,
            waiting: Vec::new(),
        })
    }

    /// Goes on with an append, or begins one.
    pub(super) fn append(&mut self) {
        let store = &self.store;
        let appending = self
            .appending
            .get_or_insert_with(|| Box::pin(store.clone().append_inline()));
        let ready = (0..3).any(|_| poll(appending.as_mut()).is_ready());
        if ready {
            self.appending = None;
        }
    }

    pub(super) fn poll_one(&mut self, which: usize) {
        let which = which % self.tasks.len();
        if poll(self.tasks[which].as_mut()).is_ready() {
            self.tasks[which] = Box::pin(std::future::pending());
        }
    }

    pub(super) fn poll_all(&mut self) {
        (0..self.tasks.len()).for_each(|which| self.poll_one(which));
    }

    pub(super) fn disturb(&mut self, store: &Store, resets: bool) {
        let remotes = self.running.remotes.len() as u64;
        let remote = &self.running.remotes[store.below(remotes) as usize];
        let order = |kind| {
            store.0.roster.lock().unwrap().order(&remote.name, &kind);
        };
        let command = match store.below(22) {
            14..=17 => return order(OrderKind::Rebuild),
            18 | 19 => return order(OrderKind::AbortRebuild),
            20 | 21 if resets => return order(OrderKind::RollBack),
            0 => return order(OrderKind::Pause),
            1 | 2 => return order(OrderKind::Resume),
            3 => Command::Trigger(store.head()),
            6 => {
                return order(match resets {
                    true => OrderKind::Reset,
                    false => OrderKind::Trigger,
                });
            }
            4 if resets => Command::Reset(tokio::sync::oneshot::channel().0),
            5 => {
                self.waiting.clear();
                return;
            }
            7..=11 => Command::Replay(
                match store.below(4) {
                    0 | 1 => Letters::All,
                    2 => Letters::Key(format!("money/{}", store.below(3))),
                    _ => Letters::At(Position::new(1 + store.below(60) as i64)),
                },
                tokio::sync::oneshot::channel().0,
            ),
            _ => {
                self.waiting.push(remote.waiters.register(store.head()));
                return;
            }
        };
        let _ = remote.commands.try_send(command);
    }

    /// Replays what was left out, and then discards what is left. What does not decode never will.
    pub(super) fn empty_letters(&mut self, store: &Store, clock: &ManualClock) {
        let decodes = |letter: &DeadLetter| {
            let log = store.log();
            let event = &log[letter.position.get() as usize - 1];
            event.decode::<Money>().is_ok()
        };
        for number in 0..self.running.remotes.len() {
            let name = &self.running.remotes[number].name.clone();
            store.check(name);
            let (_, up_to) = store.ledger(name);
            let missing = store.wanted(name, store.head()).len() - store.wanted(name, up_to).len();
            assert_eq!(missing, 0, "{name} is complete");
            let replayed = self.ask(number, clock, |answer| {
                Command::Replay(Letters::All, answer)
            });
            assert!(replayed.complete, "{replayed:?}");
            store.check(name);
            let letters = store.letters(name);
            let broken: Vec<_> = letters.iter().filter(|letter| !decodes(letter)).collect();
            assert_eq!(replayed.failed + replayed.waiting, letters.len() as u64);
            for letter in letters.iter().filter(|letter| decodes(letter)) {
                let waits = |other: &&DeadLetter| {
                    other.key == letter.key && other.position < letter.position
                };
                assert!(letter.parked && broken.iter().copied().any(|it| waits(&it)));
            }
        }
        store.0.over.store(true, Ordering::Relaxed);
        for number in 0..self.running.remotes.len() {
            let name = &self.running.remotes[number].name.clone();
            let letters = store.letters(name).len() as u64;
            let discarded = self.ask(number, clock, |answer| {
                Command::Discard(Letters::All, answer)
            });
            assert_eq!(discarded, letters);
            assert!(store.letters(name).is_empty());
        }
    }

    /// Asks a projection for something until it answers without an error.
    pub(super) fn ask<T>(
        &mut self,
        number: usize,
        clock: &ManualClock,
        command: impl Fn(tokio::sync::oneshot::Sender<Result<T, ProjectorError>>) -> Command,
    ) -> T {
        for _ in 0..100 {
            let (answer, mut answered) = tokio::sync::oneshot::channel();
            let commands = &self.running.remotes[number].commands;
            // Full: the next round has room.
            let _ = commands.try_send(command(answer));
            loop {
                match answered.try_recv() {
                    Ok(Ok(value)) => return value,
                    Ok(Err(_)) | Err(tokio::sync::oneshot::error::TryRecvError::Closed) => break,
                    Err(tokio::sync::oneshot::error::TryRecvError::Empty) => {
                        self.poll_all();
                        clock.advance(Duration::from_millis(1));
                    }
                }
            }
            self.poll_all();
        }
        panic!("it never does what it is asked for: {:#?}", self.running);
    }

    pub(super) fn is_done(&self, head: Position) -> bool {
        let reached = |remote: &Remote| remote.snapshot.borrow().reached >= head;
        self.running.remotes.iter().all(reached)
    }
}
