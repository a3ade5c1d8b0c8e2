use etcd_typed::{EtcdSchema, EtcdValue};
use std::collections::{BTreeMap, HashMap};

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Plain;

#[derive(EtcdValue, Debug, Clone, PartialEq, Eq, Hash)]
struct NoOrder(u8);

#[derive(EtcdSchema)]
struct Entries {
    #[etcd(entries)]
    a: BTreeMap<Plain, u8>,
}

#[derive(EtcdSchema)]
struct Dirs {
    #[etcd(dir)]
    a: BTreeMap<Plain, Inner>,
}

#[derive(EtcdSchema)]
struct Order {
    #[etcd(entries)]
    a: HashMap<NoOrder, u8>,
}

#[derive(EtcdSchema)]
struct Inner {
    a: u8,
}

fn main() {}
