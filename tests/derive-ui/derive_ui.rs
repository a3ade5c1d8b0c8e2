//! Every mistake is a compile error at the wrong token that says what to write instead. `ui/` has
//! one file for each rule, and the expected compiler output beside it. After a change of a message
//! run `TRYBUILD=overwrite cargo test --test derive_ui`, and check the difference.

#[test]
fn compile_errors_match_expected_output() {
    let cases = trybuild::TestCases::new();
    cases.compile_fail("ui/*.rs");
    cases.compile_fail("ui/*/*.rs");
}
