//! What must be so after each step.

use super::*;

impl Store {
    /// What a part of a ledger should hold of the log up to there.
    pub(super) fn wanted(&self, name: &str, up_to: Position) -> Vec<i64> {
        let start = match self.0.start {
            _ if name == MAILER => self.marked(&format!("{MAILER}~start")),
            Start::Position(start) if Slot::split(name).0 == LEDGERS[1] => start,
            _ => Position::START,
        };
        let ledger = owner(Slot::split(name).0);
        let old = match self.0.startup && ledger == LEDGERS[0] {
            true => self.marked(&format!("{ledger}~startup")),
            false => Position::START,
        };
        let part = Part::split(name).1;
        let log = self.log();
        let up_to = log.iter().take_while(|event| event.position() <= up_to);
        up_to
            .filter(|event| event.name().starts_with("money.") && event.position() > start)
            .filter(|event| event.position() > old || event.stream().key() == "0")
            .filter(|event| part.owns(&event.stream().to_string()))
            .map(|event| event.position().get())
            .collect()
    }

    /// True while a ledger is being rebuilt.
    pub(super) fn is_rebuilt(&self) -> bool {
        let next = LEDGERS.map(|name| self.0.documents.load_progress_now(&Slot::Next.name(name)));
        next.iter().any(|next| next.epoch > 0)
    }

    /// What a part of a ledger has left out.
    pub(super) fn letters(&self, name: &str) -> Vec<DeadLetter> {
        let (owner, part) = Part::split(name);
        let all = LetterQuery::of(owner).limit(usize::MAX);
        let letters = block_on(self.0.documents.list_letters(&all)).unwrap();
        let own = letters.into_iter().filter(|letter| part.owns(&letter.key));
        own.collect()
    }

    /// Each event up to there is in the ledger or in a letter, once; in order, unless it was left
    /// out; of a parked key none before an earlier one.
    pub(super) fn check(&self, name: &str) {
        if name.starts_with(MAILER) {
            return self.check_effects();
        }
        if name.ends_with("~startup") {
            return;
        }
        let owner = owner(name);
        match (owner == LEDGERS[0], self.0.partitions) {
            (true, count) if count > 1 => {
                (0..count).for_each(|index| self.check_part(&Part { index, count }.name(owner)));
            }
            _ => self.check_part(owner),
        }
    }

    pub(super) fn check_part(&self, name: &str) {
        let (keys, up_to) = self.ledger(name);
        let in_order = keys.iter().all(|seen| seen.is_sorted());
        let seen = keys.concat();
        let letters = self.letters(name);
        let left_out = letters.iter().map(|letter| letter.position.get());
        let mut all: Vec<_> = seen.iter().copied().chain(left_out).collect();
        if !self.0.poison || self.0.policy.outcome == Outcome::Stop {
            assert!(letters.is_empty() && in_order, "{keys:?}");
        }
        all.sort_unstable();
        assert_eq!(
            all,
            self.wanted(name, up_to),
            "{name}: each event exactly once"
        );
        if self.0.policy.outcome == Outcome::Park {
            for key in 0..3 {
                self.check_order(&key.to_string(), &seen, &letters);
            }
        }
    }

    pub(super) fn check_order(&self, key: &str, seen: &[i64], letters: &[DeadLetter]) {
        let log = self.log();
        let of_key = |position: &&i64| log[**position as usize - 1].stream().key() == key;
        let seen: Vec<_> = seen.iter().filter(of_key).collect();
        assert!(seen.is_sorted(), "in the order of the key: {seen:?}");
        let mut waiting = letters.iter().filter(|letter| letter.stream.key() == key);
        if let (Some(last), Some(first)) = (seen.last(), waiting.next()) {
            assert!(first.parked && **last < first.position.get(), "{first:?}");
        }
    }

    /// A place that was stored before a start returned for the first time, and does not move.
    pub(super) fn marked(&self, name: &str) -> Position {
        let mark = block_on(self.0.documents.load_progress(name)).unwrap();
        let mark = mark.checkpoint.position;
        if let Some(started) = *self.0.started.lock().unwrap() {
            assert!(mark <= started, "{mark} was promised at {started}");
        }
        mark
    }

    /// What the checkpoint has passed is done or in a letter; the keys are in order.
    pub(super) fn check_effects(&self) {
        let (_, up_to) = self.ledger(MAILER);
        let effects = self.0.effects.lock().unwrap().clone();
        let letters = self.letters(MAILER);
        let letters = letters.iter().map(|letter| letter.position.get());
        let handled: HashSet<_> = effects.iter().copied().chain(letters).collect();
        let behind = self.marked(&format!("{MAILER}~start"));
        assert!(effects.iter().all(|position| *position > behind.get()));
        for position in self.wanted(MAILER, up_to) {
            assert!(
                handled.contains(&position),
                "{position} is neither done nor in a letter"
            );
        }
        if self.0.policy.outcome == Outcome::Skip {
            return;
        }
        let log = self.log();
        let mut newest: HashMap<&str, i64> = HashMap::new();
        let mut done = HashSet::new();
        for position in effects {
            let key = log[position as usize - 1].stream().key();
            let newest = newest.entry(key).or_default();
            let first = done.insert(position);
            assert!(!first || position > *newest, "{position} is out of order");
            *newest = position.max(*newest);
        }
    }

    /// A state in memory has all of the log up to where it says, once.
    pub(super) fn check_curses(&self, curses: &Folded<Curses>) {
        let log = self.log();
        let read = log.iter().filter(|event| {
            event.name() == "money.cursed" && event.position() <= curses.read_to.position
        });
        let wanted: Vec<_> = read.map(|event| event.position().get()).collect();
        assert_eq!(curses.state.0, wanted);
    }

    /// What a part of a ledger holds of each key, and up to where it should hold everything.
    pub(super) fn ledger(&self, name: &str) -> (Vec<Vec<i64>>, Position) {
        let (owner, part) = Part::split(name);
        // A collection has the name of its ledger, also while it is being rebuilt.
        let places = (0..3).map(|key| DocumentKey {
            collection: owner.to_owned(),
            key: format!("money/{key}"),
        });
        let places: Vec<_> = places.filter(|place| part.owns(&place.key)).collect();
        let documents = &self.0.documents;
        let found = block_on(documents.get_documents(&places)).unwrap();
        let progress = documents.load_progress_now(name);
        let seen = found.into_iter().flatten();
        let seen = seen.map(|body| body.decode().unwrap());
        (seen.collect(), progress.checkpoint.position)
    }
}
