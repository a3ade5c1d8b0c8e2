//! The namespace of a client. On v3 and in memory it can be any text, on v2 only a path.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use etcd_typed::store::{Range, Span};
use etcd_typed::testing::Etcd;
use etcd_typed::{Client, ErrorKind, EtcdSchema, Expect, Live};
use etcd_typed_tests::etcdctl;
use tokio::time::timeout;

/// The limit of every wait. Only a failing test waits this long.
const LIMIT: Duration = Duration::from_secs(60);

/// Each namespace, and the text that it puts before a path.
const NAMESPACES: [(&str, &str); 11] = [
    ("", ""),
    ("/prod", "/prod"),
    ("/prod/x/", "/prod/x"),
    ("/prod//", "/prod/"),
    ("v1", "v1"),
    ("v1/", "v1/"),
    ("dynamo:/", "dynamo:/"),
    ("prod.", "prod."),
    ("dms.rpc/7587", "dms.rpc/7587"),
    ("a//b", "a//b"),
    ("größe \n", "größe \n"),
];

#[derive(Clone, Debug, PartialEq, EtcdSchema)]
#[etcd(prefix = "/{env}/app")]
struct App {
    host: String,
    #[etcd(default = 80)]
    port: u16,
    #[etcd(entries)]
    quotas: BTreeMap<String, u8>,
}

fn app(host: &str) -> App {
    App { host: host.to_owned(), port: 1, quotas: BTreeMap::from([("q".to_owned(), 1)]) }
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

async fn client(address: &str, namespace: &str) -> Client {
    Client::builder(address).namespace(namespace).connect().await.unwrap()
}

/// Uses every kind of handle in each namespace. All namespaces are in one store.
async fn typed_layer_stands_on_any_namespace(address: &str) {
    for (number, (namespace, before)) in (1..).zip(NAMESPACES) {
        let client = client(address, namespace).await;
        let host = |n: u8| format!("{number}-{n}");
        let entry = client.entry::<u8>("/single/n").unwrap();
        entry.create(&number).await.unwrap();
        let key = format!("{before}/single/n");
        assert_eq!((entry.key().as_str(), entry.key().as_bytes()), (key.as_str(), key.as_bytes()));
        let reply = client.store().range(Range::of(Span::Key(entry.key().clone()))).await.unwrap();
        assert_eq!(reply.kvs.into_iter().map(|kv| kv.key).collect::<Vec<_>>(), [Bytes::from(key)], "{namespace:?}");

        let dir = AppDir::open(&client, "_env").unwrap();
        assert_eq!(dir.key().as_str(), format!("{before}/_env/app"));
        let mut changes = dir.watch().await.unwrap();
        dir.set(&app(&host(1))).await.unwrap();
        assert_eq!(changes.next().await.unwrap().unwrap().changes.len(), 3, "{namespace:?}");
        let mut live = dir.live().await.unwrap();
        let mut quotas = dir.quotas.live().await.unwrap();
        dir.update(|app| app.host = host(2)).await.unwrap();
        until(&mut live, |app| app.host == host(2)).await;
        dir.quotas.entry("a/b").unwrap().set(&9).await.unwrap();
        until(&mut quotas, |quotas| quotas.get("a/b") == Some(&9)).await;
        let (seen, mut swapped) = (dir.get().await.unwrap(), app(&host(3)));
        swapped.quotas = seen.quotas.clone();
        dir.compare_and_swap(&seen, &swapped).await.unwrap();
        assert_eq!((dir.get().await.unwrap().into_inner(), dir.check().await.unwrap().problems), (swapped, vec![]));
        let mut host_live = dir.host.live().await.unwrap();
        client.transaction().expect(&entry, Expect::value(&number)).write(dir.host.set(&host(4))).await.unwrap();
        until(&mut host_live, |now| *now == Some(host(4))).await;

        let all = client.directory("/").unwrap();
        let paths: Vec<String> = all.list().await.unwrap().iter().map(|node| node.path.clone()).collect();
        // In the empty namespace, the paths of other namespaces that start with `/` are visible.
        assert!(["_env", "single"].iter().all(|name| paths.iter().any(|path| path == name)), "{namespace:?}: {paths:?}");
        assert!(before.is_empty() || before.starts_with("/prod") || paths.len() == 2, "{namespace:?}: {paths:?}");

        let lock = client.lock("-x").acquire().await.unwrap();
        assert_eq!(lock.key().as_str(), format!("{before}-x/{}", lock.lease_id()));
        entry.set(&(number + 100)).guarded_by(&lock).await.unwrap();
        lock.release().await.unwrap();
        let published = dir.port.publish(&7).await.unwrap();
        assert_eq!(dir.port.get().await.unwrap().as_deref(), Some(&7));
        published.withdraw().await.unwrap();
    }
    // No namespace has changed a key of another one.
    for (number, (namespace, _)) in (1..).zip(NAMESPACES) {
        let client = client(address, namespace).await;
        assert_eq!(client.entry::<u8>("/single/n").unwrap().get().await.unwrap().as_deref(), Some(&(number + 100)), "{namespace:?}");
        let dir = AppDir::open(&client, "_env").unwrap();
        assert_eq!(
            (dir.host.get().await.unwrap().unwrap().into_inner(), dir.quotas.get().await.unwrap().len()),
            (format!("{number}-4"), 2)
        );
        assert_eq!(client.directory("/_env").unwrap().delete_recursive().await.unwrap(), 3, "{namespace:?}");
        assert!(!dir.exists().await.unwrap());
    }
}

#[tokio::test]
async fn handles_stay_within_their_namespace_memory() {
    let _kept = Client::connect("memory:namespaces").await.unwrap();
    typed_layer_stands_on_any_namespace("memory:namespaces").await;
}

#[tokio::test]
async fn handles_stay_within_their_namespace_v3() {
    typed_layer_stands_on_any_namespace(&Etcd::start().await.url_v3()).await;
}

#[tokio::test]
async fn etcdctl_shares_keys_of_any_namespace() {
    let etcd = Etcd::start().await;
    let run = |arguments: &[&str]| {
        let output = etcdctl().arg(format!("--endpoints={}", etcd.endpoint())).args(arguments).output().expect("an etcdctl");
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    for (namespace, before) in NAMESPACES {
        let client = client(&etcd.url_v3(), namespace).await;
        for path in ["/a/b", "/__metasrv_election", "/servers/_default.toml"] {
            let (entry, key) = (client.entry::<String>(path).unwrap(), format!("{before}{path}"));
            entry.set(&namespace.to_owned()).await.unwrap();
            assert_eq!(run(&["get", "--print-value-only", &key]), format!("{namespace}\n"));
            run(&["put", &key, "theirs"]);
            assert_eq!(entry.get().await.unwrap().unwrap().as_str(), "theirs", "{key:?}");
            run(&["del", &key]);
            assert!(!entry.exists().await.unwrap(), "{key:?}");
        }
    }
}

#[tokio::test]
async fn v2_refuses_namespaces_that_are_not_paths() {
    let etcd = Etcd::start().await;
    for (namespace, before) in NAMESPACES {
        let refused = Client::builder(&etcd.url_v2()).namespace(namespace).connect_lazy().map(|client| client.namespace().to_string());
        match refused {
            Ok(namespace) => assert!(matches!(before, "" | "/prod" | "/prod/x") && namespace.trim_end_matches('/') == before),
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::InvalidKey, "{namespace:?}");
                assert!(error.to_string().contains("use etcd v3 for any other text"), "{error}");
                assert!(!matches!(before, "" | "/prod" | "/prod/x"), "{error}");
            }
        }
    }
}
