//! The metrics, spans and events of the library: the lists in its documentation are complete
//! (`listed`), and faults are reported (`memory`, `servers`).

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

mod listed;
mod listener;
mod memory;
mod servers;

use std::collections::BTreeMap;

use etcd_typed::EtcdSchema;

/// A struct whose path and stored values contain `planted`. This text must not appear in any
/// metric, span or event.
#[derive(EtcdSchema, Clone, Debug, PartialEq)]
#[etcd(prefix = "/{env}/checkout")]
struct Checkout {
    #[etcd(default = 100)]
    rate_limit: u32,
    banner: Option<String>,
    #[etcd(secret, allow_debug)]
    token: Option<String>,
    #[etcd(entries)]
    quotas: BTreeMap<String, u64>,
}

/// The directory's pattern, which metrics, spans and events contain instead of the directory's
/// path.
const CHECKOUT: &str = "/{env}/checkout";

fn planted() -> Checkout {
    let quotas = BTreeMap::from([("planted-customer".to_owned(), 7)]);
    Checkout { rate_limit: 100, banner: Some("planted-banner".to_owned()), token: Some("planted-token".to_owned()), quotas }
}
