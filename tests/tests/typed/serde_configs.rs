//! Config structs with serde attributes, modelled on public programs. To store them in etcd, each
//! struct has one more name in its derive list, and at most one line of `#[etcd(...)]` for each
//! directory, map, secret, skipped map of unknown keys, or list of structs.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

mod desktop;
mod modules;
mod network;
mod storage;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;
use std::ops::Deref;
use std::time::Duration;

use etcd_typed::{Client, Dir, EtcdSchema};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::time::timeout;

use self::desktop::*;
use self::network::*;
use self::storage::*;

/// The limit of every wait. Only a failing test waits this long.
const LIMIT: Duration = Duration::from_secs(30);

/// Writes, reads, changes and watches a struct, and opens a live view of it. Asserts that its keys
/// have the names in its JSON. `json` lists the fields that are stored as one key although they are
/// JSON objects.
async fn works<S>(value: S, json: &[&str], change: impl Fn(&mut S) + Send + Sync + Clone + 'static)
where
    S: EtcdSchema<Handle: Deref<Target = Dir<S>>> + Serialize + DeserializeOwned + Clone + PartialEq + Debug,
{
    let client = Client::connect("memory:").await.unwrap();
    let cfg = client.dir::<S>("/app").unwrap();

    cfg.set(&value).await.unwrap();
    assert_eq!(*cfg.get().await.unwrap(), value);
    assert_eq!(cfg.check().await.unwrap().problems, []);
    assert_eq!(keys(&client).await, names(&serde_json::to_value(&value).unwrap(), json));

    let live = cfg.live().await.unwrap();
    assert_eq!(**live.get(), value);
    let mut changes = cfg.watch().await.unwrap();
    cfg.update(change.clone()).await.unwrap();
    let mut changed = value.clone();
    change(&mut changed);
    assert_ne!(changed, value);
    let update = timeout(LIMIT, changes.next()).await.unwrap().unwrap().unwrap();
    assert!(!update.changes.is_empty());
    timeout(LIMIT, async {
        while **live.get() != changed {
            tokio::task::yield_now().await;
        }
    })
    .await
    .unwrap();

    let from_json: S = serde_json::from_value(serde_json::to_value(&changed).unwrap()).unwrap();
    cfg.set(&from_json).await.unwrap();
    assert_eq!(*cfg.get().await.unwrap(), from_json);
}

async fn keys(client: &Client) -> BTreeSet<String> {
    let nodes = client.directory("/app").unwrap().list_recursive().await.unwrap().into_inner();
    nodes.into_iter().filter(|node| node.value.is_some()).map(|node| node.path).collect()
}

/// Returns the paths of the values in a JSON document, without nulls.
fn names(document: &Value, json: &[&str]) -> BTreeSet<String> {
    fn add(value: &Value, path: &str, json: &[&str], names: &mut BTreeSet<String>) {
        match value {
            Value::Object(fields) if !json.contains(&path) => {
                for (name, value) in fields {
                    let path = if path.is_empty() { name.clone() } else { format!("{path}/{name}") };
                    add(value, &path, json, names);
                }
            }
            Value::Null => {}
            _ => {
                names.insert(path.to_owned());
            }
        }
    }
    let mut names = BTreeSet::new();
    add(document, "", json, &mut names);
    names
}

fn map<V, const N: usize>(pairs: [(&str, V); N]) -> BTreeMap<String, V> {
    pairs.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()
}

#[tokio::test]
async fn proxy_config_is_read_back_with_memory_store() {
    let entry = |port| EntryPoint { address: ([0, 0, 0, 0], port).into(), as_default: port == 80, grace_time_out: Duration::from_secs(5) };
    let value = Proxy {
        entry_points: map([("web", entry(80)), ("websecure", entry(443))]),
        log: Log::default(),
        servers_transport: Transport::default(),
        check_new_version: false,
        hostname: None,
    };
    works(value, &[], |proxy| proxy.log.level = LogLevel::Warn).await;
}

#[tokio::test]
async fn name_server_config_is_read_back_with_memory_store() {
    let zone = Zone { name: "example.org".to_owned(), file: "/etc/zones/org".into() };
    let value =
        NameServer { allow_from: vec![[127, 0, 0, 1].into()], api_key: Some("key".to_owned()), zones: vec![zone], ..NameServer::default() };
    works(value, &["zones"], |server| server.allow_from.push([10, 0, 0, 1].into())).await;
    works(NameServer::default(), &["zones"], |server| server.webserver = true).await;
}

#[tokio::test]
async fn mail_server_config_is_read_back_with_memory_store() {
    let value = Mail {
        limits: MailLimits { message_size: 1000, recipients: Some(50) },
        tls: Some(Tls { cert_file: "a.pem".into(), key_file: "a.key".into(), minimum_version: TlsVersion::V13 }),
        aliases: map([("root", "me".to_owned())]),
        hostname: "mail.example.org".to_owned(),
        is_first_start: true,
    };
    works(value, &[], |mail| mail.tls = None).await;
}

#[tokio::test]
async fn chat_server_config_is_read_back_with_memory_store() {
    let value = Chat {
        server_name: "example.org".to_owned(),
        port: 8448,
        allow_federation: true,
        allow_registration: false,
        registration_token: Some("token".to_owned()),
        max_request_size: 1,
        trusted_servers: vec!["matrix.org".to_owned()],
        catchall: BTreeMap::new(),
    };
    works(value, &[], |chat| chat.registration_token = None).await;
}

#[tokio::test]
async fn search_engine_config_is_read_back_with_memory_store() {
    let value = Search {
        db_path: "/data".into(),
        http: ([0, 0, 0, 0], 80).into(),
        env: Environment::Production,
        master_key: Some("secret".to_owned()),
        no_analytics: true,
        indexer: Indexer::default(),
        snapshots: Snapshots { snapshot_dir: "/s".into(), schedule_snapshot: Some(Duration::from_secs(60)) },
    };
    works(value, &[], |search| search.indexer.memory = 2 << 20).await;
}

#[tokio::test]
async fn database_config_is_read_back_with_memory_store() {
    let value = Database {
        memory_limit: None,
        log_level: "warn".to_owned(),
        storage: Storage::default(),
        raftstore: Raft::default(),
        labels: map([("zone", "a".to_owned())]),
    };
    // This library stores a `Duration` as text; in serde's JSON it is an object.
    works(value, &["raftstore/raft-base-tick-interval"], |database| database.storage.block_cache.capacity = Some(1)).await;
}

#[tokio::test]
async fn object_store_config_is_read_back_with_memory_store() {
    let value = Objects {
        metadata_dir: "/meta".into(),
        metadata_fsync: true,
        replication_factor: 1,
        compression_level: Some(-1),
        rpc_secret: None,
        s3_api: S3Api { bind: None, region: "eu".to_owned(), root_domain: None },
        buckets: map([("photos", Bucket { max_objects: 5, is_public: false })]),
    };
    works(value, &[], |objects| objects.buckets.clear()).await;
}

#[tokio::test]
async fn metrics_store_config_is_read_back_with_memory_store() {
    let value = Metrics {
        global: Global { external_labels: map([("region", "eu".to_owned())]), ..Global::default() },
        scrapes: vec![Scrape { job_name: "self".to_owned(), targets: vec!["localhost:9090".to_owned()] }],
        storage: Some(Retention { time: Duration::from_secs(60), size: Some(5 << 20) }),
    };
    works(value, &["scrape_configs"], |metrics| metrics.storage = None).await;
}

#[tokio::test]
async fn compiler_cache_config_is_read_back_with_memory_store() {
    let redis = RedisCache { endpoint: "redis://a".to_owned(), username: None, password: Some("p".to_owned()), ttl: 60 };
    let value = CompilerCache {
        cache: CacheConfigs { disk: Some(DiskCache::default()), redis: Some(redis) },
        dist: Dist::default(),
        server_startup_timeout_ms: Some(100),
    };
    works(value, &[], |cache| cache.dist.scheduler = Some("http://s".to_owned())).await;
}

#[tokio::test]
async fn shell_history_config_is_read_back_with_memory_store() {
    let value = ShellHistory {
        dialect: Dialect::Uk,
        sync_frequency: Duration::from_secs(5),
        update_check: true,
        inline_height: Some(40),
        keys: Keys::default(),
        filters: Filters { secrets_filter: false, filter_mode: None },
        cached_path: None,
    };
    works(value, &[], |history| history.keys.prefix = "b".to_owned()).await;
}

#[tokio::test]
async fn terminal_config_is_read_back_with_memory_store() {
    works(Terminal::default(), &[], |terminal| terminal.font.size = FontSize(12.5)).await;
    let value = Terminal { env: map([("TERM", "xterm".to_owned())]), live_reload: true, ..Terminal::default() };
    works(value, &[], |terminal| terminal.window.decorations = Decorations::None).await;
}

#[tokio::test]
async fn build_runner_config_is_read_back_with_memory_store() {
    let runner = Executor { base_url: "https://ci".to_owned(), access_token: "t".to_owned(), request_concurrency: 1 };
    let value = Runner {
        concurrent: 4,
        interval: Duration::from_secs(3),
        runners: map([("linux", runner)]),
        mounts: vec![Mount { source: "/a".into(), target: "/b".into() }],
    };
    works(value, &["MOUNTS"], |runner| runner.mounts.clear()).await;
}

/// Fields whose key is missing get the defaults that serde gives them.
#[tokio::test]
async fn missing_keys_are_read_as_serde_defaults() {
    let client = Client::connect("memory:").await.unwrap();
    let terminal = client.dir::<Terminal>("/terminal").unwrap();
    assert_eq!(*terminal.get().await.unwrap(), serde_json::from_str("{}").unwrap());
    let chat = client.dir::<Chat>("/chat").unwrap();
    chat.server_name.set(&"a".to_owned()).await.unwrap();
    assert_eq!(*chat.get().await.unwrap(), serde_json::from_str(r#"{"server_name":"a"}"#).unwrap());
    let search = client.dir::<Search>("/search").unwrap();
    assert_eq!(*search.get().await.unwrap(), serde_json::from_str("{}").unwrap());
}

/// Counts the attributes that the structs need in addition to those of serde.
#[test]
fn serde_configs_need_few_etcd_attributes() {
    let sources =
        [include_str!("serde_configs/network.rs"), include_str!("serde_configs/storage.rs"), include_str!("serde_configs/desktop.rs")];
    let lines: Vec<&str> = sources.iter().flat_map(|source| source.lines()).map(str::trim).collect();
    let allowed = ["#[etcd(dir)]", "#[etcd(entries)]", "#[etcd(secret, allow_debug)]", "#[etcd(json)]", "#[etcd(skip)]"];
    let own: Vec<_> = lines.iter().filter(|line| line.starts_with("#[etcd")).collect();
    assert!(own.iter().all(|line| allowed.contains(line)), "{own:?}");
    let serde = lines.iter().filter(|line| line.starts_with("#[serde")).count();
    let fields = lines.iter().filter(|line| line.starts_with("pub(super) ") && line.ends_with(',')).count();
    assert!(own.len() * 3 < fields && own.len() * 2 < serde, "{} lines for {fields} fields, beside {serde} lines of serde", own.len());
}
