//! The handle and the change enum keep the visibility and the attributes of the struct's fields.

#![deny(deprecated, unused)]
#![allow(unreachable_pub, reason = "the struct stands for one of a library")]

use std::time::Duration;

use etcd_typed::EtcdSchema;

use super::memory;

/// A module of a program that shows only a part of its config.
mod config {
    use etcd_typed::EtcdSchema;

    #[derive(EtcdSchema, Debug, PartialEq, Default)]
    pub struct Server {
        pub port: u16,
        pub(crate) threads: u16,
        #[etcd(default = 3)]
        retries: u8,
        #[deprecated = "use `port`"]
        #[etcd(default)]
        pub address: String,
        #[allow(dead_code, reason = "lint attributes are carried over; see the expansion in `etcd-derive/snapshots`")]
        #[etcd(default)]
        pub max_idle: u32,
        #[cfg(any())]
        pub nothing: NoSuchType,
        #[cfg(test)]
        #[etcd(default = 7)]
        pub limit: u32,
    }

    impl Server {
        pub fn new(port: u16, threads: u16) -> Self {
            Self { port, threads, retries: 3, ..Self::default() }
        }
    }

    /// The module of the struct sees the private fields of the handle.
    pub async fn set_retries(handle: &ServerDir, retries: u8) {
        handle.retries.set(&retries).await.unwrap();
    }

    pub fn retries(change: &ServerChange) -> Option<u8> {
        if let ServerChange::Retries(change) = change { change.new } else { None }
    }
}

#[tokio::test]
async fn handle_and_change_keep_visibility_and_attributes() {
    let client = memory().await;
    let handle = client.dir::<config::Server>("/server").unwrap();
    handle.set(&config::Server::new(80, 4)).await.unwrap();
    let mut changes = handle.watch().await.unwrap();
    config::set_retries(&handle, 5).await;
    handle.port.set(&81).await.unwrap();
    handle.threads.set(&8).await.unwrap();
    handle.max_idle.set(&9).await.unwrap();
    handle.limit.set(&10).ttl(Duration::from_secs(60)).await.unwrap();
    assert_eq!(config::retries(&changes.next().await.unwrap().unwrap().changes[0]), Some(5));
    #[allow(deprecated, reason = "the handle of a deprecated field is deprecated")]
    handle.address.set("10.0.0.7").await.unwrap();
}

/// The schema table lists private fields too, since they are stored.
#[test]
fn private_fields_are_in_schema_table() {
    let names: Vec<&str> = <config::Server as etcd_typed::Schema>::TABLE.fields.iter().map(|field| field.name).collect();
    assert_eq!(names, ["port", "threads", "retries", "address", "max_idle", "limit"]);
}

#[derive(EtcdSchema, Debug)]
struct Unused {
    #[deprecated]
    #[etcd(default)]
    old: u32,
}

#[test]
fn derived_code_uses_no_deprecated_item() {
    #[allow(deprecated, reason = "constructs the field")]
    let unused = Unused { old: 1 };
    assert!(format!("{unused:?}").contains("old"));
}
