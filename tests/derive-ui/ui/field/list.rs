use etcd_typed::EtcdSchema;
use std::collections::BTreeSet;

#[derive(EtcdSchema)]
struct Schema {
    #[etcd(dir)]
    a: Vec<Inner>,
    #[etcd(dir)]
    b: Option<Vec<Inner>>,
    #[etcd(dir)]
    c: [Inner; 2],
    #[etcd(dir)]
    d: BTreeSet<Inner>,
}

#[derive(EtcdSchema)]
struct Inner {
    a: u8,
}

fn main() {}
