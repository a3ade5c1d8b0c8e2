use etcd_typed::EtcdSchema;
use std::collections::BTreeMap;

#[derive(EtcdSchema)]
struct Parent {
    #[etcd(dir)]
    children: BTreeMap<String, Child>,
}

#[derive(EtcdSchema)]
struct Child {
    #[etcd(dir)]
    parents: BTreeMap<String, Parent>,
}

fn main() {}
