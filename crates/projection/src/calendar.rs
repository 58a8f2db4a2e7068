//! The times of a cron pattern.

use std::{fmt, sync::Arc};

use backstory_event::Invalid;
use chrono::{DateTime, TimeDelta, TimeZone, Utc};

use crate::engine::Time;

type Next = dyn Fn(DateTime<Utc>) -> Option<DateTime<Utc>> + Send + Sync;

/// The times of a pattern in a zone.
#[derive(Clone)]
pub(crate) struct Calendar {
    pattern: Arc<croner::Cron>,
    next: Arc<Next>,
    /// The time that the engine counts from.
    begin: DateTime<Utc>,
}

impl Calendar {
    pub(crate) fn parse(pattern: &str) -> Result<Self, Invalid> {
        let refused = |reason: String| Invalid::new("cron pattern", pattern, reason);
        let parsed: croner::Cron = pattern
            .parse()
            .map_err(|error: croner::errors::CronError| refused(error.to_string()))?;
        let pattern = Arc::new(parsed);
        let calendar = Self {
            next: next(Arc::clone(&pattern), Utc),
            pattern,
            begin: DateTime::UNIX_EPOCH,
        };
        match (calendar.next)(DateTime::UNIX_EPOCH) {
            Some(_) => Ok(calendar),
            None => Err(refused("its time never comes".to_owned())),
        }
    }

    pub(crate) fn in_zone<Z>(self, zone: Z) -> Self
    where
        Z: TimeZone + Send + Sync + 'static,
    {
        Self {
            next: next(Arc::clone(&self.pattern), zone),
            ..self
        }
    }

    pub(crate) fn count_from(&mut self, begin: DateTime<Utc>) {
        self.begin = begin;
    }

    /// The first time behind this one.
    pub(crate) fn next_after(&self, now: Time) -> Option<Time> {
        let now = self
            .begin
            .checked_add_signed(TimeDelta::from_std(now).ok()?)?;
        ((self.next)(now)? - self.begin).to_std().ok()
    }
}

fn next<Z>(pattern: Arc<croner::Cron>, zone: Z) -> Arc<Next>
where
    Z: TimeZone + Send + Sync + 'static,
{
    Arc::new(move |after| {
        let after = after.with_timezone(&zone);
        let found = pattern.find_next_occurrence(&after, false).ok()?;
        Some(found.with_timezone(&Utc))
    })
}

impl fmt::Debug for Calendar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Calendar")
            .field(&self.pattern.as_str())
            .finish()
    }
}

#[cfg(test)]
mod tests;
