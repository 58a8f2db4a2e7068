//! What the compiler says when something is missing.

#[test]
fn the_compiler_says_what_to_write() {
    trybuild::TestCases::new().compile_fail("tests/ui/*.rs");
}
