use etcd_typed::EtcdSchema;
use std::collections::BTreeMap;

#[derive(EtcdSchema)]
struct Schema {
    #[serde(with = "module")]
    #[etcd(entries)]
    a: BTreeMap<String, u8>,
    #[serde(with = "not a module")]
    b: u8,
}

fn main() {}
