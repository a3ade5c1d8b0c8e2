//! The quickstart, as a new user runs it: on the three stores it ends well and shows the same, but for its first line.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use std::process::Command;

use etcd_typed::testing::Etcd;

fn quickstart(address: Option<&str>) -> (String, String) {
    let mut command = Command::new(env!("CARGO"));
    command.args(["run", "--quiet", "--locked", "--example", "quickstart"]).current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/.."));
    command.args(address.map(|_| "--").into_iter().chain(address));
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    let (first, rest) = text.split_once('\n').unwrap();
    (first.to_owned(), rest.to_owned())
}

#[tokio::test]
async fn it_shows_the_same_on_every_store() {
    let etcd = Etcd::start().await;
    let (first, memory) = quickstart(None);
    assert_eq!(first, "store: memory:");
    assert!(memory.lines().count() > 15, "{memory}");
    for address in [etcd.url_v3(), etcd.url_v2()] {
        let (first, shown) = quickstart(Some(&address));
        assert_eq!(first, format!("store: {address}"));
        assert_eq!(shown, memory);
    }
}
