//! A typed watch that reconnects after a real server has lost the changes in between reports
//! exactly the difference, marked as resynced.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::time::Duration;

use etcd_typed::testing::{Etcd, Mode, Proxy};
use etcd_typed::{Change, Changes, Client, ErrorKind, Keyed, Update};
use tokio::time::timeout;

/// The limit of every wait. Only a failing test waits this long.
const LIMIT: Duration = Duration::from_secs(60);

type Numbers = Changes<Keyed<String, Change<u32>>, BTreeMap<String, u32>>;

/// A server, a client with a direct connection, and a watch of `/numbers` through a proxy.
struct Scene {
    etcd: Etcd,
    proxy: Proxy,
    direct: Client,
    changes: Numbers,
}

impl Scene {
    /// Stores `gone`, `kept` and `changed`, and starts the watch.
    async fn new(scheme: &str) -> Self {
        let etcd = Etcd::start().await;
        let proxy = Proxy::to(etcd.endpoint()).await;
        let direct = Client::connect(&format!("{scheme}://{}", etcd.endpoint())).await.unwrap();
        for name in ["gone", "kept", "changed"] {
            set(&direct, name, 1).await;
        }
        let watching = Client::connect(&format!("{scheme}://{}", proxy.endpoint())).await.unwrap();
        let changes = watching.entries::<String, u32>("/numbers").unwrap().watch().await.unwrap();
        let mut scene = Self { etcd, proxy, direct, changes };
        scene.follows("kept", 1, 2).await;
        scene
    }

    /// Writes a value and asserts that the watch reports it as an ordinary change.
    async fn follows(&mut self, name: &str, old: u32, new: u32) {
        set(&self.direct, name, new).await;
        let update = self.next().await;
        assert_eq!((told(&update), update.resynced), (vec![(name, Some(old), Some(new))], false));
    }

    async fn disconnect(&self) {
        self.proxy.set(Mode::Refuse).await;
        self.proxy.cut();
    }

    async fn reconnect(&self) {
        self.proxy.set(Mode::Pass).await;
    }

    async fn next(&mut self) -> Update<Keyed<String, Change<u32>>> {
        timeout(LIMIT, self.changes.next()).await.expect("an item in time").expect("the stream goes on").expect("no error")
    }

    /// Asserts that the next item is a resync with this difference, and that the watch then has the
    /// server's state and reports further changes.
    async fn resyncs(&mut self, difference: &[(&str, Option<u32>, Option<u32>)]) {
        let update = self.next().await;
        assert!(update.resynced, "{update:?}");
        assert_eq!(told(&update), difference);
        let there = self.direct.entries::<String, u32>("/numbers").unwrap().get().await.unwrap().into_inner();
        assert_eq!(self.changes.current().unwrap().into_inner(), there);
        let (name, now) = there.first_key_value().expect("the map is not empty");
        self.follows(name, *now, now + 1).await;
    }
}

async fn set(client: &Client, name: &str, value: u32) {
    client.entry::<u32>(&format!("/numbers/{name}")).unwrap().set(&value).await.unwrap();
}

async fn delete(client: &Client, name: &str) {
    assert!(client.entry::<u32>(&format!("/numbers/{name}")).unwrap().delete().await.unwrap().is_some());
}

fn told(update: &Update<Keyed<String, Change<u32>>>) -> Vec<(&str, Option<u32>, Option<u32>)> {
    update.changes.iter().map(|Keyed { key, change }| (key.as_str(), change.old, change.new)).collect()
}

#[tokio::test]
async fn v3_compaction_while_disconnected_causes_resync() {
    let mut scene = Scene::new("etcd").await;
    scene.disconnect().await;
    delete(&scene.direct, "gone").await;
    set(&scene.direct, "changed", 2).await;
    set(&scene.direct, "new", 3).await;
    scene.etcd.compact().await;
    // `interruption` reports why the watch receives no changes, and cancelling `next` loses
    // nothing.
    assert!(timeout(Duration::from_secs(1), scene.changes.next()).await.is_err());
    assert_eq!(scene.changes.interruption().map(|interruption| interruption.error.kind()), Some(ErrorKind::Unavailable));
    scene.reconnect().await;
    scene.resyncs(&[("changed", Some(1), Some(2)), ("gone", Some(1), None), ("new", None, Some(3))]).await;
    assert!(scene.changes.interruption().is_none());
}

/// etcd issue 18089: when a watch starts at a compacted revision, 3.4.23 and 3.5.1 skip a deletion
/// at exactly that revision.
#[tokio::test]
async fn v3_deletion_at_compacted_revision_is_reported() {
    let mut scene = Scene::new("etcd").await;
    scene.disconnect().await;
    delete(&scene.direct, "gone").await;
    scene.etcd.compact().await;
    scene.reconnect().await;
    scene.resyncs(&[("gone", Some(1), None)]).await;
}

/// An emptied server keeps its cluster id and accepts the watch without an error. The server's
/// revision may be below or above the revision that the watch saw.
#[tokio::test]
async fn v3_emptied_server_causes_resync() {
    for writes in [0, 100] {
        let mut scene = Scene::new("etcd").await;
        scene.disconnect().await;
        scene.etcd.wipe().await;
        for value in 0..=writes {
            set(&scene.direct, "other", value).await;
        }
        scene.reconnect().await;
        scene.resyncs(&[("changed", Some(1), None), ("gone", Some(1), None), ("kept", Some(2), None), ("other", None, Some(writes))]).await;
    }
}

/// v2 keeps the last 1000 events of the whole store.
#[tokio::test]
async fn v2_full_event_window_causes_resync() {
    let mut scene = Scene::new("etcd2").await;
    scene.disconnect().await;
    delete(&scene.direct, "gone").await;
    set(&scene.direct, "changed", 2).await;
    let elsewhere = scene.direct.entry::<u32>("/elsewhere").unwrap();
    for value in 0..1001 {
        elsewhere.set(&value).await.unwrap();
    }
    scene.reconnect().await;
    scene.resyncs(&[("changed", Some(1), Some(2)), ("gone", Some(1), None)]).await;
}

#[tokio::test]
async fn v2_emptied_server_causes_resync() {
    let mut scene = Scene::new("etcd2").await;
    scene.disconnect().await;
    scene.etcd.wipe().await;
    set(&scene.direct, "other", 7).await;
    scene.reconnect().await;
    scene.resyncs(&[("changed", Some(1), None), ("gone", Some(1), None), ("kept", Some(2), None), ("other", None, Some(7))]).await;
}

/// As long as the server has the history, a watch that reconnects reports no resync.
async fn reconnect_within_history_is_no_resync(scheme: &str) {
    let mut scene = Scene::new(scheme).await;
    scene.disconnect().await;
    for value in 10..60 {
        set(&scene.direct, "changed", value).await;
    }
    scene.reconnect().await;
    for value in 10..60 {
        let update = scene.next().await;
        assert!(!update.resynced);
        let old = if value == 10 { 1 } else { value - 1 };
        assert_eq!(told(&update), [("changed", Some(old), Some(value))]);
    }
}

#[tokio::test]
async fn v3_reconnect_within_history_causes_no_resync() {
    reconnect_within_history_is_no_resync("etcd").await;
}

#[tokio::test]
async fn v2_reconnect_within_history_causes_no_resync() {
    reconnect_within_history_is_no_resync("etcd2").await;
}
