use etcd_typed::EtcdSchema;

#[derive(EtcdSchema)]
struct Schema {
    #[serde(skip)]
    #[etcd(rename = "x")]
    a: u8,
    #[serde(skip)]
    #[etcd(secret)]
    b: u8,
    #[serde(flatten)]
    #[etcd(rename = "x")]
    c: Inner,
    #[etcd(alias = "x")]
    #[serde(flatten)]
    d: Inner,
}

#[derive(EtcdSchema)]
struct Inner {
    a: u8,
}

fn main() {}
