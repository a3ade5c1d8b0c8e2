//! Checks that `tests/PROMISES.md` lists at least one test for each promise, and that all listed
//! tests exist.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

const PAGE: &str = include_str!("../../PROMISES.md");

/// Returns the tests of each promise, as `file::function`, by the code of the promise.
fn promises(page: &str) -> BTreeMap<&str, Vec<&str>> {
    let mut promises = BTreeMap::new();
    let mut tests: Option<&mut Vec<&str>> = None;
    for line in page.lines() {
        if let Some(title) = line.strip_prefix("### ") {
            let (code, _) = title.split_once(". ").unwrap_or_else(|| panic!("a title needs a code: {line}"));
            assert!(!promises.contains_key(code), "{code} has two sections");
            tests = Some(promises.entry(code).or_default());
        } else if line.starts_with("## ") {
            tests = None;
        } else if let Some(item) = line.strip_prefix("- ") {
            let test = item.strip_prefix('`').and_then(|item| item.strip_suffix('`'));
            let test = test.unwrap_or_else(|| panic!("an item needs the form `file::function`: {line}"));
            tests.as_mut().unwrap_or_else(|| panic!("a test is outside of a promise: {line}")).push(test);
        }
    }
    promises
}

/// Returns the missing part of a listed test (its file or its function), or `None` if the test
/// exists.
fn missing(test: &str) -> Option<String> {
    let (file, function) = test.split_once("::").unwrap_or_else(|| panic!("no function: {test}"));
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(file);
    match fs::read_to_string(path) {
        Err(error) => Some(format!("{file}: {error}")),
        Ok(source) => (!source.contains(&format!("fn {function}("))).then(|| format!("{file} has no function `{function}`")),
    }
}

#[test]
fn every_promise_has_tests_that_exist() {
    let promises = promises(PAGE);
    assert!(promises.len() >= 60, "{} promises", promises.len());
    let without: Vec<_> = promises.iter().filter(|(_, tests)| tests.is_empty()).map(|(code, _)| code).collect();
    assert!(without.is_empty(), "promises without a test: {without:?}");
    let missing: Vec<_> = promises.values().flatten().filter_map(|test| missing(test)).collect();
    assert!(missing.is_empty(), "rename these in tests/PROMISES.md: {missing:#?}");
}

#[test]
fn promise_without_tests_is_noticed() {
    assert_eq!(promises("### W1. Order\n\ntext\n\n- `a.rs::b`\n- `a.rs::c`\n")["W1"], ["a.rs::b", "a.rs::c"]);
    assert!(promises("### W1. Order\n\n### W2. More\n")["W1"].is_empty());
    assert!(missing("tests/PROMISES.md::no_such_test").is_some() && missing("no/such/file.rs::test").is_some());
    assert_eq!(missing("tests/tests/without_server/promises.rs::promise_without_tests_is_noticed"), None);
}
