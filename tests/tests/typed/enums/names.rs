//! The keys and the tag of an enum have the names of its JSON, for every `tag`, `rename_all`,
//! `rename_all_fields` and `rename`.

use std::fmt::Debug;
use std::ops::Deref;

use etcd_typed::{Client, Dir, EtcdSchema};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// Defines an enum with every attribute that changes a name, for each combination of cases.
/// `$variants`, `$fields` and `$of_one` are the values of `rename_all`, `rename_all_fields`, and
/// the `rename_all` of one variant.
macro_rules! named {
    ($($name:ident: $variants:literal $fields:literal $of_one:literal;)*) => {
        $(mod $name {
            use etcd_typed::EtcdSchema;
            use serde::{Deserialize, Serialize};

            use super::Beside;

            #[derive(EtcdSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
            #[serde(tag = "the-tag", rename_all = $variants, rename_all_fields = $fields)]
            pub(super) enum Enum {
                TwoWords {
                    two_words: u8,
                    r#type: Option<u8>,
                    #[serde(skip)]
                    left_out: u8,
                },
                #[serde(rename = "Given-Name", alias = "old")]
                Renamed {
                    #[serde(rename = "given", alias = "taken")]
                    of_field: u8,
                    #[serde(flatten)]
                    beside_it: Beside,
                },
                #[serde(rename_all = $of_one)]
                OwnCase {
                    own_case: u8,
                    #[etcd(dir)]
                    nested_part: Beside,
                },
                NewType(Beside),
                Nothing,
            }

            pub(super) fn all() -> Vec<Enum> {
                let beside = Beside { in_beside: 7, absent: None };
                vec![
                    Enum::TwoWords { two_words: 1, r#type: Some(2), left_out: 0 },
                    Enum::Renamed { of_field: 3, beside_it: beside.clone() },
                    Enum::OwnCase { own_case: 4, nested_part: beside.clone() },
                    Enum::NewType(beside),
                    Enum::Nothing,
                ]
            }
        })*

        #[tokio::test]
        async fn tagged_enum_uses_json_names_with_memory_store() {
            $(for value in $name::all() {
                assert_same(&value, stringify!($name)).await;
            })*
        }
    };
}

named! {
    lower: "lowercase" "UPPERCASE" "camelCase";
    upper: "UPPERCASE" "PascalCase" "kebab-case";
    pascal: "PascalCase" "camelCase" "snake_case";
    camel: "camelCase" "snake_case" "SCREAMING_SNAKE_CASE";
    snake: "snake_case" "SCREAMING_SNAKE_CASE" "lowercase";
    screaming: "SCREAMING_SNAKE_CASE" "kebab-case" "PascalCase";
    kebab: "kebab-case" "SCREAMING-KEBAB-CASE" "UPPERCASE";
    screaming_kebab: "SCREAMING-KEBAB-CASE" "lowercase" "SCREAMING-KEBAB-CASE";
}

#[derive(EtcdSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub(super) struct Beside {
    in_beside: u8,
    #[serde(skip_serializing_if = "Option::is_none")]
    absent: Option<u8>,
}

/// With serde's `tag` and without `rename_all`, the tag is the variant's name in Rust, as in JSON.
#[tokio::test]
async fn tag_is_variant_name_without_rename_all_with_memory_store() {
    #[derive(EtcdSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
    #[serde(tag = "type")]
    enum Plain {
        TwoWords { two_words: u8 },
        S3(Beside),
    }

    assert_same(&Plain::TwoWords { two_words: 1 }, "plain").await;
    assert_same(&Plain::S3(Beside { in_beside: 1, absent: Some(2) }), "plain").await;

    #[derive(EtcdSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
    struct Outer {
        name: String,
        #[serde(flatten)]
        plain: Plain,
    }

    let plain = Plain::TwoWords { two_words: 1 };
    assert_same(&Outer { name: "n".to_owned(), plain }, "outer").await;
}

/// The enum does not derive serde's traits, so the names in `#[etcd(…)]` do not depend on them.
#[tokio::test]
async fn names_in_etcd_attributes_override_serde_names_with_memory_store() {
    #[derive(EtcdSchema, Clone, Debug, PartialEq)]
    #[etcd(tag = "of", rename_all = "kebab-case", rename_all_fields = "UPPERCASE")]
    #[serde(tag = "type", rename_all = "camelCase", rename_all_fields = "camelCase")]
    enum Own {
        TwoWords {
            two_words: u8,
            #[etcd(rename = "own")]
            #[serde(rename = "serde")]
            other: u8,
        },
        #[etcd(rename = "second", rename_all = "kebab-case")]
        #[serde(rename = "other", rename_all = "camelCase")]
        Second { two_words: u8 },
    }

    let client = Client::connect("memory:").await.unwrap();
    let dir = client.dir::<Own>("/own").unwrap();
    let keys = async || -> Vec<String> {
        let nodes = client.directory("/own").unwrap().list_recursive().await.unwrap();
        nodes.into_iter().map(|node| format!("{}={}", node.path, String::from_utf8_lossy(&node.value.unwrap()))).collect()
    };
    dir.set(&Own::TwoWords { two_words: 1, other: 2 }).await.unwrap();
    assert_eq!(keys().await, ["TWO_WORDS=1", "of=two-words", "own=2"]);
    dir.set(&Own::Second { two_words: 1 }).await.unwrap();
    assert_eq!(keys().await, ["of=second", "two-words=1"]);
    dir.second.two_words.set(&2).await.unwrap();
    assert_eq!(*dir.get().await.unwrap(), Own::Second { two_words: 2 });
}

/// Writes the value, and asserts that the stored keys have the names in its JSON. Then asserts that
/// the value is read back from the store, and from JSON with the names of the stored keys.
async fn assert_same<T>(value: &T, case: &str)
where
    T: EtcdSchema<Handle: Deref<Target = Dir<T>>> + Serialize + DeserializeOwned + PartialEq + Debug,
{
    let client = Client::connect("memory:").await.unwrap();
    let dir = client.dir::<T>("/enum").unwrap();
    dir.set(value).await.unwrap();
    let nodes = client.directory("/enum").unwrap().list_recursive().await.unwrap();
    let text = |value: etcd_typed::Versioned<bytes::Bytes>| String::from_utf8(value.to_vec()).unwrap();
    let stored: Vec<_> = nodes.into_inner().into_iter().filter_map(|node| Some((node.path, text(node.value?)))).collect();
    let mut expected = Vec::new();
    flatten("", &serde_json::to_value(value).unwrap(), &mut expected);
    expected.sort();
    assert_eq!(stored, expected, "{case}");

    let mut json = Map::new();
    for (path, text) in &stored {
        let (parents, name) = path.rsplit_once('/').unwrap_or(("", path));
        let parent = parents
            .split('/')
            .filter(|parent| !parent.is_empty())
            .fold(&mut json, |json, parent| json.entry(parent).or_insert_with(|| Value::Object(Map::new())).as_object_mut().unwrap());
        parent.insert(name.to_owned(), serde_json::from_str(text).unwrap_or_else(|_| Value::String(text.clone())));
    }
    assert_eq!(serde_json::from_value::<T>(Value::Object(json)).unwrap(), *value, "{case}");
    assert_eq!(*dir.get().await.unwrap(), *value, "{case}");
}

/// Adds the path and the text of each value in a JSON document, except for nulls.
fn flatten(prefix: &str, value: &Value, out: &mut Vec<(String, String)>) {
    match value {
        Value::Object(object) => object.iter().for_each(|(name, value)| {
            flatten(&format!("{prefix}{}{name}", if prefix.is_empty() { "" } else { "/" }), value, out);
        }),
        Value::Null => {}
        Value::String(text) => out.push((prefix.to_owned(), text.clone())),
        other => out.push((prefix.to_owned(), other.to_string())),
    }
}
