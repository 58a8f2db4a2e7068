//! What a run of a job has put off: for each key at most once.

use std::collections::HashSet;

use futures::future::BoxFuture;

use super::JobRun;
use crate::Result;

type Before<Cx> = Box<dyn FnOnce(JobRun<Cx>) -> BoxFuture<'static, Result> + Send>;
type After = BoxFuture<'static, Result>;

pub(super) struct Deferred<Cx> {
    pub(super) before: Queue<Before<Cx>>,
    pub(super) after: Queue<After>,
}

impl<Cx> Default for Deferred<Cx> {
    fn default() -> Self {
        Self {
            before: Queue::default(),
            after: Queue::default(),
        }
    }
}

/// Work by key, in the order in which the keys were first named.
pub(super) struct Queue<T> {
    waiting: Vec<(String, T)>,
    begun: HashSet<String>,
}

impl<T> Default for Queue<T> {
    fn default() -> Self {
        Self {
            waiting: Vec::new(),
            begun: HashSet::new(),
        }
    }
}

impl<T> Queue<T> {
    /// The last work of a key counts, unless one was begun.
    pub(super) fn put(&mut self, key: String, work: T) {
        if self.begun.contains(&key) {
            return;
        }
        match self.waiting.iter_mut().find(|(other, _)| *other == key) {
            Some((_, before)) => *before = work,
            None => self.waiting.push((key, work)),
        }
    }

    pub(super) fn begin(&mut self) -> Option<(String, T)> {
        if self.waiting.is_empty() {
            return None;
        }
        let (key, work) = self.waiting.remove(0);
        self.begun.insert(key.clone());
        Some((key, work))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_key_is_begun_once_in_the_order_of_the_keys() {
        let mut queue = Queue::default();
        for (key, work) in [("a", 1), ("b", 2), ("a", 3)] {
            queue.put(key.to_owned(), work);
        }
        assert_eq!(queue.begin(), Some(("a".to_owned(), 3)));
        queue.put("a".to_owned(), 4);
        queue.put("c".to_owned(), 5);
        assert_eq!(queue.begin(), Some(("b".to_owned(), 2)));
        assert_eq!(queue.begin(), Some(("c".to_owned(), 5)));
        assert_eq!(queue.begin(), None);
    }
}
