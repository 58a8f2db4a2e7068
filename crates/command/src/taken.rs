//! The rejection of a unique value that another aggregate has.

use backstory_event::{Conflict, StreamId};

use crate::Reject;

/// A command needs a unique value that another aggregate has: an e-mail address that is taken.
///
/// It is a rejection, not a conflict: it is not tried again, and the sender has to choose another
/// value. Its code is the name of the [`Lookup`](backstory_aggregate::Lookup) with `.taken` behind
/// it: `user.email.taken`. `error.rejection::<Taken>()` gives the value back.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{value:?} is taken already")]
#[non_exhaustive]
pub struct Taken {
    /// The name of the lookup.
    pub scope: String,
    /// The value.
    pub value: String,
    /// Who has it. It is not part of the message: the sender may have no right to know.
    pub owner: StreamId,
    code: String,
}

impl Taken {
    pub(crate) fn of(conflict: &Conflict) -> Option<Self> {
        match conflict {
            Conflict::Claim {
                scope,
                value,
                owner,
            } => Some(Self {
                scope: scope.clone(),
                value: value.clone(),
                owner: owner.clone(),
                code: format!("{scope}.taken"),
            }),
            _ => None,
        }
    }
}

impl Reject for Taken {
    fn code(&self) -> &str {
        &self.code
    }
}
