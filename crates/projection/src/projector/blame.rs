//! Who is to blame for an error: an event, or the store.

use std::error::Error;

use backstory_event::{StoreError, StoreErrorKind};

use crate::{DocumentError, DocumentErrorKind};

/// The error of the store that an error is or holds.
pub(super) fn store_error<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a StoreError> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref() {
            return Some(found);
        }
        // It is transparent: the chain of its causes does not show it.
        if let Some(document) = error.downcast_ref::<DocumentError>()
            && let DocumentErrorKind::Store(found) = document.kind()
        {
            return Some(found);
        }
        next = error.source();
    }
    None
}

/// True when an error says that the store is away, closed, or cannot be used as it is: any event
/// would have failed.
pub(crate) fn is_of_the_store(error: &(dyn Error + 'static)) -> bool {
    use StoreErrorKind::{
        Closed, Config, Denied, Diverged, NotStored, NotWritable, OutcomeUnknown, Schema,
        Unavailable,
    };
    store_error(error).is_some_and(|error| {
        matches!(
            error.kind(),
            Unavailable { .. }
                | NotStored { .. }
                | OutcomeUnknown { .. }
                | Closed
                | Diverged { .. }
                | Denied { .. }
                | NotWritable { .. }
                | Schema { .. }
                | Config { .. }
        )
    })
}

#[cfg(test)]
mod tests {
    use backstory_event::Invalid;

    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("my own")]
    struct Mine(#[source] DocumentError);

    #[test]
    fn errors_of_the_store_are_found_wherever_they_hide() {
        let away = || StoreError::new(StoreErrorKind::Closed);
        assert!(is_of_the_store(&away()));
        assert!(is_of_the_store(&DocumentError::from(away())));
        assert!(is_of_the_store(&Mine(away().into())));
        let invalid = Invalid::new("key", "", "it is empty");
        assert!(!is_of_the_store(&Mine(invalid.clone().into())));
        // What was refused because of its content is no fault of the store.
        assert!(!is_of_the_store(&StoreError::from(invalid)));
        let reason = "SQLSTATE 23505".to_owned();
        assert!(!is_of_the_store(&StoreError::new(
            StoreErrorKind::Corrupt { reason }
        )));
    }
}
