//! The quickstart example on the three stores. The example must succeed on each store and, except
//! for the first line, print the same text.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use std::process::Command;

use etcd_typed::testing::Etcd;

fn run(address: Option<&str>) -> (String, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_quickstart")).args(address).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    let (first, rest) = text.split_once('\n').unwrap();
    (first.to_owned(), rest.to_owned())
}

/// Runs the example on this server and in memory.
fn shows_the_same(address: &str) {
    let (first, memory) = run(None);
    assert_eq!(first, "store: memory:");
    assert!(memory.lines().count() > 15, "{memory}");
    let (first, shown) = run(Some(address));
    assert_eq!(first, format!("store: {address}"));
    assert_eq!(shown, memory);
}

#[tokio::test]
async fn v3_output_matches_embedded_store() {
    shows_the_same(&Etcd::start().await.url_v3());
}

#[tokio::test]
async fn v2_output_matches_embedded_store() {
    shows_the_same(&Etcd::start().await.url_v2());
}
