#![deny(deprecated)]

use std::collections::BTreeMap;

use etcd_typed::{EtcdSchema, Secret};

#[derive(EtcdSchema, Debug)]
struct Shown {
    #[etcd(secret)]
    password: String,
    #[etcd(entries, secret)]
    tokens: BTreeMap<String, Vec<u8>>,
    hidden: Secret<String>,
    #[etcd(secret)]
    both: Option<Secret<String>>,
    #[etcd(secret, allow_debug)]
    allowed: String,
}

#[derive(EtcdSchema)]
struct NotShown {
    #[etcd(secret)]
    password: String,
}

fn main() {}
