//! What can be wanted of a projection.

use std::str::FromStr;

use chrono::{DateTime, SecondsFormat, Utc};

use super::{UnknownWord, query};
use crate::{Letters, Start};
use backstory_event::{EventQuery, Position};

/// What can be wanted of a projection.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum OrderKind {
    /// Not to run until it is resumed, also after a restart.
    Pause,
    /// To run again: after a pause, after an error that stopped it, and at once after a failure.
    Resume,
    /// To run now, whatever its schedule says.
    Trigger,
    /// To empty its read model and to build it again.
    Reset,
    /// To project again what is behind there, without emptying the read model.
    Rewind(Start),
    /// To build another read model beside the live one, which then takes its place.
    Rebuild,
    /// To give such a read model up.
    AbortRebuild,
    /// To take the read model back that was the live one before.
    RollBack,
    /// To drop that one.
    DropPrevious,
    /// To look where it is: another part has changed that.
    Reload,
    /// To run a job again on what it has passed.
    Rerun(Box<EventQuery>),
    /// To project events that were left out.
    Replay(Letters),
    /// To forget events that were left out.
    Discard(Letters),
}

impl OrderKind {
    /// True when one part of a projection does it for all of them.
    pub(crate) fn is_for_all(&self) -> bool {
        match self {
            Self::Reset
            | Self::Rewind(_)
            | Self::Rebuild
            | Self::AbortRebuild
            | Self::RollBack
            | Self::DropPrevious => true,
            Self::Pause
            | Self::Resume
            | Self::Trigger
            | Self::Reload
            | Self::Rerun(_)
            | Self::Replay(_)
            | Self::Discard(_) => false,
        }
    }

    /// The word for it in a database.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Pause => "pause",
            Self::Resume => "resume",
            Self::Trigger => "trigger",
            Self::Reset => "reset",
            Self::Rewind(_) => "rewind",
            Self::Rebuild => "rebuild",
            Self::AbortRebuild => "abort-rebuild",
            Self::RollBack => "roll-back",
            Self::DropPrevious => "drop-previous",
            Self::Reload => "reload",
            Self::Rerun(_) => "rerun",
            Self::Replay(_) => "replay",
            Self::Discard(_) => "discard",
        }
    }

    /// What stands beside that word: where to, which ones.
    pub fn argument(&self) -> Option<String> {
        match self {
            Self::Rewind(start) => Some(start_text(*start)),
            Self::Rerun(query) => Some(query::write(query)),
            Self::Replay(letters) | Self::Discard(letters) => Some(letters_text(letters)),
            _ => None,
        }
    }

    /// The order of a word and what stands beside it.
    ///
    /// # Errors
    /// [`UnknownWord`] when this program does not know it.
    pub fn parse(word: &str, argument: Option<&str>) -> Result<Self, UnknownWord> {
        let argument = argument.unwrap_or_default();
        let known = match word {
            "pause" => Some(Self::Pause),
            "resume" => Some(Self::Resume),
            "trigger" => Some(Self::Trigger),
            "reset" => Some(Self::Reset),
            "rewind" => start(argument).map(Self::Rewind),
            "rebuild" => Some(Self::Rebuild),
            "abort-rebuild" => Some(Self::AbortRebuild),
            "roll-back" => Some(Self::RollBack),
            "drop-previous" => Some(Self::DropPrevious),
            "reload" => Some(Self::Reload),
            "rerun" => query::read(argument).map(|query| Self::Rerun(Box::new(query))),
            "replay" => letters(argument).map(Self::Replay),
            "discard" => letters(argument).map(Self::Discard),
            _ => None,
        };
        known.ok_or_else(|| UnknownWord {
            what: "order",
            word: format!("{word} {argument}").trim_end().to_owned(),
        })
    }
}

fn start_text(start: Start) -> String {
    match start {
        Start::Beginning => "beginning".to_owned(),
        Start::Now => "now".to_owned(),
        Start::Position(position) => format!("position {position}"),
        Start::Time(time) => {
            let time = time.to_rfc3339_opts(SecondsFormat::Micros, true);
            format!("time {time}")
        }
    }
}

fn start(text: &str) -> Option<Start> {
    match text.split_once(' ') {
        None if text == "beginning" => Some(Start::Beginning),
        None if text == "now" => Some(Start::Now),
        Some(("position", position)) => Some(Start::Position(self::position(position)?)),
        Some(("time", time)) => DateTime::<Utc>::from_str(time).ok().map(Start::Time),
        _ => None,
    }
}

fn letters_text(letters: &Letters) -> String {
    match letters {
        Letters::All => "all".to_owned(),
        Letters::Key(key) => format!("key {key}"),
        Letters::At(position) => format!("position {position}"),
    }
}

fn letters(text: &str) -> Option<Letters> {
    match text.split_once(' ') {
        None if text == "all" => Some(Letters::All),
        Some(("key", key)) => Some(Letters::Key(key.to_owned())),
        Some(("position", position)) => Some(Letters::At(self::position(position)?)),
        _ => None,
    }
}

fn position(text: &str) -> Option<Position> {
    let number: i64 = text.parse().ok()?;
    (number >= 0).then(|| Position::new(number))
}

#[cfg(test)]
mod tests {
    use backstory_event::EventFilter;

    use super::*;

    #[test]
    fn an_order_comes_back_from_its_words() {
        let time = DateTime::from_timestamp_micros(1_700_000_000_123_456).unwrap();
        let at = Position::new(12);
        for order in [
            OrderKind::Pause,
            OrderKind::Resume,
            OrderKind::Trigger,
            OrderKind::Reset,
            OrderKind::Rebuild,
            OrderKind::AbortRebuild,
            OrderKind::RollBack,
            OrderKind::DropPrevious,
            OrderKind::Reload,
            OrderKind::Rewind(Start::Beginning),
            OrderKind::Rewind(Start::Position(at)),
            OrderKind::Rewind(Start::Time(time)),
            OrderKind::Rerun(Box::new(EventQuery::new(EventFilter::category("todo")))),
            OrderKind::Replay(Letters::All),
            OrderKind::Replay(Letters::Key("all the keys".into())),
            OrderKind::Discard(Letters::At(at)),
        ] {
            let argument = order.argument();
            let found = OrderKind::parse(order.as_str(), argument.as_deref());
            assert_eq!(found, Ok(order));
        }
    }

    #[test]
    fn what_no_program_has_written_is_no_order() {
        for (word, argument) in [
            ("dance", None),
            ("rewind", None),
            ("rewind", Some("position -1")),
            ("rewind", Some("time yesterday")),
            ("replay", Some("position x")),
            ("rerun", Some("everything")),
        ] {
            assert!(OrderKind::parse(word, argument).is_err(), "{word}");
        }
    }
}
