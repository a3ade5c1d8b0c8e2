use etcd_typed::{EtcdSchema, EtcdValue};

#[derive(EtcdSchema)]
#[etcd(rename_all = "kebab")]
struct Schema {
    a: u8,
}

#[derive(EtcdValue)]
#[etcd(rename_all = "Lowercase")]
enum Value {
    A,
}

fn main() {}
