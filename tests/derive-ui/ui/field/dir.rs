use etcd_typed::EtcdSchema;
use std::collections::BTreeMap;

#[derive(EtcdSchema)]
struct Schema {
    #[etcd(dir)]
    a: Option<BTreeMap<String, Inner>>,
    #[etcd(dir, json)]
    b: Inner,
    #[etcd(dir, with = module)]
    c: Inner,
    #[etcd(dir, alias = "x")]
    d: Inner,
    #[etcd(dir, default)]
    e: BTreeMap<String, Inner>,
    #[etcd(dir, validate = check, secret)]
    f: Inner,
    #[etcd(dir, entries)]
    g: BTreeMap<String, Inner>,
}

#[derive(EtcdSchema)]
struct Inner {
    a: u8,
}

fn main() {}
