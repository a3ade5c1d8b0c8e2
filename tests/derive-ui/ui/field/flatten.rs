use etcd_typed::EtcdSchema;
use std::collections::BTreeMap;

#[derive(EtcdSchema)]
struct Schema {
    #[etcd(flatten, rename = "x", alias = "y")]
    a: Inner,
    #[etcd(flatten, dir)]
    b: Inner,
    #[etcd(flatten, json)]
    c: Inner,
    #[etcd(flatten, secret, validate = check, default)]
    d: Inner,
    #[etcd(flatten)]
    e: Option<Inner>,
    #[etcd(flatten)]
    f: BTreeMap<String, Inner>,
}

#[derive(EtcdSchema)]
struct Inner {
    a: u8,
}

fn main() {}
