//! The codes by which callers know a rejection.

use backstory_macros::Reject;

use crate::port::{self, Reject as _};

#[derive(Reject)]
#[reject(prefix = "todo", crate = "port")]
enum TodoError {
    AlreadyAdded,
    TooLong {
        _most: usize,
    },
    Unknown(#[expect(dead_code, reason = "the code does not depend on it")] u64),
    #[reject(code = "list.missing")]
    NoList,
}

#[derive(Reject)]
#[reject(code = "account.overdrawn", crate = "port")]
struct Overdrawn;

/// For handlers that refuse nothing.
#[derive(Reject)]
#[reject(prefix = "never", crate = "port")]
enum Never {}

#[test]
fn codes_are_prefix_and_variant_unless_given() {
    assert_eq!(TodoError::AlreadyAdded.code(), "todo.already_added");
    assert_eq!(TodoError::TooLong { _most: 3 }.code(), "todo.too_long");
    assert_eq!(TodoError::Unknown(7).code(), "todo.unknown");
    assert_eq!(TodoError::NoList.code(), "list.missing");
    assert_eq!(Overdrawn.code(), "account.overdrawn");
    let _ = <Never as port::Reject>::code;
}
