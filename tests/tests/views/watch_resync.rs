//! What a typed watch says when a real server cannot give it the changes in between any more: exactly the difference, marked as such.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::time::Duration;

use etcd_typed::testing::{Etcd, Mode, Proxy};
use etcd_typed::{Change, Changes, Client, ErrorKind, Keyed, Update};
use tokio::time::timeout;

/// Only a test that fails waits for it.
const LIMIT: Duration = Duration::from_secs(60);

type Numbers = Changes<Keyed<String, Change<u32>>, BTreeMap<String, u32>>;

/// A server, a client with an undisturbed connection, and a watch of `/numbers` behind a proxy.
struct Scene {
    etcd: Etcd,
    proxy: Proxy,
    direct: Client,
    changes: Numbers,
}

impl Scene {
    /// `gone`, `kept` and `changed` are there, and the watch follows.
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

    /// A write arrives as an ordinary change.
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
        timeout(LIMIT, self.changes.next()).await.expect("an item in time").expect("no end").expect("no error")
    }

    /// The next item is a resync with this difference, and after it the watch has the server's state and follows it.
    async fn resyncs(&mut self, difference: &[(&str, Option<u32>, Option<u32>)]) {
        let update = self.next().await;
        assert!(update.resynced, "{update:?}");
        assert_eq!(told(&update), difference);
        let there = self.direct.entries::<String, u32>("/numbers").unwrap().get().await.unwrap().into_inner();
        assert_eq!(self.changes.current().unwrap().into_inner(), there);
        let (name, now) = there.first_key_value().expect("something is there");
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
async fn w5_f12_v3_compaction_while_away() {
    let mut scene = Scene::new("etcd").await;
    scene.disconnect().await;
    delete(&scene.direct, "gone").await;
    set(&scene.direct, "changed", 2).await;
    set(&scene.direct, "new", 3).await;
    scene.etcd.compact().await;
    // While it cannot follow, that is to be seen, and giving up the wait costs nothing.
    assert!(timeout(Duration::from_secs(1), scene.changes.next()).await.is_err());
    assert_eq!(scene.changes.interruption().map(|interruption| interruption.error.kind()), Some(ErrorKind::Unavailable));
    scene.reconnect().await;
    scene.resyncs(&[("changed", Some(1), Some(2)), ("gone", Some(1), None), ("new", None, Some(3))]).await;
    assert!(scene.changes.interruption().is_none());
}

/// etcd issue 18089: 3.4.23 and 3.5.1 drop a deletion at exactly the compacted revision when a watch starts there.
#[tokio::test]
async fn w5_f12_v3_a_deletion_at_the_compacted_revision_is_not_lost() {
    let mut scene = Scene::new("etcd").await;
    scene.disconnect().await;
    delete(&scene.direct, "gone").await;
    scene.etcd.compact().await;
    scene.reconnect().await;
    scene.resyncs(&[("gone", Some(1), None)]).await;
}

/// A server that was emptied has the same cluster id and takes the watch without a word, whether it is behind what was seen or past it by now.
#[tokio::test]
async fn w5_f21_v3_an_emptied_server() {
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
async fn w5_f32_v2_more_events_than_the_window_holds() {
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
async fn w5_f21_v2_an_emptied_server() {
    let mut scene = Scene::new("etcd2").await;
    scene.disconnect().await;
    scene.etcd.wipe().await;
    set(&scene.direct, "other", 7).await;
    scene.reconnect().await;
    scene.resyncs(&[("changed", Some(1), None), ("gone", Some(1), None), ("kept", Some(2), None), ("other", None, Some(7))]).await;
}

/// While the history is there, being away is not being lost.
async fn away_and_back_is_no_resync(scheme: &str) {
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
async fn w4_v3_away_and_back_is_no_resync() {
    away_and_back_is_no_resync("etcd").await;
}

#[tokio::test]
async fn w4_v2_away_and_back_is_no_resync() {
    away_and_back_is_no_resync("etcd2").await;
}
