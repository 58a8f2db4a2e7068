//! Networks that fall silent without a word.

use std::{
    future::Future,
    io::{self, ErrorKind},
    time::{Duration, Instant},
};

use sqlx::Error;
use tokio::sync::watch;

/// When the server was last found to be silent. Connections from before that are not trusted: on
/// some networks they never break, they only never answer again.
#[derive(Debug, Clone)]
pub(crate) struct Outage(watch::Sender<Option<Instant>>);

impl Outage {
    pub(crate) fn new() -> Self {
        Self(watch::Sender::new(None))
    }

    /// A connection that should have answered did not.
    pub(crate) fn found(&self) {
        self.0.send_replace(Some(Instant::now()));
    }

    /// True for a connection of this age if nothing happened since.
    pub(crate) fn trusts(&self, age: Duration) -> bool {
        self.0.borrow().is_none_or(|last| age < last.elapsed())
    }

    /// Waits for an answer, but not on a connection that turns out to be from before an outage.
    pub(crate) async fn unless_found<T>(
        &self,
        answer: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, Error> {
        let mut news = self.0.subscribe();
        tokio::select! {
            biased;
            answer = answer => answer,
            // We hold a sender: it cannot be closed.
            _ = news.changed() => {
                let reason = "the server fell silent";
                Err(Error::Io(io::Error::new(ErrorKind::ConnectionAborted, reason)))
            }
        }
    }
}
