//! Maps whose keys have several segments, and views of directories without a schema.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::time::Duration;

use etcd_typed::{Client, ErrorKind, EtcdSchema, Live, ProblemKind};
use tokio::time::timeout;

/// The limit of every wait. Only a failing test waits this long.
const LIMIT: Duration = Duration::from_secs(60);

type Instance = (String, String, u64);

#[derive(Clone, Debug, PartialEq, EtcdSchema)]
struct Server {
    host: String,
    #[etcd(default = 80)]
    port: u16,
}

struct Bench {
    client: Client,
}

impl Bench {
    async fn put(&self, path: &str, value: &str) {
        self.client.entry(path).unwrap().set(&value.to_owned()).await.unwrap();
    }

    async fn paths(&self, directory: &str) -> Vec<String> {
        let nodes = self.client.directory(directory).unwrap().list_recursive().await.unwrap().into_inner();
        nodes.into_iter().filter(|node| !node.is_directory()).map(|node| node.path).collect()
    }
}

fn instance(ns: &str, component: &str, id: u64) -> Instance {
    (ns.to_owned(), component.to_owned(), id)
}

fn server(host: &str) -> Server {
    Server { host: host.to_owned(), port: 1 }
}

/// Waits until a view shows a state that satisfies `wanted`.
async fn until<T: Send + Sync + 'static>(live: &mut Live<T>, wanted: impl Fn(&T) -> bool) {
    let wait = async {
        while !wanted(&live.get()) {
            live.changed().await.unwrap();
        }
    };
    timeout(LIMIT, wait).await.expect("the view shows it in time");
}

etcd_typed_tests::on_every_store! { "levels":
    entry_key_of_several_parts_is_escaped_by_part
    keys_of_other_depth_are_no_entries
    struct_key_of_several_parts_is_a_path
    untyped_directory_has_live_view
}

async fn entry_key_of_several_parts_is_escaped_by_part(bench: Bench) {
    let map = bench.client.entries::<Instance, String>("/instances").unwrap();
    let mut live = map.live().await.unwrap();
    let mut changes = map.watch().await.unwrap();
    let odd = instance("a/b", "..", 7);
    map.entry(&odd).unwrap().create(&"10.0.0.1".to_owned()).await.unwrap();
    assert_eq!(bench.paths("/instances").await, ["a%2Fb/%2E%2E/7"]);
    assert_eq!(map.entry(&odd).unwrap().get().await.unwrap().as_deref().map(String::as_str), Some("10.0.0.1"));
    until(&mut live, |live| live.get(&odd).is_some_and(|value| value == "10.0.0.1")).await;
    let update = changes.next().await.unwrap().unwrap();
    assert_eq!((&update.changes[0].key, update.changes[0].change.new.as_deref()), (&odd, Some("10.0.0.1")));

    let wanted: BTreeMap<Instance, String> =
        [instance("ns", "x", 1), instance("ns", "x", 10), instance("ns", "y", 1)].map(|key| (key, "v".to_owned())).into();
    let diff = map.diff(&wanted).await.unwrap();
    assert_eq!(diff.differences.iter().map(|one| (one.is_created(), one.is_deleted())).collect::<Vec<_>>().len(), 4);
    map.set(&wanted).non_atomic().await.unwrap();
    assert_eq!(map.get().await.unwrap().into_inner(), wanted);
    assert!(map.diff(&wanted).await.unwrap().is_empty() && map.check().await.unwrap().problems.is_empty());
    until(&mut live, |live| live.iter().map(|(key, _)| key).eq(wanted.keys())).await;
    let mut pages = map.stream_in_pages_of(2);
    let mut read = BTreeMap::new();
    while let Some(entry) = pages.next().await {
        let (key, value) = entry.unwrap();
        read.insert(key, value.into_inner());
    }
    assert_eq!(read, wanted);
    map.entry(&instance("ns", "x", 1)).unwrap().delete().await.unwrap();
    until(&mut live, |live| live.len() == 2).await;
}

async fn keys_of_other_depth_are_no_entries(bench: Bench) {
    let map = bench.client.entries::<Instance, u8>("/mixed").unwrap();
    for (path, value) in [("ns/x/1", "1"), ("ns/x/2/deeper", "2"), ("ns/short", "3")] {
        bench.put(&format!("/mixed/{path}"), value).await;
    }
    assert_eq!(map.get().await.unwrap().into_inner(), BTreeMap::from([(instance("ns", "x", 1), 1)]));
    let problems = map.check().await.unwrap().problems;
    let kinds: Vec<_> = problems.iter().map(|problem| problem.kind).collect();
    assert_eq!(kinds, [ProblemKind::Unknown, ProblemKind::Unknown]);
    // A name that is not the stored form of its part is reported, as in a map with one level.
    bench.put("/mixed/ns/x/07", "4").await;
    let error = map.get().await.unwrap_err();
    assert_eq!((error.kind(), error.problems().len(), error.problems()[0].kind), (ErrorKind::Invalid, 1, ProblemKind::ForeignKey));
    assert!(error.problems()[0].key.as_str().ends_with("/mixed/ns/x/07"));
}

async fn struct_key_of_several_parts_is_a_path(bench: Bench) {
    let map = bench.client.dirs::<(String, u8), Server>("/servers").unwrap();
    let key = ("eu/1".to_owned(), 7);
    let dir = map.dir(&key).unwrap();
    let mut live = map.live().await.unwrap();
    let mut changes = map.watch().await.unwrap();
    dir.set(&server("a")).non_atomic().await.unwrap();
    assert_eq!(bench.paths("/servers").await, ["eu%2F1/7/host", "eu%2F1/7/port"]);
    assert_eq!(
        (map.keys().await.unwrap(), map.get().await.unwrap().into_inner()),
        (vec![key.clone()], [(key.clone(), server("a"))].into())
    );
    until(&mut live, |live| live.get(&key) == Some(&server("a"))).await;
    assert_eq!(changes.next().await.unwrap().unwrap().changes[0].key, key);
    dir.update(|server| server.port = 2).non_atomic().await.unwrap();
    assert_eq!(*dir.port.get().await.unwrap().unwrap(), 2);

    // An entry that is no longer in the map is removed with everything below its directory.
    bench.put("/servers/eu%2F1/7/unknown/key", "x").await;
    let problems = map.check().await.unwrap().problems;
    assert_eq!(problems.iter().map(|problem| problem.kind).collect::<Vec<_>>(), [ProblemKind::Unknown]);
    let wanted = BTreeMap::from([(("us".to_owned(), 1), server("b"))]);
    map.set(&wanted).non_atomic().await.unwrap();
    assert_eq!(
        (bench.paths("/servers").await, map.get().await.unwrap().into_inner()),
        (vec!["us/1/host".into(), "us/1/port".into()], wanted.clone())
    );
    until(&mut live, |live| live.len() == 1 && live.contains_key(&("us".to_owned(), 1))).await;
    map.dir(&("us".to_owned(), 1)).unwrap().delete().non_atomic().await.unwrap();
    assert_eq!(bench.paths("/servers").await, [""; 0]);
}

async fn untyped_directory_has_live_view(bench: Bench) {
    let directory = bench.client.directory("/untyped").unwrap();
    bench.put("/untyped/a", "1").await;
    let mut live = directory.live().await.unwrap();
    let shown = |live: &Live<_>| -> Vec<(String, Vec<u8>)> {
        let state: etcd_typed::Snapshot<etcd_typed::LiveMap<String, bytes::Bytes>> = live.get();
        state.iter().map(|(path, value)| (path.clone(), value.to_vec())).collect()
    };
    assert_eq!(shown(&live), [("a".to_owned(), b"1".to_vec())]);
    bench.put("/untyped/b/c%2Fd", "2").await;
    bench.put("/untyped/a", "3").await;
    until(&mut live, |live| live.get("a").is_some_and(|value| value == "3") && live.len() == 2).await;
    assert_eq!(shown(&live), [("a".to_owned(), b"3".to_vec()), ("b/c%2Fd".to_owned(), b"2".to_vec())]);
    directory.delete_recursive().await.unwrap();
    until(&mut live, |live| live.is_empty()).await;
}
