//! Programs that keep data: a search engine, a database, an object store, a metrics store.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use etcd_typed::{EtcdSchema, EtcdValue};
use serde::{Deserialize, Serialize};

use super::modules::{megabytes, seconds};

/// A search engine.
#[derive(EtcdSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub(super) struct Search {
    #[serde(default = "db_path")]
    pub(super) db_path: PathBuf,
    #[serde(default = "http_addr", rename = "http_addr", alias = "address")]
    pub(super) http: SocketAddr,
    #[serde(default)]
    pub(super) env: Environment,
    #[etcd(secret, allow_debug)]
    pub(super) master_key: Option<String>,
    #[serde(default)]
    pub(super) no_analytics: bool,
    #[serde(flatten)]
    pub(super) indexer: Indexer,
    #[serde(flatten)]
    pub(super) snapshots: Snapshots,
}

#[derive(EtcdValue, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Default)]
#[serde(rename_all = "lowercase")]
pub(super) enum Environment {
    #[default]
    Development,
    Production,
}

#[derive(EtcdSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "snake_case", default)]
pub(super) struct Indexer {
    #[serde(rename = "max_indexing_memory", with = "megabytes")]
    pub(super) memory: u64,
    #[serde(rename = "max_indexing_threads")]
    pub(super) threads: usize,
    #[serde(skip)]
    pub(super) is_test: bool,
}

impl Default for Indexer {
    fn default() -> Self {
        Self { memory: 1 << 30, threads: 2, is_test: false }
    }
}

#[derive(EtcdSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
pub(super) struct Snapshots {
    #[serde(default = "snapshot_dir")]
    pub(super) snapshot_dir: PathBuf,
    #[serde(default, with = "seconds::option", skip_serializing_if = "Option::is_none")]
    pub(super) schedule_snapshot: Option<Duration>,
}

fn db_path() -> PathBuf {
    "./data".into()
}

fn http_addr() -> SocketAddr {
    ([127, 0, 0, 1], 7700).into()
}

fn snapshot_dir() -> PathBuf {
    "./snapshots".into()
}

/// A database.
#[derive(EtcdSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "kebab-case")]
pub(super) struct Database {
    #[serde(default)]
    pub(super) memory_limit: Option<u64>,
    #[serde(default = "Database::log_level")]
    pub(super) log_level: String,
    #[etcd(dir)]
    #[serde(default)]
    pub(super) storage: Storage,
    #[etcd(dir)]
    #[serde(default)]
    pub(super) raftstore: Raft,
    #[serde(default)]
    #[etcd(entries)]
    pub(super) labels: BTreeMap<String, String>,
}

impl Database {
    fn log_level() -> String {
        "info".to_owned()
    }
}

#[derive(EtcdSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(default, rename_all = "kebab-case")]
pub(super) struct Storage {
    pub(super) data_dir: PathBuf,
    #[serde(with = "megabytes")]
    pub(super) reserve_space: u64,
    pub(super) api_version: u8,
    #[etcd(dir)]
    pub(super) block_cache: BlockCache,
}

impl Default for Storage {
    fn default() -> Self {
        Self { data_dir: "/var/lib/database".into(), reserve_space: 5 << 30, api_version: 1, block_cache: BlockCache::default() }
    }
}

#[derive(EtcdSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Default)]
#[serde(default, rename_all = "kebab-case")]
pub(super) struct BlockCache {
    pub(super) capacity: Option<u64>,
    pub(super) num_shard_bits: i32,
    pub(super) high_pri_pool_ratio: f64,
}

#[derive(EtcdSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(default, rename_all = "kebab-case")]
pub(super) struct Raft {
    pub(super) prevote: bool,
    pub(super) raft_base_tick_interval: Duration,
    pub(super) raft_election_timeout_ticks: usize,
    #[serde(rename = "region-max-size", alias = "region-size")]
    pub(super) region_size: Option<u64>,
}

impl Default for Raft {
    fn default() -> Self {
        Self { prevote: true, raft_base_tick_interval: Duration::from_secs(1), raft_election_timeout_ticks: 10, region_size: Some(144) }
    }
}

/// An object store.
#[derive(EtcdSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
pub(super) struct Objects {
    pub(super) metadata_dir: PathBuf,
    #[serde(default)]
    pub(super) metadata_fsync: bool,
    #[serde(default = "Objects::replication_factor")]
    pub(super) replication_factor: usize,
    #[serde(default)]
    pub(super) compression_level: Option<i32>,
    #[etcd(secret, allow_debug)]
    pub(super) rpc_secret: Option<String>,
    #[etcd(dir)]
    pub(super) s3_api: S3Api,
    #[etcd(dir)]
    #[serde(default)]
    pub(super) buckets: BTreeMap<String, Bucket>,
}

impl Objects {
    fn replication_factor() -> usize {
        3
    }
}

#[derive(EtcdSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
pub(super) struct S3Api {
    #[serde(rename = "api_bind_addr")]
    pub(super) bind: Option<SocketAddr>,
    #[serde(rename = "s3_region")]
    pub(super) region: String,
    pub(super) root_domain: Option<String>,
}

#[derive(EtcdSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub(super) struct Bucket {
    pub(super) max_objects: u64,
    #[serde(default)]
    pub(super) is_public: bool,
}

/// A metrics store.
#[derive(EtcdSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
pub(super) struct Metrics {
    #[etcd(dir)]
    #[serde(default)]
    pub(super) global: Global,
    #[etcd(json)]
    #[serde(default, rename = "scrape_configs")]
    pub(super) scrapes: Vec<Scrape>,
    #[etcd(dir)]
    pub(super) storage: Option<Retention>,
}

#[derive(EtcdSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(default)]
pub(super) struct Global {
    #[serde(with = "seconds")]
    pub(super) scrape_interval: Duration,
    #[serde(with = "seconds")]
    pub(super) evaluation_interval: Duration,
    #[etcd(entries)]
    pub(super) external_labels: BTreeMap<String, String>,
}

impl Default for Global {
    fn default() -> Self {
        Self { scrape_interval: Duration::from_secs(60), evaluation_interval: Duration::from_secs(60), external_labels: BTreeMap::new() }
    }
}

#[derive(Serialize, Deserialize, Clone, Debug, PartialEq)]
pub(super) struct Scrape {
    pub(super) job_name: String,
    pub(super) targets: Vec<String>,
}

#[derive(EtcdSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
pub(super) struct Retention {
    #[serde(rename = "retention.time", with = "seconds")]
    pub(super) time: Duration,
    #[serde(rename = "retention.size", with = "megabytes::option", default)]
    pub(super) size: Option<u64>,
}
