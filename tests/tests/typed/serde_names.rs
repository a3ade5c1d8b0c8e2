//! The keys of a struct have the names in its JSON, as serde writes it. The tests write and read
//! structs with every combination of `rename_all`, `rename`, `alias`, `flatten` and `skip`, with
//! every shape of a field name, and with missing keys.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

mod structs;

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::ops::Deref;

use etcd_typed::{Client, Dir, EtcdSchema};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use structs::{ALIASES, Drawn};
use tokio::runtime::{Builder, Runtime};

/// A source of random values: repeats the bytes that proptest chose.
struct Draw<'a>(std::iter::Cycle<std::slice::Iter<'a, u8>>);

impl<'a> Draw<'a> {
    fn new(bytes: &'a [u8]) -> Self {
        Self(bytes.iter().cycle())
    }

    fn byte(&mut self) -> u8 {
        *self.0.next().unwrap()
    }

    /// Returns true once in `times` calls, on average.
    fn once_in(&mut self, times: u8) -> bool {
        self.byte().is_multiple_of(times)
    }
}

/// The traits that the tests need from a struct.
trait Named: EtcdSchema<Handle: Deref<Target = Dir<Self>>> + Serialize + DeserializeOwned + Drawn + PartialEq + Debug {}

impl<S: EtcdSchema<Handle: Deref<Target = Dir<Self>>> + Serialize + DeserializeOwned + Drawn + PartialEq + Debug> Named for S {}

/// Converts stored keys to a JSON document. The segments of a key become the names of nested
/// objects. A value that is not valid JSON becomes a JSON string; no string value in these tests is
/// valid JSON.
fn document(keys: &BTreeMap<String, String>) -> Value {
    let mut document = Map::new();
    for (key, text) in keys {
        let (directories, name) = key.rsplit_once('/').map_or((None, key.as_str()), |(path, name)| (Some(path), name));
        let mut at = &mut document;
        for segment in directories.into_iter().flat_map(|path| path.split('/')) {
            let below = at.entry(segment).or_insert_with(|| Value::Object(Map::new()));
            at = below.as_object_mut().expect("a key is not a directory too");
        }
        let value = serde_json::from_str(text).unwrap_or_else(|_| Value::String(text.clone()));
        at.insert(name.to_owned(), value);
    }
    Value::Object(document)
}

/// Converts a JSON document to keys, the reverse of [`document`]. A null gives no key.
fn keys(document: &Value) -> BTreeMap<String, String> {
    fn add(keys: &mut BTreeMap<String, String>, path: &str, value: &Value) {
        match value {
            Value::Object(fields) => {
                for (name, value) in fields {
                    let path = if path.is_empty() { name.clone() } else { format!("{path}/{name}") };
                    add(keys, &path, value);
                }
            }
            Value::Null => {}
            Value::String(text) => drop(keys.insert(path.to_owned(), text.clone())),
            value => drop(keys.insert(path.to_owned(), value.to_string())),
        }
    }
    let mut keys_of = BTreeMap::new();
    add(&mut keys_of, "", document);
    keys_of
}

/// Returns the keys below `/app`, with their values.
async fn stored(client: &Client) -> BTreeMap<String, String> {
    let nodes = client.directory("/app").unwrap().list_recursive().await.unwrap().into_inner();
    let text = |value: bytes::Bytes| String::from_utf8(value.to_vec()).unwrap();
    nodes.into_iter().filter_map(|node| Some((node.path, text(node.value?.into_inner())))).collect()
}

/// Writes the value, and asserts that its keys equal its JSON.
async fn keys_of_value_are_its_json<S: Named>(value: &S) {
    let client = Client::connect("memory:").await.unwrap();
    let cfg = client.dir::<S>("/app").unwrap();
    cfg.set(value).await.unwrap();
    let json = serde_json::to_value(value).unwrap();
    let written = stored(&client).await;
    assert_eq!(written, keys(&json));
    assert_eq!(*cfg.get().await.unwrap(), *value);
    assert_eq!(serde_json::from_value::<S>(document(&written)).unwrap(), *value);
}

/// Removes some keys and renames some to an alias, both in the stored keys and in the JSON of the
/// value. Asserts that both are read as the same struct.
async fn changed_keys_read_like_json<S: Named>(value: &S, draw: &mut Draw<'_>) {
    let mut changed = BTreeMap::new();
    for (path, text) in keys(&serde_json::to_value(value).unwrap()) {
        let (start, name) = path.split_at(path.rfind('/').map_or(0, |at| at + 1));
        let alias = ALIASES.iter().find(|(of, _)| *of == name).filter(|_| draw.once_in(2));
        if !draw.once_in(48) {
            changed.insert(format!("{start}{}", alias.map_or(name, |(_, alias)| *alias)), text);
        }
    }
    let client = Client::connect("memory:").await.unwrap();
    for (path, text) in &changed {
        client.entry::<String>(&format!("/app/{path}")).unwrap().set(text).await.unwrap();
    }
    let from_keys = client.dir::<S>("/app").unwrap().get().await;
    match serde_json::from_value::<S>(document(&changed)) {
        Ok(from_json) => assert_eq!(*from_keys.unwrap(), from_json),
        Err(error) => assert!(from_keys.is_err(), "only serde refuses {changed:?}: {error}"),
    }
}

fn names_agree<S: Named>(runtime: &Runtime, bytes: &[u8]) {
    let mut draw = Draw::new(bytes);
    let value = S::drawn(&mut draw);
    // The futures of structs with so many fields are too large for the stack of a test.
    runtime.block_on(Box::pin(keys_of_value_are_its_json(&value)));
    for _ in 0..2 {
        runtime.block_on(Box::pin(changed_keys_read_like_json(&value, &mut draw)));
    }
}

/// Calls [`names_agree`] with each case of the outer struct and each case of the inner structs.
macro_rules! every_pair {
    ($arguments:tt, $($case:ident)*) => { every_pair!(@ $arguments, [$($case)*], $($case)*) };
    (@ $arguments:tt, $inner:tt, $($outer:ident)*) => { $(every_pair!(@@ $arguments, $outer, $inner);)* };
    (@@ $arguments:tt, $outer:ident, [$($inner:ident)*]) => {
        $(names_agree::<structs::$outer::Outer<structs::$inner::Beside, structs::$inner::Nested>>$arguments;)*
    };
}

#[test]
fn keys_have_names_of_json() {
    let runtime = Builder::new_current_thread().enable_all().build().unwrap();
    let mut runner = TestRunner::new(Config { cases: 6, failure_persistence: None, ..Config::default() });
    let test = |bytes: Vec<u8>| {
        every_pair!((&runtime, &bytes), lower upper pascal camel snake screaming_snake kebab screaming_kebab no_case);
        Ok(())
    };
    runner.run(&proptest::collection::vec(any::<u8>(), 1..300), test).unwrap();
}
