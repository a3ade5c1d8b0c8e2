//! Programs that listen on the network: a reverse proxy, a name server, a mail server, a chat server.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use etcd_typed::{EtcdSchema, EtcdValue};
use serde::{Deserialize, Serialize};

use super::modules::seconds;

/// A reverse proxy.
#[derive(EtcdSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Proxy {
    #[etcd(dir)]
    pub(super) entry_points: BTreeMap<String, EntryPoint>,
    #[serde(default)]
    #[etcd(dir)]
    pub(super) log: Log,
    #[serde(default)]
    #[etcd(dir)]
    pub(super) servers_transport: Transport,
    #[serde(default = "yes")]
    pub(super) check_new_version: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) hostname: Option<String>,
}

#[derive(EtcdSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub(super) struct EntryPoint {
    pub(super) address: SocketAddr,
    #[serde(default)]
    pub(super) as_default: bool,
    #[serde(with = "seconds", default = "ten_seconds")]
    pub(super) grace_time_out: Duration,
}

#[derive(EtcdSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Log {
    pub(super) level: LogLevel,
    pub(super) file_path: Option<PathBuf>,
    pub(super) no_color: bool,
}

impl Default for Log {
    fn default() -> Self {
        Self { level: LogLevel::Error, file_path: Some("/var/log/proxy".into()), no_color: false }
    }
}

#[derive(EtcdValue, Serialize, Deserialize, Clone, Copy, Debug, PartialEq)]
#[serde(rename_all = "UPPERCASE")]
pub(super) enum LogLevel {
    Debug,
    Info,
    #[serde(alias = "WARNING")]
    Warn,
    Error,
}

#[derive(EtcdSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Default)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Transport {
    #[serde(rename = "insecureSkipVerify")]
    pub(super) insecure: bool,
    pub(super) max_idle_conns_per_host: u32,
}

fn yes() -> bool {
    true
}

fn ten_seconds() -> Duration {
    Duration::from_secs(10)
}

/// A name server.
#[derive(EtcdSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "kebab-case", default)]
pub(super) struct NameServer {
    pub(super) bind: SocketAddr,
    pub(super) allow_from: Vec<IpAddr>,
    pub(super) cache_ttl: u32,
    #[serde(alias = "negative-ttl")]
    pub(super) cache_negative_ttl: u32,
    pub(super) webserver: bool,
    #[etcd(secret, allow_debug)]
    pub(super) api_key: Option<String>,
    #[etcd(json)]
    pub(super) zones: Vec<Zone>,
}

#[derive(Serialize, Deserialize, Clone, Debug, PartialEq)]
pub(super) struct Zone {
    pub(super) name: String,
    pub(super) file: PathBuf,
}

impl Default for NameServer {
    fn default() -> Self {
        Self {
            bind: ([0, 0, 0, 0], 53).into(),
            allow_from: Vec::new(),
            cache_ttl: 86400,
            cache_negative_ttl: 3600,
            webserver: false,
            api_key: None,
            zones: Vec::new(),
        }
    }
}

/// A mail server.
#[derive(EtcdSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "snake_case")]
pub(super) struct Mail {
    #[serde(flatten)]
    pub(super) limits: MailLimits,
    #[etcd(dir)]
    pub(super) tls: Option<Tls>,
    #[etcd(entries)]
    #[serde(default)]
    pub(super) aliases: BTreeMap<String, String>,
    pub(super) hostname: String,
    #[serde(skip, default = "yes")]
    pub(super) is_first_start: bool,
}

#[derive(EtcdSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
pub(super) struct MailLimits {
    #[serde(rename = "message_size_limit", default = "MailLimits::ten_megabytes")]
    pub(super) message_size: u64,
    #[serde(rename = "recipient_limit", default)]
    pub(super) recipients: Option<u32>,
}

impl MailLimits {
    fn ten_megabytes() -> u64 {
        10_240_000
    }
}

#[derive(EtcdSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "snake_case")]
pub(super) struct Tls {
    pub(super) cert_file: PathBuf,
    pub(super) key_file: PathBuf,
    #[serde(default)]
    pub(super) minimum_version: TlsVersion,
}

#[derive(EtcdValue, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Default)]
pub(super) enum TlsVersion {
    #[default]
    #[serde(rename = "TLSv1.2")]
    V12,
    #[serde(rename = "TLSv1.3")]
    V13,
}

/// A chat server.
#[derive(EtcdSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
pub(super) struct Chat {
    pub(super) server_name: String,
    #[serde(default = "Chat::port")]
    pub(super) port: u16,
    #[serde(default = "yes")]
    pub(super) allow_federation: bool,
    #[serde(default)]
    pub(super) allow_registration: bool,
    #[etcd(secret, allow_debug)]
    pub(super) registration_token: Option<String>,
    #[serde(default = "Chat::max_request_size")]
    pub(super) max_request_size: u32,
    #[serde(default)]
    pub(super) trusted_servers: Vec<String>,
    #[serde(flatten)]
    #[etcd(skip)]
    pub(super) catchall: BTreeMap<String, String>,
}

impl Chat {
    fn port() -> u16 {
        8008
    }

    fn max_request_size() -> u32 {
        20 * 1024 * 1024
    }
}
