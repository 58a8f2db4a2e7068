//! Decides on the newest state, as often as it takes.

use std::time::Duration;

use backstory_event::{Aggregate, Appended, Clock, SystemClock};

use super::Repository;
use crate::{
    Loaded, RepositoryError, RepositoryErrorKind, UpdateError, attempts::within, options::Deadline,
    turns::Turn,
};

impl<A: Aggregate> Repository<A> {
    /// Loads the aggregate, lets the closure record events on it, and saves it. When another
    /// writer was first, the same again with a freshly loaded aggregate, up to the options'
    /// number of attempts. Once events were sent, the closure never runs again for them.
    ///
    /// Who was overtaken, and whoever comes then, takes turns with the other clones of this
    /// repository in the order in which they came. A turn ends with the save, and after a
    /// second at the latest; the deadline counts while it is awaited.
    ///
    /// Returns the closure's value and the receipt.
    ///
    /// # Errors
    /// `Rejected` with the closure's error, or what [`Self::load`] and [`Self::save`] say. The
    /// conflict of the last attempt says which version was expected and which was found.
    pub async fn update<T, E>(
        &self,
        id: &A::Id,
        decide: impl FnMut(&mut Loaded<A>) -> Result<T, E>,
    ) -> Result<(T, Appended), UpdateError<E>> {
        let deadline = Deadline::after(self.options.deadline);
        self.update_until(id, decide, deadline).await
    }

    /// As [`Self::update`], for an aggregate that is probably not there yet: the closure first runs
    /// on a new one, without a load, and what it records is stored if nothing of the aggregate is.
    /// That saves a round trip. When it is there after all, when the closure says no or records
    /// nothing, or when a hook does not let the new one be saved, it is loaded and the closure runs
    /// again: only what is stored decides.
    ///
    /// # Errors
    /// As [`Self::update`].
    pub async fn update_new<T, E>(
        &self,
        id: &A::Id,
        mut decide: impl FnMut(&mut Loaded<A>) -> Result<T, E>,
    ) -> Result<(T, Appended), UpdateError<E>> {
        let deadline = Deadline::after(self.options.deadline);
        let mut new = Loaded::empty(id.clone()).map_err(RepositoryError::from)?;
        if let Ok(value) = decide(&mut new)
            && new.has_draft()
        {
            match self.save_until(&mut new, deadline, &mut None).await {
                Ok(receipt) => return Ok((value, receipt)),
                Err(error) if error.is_about_state() => {
                    tracing::debug!(stream = %new.stream(), %error, "it was not new");
                }
                Err(error) => return Err(error.into()),
            }
        }
        self.update_until(id, decide, deadline).await
    }

    async fn update_until<T, E>(
        &self,
        id: &A::Id,
        mut decide: impl FnMut(&mut Loaded<A>) -> Result<T, E>,
        deadline: Deadline,
    ) -> Result<(T, Appended), UpdateError<E>> {
        let stream = A::stream(id).map_err(RepositoryError::from)?;
        let timed_out = || RepositoryErrorKind::TimedOut {
            stream: stream.clone(),
        };
        let entered = within(deadline, Duration::ZERO, self.turns.enter(&stream)).await;
        let mut turn = entered
            .ok_or_else(timed_out)
            .map_err(RepositoryError::from)?;
        let mut attempt = 1;
        loop {
            let loaded = within(deadline, Duration::ZERO, self.begin(id, turn.as_ref())).await;
            let mut loaded = loaded.unwrap_or_else(|| Err(timed_out().into()))?;
            let decision = decide(&mut loaded);
            let outcome = match &decision {
                Ok(_) => self.save_until(&mut loaded, deadline, &mut turn).await,
                Err(_) => Ok(Appended::nothing(loaded.checkpoint())),
            };
            match outcome {
                Ok(receipt) => {
                    if let Some(turn) = turn {
                        turn.leave(loaded);
                    }
                    let value = decision.map_err(UpdateError::Rejected)?;
                    return Ok((value, receipt));
                }
                Err(error)
                    if error.is_version_conflict()
                        && attempt < self.options.max_attempts
                        && !deadline.is_over() =>
                {
                    tracing::debug!(%stream, attempt, %error, "deciding again");
                }
                Err(error) => return Err(error.into()),
            }
            if turn.as_ref().is_some_and(Turn::is_on) {
                // Overtaken by another process, or by who was on the way before the line formed.
                let pause = SystemClock.sleep(self.options.pause(attempt));
                within(deadline, Duration::ZERO, pause).await;
            } else {
                let lined_up = within(deadline, Duration::ZERO, self.turns.line_up(&stream)).await;
                turn = Some(
                    lined_up
                        .ok_or_else(timed_out)
                        .map_err(RepositoryError::from)?,
                );
            }
            attempt += 1;
        }
    }

    /// The aggregate for a decision: what the turn before left, with what was stored since.
    async fn begin(
        &self,
        id: &A::Id,
        turn: Option<&Turn<A>>,
    ) -> Result<Loaded<A>, RepositoryError> {
        let Some(mut loaded) = turn.and_then(Turn::left) else {
            return self.load(id).await;
        };
        self.refresh(&mut loaded).await?;
        Ok(loaded)
    }
}
