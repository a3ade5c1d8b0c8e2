use etcd_typed::{EtcdSchema, EtcdValue};

#[derive(EtcdSchema)]
#[etcd(deny_unknown_fields, transparent)]
struct Schema {
    #[etcd(env = "A")]
    a: u8,
    #[etcd(nested)]
    b: u8,
    #[etcd(sensitive)]
    c: u8,
    #[etcd(skip_serializing_if = "Option::is_none")]
    d: u8,
    #[etcd(default_value_t = 5)]
    e: u8,
    #[etcd(long, help = "text")]
    f: u8,
    #[etcd(serialize_with = "x")]
    g: u8,
    #[etcd(value_parser = parse)]
    h: u8,
}

#[derive(EtcdValue)]
#[etcd(untagged)]
enum Value {
    #[etcd(other)]
    A,
}

fn main() {}
