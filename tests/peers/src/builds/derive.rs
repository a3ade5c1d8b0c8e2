//! 200 structs of 10 fields, each derived and used once.

use std::fmt::Write;
use std::path::Path;
use std::fs;

use super::{cargo, generate, repository};
use crate::Result;
use crate::cases::median;

const STRUCTS: usize = 200;
const FIELDS: usize = 10;
const TYPES: [&str; 6] = ["u32", "u64", "i64", "f64", "bool", "String"];

/// What is derived, and how each struct is used once.
struct Derive {
    name: &'static str,
    dependencies: String,
    uses: &'static str,
    derive: &'static str,
    /// With `NAME` for that of the struct and `NUMBER` for its number.
    usage: &'static str,
}

fn derives(repository: &Path) -> Vec<Derive> {
    vec![
        Derive {
            name: "etcd-typed",
            dependencies: format!("etcd-typed = {{ path = {:?} }}", repository.join("etcd-typed")),
            uses: "use std::pin::Pin;\nuse etcd_typed::{Client, EtcdSchema, Result, Versioned};",
            derive: "EtcdSchema",
            usage: "pub fn use_NUMBER(client: Client) -> Pin<Box<dyn Future<Output = Result<Versioned<NAME>>> + Send>> {
    Box::pin(async move { client.dir::<NAME>(\"/settings/NUMBER\")?.get().await })
}",
        },
        Derive {
            name: "serde",
            dependencies: "serde = { version = \"1\", features = [\"derive\"] }\nserde_json = \"1\"".to_owned(),
            uses: "use serde::Deserialize;",
            derive: "Deserialize",
            usage: "pub fn use_NUMBER(text: &str) -> serde_json::Result<NAME> {
    serde_json::from_str(text)
}",
        },
        Derive {
            name: "base",
            dependencies: String::new(),
            uses: "",
            derive: "Debug, Clone, Default",
            usage: "pub fn use_NUMBER() -> String {
    format!(\"{:?}\", NAME::default().clone())
}",
        },
    ]
}
