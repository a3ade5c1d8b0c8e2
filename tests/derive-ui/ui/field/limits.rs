use std::collections::BTreeMap;

use etcd_typed::EtcdSchema;

#[derive(EtcdSchema)]
struct Limits {
    #[etcd(range = 5)]
    number: u16,
    #[etcd(range = 10..=1)]
    empty: u16,
    #[etcd(length = 64)]
    length: String,
    #[etcd(one_of = "a")]
    text: String,
    #[etcd(one_of = [])]
    none: String,
    #[etcd(json, range = 1..)]
    json: u16,
    #[etcd(one_of = [1, 2], range = 1..)]
    both: u16,
    #[etcd(dir, length = 1..)]
    dir: BTreeMap<String, Limits>,
}

fn main() {}
