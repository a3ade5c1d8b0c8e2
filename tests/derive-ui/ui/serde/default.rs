use etcd_typed::EtcdSchema;
use std::collections::BTreeMap;

#[derive(EtcdSchema)]
struct Schema {
    #[serde(default = "inner", alias = "x")]
    #[etcd(dir)]
    a: BTreeMap<String, Inner>,
    #[serde(default = "map", alias = "y")]
    #[etcd(entries)]
    b: BTreeMap<String, u8>,
    #[serde(default = "not a path")]
    c: u8,
    #[serde(default = "missing")]
    d: u8,
}

#[derive(EtcdSchema)]
struct Inner {
    a: u8,
}

fn main() {}
