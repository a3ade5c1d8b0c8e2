//! The keys of a struct have the names of its JSON, for every combination of `rename_all`, `rename`,
//! `flatten` and `skip`, in both directions.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::ops::Deref;

use etcd_typed::{Client, Dir, EtcdSchema};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use tokio::runtime::Builder;

/// The values of one struct of [`combination`], in the order of its fields.
type Numbers = [Option<u8>; 8];

trait Combination: EtcdSchema<Handle: Deref<Target = Dir<Self>>> + Serialize + DeserializeOwned + Clone + PartialEq + Debug {
    fn of(numbers: Numbers) -> Self;
}

/// Structs with every attribute of a name: `$outer` and `$inner` are cases of `rename_all`.
macro_rules! combination {
    ($name:ident, $outer:literal, $inner:literal) => {
        mod $name {
            use etcd_typed::EtcdSchema;
            use serde::{Deserialize, Serialize};

            use super::{Combination, Numbers};

            #[derive(EtcdSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
            #[serde(rename_all = $outer)]
            pub(super) struct Outer {
                #[serde(skip_serializing_if = "Option::is_none")]
                two_words: Option<u8>,
                one: Option<u8>,
                #[serde(rename = "Given-name")]
                renamed: Option<u8>,
                #[serde(skip)]
                left_out: Option<u8>,
                #[serde(flatten)]
                beside: Beside,
                #[serde(flatten, rename = "ignored")]
                twice: Twice,
                #[etcd(dir)]
                nested_part: Nested,
                #[serde(rename = "below")]
                #[etcd(dir)]
                renamed_part: Nested,
                r#type: Option<u8>,
                with_2_digits_3x: Option<u8>,
            }

            #[derive(EtcdSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
            #[serde(rename_all = $inner)]
            pub(super) struct Beside {
                in_beside: Option<u8>,
                #[serde(rename = "besideGiven", alias = "old")]
                renamed: Option<u8>,
                #[serde(skip_serializing, skip_deserializing)]
                left_out: Option<u8>,
            }

            #[derive(EtcdSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
            #[serde(rename_all(serialize = $outer, deserialize = $outer))]
            pub(super) struct Twice {
                #[serde(flatten)]
                deeper: Deeper,
            }

            #[derive(EtcdSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
            #[serde(rename_all = $inner)]
            pub(super) struct Deeper {
                deeper_still_here: Option<u8>,
            }

            #[derive(EtcdSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
            #[serde(rename_all = $inner)]
            pub(super) struct Nested {
                in_nested: u8,
                #[serde(rename(serialize = "both", deserialize = "both"))]
                renamed: Option<u8>,
            }

            impl Combination for Outer {
                fn of([a, b, c, d, e, f, g, h]: Numbers) -> Self {
                    Self {
                        two_words: a,
                        one: b,
                        renamed: c,
                        left_out: None,
                        beside: Beside { in_beside: d, renamed: e, left_out: None },
                        twice: Twice { deeper: Deeper { deeper_still_here: f } },
                        nested_part: Nested { in_nested: 1, renamed: g },
                        renamed_part: Nested { in_nested: 2, renamed: h },
                        r#type: a,
                        with_2_digits_3x: b,
                    }
                }
            }
        }
    };
}

combination!(lower_in_upper, "lowercase", "UPPERCASE");
combination!(upper_in_pascal, "UPPERCASE", "PascalCase");
combination!(pascal_in_camel, "PascalCase", "camelCase");
combination!(camel_in_snake, "camelCase", "snake_case");
combination!(snake_in_screaming, "snake_case", "SCREAMING_SNAKE_CASE");
combination!(screaming_in_kebab, "SCREAMING_SNAKE_CASE", "kebab-case");
combination!(kebab_in_screaming_kebab, "kebab-case", "SCREAMING-KEBAB-CASE");
combination!(screaming_kebab_in_lower, "SCREAMING-KEBAB-CASE", "lowercase");

/// The stored values as a JSON document: a key is the path of its value.
fn document(keys: &BTreeMap<String, String>) -> Value {
    let mut document = Map::new();
    for (key, text) in keys {
        let mut at = &mut document;
        let mut segments = key.split('/').peekable();
        while let Some(segment) = segments.next() {
            let value = if segments.peek().is_some() { Value::Object(Map::new()) } else { serde_json::from_str(text).unwrap() };
            let entry = at.entry(segment).or_insert(value);
            match entry {
                Value::Object(below) => at = below,
                _ => break,
            }
        }
    }
    Value::Object(document)
}

/// The document without its nulls, which are no keys.
fn without_null(document: Value) -> Value {
    match document {
        Value::Object(fields) => {
            fields.into_iter().filter(|(_, value)| !value.is_null()).map(|(name, value)| (name, without_null(value))).collect()
        }
        value => value,
    }
}

async fn has_names_of_json<S: Combination>(numbers: Numbers) {
    let value = S::of(numbers);
    let client = Client::connect("memory:").await.unwrap();
    let cfg = client.dir::<S>("/app").unwrap();
    cfg.set(&value).await.unwrap();
    let mut keys = BTreeMap::new();
    for node in client.directory("/app").unwrap().list_recursive().await.unwrap().into_inner() {
        if let Some(text) = node.value {
            keys.insert(node.path, String::from_utf8(text.to_vec()).unwrap());
        }
    }
    assert_eq!(document(&keys), without_null(serde_json::to_value(&value).unwrap()));
    let from_keys: S = serde_json::from_value(document(&keys)).unwrap();
    assert_eq!(from_keys, value);
    assert_eq!(*cfg.get().await.unwrap(), from_keys);
}

#[test]
fn keys_have_names_of_json() {
    let runtime = Builder::new_current_thread().enable_all().build().unwrap();
    let mut runner = TestRunner::new(Config { cases: 32, failure_persistence: None, ..Config::default() });
    let numbers = proptest::array::uniform8(proptest::option::of(any::<u8>()));
    let test = |numbers| {
        runtime.block_on(async {
            has_names_of_json::<lower_in_upper::Outer>(numbers).await;
            has_names_of_json::<upper_in_pascal::Outer>(numbers).await;
            has_names_of_json::<pascal_in_camel::Outer>(numbers).await;
            has_names_of_json::<camel_in_snake::Outer>(numbers).await;
            has_names_of_json::<snake_in_screaming::Outer>(numbers).await;
            has_names_of_json::<screaming_in_kebab::Outer>(numbers).await;
            has_names_of_json::<kebab_in_screaming_kebab::Outer>(numbers).await;
            has_names_of_json::<screaming_kebab_in_lower::Outer>(numbers).await;
        });
        Ok(())
    };
    runner.run(&numbers, test).unwrap();
}
