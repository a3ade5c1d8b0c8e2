use etcd_typed::EtcdSchema;
use std::collections::BTreeMap;

#[derive(Debug)]
struct Plain;

#[derive(EtcdSchema)]
struct Schema {
    #[etcd(dir)]
    a: BTreeMap<String, Plain>,
}

fn main() {}
