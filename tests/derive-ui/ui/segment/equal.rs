use etcd_typed::EtcdSchema;

#[derive(EtcdSchema)]
#[etcd(rename_all = "lowercase")]
struct Schema {
    a: u8,
    #[etcd(rename = "a")]
    b: u8,
    #[etcd(alias = "a")]
    c: u8,
    #[etcd(alias = "d", alias = "x", alias = "x")]
    d: u8,
    #[etcd(dir, rename = "e")]
    first: Inner,
    #[etcd(entries, rename = "e")]
    second: std::collections::BTreeMap<String, u8>,
}

#[derive(EtcdSchema)]
struct Inner {
    a: u8,
}

fn main() {}
