use etcd_typed::EtcdSchema;
use std::collections::BTreeMap;

#[derive(EtcdSchema)]
struct Schema {
    #[etcd(entries)]
    a: Vec<u8>,
    #[etcd(entries)]
    b: Option<BTreeMap<String, u8>>,
    #[etcd(entries, alias = "x", default)]
    c: BTreeMap<String, u8>,
}

fn main() {}
