//! What the compiler says when something is missing or wrong. After a deliberate change, run with
//! `TRYBUILD=overwrite` and read the difference.

#[test]
fn messages_say_what_to_write() {
    trybuild::TestCases::new().compile_fail("tests/ui/*.rs");
}
