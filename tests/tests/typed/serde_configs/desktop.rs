//! Programs of a developer: a compiler cache, a shell history, a terminal, a build runner.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use etcd_typed::{EtcdSchema, EtcdValue};
use serde::{Deserialize, Serialize};

use super::modules::{megabytes, seconds};

/// A compiler cache.
#[derive(EtcdSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(deny_unknown_fields)]
pub(super) struct CompilerCache {
    #[etcd(dir)]
    pub(super) cache: CacheConfigs,
    #[etcd(dir)]
    pub(super) dist: Dist,
    #[serde(default)]
    pub(super) server_startup_timeout_ms: Option<u64>,
}

#[derive(EtcdSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(deny_unknown_fields)]
pub(super) struct CacheConfigs {
    #[etcd(dir)]
    pub(super) disk: Option<DiskCache>,
    #[etcd(dir)]
    pub(super) redis: Option<RedisCache>,
}

#[derive(EtcdSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(deny_unknown_fields, default)]
pub(super) struct DiskCache {
    pub(super) dir: PathBuf,
    #[serde(with = "megabytes")]
    pub(super) size: u64,
    pub(super) rw_mode: CacheMode,
}

impl Default for DiskCache {
    fn default() -> Self {
        Self { dir: "/tmp/cache".into(), size: 10 << 30, rw_mode: CacheMode::ReadWrite }
    }
}

#[derive(EtcdValue, Serialize, Deserialize, Clone, Copy, Debug, PartialEq)]
pub(super) enum CacheMode {
    #[serde(rename = "READ_ONLY")]
    ReadOnly,
    #[serde(rename = "READ_WRITE")]
    ReadWrite,
}

#[derive(EtcdSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
pub(super) struct RedisCache {
    pub(super) endpoint: String,
    pub(super) username: Option<String>,
    #[etcd(secret, allow_debug)]
    pub(super) password: Option<String>,
    #[serde(rename = "expiration", alias = "ttl", default)]
    pub(super) ttl: u64,
}

#[derive(EtcdSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Dist {
    #[serde(rename = "scheduler_url", skip_serializing_if = "Option::is_none")]
    pub(super) scheduler: Option<String>,
    pub(super) toolchain_cache_size: u64,
    pub(super) rewrite_includes_only: bool,
}

impl Default for Dist {
    fn default() -> Self {
        Self { scheduler: None, toolchain_cache_size: 1 << 20, rewrite_includes_only: false }
    }
}

/// A shell history.
#[derive(EtcdSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
pub(super) struct ShellHistory {
    #[serde(default = "ShellHistory::dialect")]
    pub(super) dialect: Dialect,
    #[serde(with = "seconds", default = "ShellHistory::sync_frequency")]
    pub(super) sync_frequency: Duration,
    #[serde(default)]
    pub(super) update_check: bool,
    #[serde(rename = "inline_height_shell_up_key_binding", default)]
    pub(super) inline_height: Option<u16>,
    #[etcd(dir)]
    #[serde(default)]
    pub(super) keys: Keys,
    #[serde(flatten)]
    pub(super) filters: Filters,
    #[serde(skip)]
    pub(super) cached_path: Option<PathBuf>,
}

impl ShellHistory {
    fn dialect() -> Dialect {
        Dialect::Us
    }

    fn sync_frequency() -> Duration {
        Duration::from_secs(3600)
    }
}

#[derive(EtcdValue, Serialize, Deserialize, Clone, Copy, Debug, PartialEq)]
#[serde(rename_all = "lowercase")]
pub(super) enum Dialect {
    Us,
    Uk,
}

#[derive(EtcdSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(default)]
pub(super) struct Keys {
    pub(super) scroll_exits: bool,
    pub(super) prefix: String,
}

impl Default for Keys {
    fn default() -> Self {
        Self { scroll_exits: true, prefix: "a".to_owned() }
    }
}

#[derive(EtcdSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
pub(super) struct Filters {
    #[serde(default = "Filters::yes")]
    pub(super) secrets_filter: bool,
    #[serde(default)]
    pub(super) filter_mode: Option<String>,
}

impl Filters {
    fn yes() -> bool {
        true
    }
}

/// A terminal.
#[derive(EtcdSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Default)]
#[serde(default)]
pub(super) struct Terminal {
    #[etcd(dir)]
    pub(super) window: Window,
    #[etcd(dir)]
    pub(super) font: Font,
    #[etcd(entries)]
    pub(super) env: BTreeMap<String, String>,
    #[serde(alias = "live_config_reload")]
    pub(super) live_reload: bool,
}

#[derive(EtcdSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(default, rename_all = "snake_case")]
pub(super) struct Window {
    pub(super) opacity: f32,
    pub(super) decorations: Decorations,
    pub(super) title: String,
    pub(super) dynamic_title: bool,
}

impl Default for Window {
    fn default() -> Self {
        Self { opacity: 1.0, decorations: Decorations::Full, title: "Terminal".to_owned(), dynamic_title: true }
    }
}

#[derive(EtcdValue, Serialize, Deserialize, Clone, Copy, Debug, PartialEq)]
#[serde(rename_all = "PascalCase")]
pub(super) enum Decorations {
    Full,
    None,
}

#[derive(EtcdSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(default)]
pub(super) struct Font {
    pub(super) size: FontSize,
    pub(super) builtin_box_drawing: bool,
}

impl Default for Font {
    fn default() -> Self {
        Self { size: FontSize(11.25), builtin_box_drawing: true }
    }
}

#[derive(EtcdValue, Serialize, Deserialize, Clone, Copy, Debug, PartialEq)]
#[serde(transparent)]
pub(super) struct FontSize(pub(super) f32);

/// A build runner.
#[derive(EtcdSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub(super) struct Runner {
    pub(super) concurrent: u32,
    #[serde(default, rename = "CHECK_INTERVAL", deserialize_with = "seconds::deserialize", serialize_with = "seconds::serialize")]
    pub(super) interval: Duration,
    #[etcd(dir)]
    pub(super) runners: BTreeMap<String, Executor>,
    #[etcd(json)]
    #[serde(default)]
    pub(super) mounts: Vec<Mount>,
}

#[derive(EtcdSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub(super) struct Executor {
    pub(super) base_url: String,
    #[etcd(secret, allow_debug)]
    pub(super) access_token: String,
    #[serde(default)]
    pub(super) request_concurrency: u16,
}

#[derive(Serialize, Deserialize, Clone, Debug, PartialEq)]
pub(super) struct Mount {
    pub(super) source: PathBuf,
    pub(super) target: PathBuf,
}
