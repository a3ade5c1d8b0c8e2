//! The code that `#[derive(EtcdSchema)]` generates: how a struct is stored, read, changed and
//! described. `derive_ui.rs` tests the compile errors.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]
#![allow(missing_docs, missing_debug_implementations, unreachable_pub, reason = "not a library")]

mod attributes;
mod changes;
mod checkout;
mod generics;
mod names;
mod prelude;
mod rules;
mod serde_attributes;
mod types;
mod value;

use std::collections::BTreeMap;

use etcd_typed::{Client, Error, ErrorKind};

/// Returns a client of a new store.
async fn memory() -> Client {
    Client::connect("memory:").await.unwrap()
}

/// Returns all keys of the store, with their values as text.
async fn stored(client: &Client) -> BTreeMap<String, String> {
    let nodes = client.directory("/").unwrap().list_recursive().await.unwrap();
    let values = nodes.into_inner().into_iter().filter_map(|node| Some((node.path, String::from_utf8(node.value?.to_vec()).unwrap())));
    values.collect()
}

/// Converts literal keys and values to the type that [`stored`] returns.
fn keys(keys: &[(&str, &str)]) -> BTreeMap<String, String> {
    keys.iter().map(|(key, value)| (key.to_string(), value.to_string())).collect()
}

/// Writes text, as a user does with another tool.
async fn put(client: &Client, key: &str, value: &str) {
    client.entry::<String>(key).unwrap().set(&value.to_owned()).await.unwrap();
}

/// Returns the problems of an `Invalid` error, each as its key and reason.
fn problems(error: &Error) -> Vec<String> {
    assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
    error.problems().iter().map(|problem| format!("{}: {}", problem.key, problem.reason)).collect()
}

/// Returns the reasons of all problems of an error.
fn reasons(error: &Error) -> Vec<String> {
    error.problems().iter().map(|problem| problem.reason.clone()).collect()
}
