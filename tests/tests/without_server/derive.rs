//! What `#[derive(EtcdSchema)]` makes of a struct: what is stored, read, changed and described. Mistakes are in `derive_ui.rs`.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]
#![allow(missing_docs, missing_debug_implementations, unreachable_pub, reason = "not a library")]

mod attributes;
mod changes;
mod checkout;
mod generics;
mod names;
mod prelude;
mod value;

use std::collections::BTreeMap;

use etcd_typed::{Client, Error, ErrorKind};

/// A store of the test's own.
async fn memory() -> Client {
    Client::connect("memory:").await.unwrap()
}

/// Every key of the store and its value, as text.
async fn stored(client: &Client) -> BTreeMap<String, String> {
    let nodes = client.directory("/").unwrap().list_recursive().await.unwrap();
    let values = nodes.into_inner().into_iter().filter_map(|node| Some((node.path, String::from_utf8(node.value?.to_vec()).unwrap())));
    values.collect()
}

/// The same of what a test writes down.
fn keys(keys: &[(&str, &str)]) -> BTreeMap<String, String> {
    keys.iter().map(|(key, value)| (key.to_string(), value.to_string())).collect()
}

/// Writes what a person would write.
async fn put(client: &Client, key: &str, value: &str) {
    client.entry::<String>(key).unwrap().set(&value.to_owned()).await.unwrap();
}

/// Each problem of an `Invalid`, as its key and reason.
fn problems(error: &Error) -> Vec<String> {
    assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
    error.problems().iter().map(|problem| format!("{}: {}", problem.key, problem.reason)).collect()
}
