use etcd_typed::{EtcdSchema, EtcdValue};

#[derive(EtcdSchema)]
#[etcd(json, rename = "x")]
struct Schema {
    #[etcd(prefix = "/a", rename_all = "lowercase")]
    a: u8,
}

#[derive(EtcdValue)]
#[etcd(rename = "x")]
enum Value {
    #[etcd(rename_all = "lowercase")]
    A,
}

#[derive(EtcdValue)]
#[etcd(rename_all = "lowercase")]
struct Newtype(#[etcd(json)] u8);

fn main() {}
