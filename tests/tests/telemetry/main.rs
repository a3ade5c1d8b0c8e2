//! What the library tells of itself: that the lists in its documentation are true (`listed`), and what is told of faults that are made to happen
//! (`memory`, `servers`).

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

mod listed;
mod listener;
mod memory;
mod servers;

use std::collections::BTreeMap;

use etcd_typed::EtcdSchema;

/// Where it lies, and everything that is stored in it, has `planted` in it: nothing of that may be told.
#[derive(EtcdSchema, Clone, Debug, PartialEq)]
#[etcd(prefix = "/{env}/checkout")]
struct Checkout {
    #[etcd(default = 100)]
    rate_limit: u32,
    banner: Option<String>,
    #[etcd(secret)]
    token: Option<String>,
    #[etcd(entries)]
    quotas: BTreeMap<String, u64>,
}

/// What stands for it.
const CHECKOUT: &str = "/{env}/checkout";

fn planted() -> Checkout {
    let quotas = BTreeMap::from([("planted-customer".to_owned(), 7)]);
    Checkout { rate_limit: 100, banner: Some("planted-banner".to_owned()), token: Some("planted-token".to_owned()), quotas }
}
