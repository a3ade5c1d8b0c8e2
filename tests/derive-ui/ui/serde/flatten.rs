use etcd_typed::EtcdSchema;
use std::collections::{BTreeMap, HashMap};

#[derive(EtcdSchema)]
struct Schema {
    #[serde(flatten)]
    extra: HashMap<String, String>,
    #[serde(flatten)]
    inners: BTreeMap<String, Inner>,
    #[serde(flatten)]
    option: Option<Inner>,
    #[serde(flatten, with = "module")]
    with: Inner,
}

#[derive(EtcdSchema)]
struct Inner {
    a: u8,
}

fn main() {}
