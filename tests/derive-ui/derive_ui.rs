//! Every mistake is a compile error on its token that says what to write instead. One file for each rule in `ui/`, beside it what the compiler
//! says; after a change of words: `TRYBUILD=overwrite cargo test --test derive_ui`, and read the difference.

#[test]
fn mistakes() {
    let cases = trybuild::TestCases::new();
    cases.compile_fail("ui/*.rs");
    cases.compile_fail("ui/*/*.rs");
}
